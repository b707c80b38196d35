"""Guides at latents that are given and not drawn: what their own statements must draw, and whether log q is
known there."""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import torch
from pyro.infer.autoguide import AutoContinuous, AutoGuideList, AutoNormal, AutoStructured
from torch import Tensor
from torch.distributions import biject_to

from ppl_vae.program.abilities import HasAuxiliary
from ppl_vae.program.layout import Layout, sample_sites, site_value
from ppl_vae.program.pair import Pair, Program
from ppl_vae.program.probe import look
from ppl_vae.program.pyro_internals import full_name, structured_sites

__all__ = ["guide_values", "has_log_density", "latent_site"]


def latent_site(guide: AutoContinuous) -> str:
    """The site at which a guide of Pyro's draws all its latents as one vector."""
    return f"_{full_name(guide)}_latent"


def guide_values(guide: Program, latents: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """The values that a guide's own sample statements must take for it to arrive at given latents.

    Pyro's AutoGuides and guides that are `HasAuxiliary` draw auxiliary unconstrained values and transform
    them; all other auxiliary randomness makes q(z) an integral that is not available.
    """
    placed = {name: site_value(name, latents[name], layout) for name in layout.latents}
    if _inverts(guide):
        particles = next(iter(latents.values())).shape[0]
        lead = (particles, *(1,) * layout.nesting) if layout.vectorized else ()
        return _auxiliary(guide, placed, lead)
    return guide.auxiliary_values(placed) if isinstance(guide, HasAuxiliary) else placed


def has_log_density(pair: Pair, *data: Any) -> bool:
    """Whether log q(z) is available at a given z: no auxiliary randomness that does not follow from z."""
    if _inverts(pair.guide) or isinstance(pair.guide, HasAuxiliary):
        return True
    trace = look(pair, *data).guide_trace
    drawn = [site for _, site in sample_sites(trace) if not site["is_observed"]]
    return not any(site["infer"].get("is_auxiliary") for site in drawn)


def _inverts(guide: Program) -> bool:
    """Whether it is an AutoGuide whose auxiliary values follow from its latents."""
    if isinstance(guide, AutoGuideList):
        return all(_inverts(part) for part in guide)
    if isinstance(guide, AutoStructured):
        kinds = guide.conditionals
        return set(kinds.values() if isinstance(kinds, dict) else [kinds]) <= {"normal", "mvn"}
    return isinstance(guide, AutoNormal | AutoContinuous)


def _auxiliary(guide: Any, placed: Mapping[str, Tensor], lead: tuple[int, ...]) -> dict[str, Tensor]:
    if isinstance(guide, AutoGuideList):
        return {name: at for part in guide for name, at in _auxiliary(part, placed, lead).items()}
    if isinstance(guide, AutoStructured):
        return _noise(guide, placed, lead)
    unconstrained = {
        name: biject_to(site["fn"].support).inv(placed[name])
        for name, site in guide.prototype_trace.iter_stochastic_nodes()
    }
    if isinstance(guide, AutoNormal):
        return {f"{name}_unconstrained": value for name, value in unconstrained.items()}
    return {latent_site(guide): torch.cat([at.reshape(*lead, -1) for at in unconstrained.values()], dim=-1)}


def _noise(guide: Any, placed: Mapping[str, Tensor], lead: tuple[int, ...]) -> dict[str, Tensor]:
    """What a structured guide draws of each site: its distance from where the sites before put it."""
    shifted = {}
    for name, site in structured_sites(guide):
        at = biject_to(site["fn"].support).inv(placed[name]).reshape(*lead, -1)
        shifted[name] = at - attrgetter(name)(guide.locs)
    found = {}
    for name, own in shifted.items():
        dependent = attrgetter(name)(guide.deps)
        left = own - sum(
            attrgetter(other)(dependent)(shifted[other]) for other in guide.dependencies.get(name, {})
        )
        left = left / attrgetter(name)(guide.scales)
        if guide.conditionals[name] == "mvn":
            tril = attrgetter(name)(guide.scale_trils)
            left = torch.linalg.solve_triangular(tril, left.unsqueeze(-1), upper=False).squeeze(-1)
        found[f"{name}_aux"] = left
    return found
