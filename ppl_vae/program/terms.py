"""The primitive of all inference here as functions of a pair and its data; what runs inside is `Problem`."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ppl_vae.program.given_latents import has_log_density
from ppl_vae.program.layout import Layout
from ppl_vae.program.pair import Pair
from ppl_vae.program.probe import check_data, look
from ppl_vae.program.problem import Problem, Terms

__all__ = ["Terms", "check_data", "has_log_density", "is_density", "layout", "terms"]


def layout(pair: Pair, *data: Any) -> Layout:
    """What a pair's programs look like on these data; see `Problem.of`."""
    return Problem.of(pair, *data).layout


def terms(
    pair: Pair,
    *data: Any,
    layout: Layout,
    num_particles: int = 1,
    index: Tensor | None = None,
    latents: Mapping[str, Tensor] | None = None,
) -> Terms:
    """log p(x, z) and log q(z) of some units (all by default); see `Problem.terms`."""
    return Problem(pair, data, layout, index).terms(num_particles, latents=latents)


def is_density(problem: Problem) -> bool:
    """Whether any observed site has a density of real numbers, so that log p(x) is that of no probability."""
    trace = look(problem.pair, *problem.data).model_trace
    return any(not trace.nodes[name]["fn"].support.is_discrete for name in problem.layout.observed)
