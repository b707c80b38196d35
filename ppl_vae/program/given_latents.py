"""Guides at latents that are given and not drawn: what their own statements must draw, and whether log q is
known there."""

from collections.abc import Mapping
from typing import Any

import torch
from pyro.infer.autoguide import AutoContinuous, AutoNormal
from torch import Tensor
from torch.distributions import biject_to

from ppl_vae.program.abilities import HasAuxiliary
from ppl_vae.program.layout import Layout, sample_sites, site_value
from ppl_vae.program.pair import Pair, Program
from ppl_vae.program.probe import look

__all__ = ["guide_values", "has_log_density"]


def guide_values(guide: Program, latents: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """The values that a guide's own sample statements must take for it to arrive at given latents.

    Pyro's AutoGuides and guides that are `HasAuxiliary` draw auxiliary unconstrained values and transform
    them; all other auxiliary randomness makes q(z) an integral that is not available.
    """
    placed = {name: site_value(name, latents[name], layout) for name in layout.latents}
    if isinstance(guide, AutoNormal | AutoContinuous):
        unconstrained = {
            name: biject_to(site["fn"].support).inv(placed[name])
            for name, site in guide.prototype_trace.iter_stochastic_nodes()
        }
        if isinstance(guide, AutoNormal):
            return {f"{name}_unconstrained": value for name, value in unconstrained.items()}
        particles = next(iter(latents.values())).shape[0]
        lead = (particles, *(1,) * layout.nesting) if layout.vectorized else ()
        flat = [value.reshape(*lead, -1) for value in unconstrained.values()]
        return {f"_{type(guide).__name__}_latent": torch.cat(flat, dim=-1)}
    return guide.auxiliary_values(placed) if isinstance(guide, HasAuxiliary) else placed


def has_log_density(pair: Pair, *data: Any) -> bool:
    """Whether log q(z) is available at a given z: no auxiliary randomness that does not follow from z."""
    if isinstance(pair.guide, AutoNormal | AutoContinuous | HasAuxiliary):
        return True
    trace = look(pair, *data).guide_trace
    drawn = [site for _, site in sample_sites(trace) if not site["is_observed"]]
    return not any(site["infer"].get("is_auxiliary") for site in drawn)
