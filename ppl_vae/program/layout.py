"""The sites and plates of traced programs: what a pair looks like, and sums over its plates."""

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppl_vae.program.enumeration import enumerating, joint_log_prob
from ppl_vae.program.pair import Program
from ppl_vae.program.pyro_internals import is_deterministic

__all__ = [
    "Layout",
    "Narrow",
    "Site",
    "Substitute",
    "canonical_value",
    "enumerated",
    "full_size",
    "local_matrix",
    "log_likelihood",
    "log_prob_per_unit",
    "log_q_per_unit",
    "particle_plate",
    "plates_of",
    "redrawn",
    "reduce_to_units",
    "sample_sites",
    "site_value",
    "sizes",
    "user_scale",
]

PARTICLES = "_particles"

Scope = Literal["unit", "inner plate", "global"]
Kind = Literal["continuous", "discrete", "enumerated", "point mass"]


@dataclass(frozen=True)
class Site:
    """What one latent site is.

    Attributes:
        name: of the site.
        scope: "unit" for one value a datum, "inner plate" for several that belong to it, "global" for values
            that data share. A datum is an entry of the plate of units, or where the data set is the one unit,
            of the plate that minibatches are taken from.
        kind: "enumerated" where it is summed out; "discrete" where the guide draws it all the same; "point
            mass" where the guide draws it from a ``Delta`` alone; else "continuous".
        plates: around it, from the left.
        event_dim: dimensions of one value.
    """

    name: str
    scope: Scope
    kind: Kind
    plates: tuple[str, ...]
    event_dim: int


