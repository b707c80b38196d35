"""Can this fit be trusted? Every check that a time budget allows, and the verdict that follows from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import pyro
from pyro.infer.autoguide import AutoLaplaceApproximation
from torch import Tensor

from ppl_vae.answers.evidence import Evidence
from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.arguments import check_real
from ppl_vae.base.clock import Clock, OutOfTime, deadline
from ppl_vae.base.notebook import Tone, banner, panel, paragraph, table
from ppl_vae.base.progress import stage
from ppl_vae.base.watch import watched
from ppl_vae.diagnostics.calibration.sbc import Calibration
from ppl_vae.diagnostics.comparison.compare import Comparison, Identifiable
from ppl_vae.diagnostics.latents.collapse import Collapse
from ppl_vae.diagnostics.prediction.predictive import Predictive
from ppl_vae.diagnostics.verdict.advice import next_step
from ppl_vae.diagnostics.verdict.check_files import load_check, save_check
from ppl_vae.diagnostics.verdict.checked import refuse_unchecked
from ppl_vae.diagnostics.verdict.checking import Checks, begin_reference
from ppl_vae.diagnostics.verdict.explained import explained
from ppl_vae.diagnostics.verdict.fitting import FIT_SHARE, fit_within, was_cut
from ppl_vae.diagnostics.verdict.rule import Decision, Finding, Measures, Rule, Verdict, decide
from ppl_vae.engine.compile_apart import ahead
from ppl_vae.inference.fitting.svi import Fit
from ppl_vae.program.layout import Layout
from ppl_vae.program.pair import Pair, Program
from ppl_vae.program.shown import ViewContext, views_of
from ppl_vae.program.terms import layout
from ppl_vae.views import View

__all__ = ["Check", "CheckKeywords", "CheckOptions", "check", "check_pair"]


_TONES: dict[Verdict, Tone] = {
    "trust": "good",
    "reweight": "warn",
    "do not trust": "bad",
    "not a posterior": "bad",
}


@dataclass(frozen=True, eq=False, repr=False)
class Check:
    """What the checks found, and what follows.

    Attributes:
        decision: the verdict, its reason, and the names of the failing checks.
        next_step: the cheapest thing to do now, in a sentence.
        findings: one for each check, in the order in which they were made.
        measures: the numbers that the rule read; ``decide(check.measures, rule)`` tries another rule.
        answers: posteriors by name: "svi", "reweighted", and "exact", "nuts" or "given".
        comparison: of the first two with the third.
        evidence: log p(x) by method.
        fit: what SVI did, where it was run.
        calibration: of the guide ("guide") and the sampler ("nuts") over simulated data.
        predictive: of the model's predictions under the guide.
        collapse: of the latents of every row.
        index: the rows that were compared; None where the data set has one posterior.
        seconds: what it all took.
        budget: what it might have taken.
        views: makes what model and guide have to show; not among what `save` keeps.
    """

    decision: Decision
    next_step: str
    findings: tuple[Finding, ...]
    measures: Measures
    answers: Mapping[str, Posterior]
    comparison: Comparison | None = None
    evidence: Mapping[str, Evidence] = field(default_factory=dict)
    fit: Fit | None = None
    calibration: Mapping[str, Calibration] = field(default_factory=dict)
    predictive: Predictive | None = None
    collapse: Collapse | None = None
    index: tuple[int, ...] | None = None
    seconds: float = float("nan")
    budget: float = float("nan")
    views: Callable[[], tuple[View, ...]] = tuple

    @property
    def verdict(self) -> Verdict:
        """ "trust", "reweight", "do not trust" or "not a posterior"."""
        return self.decision.verdict

    @property
    def reason(self) -> str:
        """Why, in a sentence."""
        return self.decision.reason

    @property
    def failing(self) -> tuple[Finding, ...]:
        """The checks that failed."""
        return tuple(finding for finding in self.findings if finding.status == "fail")

    @property
    def cut(self) -> tuple[str, ...]:
        """Names of the findings that depend on the time that things took: with the same seed all others are
        the same. Where the time ended SVI, that is all of them.
        """
        late = [finding.name for finding in self.findings if finding.cut]
        return tuple(finding.name for finding in self.findings) if "convergence" in late else tuple(late)

    def spent(self) -> str:
        """How the budget was used, in a sentence."""
        text = f"{self.seconds:.0f} s of a budget of {self.budget:.0f} s"
        late = [finding.name for finding in self.findings if finding.cut]
        if not late:
            return text
        of_all = ", and every number with it" if "convergence" in late else ""
        return f"{text}; what it cut short depends on the time that things take{of_all}: {', '.join(late)}"

    def save(self, folder: Path) -> None:
        """Keep it in a folder, beside a run's other files or alone."""
        save_check(self, folder)

    @classmethod
    def load(cls, folder: Path) -> Check:
        """Read what `save` wrote; ``fit`` and ``views`` are not among it.

        Raises:
            InputError: if the folder holds no check, or a damaged one.
        """
        return load_check(folder)

    def __repr__(self) -> str:
        failing = ", ".join(finding.name for finding in self.failing) or "none"
        return f"Check({self.verdict}: {len(self.findings)} checks, failing: {failing}; {self.seconds:.0f} s)"

    def _repr_html_(self) -> str:
        """How a notebook shows it: the verdict, its reason, the next step, and every finding."""
        findings = [(finding.status, finding.name, finding.sentence) for finding in self.findings]
        return panel(
            "Can this fit be trusted?",
            banner(self.verdict.upper(), _TONES[self.verdict], f"{self.reason}."),
            paragraph(f"Next step: {self.next_step}."),
            table(["found", "check", "what"], findings),
            paragraph(f"({self.spent()})"),
        )

    def __str__(self) -> str:
        lines = [f"Verdict: {self.verdict.upper()} — {self.reason}.", f"Next step: {self.next_step}."]
        lines += [f"  {finding.status:>11}  {finding.name}: {finding.sentence}" for finding in self.findings]
        return "\n".join([*lines, f"({self.spent()})"])


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """The options of a check. A budget that is none raises `InputError`.

    Attributes:
        reference: draws from p(z | x) that are already there; by default exact ones where the model knows
            them, else NUTS.
        identifiable: functions of the latents to compare instead of the latents: takes and gives a data
            set with dimensions (chain, draw, …). By default what the model itself says is identifiable.
        calibrate: whether to spend what is left of the budget on simulation-based calibration.
        budget: seconds, or a clock that already runs. The important checks come first; every part looks at
            the clock while it runs. What was cut short is said (`Check.cut`), and depends on the time that
            things take; all else is the same with the same seed.
        rule: the thresholds of the verdict; see `verdict.decide`.
        seed: of everything random.
        told: called with the check as it is once the verdict stands, before data are simulated.
        progress: whether to show progress bars on a terminal.
    """

    reference: Posterior | None = None
    identifiable: Identifiable | None = None
    calibrate: bool = True
    budget: float | Clock = 120.0
    rule: Rule | None = None
    seed: int = 0
    told: Callable[[Check], None] | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.budget, Clock):
            check_real(lambda v: v >= 0, "is a number of seconds, or a clock", budget=self.budget)

    def clock(self) -> Clock:
        """The budget as a clock; one that begins now where it is a number."""
        return self.budget if isinstance(self.budget, Clock) else Clock(self.budget)


