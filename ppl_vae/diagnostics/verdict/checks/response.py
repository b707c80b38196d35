"""Whether linear response gives the covariances that a guide of independent normals lost."""

from __future__ import annotations

from ppl_vae.base.clock import OutOfTime, deadline
from ppl_vae.base.errors import InputError
from ppl_vae.base.names import in_sentence
from ppl_vae.base.progress import stage
from ppl_vae.diagnostics.comparison.quantities import beside
from ppl_vae.diagnostics.verdict.case import Case, Found, skipped
from ppl_vae.diagnostics.verdict.checks.draws import DRAWS
from ppl_vae.diagnostics.verdict.rule import OTHERS, Finding
from ppl_vae.diagnostics.verdict.scored import scored
from ppl_vae.inference.fitting import linear_response

__all__ = ["response"]

# Of the time left, what it may take.
SHARE = 0.15


def response(case: Case) -> Found | None:
    """Set it beside the others, where such a guide differs from a reference that passed its checks."""
    measured, rule = case.measures, case.rule
    differs = measured.error > rule.tolerable or measured.error_floor > rule.floor
    if not (measured.reference_ok and differs and linear_response.lacks_covariances(case.pair.guide)):
        return None
    stage("check: linear response", show=case.options.progress)
    try:
        with deadline(SHARE * case.clock.left):
            return _beside(case)
    except OutOfTime:
        return Found(skipped("response"))
    except InputError as error:
        return Found(skipped("response", str(error), cut=False))


def _beside(case: Case) -> Found:
    """Its draws, judged as the guide's are, and the comparison with them among the answers."""
    reference = case.measures.reference
    answer = linear_response.posterior(
        case.pair, *case.data, num_draws=DRAWS[0], seed=case.seed("response"), progress=case.options.progress
    )
    answer, truth = case.few_rows(answer), case.posteriors[reference]
    others = {name: one for name, one in case.posteriors.items() if one is not truth}
    together = beside({**others, answer.method: answer}, truth, case.quantities)
    found = scored(case, answer.method, answer, truth)
    agrees = found.error <= case.rule.tolerable and found.floor <= case.rule.floor
    name = in_sentence(reference, OTHERS)
    said = (
        f"linear response gives the spreads and correlations that the guide lost: it agrees with {name}"
        if agrees
        else f"linear response does not mend the guide: against {name}, {found.worst.sentence}"
    )
    return Found(
        Finding("response", "pass" if agrees else "warn", said),
        measures={"response_error": found.error, "response_floor": found.floor},
        answers={answer.method: answer, "": together},
        notes={"responds": agrees},
    )
