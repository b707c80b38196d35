"""Guides that put a latent at a point: they have no density, and so no weights and no log p(x)."""

from collections.abc import Mapping

import torch
from pyro.infer.autoguide import AutoContinuous, AutoNormal
from torch import Tensor

from ppl_vae.base.seeds import seeded
from ppl_vae.program.given_latents import latent_site
from ppl_vae.program.layout import sample_sites
from ppl_vae.program.problem import Problem

__all__ = ["point_masses"]

# Draws that must all be equal, and units that are looked at.
DRAWS, UNITS = 3, 1000


@torch.no_grad()
def point_masses(problem: Problem) -> tuple[str, ...]:
    """The continuous latents of which some entry is the same in every draw of the guide.

    What is drawn is looked at and not by which class: a ``Delta`` may be masked or transformed, and Pyro's
    AutoGuides trace one beside the site that they really draw. Of those the draw in unconstrained space
    counts, so that a value rounded to the end of its support is no point mass.

    Args:
        problem: a pair with its data; all of its units are meant.

    Returns:
        The sites' names, in the model's order.
    """
    layout, guide = problem.layout, problem.pair.guide
    index = None
    if layout.can_index and layout.num_units > UNITS:
        index = torch.linspace(0, layout.num_units - 1, UNITS).long()
    with seeded(0):
        draws = [_drawn(problem.rows(index)) for _ in range(DRAWS)]
    still = {
        name
        for name, first in draws[0].items()
        if first.numel() and bool(torch.stack([other[name] == first for other in draws[1:]]).all(0).any())
    }
    if isinstance(guide, AutoContinuous) and latent_site(guide) in still:
        return tuple(layout.latents)
    return tuple(name for name in layout.latents if name in still)


def _drawn(problem: Problem) -> Mapping[str, Tensor]:
    """One draw of every continuous latent, unconstrained where the guide draws it so."""
    layout, guide = problem.layout, problem.pair.guide
    _, trace = problem.traces()
    sites = dict(sample_sites(trace))
    if isinstance(guide, AutoContinuous):
        auxiliary = latent_site(guide)
        return {auxiliary: sites[auxiliary]["value"]} if auxiliary in sites else {}
    found = {}
    for name in layout.latents:
        drawn = f"{name}_unconstrained" if isinstance(guide, AutoNormal) else name
        if name not in layout.discrete and drawn in sites:
            found[name] = sites[drawn]["value"]
    return found