class CheckKeywords(TypedDict, total=False):
    """The fields of `CheckOptions` as keywords; a test holds the two equal."""

    reference: Posterior | None
    identifiable: Identifiable | None
    calibrate: bool
    budget: float | Clock
    rule: Rule | None
    seed: int
    told: Callable[[Check], None] | None
    progress: bool


def check(
    model: Program,
    guide: Program,
    *data: Any,
    fit: bool = True,
    num_steps: int = 20_000,
    lr: float | None = None,
    train: Literal["both", "guide"] = "both",
    rows: Tensor | None = None,
    **options: Unpack[CheckKeywords],
) -> Check:
    """Fit a Pyro pair by SVI, and find out whether its posterior can be trusted.

    Args:
        model: a Pyro model with observed sites.
        guide: a Pyro guide for it, such as an AutoGuide; it is trained in place.
        data: what both are called with.
        fit: train first, until SVI comes to rest; False judges the parameters as they are.
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
    with ahead(clock.left):
        if fit:
            shape = _first_look(pair, data, clock)
            stage("check: fitting by SVI", show=asked.progress)
            if asked.reference is None:
                begin_reference(pair, data, shape, rows, clock)
            fitted = fit_within(
                pair, data, shape, num_steps, lr, train, FIT_SHARE * clock.left, asked.seed, asked.progress
            )
            cut = fitted is None or was_cut(fitted, num_steps)
            rested = (False, "the time was over before the first step of SVI") if fitted is None else None
        options["budget"] = clock
        return check_pair(pair, *data, fitted=fitted, rested=rested, cut=cut, rows=rows, **options)


def check_pair(
    pair: Pair,
    *data: Any,
    fitted: Fit | None = None,
    rested: tuple[bool | None, str] | None = None,
    cut: bool = False,
    rows: Tensor | None = None,
    feature_names: tuple[str, ...] = (),
    **options: Unpack[CheckKeywords],
) -> Check:
    """`check` for a pair whose parameters stay as they are.

    Args:
        pair: model and guide.
        data: the programs' data.
        fitted: what SVI did, if it is known.
        rested: or only whether SVI came to rest (None: not judged), and a sentence about it.
        cut: whether a budget ended it before that.
        rows: as for `check`.
        feature_names: of the data's columns, for predictive checks.
        options: the fields of `CheckOptions`.
    """
    asked = CheckOptions(**options)
    clock = asked.clock()
    _first_look(pair, data, clock)
    job = Checks(
        pair, data, clock, asked.reference, asked.identifiable, rows, feature_names, asked.rule, asked.seed,
        asked.progress,
    )  # fmt: skip
    if fitted is not None:
        rested = (fitted.converged, fitted.reason)
    if rested is not None:
        job.convergence(*rested, cut)
    # Draws outside a support have no weight; to Pyro's validation they would be an error.
    with pyro.validation_enabled(False):
        if not _points(job):
            _judge(job, asked.calibrate)
        stands = _conclude(job, fitted)
        _tell(stands, asked.told, asked.progress)
        if not job.measures.points and job.answers:
            job.in_time("prediction", job.predictive)
            if asked.calibrate:
                job.calibration()
    return _conclude(job, fitted)


def _first_look(pair: Pair, data: tuple[Any, ...], clock: Clock) -> Layout:
    """What the programs look like, within the budget.

    Raises:
        InputError: for programs that cannot be checked, or not in so little time.
    """
    try:
        with deadline(clock.left), watched():
            shape = layout(pair, *data)
    except OutOfTime:
        raise clock.too_short() from None
    refuse_unchecked(shape)
    if clock.left <= 0:
        raise clock.too_short()
    return shape


def _points(job: Checks) -> bool:
    try:
        with deadline(job.clock.left), watched():
            return job.points()
    except OutOfTime:
        raise job.clock.too_short() from None


def _judge(job: Checks, calibrate: bool) -> None:
    """Everything that the verdict rests on."""
    job.weights()
    if not job.draw():
        return
    job.compare(calibrate)
    job.in_time("modes", job.modes)
    job.say_funnel()
    job.in_time("collapse", job.collapse)


def _tell(stands: Check, told: Callable[[Check], None] | None, progress: bool) -> None:
    """Let the verdict be known before data are simulated."""
    if told is not None:
        told(stands)
    else:
        word = f"{stands.verdict.upper()} — {stands.reason}"
        stage(f"check: the verdict stands after {stands.seconds:.0f} s: {word}", show=progress)


def _conclude(job: Checks, fitted: Fit | None) -> Check:
    decision = decide(job.measures, job.rule, job.spoken)
    facts = replace(
        job.facts,
        mean_field=_lost(job.comparison),
        cut=any(finding.cut and finding.name == "reference" for finding in job.findings),
        laplace=isinstance(job.pair.guide, AutoLaplaceApproximation),
    )
    if facts.funnel and decision.verdict == "do not trust":
        decision = replace(decision, reason=f"{decision.reason}; {facts.funnel.partition(';')[0]}")
    draws = {name: answer.draws for name, answer in job.answers.items()}
    context = ViewContext(job.pair, job.data, job.data, draws, "observed")
    reason = "; ".join([decision.reason, *explained(decision, job.measures, job.findings, job.rule)])
    decision = replace(decision, reason=reason)
    return Check(
        decision=decision,
        next_step=next_step(decision, job.measures, facts, job.spoken),
        findings=tuple(job.findings),
        measures=job.measures,
        answers=job.answers,
        comparison=job.comparison,
        evidence=job.evidence,
        fit=fitted,
        calibration=job.calibrations,
        predictive=job.predicted,
        collapse=job.collapsed,
        index=None if job.index is None else tuple(job.index.tolist()),
        seconds=job.clock.spent,
        budget=job.clock.budget,
        views=partial(views_of, context, seed=job.seed),
    )


def _lost(comparison: Comparison | None) -> bool:
    """Whether the guide lost a correlation that the reference has."""
    return comparison is not None and any(
        reason.startswith("svi: ") and "the correlation of" in reason for reason in comparison.reasons
    )
