"""Values outside a support: why a loss is no number although nothing diverged."""

from collections.abc import Iterator
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.base.seeds import seeded
from ppl_vae.program.layout import sample_sites
from ppl_vae.program.pair import Pair

__all__ = ["outside_support"]

# Draws of the guide that are looked at.
DRAWS = 100


@torch.no_grad()
def outside_support(pair: Pair, *data: Any, seed: int = 0) -> str | None:
    """What lies outside its support for some draws of the guide, in a clause; None if nothing does.

    Args:
        pair: model and guide with finite parameters.
        data: the programs' data.
        seed: of the draws.
    """
    with pair.scope(), pyro.validation_enabled(False):
        for number in range(DRAWS):
            with seeded(seed + number):
                guide = poutine.trace(pair.guide).get_trace(*data)
                model = poutine.trace(poutine.replay(pair.model, trace=guide)).get_trace(*data)
            for name, value, observed in _outside(model):
                if observed:
                    return f"for some draws of the guide the data of {name} lie outside its support"
                return f"the guide draws {name} outside its support in the model, such as {value:.4g}"
    return None


def _outside(trace: poutine.Trace) -> Iterator[tuple[str, float, bool]]:
    """Sites with a finite value outside their support, and one such value."""
    for name, site in sample_sites(trace):
        value = site["value"]
        if not isinstance(value, Tensor) or not bool(value.isfinite().all()):
            continue
        try:
            inside = site["fn"].support.check(value)
        except (NotImplementedError, AttributeError, RuntimeError):
            continue
        if not bool(inside.all()):
            wrong = value.expand(torch.broadcast_shapes(value.shape, inside.shape))
            chosen = wrong[~inside] if inside.dim() else wrong
            yield name, float(chosen.flatten()[0]), bool(site["is_observed"])