@dataclass(frozen=True)
class Layout:
    """The shape of a pair: which sites it has, and over which plate log p(x) factorises.

    Attributes:
        latents: the model's latent sites that the guide draws, each with its plates' names from the left.
        event_dims: number of event dimensions of each latent site, those batch dimensions included that
            belong to no plate.
        loose_dims: how many those are.
        observed: names of the observed sites.
        summed: discrete latents that are summed out, and are not among the latents.
        discrete: discrete latents that the guide draws; ``marked`` are those that either program asks to have
            enumerated in parallel.
        points: latents that the guide draws from a ``Delta`` and from nothing else.
        summed_plates: plates of the latents that are summed out, as in ``latents``.
        improper: latents whose prior is no distribution: it has no draws and integrates to no number.
        tempered: latents whose log density a program multiplies itself (``poutine.scale``): it is then no
            density of them.
        weighted: observed sites whose likelihood the model raises to powers in this way.
        subsampled: plates of which the programs take a part by themselves, in words.
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
    loose_dims: Mapping[str, int] = field(default_factory=dict)
    summed: tuple[str, ...] = ()
    discrete: tuple[str, ...] = ()
    marked: tuple[str, ...] = ()
    improper: tuple[str, ...] = ()
    tempered: tuple[str, ...] = ()
    weighted: tuple[str, ...] = ()
    subsampled: Mapping[str, str] = field(default_factory=dict)
    points: tuple[str, ...] = ()
    summed_plates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def sites(self) -> dict[str, Site]:
        """Every latent by name: those that the guide draws, in the model's order, and the summed ones."""
        drawn = {name: self._site(name, plates) for name, plates in self.latents.items()}
        return drawn | {name: self._site(name, self.summed_plates.get(name, ())) for name in self.summed}

    @property
    def local_plate(self) -> str | None:
        """The plate of data: of the units, or where the data set is the one unit, of minibatches."""
        return self.unit_plate or self.batch_plate

    @property
    def depth(self) -> int:
        """Dimensions from the right that plates occupy, that of the particles included."""
        return self.nesting + self.vectorized

    @property
    def unit(self) -> Literal["datum", "dataset"]:
        """ "datum" where the unit is an entry of a plate, else "dataset"."""
        return "dataset" if self.unit_plate is None else "datum"

    @property
    def can_index(self) -> bool:
        """Whether some of the units can be evaluated without the others."""
        return self.unit_plate in self.indexable

    def _site(self, name: str, plates: tuple[str, ...]) -> Site:
        scope: Scope = "global" if self.local_plate not in plates else "unit"
        if scope == "unit" and len(plates) > 1:
            scope = "inner plate"
        return Site(name, scope, self._kind(name), plates, self.event_dims.get(name, 0))

    def _kind(self, name: str) -> Kind:
        if name in self.summed:
            return "enumerated"
        if name in self.discrete:
            return "discrete"
        return "point mass" if name in self.points else "continuous"

    def particles_per_chunk(self, num_units: int, budget: int = 2**22) -> int:
        """How many particles fit beside ``num_units`` units in about 16 MiB of float32 a tensor."""
        return max(1, budget // max(1, num_units * self.event_size))


def sizes(total: int, most: int) -> list[int]:
    """Sizes of chunks of at most so many."""
    return [min(most, total - done) for done in range(0, total, most)]


class Substitute(Messenger):  # type: ignore[misc]
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


class Narrow(Messenger):  # type: ignore[misc]
    """Stop programs whose draws get more dimensions than there are plates for.

    Under a plate of particles a program that indexes by what it drew, as a Markov chain does
    (``rows[..., state, :]``), would get one more dimension at every step, and fill the memory.

    Args:
        depth: dimensions from the right that plates occupy, that of the particles included.
    """

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.depth = depth

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if len(getattr(msg["fn"], "batch_shape", ())) > self.depth:
            raise ValueError(f"site {msg['name']} has more than {self.depth} dimensions beside its own")


class _AsObserved(Messenger):  # type: ignore[misc]
    """Give a likelihood the shape of what is observed, of which it would else draw one value for all."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not (msg["is_observed"] and isinstance(msg["value"], Tensor)):
            return
        fn = msg["fn"]
        batch = msg["value"].shape[: max(0, msg["value"].dim() - fn.event_dim)]
        wanted = torch.broadcast_shapes(fn.batch_shape, batch)
        if wanted != fn.batch_shape:
            with suppress(NotImplementedError):  # it then draws as it is
                msg["fn"] = fn.expand(wanted)


def redrawn(model: Program) -> Program:
    """A model whose observed sites are drawn anew, in the shapes that were observed."""

    def program(*data: Any) -> Any:
        with poutine.uncondition(), _AsObserved():
            return model(*data)

    return program


@contextmanager
def particle_plate(layout: Layout, num_particles: int) -> Iterator[None]:
    """A plate of particles outside all others; nothing where the programs are run one by one."""
    if not layout.vectorized:
        yield
        return
    with pyro.plate(PARTICLES, num_particles, dim=-1 - layout.nesting):
        yield


@contextmanager
def enumerated(layout: Layout) -> Iterator[None]:
    """Run a model with its summed latents enumerated; outside of `particle_plate`."""
    with enumerating(layout.summed, layout.depth):
        yield


def log_prob_per_unit(
    trace: poutine.Trace, layout: Layout, num_particles: int, names: tuple[str, ...] | None = None
) -> Tensor:
    """Sum the log densities of a model's sites to shape (particles, units), without minibatches' scales.

    Where the layout has summed latents, the trace is of a model run under `enumerated`, and what is returned
    is the log of the sum over them.
    """
    if layout.summed:
        plates = (PARTICLES,) if layout.unit_plate is None else (PARTICLES, layout.unit_plate)
        found = joint_log_prob(trace, layout.summed, plates, names)
        return found.reshape(found.shape[0], -1).expand(num_particles, -1)
    chosen = [site for name, site in sample_sites(trace) if names is None or name in names]
    return _sum_of_sites(chosen, layout, num_particles)


def log_likelihood(trace: poutine.Trace, layout: Layout, num_particles: int) -> Tensor:
    """log p(x | z) of a model's trace, of shape (particles, units), its summed latents summed out."""
    if not layout.summed:
        return log_prob_per_unit(trace, layout, num_particles, layout.observed)
    prior = log_prob_per_unit(trace, layout, num_particles, tuple(layout.latents))
    return log_prob_per_unit(trace, layout, num_particles) - prior


def log_q_per_unit(trace: poutine.Trace, layout: Layout, num_particles: int) -> Tensor:
    """log q(z) of a guide's trace, of shape (particles, units).

    Observed sites and ``pyro.factor`` terms in a guide are no part of the density of what it draws, and
    neither are draws of latents that are summed out.
    """
    drawn = [
        site for name, site in sample_sites(trace) if not site["is_observed"] and name not in layout.summed
    ]
    return _sum_of_sites(drawn, layout, num_particles)


def _sum_of_sites(sites: list[dict[str, Any]], layout: Layout, num_particles: int) -> Tensor:
    total: Tensor | float = 0.0
    for site in sites:
        total = total + _site_log_prob(site, layout)
    if isinstance(total, float):
        return torch.zeros(num_particles, 1)
    return total.expand(num_particles, -1)


def reduce_to_units(values: Tensor, layout: Layout) -> Tensor:
    """Sum a tensor of batch shape (particles, *plates) over all plates but the units'."""
    values = values.reshape((1,) * (layout.depth - values.dim()) + values.shape)
    if not layout.vectorized:
        values = values.unsqueeze(0)
    unit_dim = layout.dims[layout.unit_plate] if layout.unit_plate else None
    for dim in range(-layout.nesting, 0):
        if dim != unit_dim:
            values = values.sum(dim, keepdim=True)
    return values.reshape(values.shape[0], -1)


def _site_log_prob(site: Mapping[str, Any], layout: Layout) -> Tensor:
    """A site's log density by unit, with the user's own scales and masks but no subsampling scale.

    Where a program takes a part of its data by itself, N/B stays: the sum stands for all the data.
    """
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    scale = user_scale(site, layout.subsampled)
    return reduce_to_units(scale_and_mask(log_prob, scale, site["mask"]), layout)


def user_scale(site: Mapping[str, Any], kept: Container[str] = ()) -> Any:
    """The scale that the program itself puts on a site, without the plates' N/B, but for the plates kept."""
    scale = site["scale"]
    for frame in plates_of(site):
        if frame.name not in kept:
            scale = scale * (frame.size / full_size(frame))
    return scale


def sample_sites(trace: poutine.Trace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Sample sites proper: no plate indices, no ``pyro.deterministic``."""
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site_is_subsample(site):
            continue
        if is_deterministic(site):
            continue
        yield name, site


def plates_of(site: Mapping[str, Any]) -> list[Any]:
    """The plates around a site, outermost (leftmost dimension) first."""
    frames = [f for f in site["cond_indep_stack"] if f.vectorized and f.name != PARTICLES]
    return sorted(frames, key=lambda frame: frame.dim)


def full_size(frame: Any) -> int:
    """The size of a plate before any subsampling."""
    return int(frame.full_size or frame.size)


def canonical_value(name: str, site: Mapping[str, Any], layout: Layout) -> Tensor:
    """A latent site's values as (particles, *plates, *event), without padding dimensions."""
    value = site["value"]
    event_shape = value.shape[value.dim() - layout.event_dims[name] :]
    plates = tuple(frame.size for frame in plates_of(site))
    return value.reshape((-1, *plates, *event_shape))


def site_value(name: str, value: Tensor, layout: Layout) -> Tensor:
    """The inverse of `canonical_value`: values as the program's own sample statement would give them."""
    plates, loose = layout.latents[name], layout.loose_dims.get(name, 0)
    dims = [layout.dims[plate] for plate in plates]
    batch = [1] * ((layout.nesting if layout.vectorized else max(-min(dims, default=0), loose)) - loose)
    for dim, size in zip(dims, value.shape[1:], strict=False):
        batch[dim + loose] = size
    particles = value.shape[:1] if layout.vectorized else ()
    return value.reshape((*particles, *batch, *value.shape[1 + len(plates) :]))


def local_matrix(draws: Mapping[str, Tensor], layout: Layout, names: tuple[str, ...]) -> Tensor:
    """One vector a datum: values of local sites one after another, those of inner plates with their datum.

    Args:
        draws: by site, each of shape (particles, *plates, *event), as `canonical_value` gives them.
        layout: theirs.
        names: the sites, all of them in the plate of data.

    Returns:
        Shape (particles, data, dimensions).
    """
    parts = []
    for name in names:
        z = draws[name].movedim(1 + layout.latents[name].index(str(layout.local_plate)), 1)
        parts.append(z.reshape(*z.shape[:2], -1))
    return torch.cat(parts, dim=2)
