"""The one primitive of all inference here: log p(x, z) and log q(z), per particle and per unit.

ELBO, importance weights, evidence and their kin are short functions of the two matrices. A *unit* is
the independent piece over which log p(x) factorises: an entry of the outermost plate that contains
every latent and observed site of model and guide, else the whole data set.
"""

import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoContinuous, AutoNormal
from torch import Tensor
from torch.distributions import biject_to

from ppl_vae.base.clock import check_time
from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import seeded
from ppl_vae.program.layout import (
    Given,
    Layout,
    Narrow,
    canonical_value,
    enumerated,
    log_prob_per_unit,
    log_q_per_unit,
    particle_plate,
    sample_sites,
    site_value,
)
from ppl_vae.program.pair import HasAuxiliary, Pair, Program
from ppl_vae.program.probe import (
    PROBE_SIZE,
    check_data,
    in_pyros_words,
    known_layout,
    look,
    read_layout,
    remember,
)

__all__ = [
    "Terms",
    "check_data",
    "guide_values",
    "has_log_density",
    "is_density",
    "layout",
    "particle_traces",
    "terms",
]


@dataclass(frozen=True, eq=False)
class Terms:
    """log p(x, z) and log q(z), each of shape (particles, units), and the draws z themselves."""

    log_p: Tensor
    log_q: Tensor
    draws: Mapping[str, Tensor]

    @property
    def log_weights(self) -> Tensor:
        """log p(x, z) − log q(z), shape (particles, units)."""
        return self.log_p - self.log_q


def layout(pair: Pair, *data: Any) -> Layout:
    """Run model and guide once and read off their sites and plates; the pair remembers it for these data.

    Raises:
        InputError: if the model observes nothing or has no latent sites, the guide's latent sites are not the
            model's, two matching sites have different shapes, a site's density does not fit its plates, or
            Pyro finds a value outside a distribution's support.
        Exception: whatever the programs themselves raise, with a note that names the program.
    """
    known = known_layout(pair, data)
    if known is not None:
        return known
    check_data(pair.model, *data)
    with in_pyros_words():
        pair.initialise(*data)
    seen = look(pair, *data)
    found = read_layout(pair, seen)
    if found.vectorized and not _vectorizes(pair, found, *data):
        found = replace(found, vectorized=False)
    if found.summed:
        _check_summed(pair, found, *data)
    remember(pair, data, found)
    return found


def terms(
    pair: Pair,
    *data: Any,
    layout: Layout,
    num_particles: int = 1,
    index: Tensor | None = None,
    latents: Mapping[str, Tensor] | None = None,
    proposal: Program | None = None,
    learning: bool = False,
) -> Terms:
    """log p(x, z) and log q(z) for draws z of the guide, or for given z.

    Args:
        pair: model and guide.
        data: the programs' full data.
        layout: the pair's layout.
        num_particles: number of draws K.
        index: entries of the unit plate to evaluate (all by default); needs a unit plate.
        latents: values z by site, each of shape (K, *plates, *event), to be used instead of draws.
        proposal: another guide than the pair's to draw from and to evaluate, such as the prior.
        learning: whether this is a step of a fit, with modules in their own modes.

    Returns:
        Two matrices of shape (K, units), not multiplied by any subsampling scale.

    Raises:
        InputError: if ``latents`` are given to a guide whose density at a given z is not available.
    """
    if not layout.vectorized and num_particles > 1:
        return _one_by_one(pair, *data, layout=layout, num_particles=num_particles, index=index,
                           latents=latents, proposal=proposal, learning=learning)  # fmt: skip
    model_trace, guide_trace = particle_traces(
        pair,
        *data,
        layout=layout,
        num_particles=num_particles,
        index=index,
        latents=latents,
        proposal=proposal,
        learning=learning,
    )
    return Terms(
        log_prob_per_unit(model_trace, layout, num_particles),
        log_q_per_unit(guide_trace, layout, num_particles),
        {name: canonical_value(name, model_trace.nodes[name], layout) for name in layout.latents},
    )


