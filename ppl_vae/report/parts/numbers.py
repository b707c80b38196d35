"""The three numbers that a verdict rests on."""

import math

from ppl_vae.base.wording import with_error
from ppl_vae.diagnostics.verdict.rule import Measures

__all__ = ["numbers_of"]


def numbers_of(measures: Measures, *, whole: bool = False) -> tuple[tuple[str, str], ...]:
    """The guide's error, its weights and its gap, names with values; what is not known is left out.

    Args:
        measures: what the rule read.
        whole: whether the data set is the one unit that there is.
    """
    against = measures.reference != "none" and not math.isnan(measures.error)
    error = measures.error if against else measures.shift
    what = "guide's largest error" if against else "guide's largest shift by its weights"
    unit = "" if whole else " a unit"
    found = [
        (what, error, f"{_short(error)} × tolerable"),
        ("k̂ of its weights, at worst", measures.pareto_k, _short(measures.pareto_k)),
        (f"log p(x) − ELBO, nats{unit}", measures.gap, with_error(measures.gap, None, 3)),
    ]
    return tuple((name, text.replace("-", "−")) for name, value, text in found if not math.isnan(value))


def _short(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.2f}" if value < 10 else f"{value:,.0f}"
