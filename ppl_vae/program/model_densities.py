"""log p(x | z) and log p(x, z) of a model at given latents, without any guide."""

from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.program.layout import (
    Given,
    Layout,
    enumerated,
    log_likelihood,
    log_prob_per_unit,
    particle_plate,
    site_value,
)
from ppl_vae.program.pair import Pair

__all__ = ["log_densities"]


@torch.no_grad()
def log_densities(
    pair: Pair, *data: Any, layout: Layout, latents: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """The log-likelihood and the log joint density of a model's latents, the parameters held.

    Args:
        pair: its model is run.
        data: the model's data.
        layout: the pair's layout; its unit plate says over which units the densities are split.
        latents: z by site, each of shape (K, *plates, *event).

    Returns:
        log p(x | z) and log p(x, z), each of shape (K, units), in nats.
    """
    size = len(next(iter(latents.values())))
    most = layout.particles_per_chunk(layout.num_units) if layout.vectorized else 1
    parts = []
    for first in range(0, size, most):
        chunk = {name: value[first : first + most] for name, value in latents.items()}
        parts.append(_chunk(pair, *data, layout=layout, latents=chunk))
    likelihood, prior = (torch.cat(found) for found in zip(*parts, strict=True))
    return likelihood, likelihood + prior


def _chunk(pair: Pair, *data: Any, layout: Layout, latents: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """log p(x | z) and log p(z) of a few latents."""
    size = len(next(iter(latents.values())))
    given = {name: site_value(name, latents[name], layout) for name in layout.latents}
    with (
        pair.scope(), enumerated(layout), Given(given), particle_plate(layout, size),
        pyro.validation_enabled(False),
    ):  # fmt: skip
        trace = poutine.trace(pair.model).get_trace(*data)
    return log_likelihood(trace, layout, size), log_prob_per_unit(trace, layout, size, tuple(layout.latents))