def particle_traces(
    pair: Pair,
    *data: Any,
    layout: Layout,
    num_particles: int = 1,
    index: Tensor | None = None,
    latents: Mapping[str, Tensor] | None = None,
    proposal: Program | None = None,
    learning: bool = False,
) -> tuple[poutine.Trace, poutine.Trace]:
    """Traces of the model and of the guide under one plate of particles; see `terms`."""
    check_time()
    guide = pair.guide if proposal is None else proposal
    given: dict[str, Tensor] = {}
    if index is not None:
        if layout.unit_plate is None or not layout.can_index:
            raise InputError(
                "part of the data was asked for, but the model has no plate of units that it indexes"
            )
        given[layout.unit_plate] = index
    if latents is not None:
        given |= guide_values(guide, latents, layout)
    with pair.learning() if learning else pair.scope():
        with Given(given), particle_plate(layout, num_particles):
            guide_trace = poutine.trace(guide).get_trace(*data)
        for name in layout.summed:
            if name in guide_trace.nodes:
                guide_trace.remove_node(name)
        with enumerated(layout), particle_plate(layout, num_particles):
            model_trace = poutine.trace(poutine.replay(pair.model, trace=guide_trace)).get_trace(*data)
    return model_trace, guide_trace


def _one_by_one(
    pair: Pair,
    *data: Any,
    layout: Layout,
    num_particles: int,
    index: Tensor | None,
    latents: Mapping[str, Tensor] | None,
    proposal: Program | None,
    learning: bool,
) -> Terms:
    parts = []
    for p in range(num_particles):
        given = None if latents is None else {name: value[p : p + 1] for name, value in latents.items()}
        parts.append(
            terms(
                pair, *data, layout=layout, index=index, latents=given, proposal=proposal, learning=learning
            )
        )
    return Terms(
        torch.cat([part.log_p for part in parts]),
        torch.cat([part.log_q for part in parts]),
        {name: torch.cat([part.draws[name] for part in parts]) for name in layout.latents},
    )


def _vectorizes(pair: Pair, found: Layout, *data: Any, num_particles: int = 3) -> bool:
    """Whether both programs give the same densities under a particle plate as one by one.

    A program that indexes a global latent as ``theta[i]`` instead of ``theta[..., i]`` runs under a
    plate of particles but computes something else; nothing in Pyro would say so.
    """
    alone = replace(found, vectorized=False)
    index = None
    if found.can_index:
        index = torch.arange(min(found.num_units, PROBE_SIZE))
    with seeded(0), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with nullcontext() if found.summed else Narrow(found.depth):
                together = terms(pair, *data, layout=found, num_particles=num_particles, index=index)
            for p in range(num_particles):
                given = {
                    name: site_value(name, value[p : p + 1], alone) for name, value in together.draws.items()
                }
                if index is not None and found.unit_plate:
                    given[found.unit_plate] = index
                with pair.scope(), enumerated(alone), Given(given):
                    trace = poutine.trace(pair.model).get_trace(*data)
                log_p = log_prob_per_unit(trace, alone, 1)[0]
                tolerance = 1e-3 * (1.0 + log_p.abs())
                # Densities that are no numbers, as beyond a support, tell nothing.
                differ = (log_p - together.log_p[p]).abs() > tolerance
                if log_p.shape != together.log_p[p].shape or bool(differ.any()):
                    return False
        except (RuntimeError, ValueError, IndexError, AssertionError, NotImplementedError):
            return False
    return True


def _check_summed(pair: Pair, found: Layout, *data: Any) -> None:
    """Refuse discrete latents that cannot be summed out.

    Raises:
        InputError: naming them.
    """
    names = ", ".join(found.summed)
    if found.tempered:
        raise InputError(
            f"the discrete site {names} cannot be summed out of a model that scales site "
            f"{found.tempered[0]} itself (poutine.scale)"
        )
    index = torch.arange(min(found.num_units, PROBE_SIZE)) if found.can_index else None
    with seeded(0), torch.no_grad():
        try:
            terms(pair, *data, layout=found, index=index)
        except InputError:
            raise
        except (RuntimeError, ValueError, IndexError, AssertionError, NotImplementedError) as error:
            raise InputError(
                f"the discrete site {names} cannot be enumerated: the model does not run with all its values "
                f"side by side ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
            ) from error


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


def is_density(pair: Pair, *data: Any, layout: Layout) -> bool:
    """Whether any observed site has a density of real numbers, so that log p(x) is that of no probability."""
    trace = look(pair, *data).model_trace
    return any(not trace.nodes[name]["fn"].support.is_discrete for name in layout.observed)
