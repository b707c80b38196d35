"""The one primitive of all inference here: log p(x, z) and log q(z), per particle and per unit.

ELBO, importance weights, evidence and their kin are short functions of the two matrices. A *unit* is
the independent piece over which log p(x) factorises: an entry of the outermost plate that contains
every latent and observed site of model and guide, else the whole data set.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer.autoguide import AutoContinuous, AutoNormal
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor
from torch.distributions import biject_to

from ppl_vae.errors import InputError
from ppl_vae.program import Pair, Program
from ppl_vae.rng import seeded

__all__ = [
    "Given",
    "Layout",
    "Terms",
    "check_data",
    "has_log_density",
    "layout",
    "log_prob_per_unit",
    "particle_plate",
    "particle_traces",
    "reduce_to_units",
    "terms",
    "user_scale",
]

PARTICLES = "_particles"
PROBE_SIZE = 64


@dataclass(frozen=True)
class Layout:
    """The shape of a pair: which sites it has, and over which plate log p(x) factorises.

    Attributes:
        latents: the model's latent sites, each with the names of its plates from the left.
        event_dims: number of event dimensions of each latent site.
        observed: names of the observed sites.
        unit_plate: name of the plate of units, or None when the data set is the one unit.
        batch_plate: outermost plate that contains every observed site, or None: what minibatches
            are taken from.
        batch_plate_size: its full size; 1 without one.
        dims: the dimension of each plate, by name.
        num_units: number of units.
        nesting: number of plate dimensions.
        event_size: numbers per unit in the largest site, for sizing chunks.
        indexable: the plates by which the programs index their data, and whose indices can
            therefore be filled in from outside.
        vectorized: whether the programs may be run under a plate of particles; if not, particles
            are run one by one.
    """

    latents: Mapping[str, tuple[str, ...]]
    event_dims: Mapping[str, int]
    observed: tuple[str, ...]
    unit_plate: str | None
    batch_plate: str | None
    batch_plate_size: int
    dims: Mapping[str, int]
    num_units: int
    nesting: int
    event_size: int
    indexable: frozenset[str]
    vectorized: bool

    @property
    def unit(self) -> str:
        """ "datum" where the unit is an entry of a plate, else "dataset"."""
        return "dataset" if self.unit_plate is None else "datum"

    @property
    def can_index(self) -> bool:
        """Whether some of the units can be evaluated without the others."""
        return self.unit_plate in self.indexable

    def particles_per_chunk(self, num_units: int, budget: int = 2**22) -> int:
        """How many particles fit beside ``num_units`` units in about 16 MiB of float32 a tensor."""
        return max(1, budget // max(1, num_units * self.event_size))


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


class Given(Messenger):  # type: ignore[misc]
    """Give sample sites their values: latents, and the indices of plates.

    Filled indices make a program work on those entries of its full data, with Pyro's own N/B scale.
    """

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"] = self.values[msg["name"]]
            msg["done"] = True


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
        if not isinstance(fn, _Subsample):
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
        InputError: if the model observes nothing, the guide's latent sites are not the model's, or
            two matching sites have different shapes.
    """
    check_data(pair.model, *data)
    pair.initialise(*data)
    model_trace, guide_trace, indexable = _probe(pair, *data)
    _check_sites(model_trace, guide_trace)

    model_sites = dict(_sites(model_trace))
    latent = {name: site for name, site in model_sites.items() if not site["is_observed"]}
    observed = {name: site for name, site in model_sites.items() if site["is_observed"]}
    every_site = [*model_sites.values(), *(site for _, site in _sites(guide_trace))]
    frames = {frame.name: frame for site in every_site for frame in _frames(site)}
    unit = _outermost_common(every_site)
    batch = _outermost_common(list(observed.values()))
    found = Layout(
        latents={name: tuple(frame.name for frame in _frames(site)) for name, site in latent.items()},
        event_dims={name: site["fn"].event_dim for name, site in latent.items()},
        observed=tuple(observed),
        unit_plate=unit,
        batch_plate=batch,
        batch_plate_size=_size(frames[batch]) if batch else 1,
        dims={name: frame.dim for name, frame in frames.items()},
        num_units=_size(frames[unit]) if unit else 1,
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
        {name: _canonical(model_trace.nodes[name], layout) for name in layout.latents},
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
        given |= _guide_values(guide, latents, layout)
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


@contextmanager
def particle_plate(layout: Layout, num_particles: int) -> Iterator[None]:
    """A plate of particles outside all others; nothing where the programs are run one by one."""
    if not layout.vectorized:
        yield
        return
    with pyro.plate(PARTICLES, num_particles, dim=-1 - layout.nesting):
        yield


def log_prob_per_unit(
    trace: poutine.Trace, layout: Layout, num_particles: int, names: tuple[str, ...] | None = None
) -> Tensor:
    """Sum the log densities of a trace's sites to shape (particles, units), without plate scales."""
    total: Tensor | float = 0.0
    for name, site in _sites(trace):
        if names is None or name in names:
            total = total + _site_log_prob(site, layout)
    if isinstance(total, float):
        return torch.zeros(num_particles, 1)
    return total.expand(num_particles, -1)


def reduce_to_units(values: Tensor, layout: Layout) -> Tensor:
    """Sum a tensor of batch shape (particles, *plates) over all plates but the units'."""
    depth = layout.nesting + layout.vectorized
    values = values.reshape((1,) * (depth - values.dim()) + values.shape)
    if not layout.vectorized:
        values = values.unsqueeze(0)
    unit_dim = layout.dims[layout.unit_plate] if layout.unit_plate else None
    for dim in range(-layout.nesting, 0):
        if dim != unit_dim:
            values = values.sum(dim, keepdim=True)
    return values.reshape(values.shape[0], -1)


def _site_log_prob(site: Mapping[str, Any], layout: Layout) -> Tensor:
    """A site's log density by unit, with the user's own scales and masks but no subsampling scale."""
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return reduce_to_units(scale_and_mask(log_prob, user_scale(site), site["mask"]), layout)


def user_scale(site: Mapping[str, Any]) -> Any:
    """The scale that the program itself puts on a site, without the plates' N/B."""
    scale = site["scale"]
    for frame in _frames(site):
        scale = scale * (frame.size / _size(frame))
    return scale


def _sites(trace: poutine.Trace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Sample sites proper: no plate indices, no ``pyro.deterministic``."""
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or isinstance(site["fn"], _Subsample):
            continue
        if site["infer"].get("_deterministic"):
            continue
        yield name, site


def _frames(site: Mapping[str, Any]) -> list[Any]:
    """The plates around a site, outermost (leftmost dimension) first."""
    frames = [f for f in site["cond_indep_stack"] if f.vectorized and f.name != PARTICLES]
    return sorted(frames, key=lambda frame: frame.dim)


def _size(frame: Any) -> int:
    return int(frame.full_size or frame.size)


def _outermost_common(sites: list[Any]) -> str | None:
    common = set.intersection(*({frame.name for frame in _frames(site)} for site in sites))
    dims = {frame.name: frame.dim for site in sites for frame in _frames(site)}
    return min(common, key=lambda name: dims[name], default=None)


def _event_size(sites: list[Any], unit: str | None) -> int:
    """Numbers per unit in the largest site."""
    sizes = [1]
    for site in sites:
        frames = {frame.name: frame.size for frame in _frames(site)}
        if isinstance(site["value"], Tensor):
            sizes.append(site["value"].numel() // max(1, frames.get(unit, 1) if unit else 1))
    return max(sizes)


def _check_sites(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> None:
    latents = {name: site for name, site in _sites(model_trace) if not site["is_observed"]}
    guided = {
        name: site
        for name, site in _sites(guide_trace)
        if not site["infer"].get("is_auxiliary") and not site["is_observed"]
    }
    if not any(site["is_observed"] for _, site in _sites(model_trace)):
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
            return *traces(), frozenset()


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
                    name: _site_shape(name, value[p : p + 1], alone) for name, value in together.draws.items()
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


def _canonical(site: Mapping[str, Any], layout: Layout) -> Tensor:
    """A latent site's values as (particles, *plates, *event), without padding dimensions."""
    value = site["value"]
    event_shape = value.shape[value.dim() - site["fn"].event_dim :]
    plates = tuple(frame.size for frame in _frames(site))
    return value.reshape((-1, *plates, *event_shape))


def _site_shape(name: str, value: Tensor, layout: Layout) -> Tensor:
    """The inverse of `_canonical`: values as the program's own sample statement would give them."""
    plates = layout.latents[name]
    dims = [layout.dims[plate] for plate in plates]
    batch = [1] * (layout.nesting if layout.vectorized else -min(dims, default=0))
    for dim, size in zip(dims, value.shape[1:], strict=False):
        batch[dim] = size
    particles = value.shape[:1] if layout.vectorized else ()
    return value.reshape((*particles, *batch, *value.shape[1 + len(plates) :]))


def _guide_values(guide: Program, latents: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """The values that a guide's own sample statements must take for it to arrive at given latents.

    Pyro's AutoGuides draw auxiliary unconstrained values and transform them; all other auxiliary
    randomness makes q(z) an integral that is not available.
    """
    placed = {name: _site_shape(name, latents[name], layout) for name in layout.latents}
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
    return not any(site["infer"].get("is_auxiliary") for _, site in _sites(trace))
