"""Which correlations a guide lost: those within its sites, or others, too."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ppl_vae.diagnostics.comparison.closeness import Tolerances
from ppl_vae.diagnostics.comparison.compare import Comparison
from ppl_vae.diagnostics.comparison.distances import correlations
from ppl_vae.diagnostics.verdict.case import Case
from ppl_vae.guides.chain_normal import ChainNormal
from ppl_vae.inference.fitting.linear_response import lacks_covariances

__all__ = ["loses_correlations", "loses_within", "num_latents", "takes_apart"]

# Numbers, of more than which pairs are not looked at.
MOST = 200


def loses_correlations(case: Case) -> bool:
    """Whether the guide lost a correlation that the reference has."""
    comparison = case.results.only(Comparison)
    reasons = () if comparison is None else comparison.about("svi")
    return any("correlation" in (reason.criterion, reason.of) for reason in reasons)


def takes_apart(case: Case) -> bool:
    """Whether the guide's family has no correlations between chains, or between any numbers; of one that has
    drawn."""
    guide = case.pair.guide
    return "svi" in case.posteriors and (isinstance(guide, ChainNormal) or lacks_covariances(guide))


def num_latents(case: Case) -> int:
    """How many numbers the guide draws at once; 0 where it has drawn none."""
    own = case.posteriors.get("svi")
    return 0 if own is None else sum(value[0, 0].size for value in own.draws.data_vars.values())


def loses_within(case: Case) -> bool:
    """Whether every correlation that it lost is one of numbers of the same site, of several sites."""
    own, truth = (case.posteriors.get(name) for name in ("svi", case.measures.reference))
    if own is None or truth is None or len(own.draws) < 2 or not 0 < num_latents(case) <= MOST:
        return False
    if set(own.draws) != set(truth.draws):
        return False
    names = sorted(map(str, own.draws))
    (mine, sites), (true, _) = (_columns(answer.draws, names) for answer in (own, truth))
    lost = np.abs(correlations(mine) - correlations(true)) > Tolerances().correlation
    return not bool(lost[sites[:, None] != sites].any())


def _columns(draws: xr.Dataset, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Draws of all numbers, shape (numbers, draws), and the site of each."""
    parts = [draws[name].transpose(..., "chain", "draw").to_numpy() for name in names]
    flat = [part.reshape(-1, part.shape[-2] * part.shape[-1]) for part in parts]
    return np.concatenate(flat), np.repeat(np.arange(len(names)), [len(part) for part in flat])
