"""How wrong an answer is, in the quantities of a case."""

from collections.abc import Hashable

from ppl_vae.answers.posterior import Posterior
from ppl_vae.diagnostics.comparison.closeness import Severity
from ppl_vae.diagnostics.comparison.compare import Comparison
from ppl_vae.diagnostics.comparison.quantities import beside
from ppl_vae.diagnostics.comparison.scores import over_rows, score
from ppl_vae.diagnostics.verdict.case import Case

__all__ = ["scored"]


def scored(
    case: Case, name: str, answer: Posterior, reference: Posterior, whole: Comparison | None = None
) -> Severity:
    """Its severity against a reference; where rows have their own latents, in nine rows of ten.

    Args:
        case: what is checked.
        name: of the answer.
        answer, reference: draws.
        whole: a comparison of the two, where there is one already.
    """
    plate = case.layout.unit_plate
    if plate is None or plate not in answer.draws.sizes or plate not in reference.draws.sizes:
        return _scored(case, name, answer, reference) if whole is None else score(whole, name)
    rows: list[dict[Hashable, object]] = [{plate: [row]} for row in range(answer.draws.sizes[plate])]
    return over_rows([_scored(case, name, answer.isel(row), reference.isel(row)) for row in rows])


def _scored(case: Case, name: str, answer: Posterior, reference: Posterior) -> Severity:
    return score(beside({name: answer}, reference, case.quantities), name)
