"""Can this fit be trusted? Every check that a time budget allows, and the verdict that follows from them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Literal, Unpack

import pyro
from pyro.infer.autoguide import AutoLaplaceApproximation
from torch import Tensor

from ppl_vae.base.clock import Clock, OutOfTime, deadline
from ppl_vae.base.progress import stage
from ppl_vae.base.watch import watched
from ppl_vae.diagnostics.verdict.advice import JOINT, Facts, advise
from ppl_vae.diagnostics.verdict.case import Case, Rested, examine
from ppl_vae.diagnostics.verdict.checked import refuse_unchecked
from ppl_vae.diagnostics.verdict.checks.reference import begin_reference
from ppl_vae.diagnostics.verdict.explained import explained
from ppl_vae.diagnostics.verdict.fitting import FIT_SHARE, fit_within
from ppl_vae.diagnostics.verdict.lost import loses_correlations, loses_within, num_latents, takes_apart
from ppl_vae.diagnostics.verdict.options import CheckKeywords, CheckOptions
from ppl_vae.diagnostics.verdict.outcome import Check
from ppl_vae.diagnostics.verdict.results import Results
from ppl_vae.diagnostics.verdict.rule import decide
from ppl_vae.engine.compile_apart import ahead
from ppl_vae.guides.joint_normal import JointNormal
from ppl_vae.inference.fitting.choice import settled
from ppl_vae.inference.fitting.fit_result import NAMES, Fit
from ppl_vae.inference.fitting.options import FitOptions, MethodName
from ppl_vae.program.pair import Pair, Program
from ppl_vae.program.problem import Problem
from ppl_vae.program.shown import ViewContext, views_of

__all__ = ["Check", "CheckKeywords", "CheckOptions", "check", "check_pair"]

# Of SVI, unless other is said.
MOST_STEPS = 20_000


def check(
    model: Program,
    guide: Program,
    *data: Any,
    fit: bool = True,
    method: MethodName = "auto",
    num_steps: int = MOST_STEPS,
    lr: float | None = None,
    train: Literal["both", "guide"] = "both",
    rows: Tensor | None = None,
    **options: Unpack[CheckKeywords],
) -> Check:
    """Fit a Pyro pair, and find out whether its posterior can be trusted.

    Args:
        model: a Pyro model with observed sites.
        guide: a Pyro guide for it, such as an AutoGuide; it is trained in place.
        data: what both are called with.
        fit: train first, until that comes to rest; False judges the parameters as they are.
        method: of the fit: "auto" takes natural gradients or deterministic VI where they go, for Gaussian
            AutoGuides of models without parameters, else SVI (`choice.fit`); so do "svi", "natural" and
            "deterministic". With ``num_steps`` or ``lr`` given, "auto" is SVI.
        num_steps: the most steps of SVI.
        lr: the learning rate that they begin with; by default 0.05, and 0.01 for more than 4,096 parameters.
        train: "both", or "guide" to hold the model's parameters.
        rows: where every row of the data has latents of its own, the numbers of the rows whose posteriors
            are compared; the first eight by default.
        options: the fields of `CheckOptions`.

    Raises:
        TypeError: for an option that there is not.
        InputError: if the guide misses a latent site of the model, the model observes nothing, the
            budget is too short for any check, or the reference has other parameters.
    """
    asked = CheckOptions(**options)
    clock = asked.clock()
    pair = Pair(model, guide)
    fitted, rested, cut = None, None, False
    own = {"num_steps": num_steps != MOST_STEPS, "lr": lr is not None}
    method = settled(method, [name for name, given in own.items() if given])
    how = FitOptions(method=method, num_steps=num_steps, train=train)
    with ahead(clock.left):
        if fit:
            seen = _first_look(pair, data, clock)
            stage("check: fitting", show=asked.progress)
            if asked.reference is None:
                begin_reference(seen, rows, clock)
            fitted, cut = fit_within(seen, how, lr, FIT_SHARE * clock.left, asked.seed, asked.progress)
            late = Rested(False, "the time was over before the first step of SVI")
            rested = late if fitted is None else None
        _first_look(pair, data, clock)
        case = Case(pair, data, clock, asked, rows, rested=rested or _rested(fitted), cut=cut)
        return _examined(case, asked, fitted)


def check_pair(
    pair: Pair,
    *data: Any,
    fitted: Fit | None = None,
    rested: Rested | tuple[bool | None, str] | None = None,
    cut: bool = False,
    rows: Tensor | None = None,
    feature_names: tuple[str, ...] = (),
    **options: Unpack[CheckKeywords],
) -> Check:
    """`check` for a pair whose parameters stay as they are.

    Args:
        pair: model and guide.
        data: the programs' data.
        fitted: what the fit did, if it is known.
        rested: or only whether it came to rest (None: not judged), and a sentence about it; a `Rested` also
            says by which method.
        cut: whether a budget ended it before that.
        rows: as for `check`.
        feature_names: of the data's columns, for predictive checks.
        options: the fields of `CheckOptions`.
    """
    asked = CheckOptions(**options)
    clock = asked.clock()
    _first_look(pair, data, clock)
    known = _rested(fitted) if fitted is not None or rested is None else Rested(*rested)
    return _examined(Case(pair, data, clock, asked, rows, feature_names, known, cut), asked, fitted)


def _rested(fitted: Fit | None) -> Rested | None:
    if fitted is None:
        return None
    before = "" if fitted.choice is None else fitted.choice.instead_of
    return Rested(fitted.converged, fitted.reason, fitted.method, before and NAMES[before])


def _examined(case: Case, asked: CheckOptions, fitted: Fit | None) -> Check:
    """Every check in turn; the verdict is told before the first that simulates data."""
    told = False
    # Draws outside a support have no weight; to Pyro's validation they would be an error.
    with pyro.validation_enabled(False):
        for each in asked.checks:
            if each.simulates and not told:
                told = _tell(case, asked, fitted)
            if not examine(case, each):
                break
        if not told:
            _tell(case, asked, fitted)
    return _conclude(case, fitted)


def _first_look(pair: Pair, data: tuple[Any, ...], clock: Clock) -> Problem:
    """What the programs look like, within the budget.

    Raises:
        InputError: for programs that cannot be checked, or not in so little time.
    """
    try:
        with deadline(clock.left), watched():
            seen = Problem.of(pair, *data)
    except OutOfTime:
        raise clock.too_short() from None
    refuse_unchecked(seen.layout)
    if clock.left <= 0:
        raise clock.too_short()
    return seen


def _tell(case: Case, asked: CheckOptions, fitted: Fit | None) -> bool:
    """Let the verdict be known as it stands."""
    stands = _conclude(case, fitted)
    if asked.callback is not None:
        asked.callback(stands)
    else:
        word = f"{stands.verdict.upper()} — {stands.reason}"
        said = f"check: the verdict stands after {stands.seconds:.0f} s: {word}"
        stage(said, show=asked.progress)
    return True


def _conclude(case: Case, fitted: Fit | None) -> Check:
    notes, facts = case.notes, _facts(case)
    decision = decide(case.measures, case.rule, notes.names)
    reasons = [decision.reason]
    if notes.funnel is not None and decision.verdict == "do not trust":
        reasons.append(notes.funnel.clause)
    reasons += explained(decision, case.measures, case.findings, case.rule)
    decision = replace(decision, reason="; ".join(reasons))
    draws = {name: answer.draws for name, answer in case.posteriors.items()}
    context = ViewContext(case.pair, case.data, case.data, draws, "observed")
    advice = advise(decision, case.measures, facts, notes.names)
    return Check(
        decision=decision,
        next_step=advice.sentence,
        advice=advice.key,
        guide=advice.guide,
        findings=tuple(case.findings),
        measures=case.measures,
        results=Results(case.results),
        fit=fitted,
        index=None if case.index is None else tuple(case.index.tolist()),
        seconds=case.clock.spent,
        budget=case.clock.budget,
        views=partial(views_of, context, seed=case.options.seed),
    )


def _facts(case: Case) -> Facts:
    notes, rested = case.notes, case.rested
    return Facts(
        local=case.local,
        mean_field=loses_correlations(case),
        within=loses_within(case),
        apart=takes_apart(case),
        funnel=notes.funnel is not None,
        missed=notes.missed,
        laplace=isinstance(case.pair.guide, AutoLaplaceApproximation),
        identified_right=notes.identified_right,
        cut=any(finding.cut and finding.name == "reference" for finding in case.findings),
        reference_seconds=notes.reference_seconds,
        family=notes.family or (JOINT if isinstance(case.pair.guide, JointNormal) else ""),
        trained=notes.trained,
        trainer=notes.trainer,
        method="SVI" if rested is None else rested.instead_of or rested.method,
        late=rested is not None and bool(rested.instead_of),
        dim=num_latents(case),
        sparse=notes.sparse,
        responds=notes.responds,
        guides=tuple(getattr(case.pair.model, "guides", ())),
    )
