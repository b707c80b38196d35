"""The one primitive of all inference here: log p(x, z) and log q(z), per particle and per unit.

ELBO, importance weights, evidence and their kin are short functions of the two matrices. A *unit* is
the independent piece over which log p(x) factorises: an entry of the outermost plate that contains
every latent and observed site of model and guide, else the whole data set.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoContinuous, AutoNormal
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to

from ppl_vae.errors import InputError
from ppl_vae.inference.sites import (
    Given,
    Layout,
    canonical_value,
    full_size,
    log_prob_per_unit,
    particle_plate,
    plates_of,
    sample_sites,
    site_value,
)
from ppl_vae.program import Pair, Program
from ppl_vae.rng import seeded

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

PROBE_SIZE = 64


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


class _Probe(Messenger):  # type: ignore[misc]
    """Shorten every plate, so that the structure of a program on large data is read cheaply.

    A plate with a fixed ``subsample_size`` (as AutoGuides make around local latents) cannot be.
    """

    def __init__(self) -> None:
        super().__init__()
        self.plates: set[str] = set()
        self.fixed: set[str] = set()

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        fn = msg["fn"]
        if not site_is_subsample(msg):
            return
        self.plates.add(msg["name"])
        if fn.subsample_size is not None:
            self.fixed.add(msg["name"])
        elif msg["value"] is None:
            msg["value"] = torch.arange(min(fn.size, PROBE_SIZE))
            msg["done"] = True


def check_data(program: Program, *data: Any) -> None:
    """Refuse non-finite data, and what the model itself says it cannot take.

    Raises:
        InputError: naming the argument, row and column.
    """
    for position, values in enumerate(data):
        if isinstance(values, Tensor) and values.is_floating_point() and not values.isfinite().all():
            where = (~values.isfinite()).nonzero()[0].tolist()
            raise InputError(
                f"data argument {position} holds {values[tuple(where)].item()} at index {tuple(where)}; "
                "every value must be finite"
            )
    check = getattr(program, "check_data", None)
    if check is not None:
        check(*data)


def layout(pair: Pair, *data: Any) -> Layout:
    """Run model and guide once and read off their sites and plates.

    Raises:
        InputError: if the model observes nothing, the guide's latent sites are not the model's, two
            matching sites have different shapes, or Pyro finds a value outside a distribution's support.
    """
    check_data(pair.model, *data)
    pair.initialise(*data)
    model_trace, guide_trace, indexable = _probe(pair, *data)
    _check_sites(model_trace, guide_trace)

    model_sites = dict(sample_sites(model_trace))
    latent = {name: site for name, site in model_sites.items() if not site["is_observed"]}
    observed = {name: site for name, site in model_sites.items() if site["is_observed"]}
    every_site = [*model_sites.values(), *(site for _, site in sample_sites(guide_trace))]
    frames = {frame.name: frame for site in every_site for frame in plates_of(site)}
    unit = _outermost_common(every_site)
    batch = _outermost_common(list(observed.values()))
    found = Layout(
        latents={name: tuple(frame.name for frame in plates_of(site)) for name, site in latent.items()},
        event_dims={name: site["fn"].event_dim for name, site in latent.items()},
        observed=tuple(observed),
        unit_plate=unit,
        batch_plate=batch,
        batch_plate_size=full_size(frames[batch]) if batch else 1,
        dims={name: frame.dim for name, frame in frames.items()},
        num_units=full_size(frames[unit]) if unit else 1,
        nesting=max((-frame.dim for frame in frames.values()), default=0),
        event_size=_event_size(every_site, unit),
        indexable=indexable,
        vectorized=True,
    )
    return found if _vectorizes(pair, found, *data) else replace(found, vectorized=False)


def terms(
    pair: Pair,
    *data: Any,
    layout: Layout,
    num_particles: int = 1,
    index: Tensor | None = None,
    latents: Mapping[str, Tensor] | None = None,
    proposal: Program | None = None,
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

    Returns:
        Two matrices of shape (K, units), not multiplied by any subsampling scale.

    Raises:
        InputError: if ``latents`` are given to a guide whose density at a given z is not available.
    """
    if not layout.vectorized and num_particles > 1:
        return _one_by_one(pair, *data, layout=layout, num_particles=num_particles, index=index,
                           latents=latents, proposal=proposal)  # fmt: skip
    model_trace, guide_trace = particle_traces(
        pair,
        *data,
        layout=layout,
        num_particles=num_particles,
        index=index,
        latents=latents,
        proposal=proposal,
    )
    return Terms(
        log_prob_per_unit(model_trace, layout, num_particles),
        log_prob_per_unit(guide_trace, layout, num_particles),
        {name: canonical_value(model_trace.nodes[name], layout) for name in layout.latents},
    )


