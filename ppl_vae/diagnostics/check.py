"""Can this fit be trusted? Every check that a time budget allows, and the verdict that follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyro
from torch import Tensor

from ppl_vae.diagnostics.advice import next_step
from ppl_vae.diagnostics.budget import Clock
from ppl_vae.diagnostics.calibration import Calibration
from ppl_vae.diagnostics.check_files import load_check, save_check
from ppl_vae.diagnostics.checking import Checks
from ppl_vae.diagnostics.collapse import Collapse
from ppl_vae.diagnostics.compare import Comparison, Identifiable
from ppl_vae.diagnostics.fitting import FIT_SHARE, fit_within, refuse_short
from ppl_vae.diagnostics.predictive import Predictive
from ppl_vae.diagnostics.verdict import Decision, Finding, Measures, Rule, Verdict, decide
from ppl_vae.evidence import Evidence
from ppl_vae.inference.svi import Fit
from ppl_vae.inference.terms import layout
from ppl_vae.posterior import Posterior
from ppl_vae.program import Pair, Program

__all__ = ["Check", "check", "check_pair"]


@dataclass(frozen=True, eq=False)
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

    @property
    def verdict(self) -> Verdict:
        """ "trust", "reweight" or "do not trust"."""
        return self.decision.verdict

    @property
    def reason(self) -> str:
        """Why, in a sentence."""
        return self.decision.reason

    @property
    def failing(self) -> tuple[Finding, ...]:
        """The checks that failed."""
        return tuple(finding for finding in self.findings if finding.status == "fail")

    def save(self, folder: Path) -> None:
        """Keep it in a folder, beside a run's other files or alone."""
        save_check(self, folder)

    @classmethod
    def load(cls, folder: Path) -> Check:
        """Read what `save` wrote; ``fit`` is not among it.

        Raises:
            InputError: if the folder holds no check, or a damaged one.
        """
        return load_check(folder)

    def __str__(self) -> str:
        lines = [f"Verdict: {self.verdict.upper()} — {self.reason}.", f"Next step: {self.next_step}."]
        lines += [f"  {finding.status:>11}  {finding.name}: {finding.sentence}" for finding in self.findings]
        return "\n".join([*lines, f"({self.seconds:.0f} s of a budget of {self.budget:.0f} s)"])


def check(
    model: Program,
    guide: Program,
    *data: Any,
    fit: bool = True,
    num_steps: int = 20_000,
    lr: float = 0.02,
    train: Literal["both", "guide"] = "both",
    reference: Posterior | None = None,
    identifiable: Identifiable | None = None,
    rows: Tensor | None = None,
    calibrate: bool = True,
    budget: float = 120.0,
    rule: Rule | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Check:
    """Fit a Pyro pair by SVI, and find out whether its posterior can be trusted.

    Args:
        model: a Pyro model with observed sites.
        guide: a Pyro guide for it, such as an AutoGuide; it is trained in place.
        data: what both are called with.
        fit: train first, until SVI comes to rest; False judges the parameters as they are.
        num_steps: the most steps of SVI.
        lr: the learning rate that they begin with.
        train: "both", or "guide" to hold the model's parameters.
        reference: draws from p(z | x) that are already there; by default exact ones where the model knows
            them, else NUTS.
        identifiable: functions of the latents to compare instead of the latents: takes and gives a data
            set with dimensions (chain, draw, …). By default what the model itself says is identifiable.
        rows: where every row of the data has latents of its own, the numbers of the rows whose posteriors
            are compared; the first eight by default.
        calibrate: whether to spend what is left of the budget on simulation-based calibration.
        budget: seconds. The important checks come first; what there is no time for is said to be skipped.
        rule: the thresholds of the verdict; see `verdict.decide`.
        seed: of everything random.
        progress: whether to show progress bars on a terminal.

    Raises:
        InputError: if the guide misses a latent site of the model, the model observes nothing, the
            budget is too short for any check, or the reference has other parameters.
    """
    clock = Clock(budget)
    pair = Pair(model, guide)
    shape = layout(pair, *data)
    refuse_short(clock, pair, data, shape, fit)
    fitted = None
    if fit:
        fitted = fit_within(pair, data, shape, num_steps, lr, train, FIT_SHARE * clock.left, seed, progress)
    found = check_pair(
        pair,
        *data,
        fitted=fitted,
        reference=reference,
        identifiable=identifiable,
        rows=rows,
        calibrate=calibrate,
        budget=max(clock.left, 1e-3),
        rule=rule,
        seed=seed,
        progress=progress,
    )
    return replace(found, fit=fitted, seconds=clock.spent, budget=budget)


def check_pair(
    pair: Pair,
    *data: Any,
    fitted: Fit | None = None,
    rested: tuple[bool, str] | None = None,
    reference: Posterior | None = None,
    identifiable: Identifiable | None = None,
    rows: Tensor | None = None,
    calibrate: bool = True,
    budget: float = 120.0,
    rule: Rule | None = None,
    feature_names: tuple[str, ...] = (),
    seed: int = 0,
    progress: bool = True,
) -> Check:
    """`check` for a pair whose parameters stay as they are.

    Args:
        pair: model and guide.
        data: the programs' data.
        fitted: what SVI did, if it is known.
        rested: or only whether SVI came to rest, and a sentence about it.
        feature_names: of the data's columns, for predictive checks.
        reference, identifiable, rows, calibrate, budget, rule, seed, progress: as for `check`.
    """
    job = Checks(
        pair, data, Clock(budget), reference, identifiable, rows, feature_names, rule, seed, progress
    )
    if fitted is not None:
        rested = (fitted.converged, fitted.reason)
    if rested is not None:
        job.convergence(*rested)
    # Draws outside a support have no weight; to Pyro's validation they would be an error.
    with pyro.validation_enabled(False):
        job.weights()
        job.compare()
        job.shape_of_the_posterior()
        job.collapse()
        job.predictive()
        if calibrate:
            job.calibration()
    return _conclude(job, fitted)


def _conclude(job: Checks, fitted: Fit | None) -> Check:
    decision = decide(job.measures, job.rule)
    facts = replace(job.facts, mean_field=_lost(job.comparison))
    if facts.funnel and decision.verdict == "do not trust":
        decision = replace(decision, reason=f"{decision.reason}; {facts.funnel.partition(';')[0]}")
    return Check(
        decision=decision,
        next_step=next_step(decision, job.measures, facts),
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
    )


def _lost(comparison: Comparison | None) -> bool:
    """Whether the guide lost a correlation that the reference has."""
    return comparison is not None and any(
        reason.startswith("svi: ") and "the correlation of" in reason for reason in comparison.reasons
    )
