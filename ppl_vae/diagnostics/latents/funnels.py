"""Funnels: quantities whose spread depends on another quantity, which no fixed Gaussian can follow.

Source: Neal, "Slice sampling" (2003), section 8, for the shape; Betancourt and Girolami, "Hamiltonian Monte
Carlo for hierarchical models" (2015), for what it does to samplers and how reparametrising mends it.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, rankdata

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.clock import check_time

__all__ = ["Funnel", "funnel"]

# In the centred eight schools it is about 0.5; a scale known to 15 % moves its mean's spread by about 0.14.
LEAST = 0.3
# How many standard errors, against chance among all pairs of quantities.
LIMIT = 4.0
MAX_QUANTITIES = 200
MAX_DRAWS, LEAST_DRAWS = 4000, 1000
# Quantities times draws: the time goes with it and once more with the quantities.
MOST_VALUES = 200_000


@dataclass(frozen=True)
class Funnel:
    """One quantity on which the spread of others depends.

    Attributes:
        neck: its name; where it is small (or large, with a negative ``correlation``) the others are narrow.
        spread: the names of those others, the strongest first.
        correlation: Spearman's, between the neck and the strongest's distance from its centre.
    """

    neck: str
    spread: tuple[str, ...]
    correlation: float

    @property
    def sentence(self) -> str:
        """It in words, and what to do about it."""
        return f"{self.clause}; a non-centred parametrisation removes it"

    @property
    def clause(self) -> str:
        """It in words."""
        shown = ", ".join(self.spread[:3]) + (", …" if len(self.spread) > 3 else "")
        verb = "spreads" if len(self.spread) == 1 else "spread"
        size = "larger" if self.correlation > 0 else "smaller"
        return (
            f"the posterior is a funnel: {shown} {verb} more widely the {size} {self.neck} is (rank "
            f"correlation {abs(self.correlation):.2f})"
        )


def funnel(posterior: Posterior) -> Funnel | None:
    """The strongest funnel among the draws' quantities, or None.

    Quantities are put on the scale of normal scores. For each pair (a, b) what b has linearly in common with
    a is taken out, and the distance of the rest from its median is rank-correlated with a: for any Gaussian,
    and monotone functions of its coordinates, that is zero. At 0.3 and beyond chance it counts. The entries
    of one variable are also taken together: what spreads all of them is seen better in their sum. Of several
    possible necks, the one with most followers is named.

    Of very many pairs some correlate by chance, and a single draw of a large weight moves all of them: what
    is strongest among one half of the distinct draws must be seen in the other half too, both ways round.
    """
    scalars = posterior.scalars()
    few = MOST_VALUES // max(1, min(len(scalars), MAX_QUANTITIES))
    step = max(1, posterior.num_draws // min(MAX_DRAWS, max(LEAST_DRAWS, few)))
    # Reweighted draws of a bad guide may be one draw and its copies, among those that are looked at.
    quantities = {name: values.ravel()[::step] for name, values in scalars.items()}
    varying = [name for name, values in quantities.items() if np.ptp(values) > 0][:MAX_QUANTITIES]
    if len(varying) < 2:
        return None
    values = np.stack([quantities[name] for name in varying])
    groups = _groups(varying)
    followers = [*varying, *groups]
    correlations = _spreads(values, list(groups.values()))
    effective = _effective(posterior, values.shape[1])
    limit = max(LEAST, LIMIT / np.sqrt(effective))
    strong = np.abs(correlations) > limit
    if not strong.any() or not _in_both_halves(values, list(groups.values()), effective / 2):
        return None
    sizes = np.array([*np.ones(len(varying)), *(len(members) for members in groups.values())])
    neck = int(np.lexsort((np.abs(correlations).max(1), (strong * sizes).sum(1)))[-1])
    order = [int(i) for i in np.argsort(-np.abs(correlations[neck])) if strong[neck, i]]
    spread = [followers[i] for i in order]
    # A variable speaks for its entries.
    told = [name for name in spread if name in groups or name.partition("[")[0] not in spread]
    return Funnel(varying[neck], tuple(told), float(correlations[neck, order[0]]))


def _in_both_halves(values: np.ndarray, groups: list[list[int]], effective: float) -> bool:
    """Whether the strongest pair of either half of the distinct draws has a spread in the other half.

    Args:
        values: shape (quantities, draws).
        groups: as for `_spreads`.
        effective: how many independent draws a half is worth.
    """
    distinct = np.unique(values, axis=1, return_inverse=True)[1].ravel()
    halves = [_spreads(values[:, distinct % 2 == part], groups) for part in (0, 1)]
    limit = max(LEAST, LIMIT / np.sqrt(effective)) / 2
    for one, other in (halves, halves[::-1]):
        pair = np.unravel_index(np.abs(one).argmax(), one.shape)
        if np.sign(one[pair]) * other[pair] < limit:
            return False
    return True


def _groups(names: list[str]) -> dict[str, list[int]]:
    """The places of each variable's entries, for variables with several."""
    found: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        found.setdefault(name.partition("[")[0], []).append(place)
    return {name: places for name, places in found.items() if len(places) > 1}


def _spreads(values: np.ndarray, groups: list[list[int]]) -> np.ndarray:
    """Spearman's correlation of a with |b − its regression on a|, shape (a, b and groups)."""
    # Normal scores: heavy tails would make the regression of anything on them noise.
    standard = norm.ppf((rankdata(values, axis=1) - 0.5) / values.shape[1])
    standard = standard / standard.std(1, keepdims=True)
    ranks = _ranks(values)
    linear = standard @ standard.T / standard.shape[1]
    found = np.zeros((len(values), len(values) + len(groups)))
    for a in range(len(values)):
        check_time()
        rest = standard - linear[a][:, None] * standard[a]
        distances = _ranks(np.abs(rest - np.median(rest, axis=1, keepdims=True)))
        # Quantities that are one another's function leave nothing, whose ranks are rounding.
        distances[rest.std(1) < 1e-6] = 0.0
        together = [distances[[i for i in members if i != a]].sum(0) for members in groups]
        everything = np.vstack([distances, *(_ranks(one[None]) for one in together)])
        found[a] = everything @ ranks[a] / values.shape[1]
        found[a, a] = 0.0
        for number, members in enumerate(groups):
            if a in members:
                found[a, len(values) + number] = 0.0
    return found


def _ranks(values: np.ndarray) -> np.ndarray:
    """Standardised ranks along the last axis."""
    ranks = rankdata(values, axis=-1)
    centred = ranks - ranks.mean(-1, keepdims=True)
    spread = centred.std(-1, keepdims=True)
    return centred / np.where(spread > 0, spread, 1.0)


def _effective(posterior: Posterior, num_draws: int) -> float:
    if posterior.dependence == "independent":
        # Draws that were resampled by their weights are worth fewer.
        return min(float(num_draws), *posterior.independent_sizes().values())
    return float(min(num_draws, posterior.summary()["ess_bulk"].median()))