def particle_traces(
    pair: Pair,
    *data: Any,
    layout: Layout,
    num_particles: int = 1,
    index: Tensor | None = None,
    latents: Mapping[str, Tensor] | None = None,
    proposal: Program | None = None,
) -> tuple[poutine.Trace, poutine.Trace]:
    """Traces of the model and of the guide under one plate of particles; see `terms`."""
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
    with pair.scope():
        with Given(given), particle_plate(layout, num_particles):
            guide_trace = poutine.trace(guide).get_trace(*data)
        with particle_plate(layout, num_particles):
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
) -> Terms:
    parts = []
    for p in range(num_particles):
        given = None if latents is None else {name: value[p : p + 1] for name, value in latents.items()}
        parts.append(terms(pair, *data, layout=layout, index=index, latents=given, proposal=proposal))
    return Terms(
        torch.cat([part.log_p for part in parts]),
        torch.cat([part.log_q for part in parts]),
        {name: torch.cat([part.draws[name] for part in parts]) for name in layout.latents},
    )


def _outermost_common(sites: list[Any]) -> str | None:
    common = set.intersection(*({frame.name for frame in plates_of(site)} for site in sites))
    dims = {frame.name: frame.dim for site in sites for frame in plates_of(site)}
    return min(common, key=lambda name: dims[name], default=None)


def _event_size(sites: list[Any], unit: str | None) -> int:
    """Numbers per unit in the largest site."""
    sizes = [1]
    for site in sites:
        frames = {frame.name: frame.size for frame in plates_of(site)}
        if isinstance(site["value"], Tensor):
            sizes.append(site["value"].numel() // max(1, frames.get(unit, 1) if unit else 1))
    return max(sizes)


def _check_sites(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> None:
    latents = {name: site for name, site in sample_sites(model_trace) if not site["is_observed"]}
    guided = {
        name: site
        for name, site in sample_sites(guide_trace)
        if not site["infer"].get("is_auxiliary") and not site["is_observed"]
    }
    if not any(site["is_observed"] for _, site in sample_sites(model_trace)):
        raise InputError("the model observes nothing: give one of its pyro.sample statements obs=")
    if missing := sorted(latents.keys() - guided.keys()):
        raise InputError(f"the guide misses the model's latent sites {', '.join(missing)}")
    if extra := sorted(guided.keys() - latents.keys()):
        raise InputError(
            f"the guide samples {', '.join(extra)}, which the model does not; auxiliary sites need "
            'infer={"is_auxiliary": True}'
        )
    for name, site in latents.items():
        own, other = site["fn"].shape(), guided[name]["fn"].shape()
        if own != other:
            raise InputError(
                f"site {name} has shape {tuple(own)} in the model and {tuple(other)} in the guide"
            )


def _probe(pair: Pair, *data: Any) -> tuple[poutine.Trace, poutine.Trace, frozenset[str]]:
    """Traces of both programs, on shortened plates if they index their data, and those plates."""

    def traces() -> tuple[poutine.Trace, poutine.Trace]:
        guide_trace = poutine.trace(pair.guide).get_trace(*data)
        model = poutine.replay(pair.model, trace=guide_trace)
        return poutine.trace(model).get_trace(*data), guide_trace

    with pair.scope(), seeded(0), torch.no_grad():
        try:
            with _Probe() as probe:
                model_trace, guide_trace = traces()
                for trace in (model_trace, guide_trace):
                    trace.compute_log_prob()
            return model_trace, guide_trace, frozenset(probe.plates - probe.fixed)
        except (RuntimeError, ValueError, IndexError, AssertionError):
            pass
        try:
            return *traces(), frozenset()
        except InputError:
            raise
        except ValueError as error:
            # Pyro's own words, without the tensors that it shows below them.
            said = str(error).partition(", but found invalid values")[0].partition("\n")[0]
            raise InputError(f"the model and the guide do not run on these data: {said}") from error


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
            together = terms(pair, *data, layout=found, num_particles=num_particles, index=index)
            for p in range(num_particles):
                given = {
                    name: site_value(name, value[p : p + 1], alone) for name, value in together.draws.items()
                }
                if index is not None and found.unit_plate:
                    given[found.unit_plate] = index
                with pair.scope(), Given(given):
                    trace = poutine.trace(pair.model).get_trace(*data)
                log_p = log_prob_per_unit(trace, alone, 1)[0]
                tolerance = 1e-3 * (1.0 + log_p.abs())
                if log_p.shape != together.log_p[p].shape or bool(
                    ((log_p - together.log_p[p]).abs() > tolerance).any()
                ):
                    return False
        except (RuntimeError, ValueError, IndexError, AssertionError, NotImplementedError):
            return False
    return True


def guide_values(guide: Program, latents: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """The values that a guide's own sample statements must take for it to arrive at given latents.

    Pyro's AutoGuides draw auxiliary unconstrained values and transform them; all other auxiliary
    randomness makes q(z) an integral that is not available.
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
    return placed


def has_log_density(pair: Pair, *data: Any) -> bool:
    """Whether log q(z) is available at a given z: no auxiliary randomness but Pyro's AutoGuides'."""
    if isinstance(pair.guide, AutoNormal | AutoContinuous):
        return True
    _, trace, _ = _probe(pair, *data)
    return not any(site["infer"].get("is_auxiliary") for _, site in sample_sites(trace))


def is_density(pair: Pair, *data: Any, layout: Layout) -> bool:
    """Whether any observed site has a density of real numbers, so that log p(x) is that of no probability."""
    trace, _, _ = _probe(pair, *data)
    return any(not trace.nodes[name]["fn"].support.is_discrete for name in layout.observed)
