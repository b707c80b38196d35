"""The guide and its reweighted draws against a reference: exact, given, or by NUTS."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from torch import Tensor

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.clock import Clock, OutOfTime, deadline
from ppl_vae.base.progress import stage
from ppl_vae.base.watch import watched
from ppl_vae.base.wording import in_words
from ppl_vae.diagnostics.comparison.quantities import beside
from ppl_vae.diagnostics.latents.funnels import funnel
from ppl_vae.diagnostics.verdict.case import NO_TIME, Case, Found, skipped
from ppl_vae.diagnostics.verdict.checked import rows_compared
from ppl_vae.diagnostics.verdict.checks.draws import DRAWS
from ppl_vae.diagnostics.verdict.findings import differing, say_score
from ppl_vae.diagnostics.verdict.reference import Sampled, nuts_within_budget
from ppl_vae.diagnostics.verdict.rule import Finding
from ppl_vae.diagnostics.verdict.scored import scored
from ppl_vae.inference.samplers import exact, nuts
from ppl_vae.program.abilities import ExactPosterior
from ppl_vae.program.problem import Problem

__all__ = ["begin_reference", "reference", "seconds_for_nuts"]

SEED_EXACT, SEED_NUTS = 4, 5
# Draws that NUTS keeps at most, in numbers.
MOST_KEPT = 2e8
# Shares of the time left, with and without calibration to come. What the latter leaves is the comparison's,
# which takes seconds: so many, or that share of the time, where it is less.
REFERENCE_SHARE, WHOLE_SHARE = 0.75, 0.95
COMPARING, COMPARING_SHARE = 10.0, 0.1
# Of the time left, what tracing the model for NUTS may take before the fit.
BEGINNING = 0.05


def reference(case: Case) -> Found | None:
    """Draw one and judge it, and set both answers beside it."""
    if not case.layout.latents:
        return None
    found, kind = _drawn(case)
    late = {"late": found.cut}
    if found.posterior is None:
        said = skipped("reference", "; ".join(found.reasons), cut=found.cut)
        return Found(said, {"reference": kind}, notes=late)
    seen = case.notes.funnel
    try:
        with deadline(case.clock.left):
            if kind == "nuts" and not case.local:
                seen = funnel(found.posterior) or seen
            compared = _compared(case, found, found.posterior, kind)
    except OutOfTime:
        compared = Found(skipped("reference", f"{NO_TIME} to compare with it"))
    return replace(compared, notes={**compared.notes, **late, "funnel": seen})


def _compared(case: Case, found: Sampled, truth: Posterior, kind: str) -> Found:
    """What the comparison gives: also with a reference that did not pass its checks, to be looked at."""
    names = [name for name in ("svi", "reweighted") if name in case.posteriors]
    answers = {name: case.posteriors[name] for name in names}
    comparison = beside(answers, truth, case.quantities)
    kept: dict[str, object] = {kind: truth, "": comparison}
    # A sampler's run passes as a whole, and in the rows that are compared.
    ok = found.ok and comparison.reference_ok
    measures = {"reference": kind, "reference_ok": ok}
    if not ok:
        reasons = found.reasons or comparison.reasons
        return Found(Finding("reference", "cannot tell", "; ".join(reasons), cut=found.cut), measures, kept)
    own, *others = (scored(case, name, answers[name], truth, comparison) for name in names)
    mended = others[0] if others else own
    measures |= {
        "error": own.error,
        "error_floor": own.floor,
        "reweighted_error": mended.error,
        "reweighted_floor": mended.floor,
    }
    weights_ok = case.measures.alarming <= case.rule.alarming
    status, text = say_score(comparison, own, mended, weights_ok, case.rule)
    text = f"{text}; {found.note}" if found.note else text
    notes = {"reference_seconds": truth.seconds, **_by_name(case, differing(comparison))}
    return Found(Finding("reference", status, text, cut=found.cut), measures, kept, notes)


def _by_name(case: Case, wrong: tuple[str, ...]) -> dict[str, Any]:
    """What is wrong and what is right, by the names of variables."""
    own, quantities = case.posteriors["svi"], case.quantities
    right = [name for name in quantities.names(own) if name not in wrong]
    return {
        "names": replace(case.notes.names, wrong=in_words(wrong), right=in_words(right)),
        "identified_right": bool(wrong) and quantities.only_shown(wrong, own),
    }


def _drawn(case: Case) -> tuple[Sampled, str]:
    """The reference as it was drawn, and of which kind it is: "given", "exact", "nuts" or "none"."""
    if (given := case.options.reference) is not None:
        return Sampled(given, True, ()), "given"
    coords = {} if case.index is None else {case.layout.unit_plate or "": case.index.tolist()}
    data = case.problem.cut()
    if isinstance(case.pair.model, ExactPosterior):
        return _exactly(case, case.pair.model, data, coords)
    units = case.layout.num_units if case.local and case.index is None else 1
    if (numbers := units * case.layout.event_size * DRAWS[0]) > MOST_KEPT:
        return Sampled(None, False, (
            f"draws of all {units:,} rows would be {numbers:.1g} numbers, and these programs do not take "
            "some of their rows (index the data by the plate: x[i])",
        )), "none"  # fmt: skip
    stage("check: NUTS", show=case.options.progress)
    seconds = seconds_for_nuts(case.clock.left, calibrate=case.options.calibrate)
    sampled = nuts_within_budget(
        seconds, case.pair, *data, local=case.local, coords=coords,
        identifiable=case.quantities.functions, seed=case.seed(SEED_NUTS), progress=case.options.progress,
    )  # fmt: skip
    if sampled.posterior is None:
        return sampled, "none"
    return replace(sampled, posterior=case.few_rows(sampled.posterior)), "nuts"


def seconds_for_nuts(left: float, *, calibrate: bool) -> float:
    """What NUTS may take of the time that is left.

    Args:
        left: seconds.
        calibrate: whether simulated data are to come after it.
    """
    if calibrate:
        return REFERENCE_SHARE * left
    return left - max((1 - WHOLE_SHARE) * left, min(COMPARING, COMPARING_SHARE * left))


def _exactly(
    case: Case, model: ExactPosterior, data: tuple[Any, ...], coords: dict[str, Any]
) -> tuple[Sampled, str]:
    try:
        with deadline(case.clock.left), watched():
            drawn = exact.draws(model, *data, num_draws=DRAWS[0], coords=coords, seed=case.seed(SEED_EXACT))
    except OutOfTime:
        return Sampled(None, False, (NO_TIME,), cut=True), "none"
    return Sampled(case.few_rows(drawn), True, ()), "exact"


def begin_reference(problem: Problem, rows: Tensor | None, clock: Clock) -> None:
    """Begin to compile what NUTS will want, beside the fit; see `compile_apart.ahead`."""
    problem, layout = rows_compared(problem, rows), problem.layout
    known = isinstance(problem.pair.model, ExactPosterior)
    if known or (problem.index is None and layout.num_units * layout.event_size * DRAWS[0] > MOST_KEPT):
        return
    # Whatever it raises comes up again where NUTS is wanted, and is said there.
    with suppress(Exception, OutOfTime), deadline(BEGINNING * clock.left):
        nuts.begin_compiling(problem.pair, *problem.cut())
