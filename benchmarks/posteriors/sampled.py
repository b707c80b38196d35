"""Reference draws of our own, where posteriordb has none: ten chains of NUTS, thinned, that passed checks.

The checks are posteriordb's: 10,000 draws, R-hat below 1.01, effective sizes as of independent draws,
neighbours that correlate by less than .05, no divergent transition. Its E-FMI not every sampler keeps.
"""

import numpy as np
import xarray as xr
from arviz_stats.base import array_stats
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam

from benchmarks.posteriors.entry import Entry, Floats, parameters
from ppl_vae import nuts
from ppl_vae.program.pair import Program

__all__ = ["failures", "make"]

CHAINS, DRAWS = 10, 1000
# Ranks of independent draws have effective sizes that spread about the number of draws.
LEAST, MOST = 0.85 * CHAINS * DRAWS, 1.2 * CHAINS * DRAWS
LARGEST_RHAT, CORRELATION = 1.01, 0.05


def make(one: Entry, seed: int = 0) -> list[str]:
    """Sample, check, and keep in the entry's file what passed.

    Args:
        one: an entry with draws of our own.
        seed: of the chains.

    Returns:
        What failed: nothing is kept then.
    """
    at = one.settings
    found = nuts.sample(
        _easier(one), *one.data(), chains=CHAINS, num_draws=DRAWS * one.thin, warmup=2 * at.warmup,
        target_accept=at.target_accept, mass=at.mass, seed=seed,
    )  # fmt: skip
    draws = _centred(one, found.draws.isel(draw=slice(one.thin - 1, None, one.thin)))
    values = parameters({str(name): value.to_numpy() for name, value in draws.data_vars.items()})
    divergent = int(found.stats["diverging"].sum())
    wrong = failures(values) + ([f"{divergent} transitions diverged"] if divergent else [])
    if not wrong:
        one.draws_file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            one.draws_file, draws=np.stack(list(values.values()), -1), names=np.array(list(values))
        )
    return wrong


def _easier(one: Entry) -> Program:
    if one.decentred is None:
        return one.model
    program: Program = poutine.reparam(one.model, {one.decentred[0]: LocScaleReparam(0.0)})
    return program


def _centred(one: Entry, draws: xr.Dataset) -> xr.Dataset:
    if one.decentred is None:
        return one.identifiable(draws)
    name, of = one.decentred
    found = draws.drop_vars(f"{name}_decentered").assign({name: of(draws).transpose("chain", "draw", ...)})
    return one.identifiable(found)


def failures(values: dict[str, Floats]) -> list[str]:
    """What speaks against draws (chains, draws) of each parameter, a sentence each."""
    wrong = []
    for name, each in values.items():
        rhat = float(array_stats.rhat(each))
        ess = {
            "bulk": float(array_stats.ess(each, method="bulk")),
            "tail": float(array_stats.ess(each, method="tail", prob=(0.05, 0.95))),
        }
        centred = each - each.mean(1, keepdims=True)
        lag = float(((centred[:, 1:] * centred[:, :-1]).sum(1) / (centred**2).sum(1)).mean())
        if not rhat < LARGEST_RHAT:
            wrong.append(f"R-hat of {name} is {rhat:.3f}")
        wrong += [f"{method} ESS of {name} is {size:,.0f}" for method, size in ess.items()
                  if not LEAST < size < MOST]  # fmt: skip
        if not abs(lag) < CORRELATION:
            wrong.append(f"neighbours of {name} correlate by {lag:.3f}")
    return wrong
