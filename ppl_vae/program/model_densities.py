"""log p(x | z) and log p(x, z) of a model at given latents, without any guide."""

from collections.abc import Mapping

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.program.layout import (
    Substitute,
    enumerated,
    log_likelihood,
    log_prob_per_unit,
    particle_plate,
    site_value,
)
from ppl_vae.program.problem import Problem

__all__ = ["log_densities"]


@torch.no_grad()
def log_densities(problem: Problem, latents: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The log-likelihood and the log joint density of a model's latents, the parameters held.

    Args:
        problem: its model is run; its layout's unit plate says over which units the densities are split.
        latents: z by site, each of shape (K, *plates, *event).

    Returns:
        log p(x | z) and log p(x, z), each of shape (K, units), in nats.
    """
    blocks = problem.blocks(len(next(iter(latents.values()))))
    split = {name: value.split(blocks) for name, value in latents.items()}
    parts = [
        _block(problem, {name: pieces[at] for name, pieces in split.items()}, size)
        for at, size in enumerate(blocks)
    ]
    likelihood, prior = (torch.cat(found) for found in zip(*parts, strict=True))
    return likelihood, likelihood + prior


def _block(problem: Problem, latents: Mapping[str, Tensor], size: int) -> tuple[Tensor, Tensor]:
    """log p(x | z) and log p(z) of a few latents."""
    layout = problem.layout
    given = {name: site_value(name, latents[name], layout) for name in layout.latents}
    with (
        problem.pair.scope(), enumerated(layout), Substitute(given), particle_plate(layout, size),
        pyro.validation_enabled(False),
    ):  # fmt: skip
        trace = poutine.trace(problem.pair.model).get_trace(*problem.data)
    return log_likelihood(trace, layout, size), log_prob_per_unit(trace, layout, size, tuple(layout.latents))
