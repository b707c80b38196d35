"""One vector for every unit: the unconstrained values of all its latent sites, one after another."""

import copy
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Any, Self

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta, TorchDistribution
from pyro.distributions.util import sum_rightmost
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints

from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import seeded
from ppl_vae.program.improper import Feasible
from ppl_vae.program.modes import evaluation
from ppl_vae.program.pair import Program

__all__ = ["AUXILIARY", "InnerDim", "LocalSite", "LocalVector"]

# What a guide draws before it takes the sites out of it.
AUXILIARY = "_local_vector"


@dataclass(frozen=True)
class InnerDim:
    """A batch dimension right of the units': an inner plate, or (plate None) one that belongs to no plate."""

    plate: str | None
    dim: int
    size: int


@dataclass(frozen=True)
class LocalSite:
    """A latent site with a value for every unit.

    Attributes:
        name: of the site.
        event_shape: of one value.
        support: of the values, the same for all of them.
        inner: batch dimensions right of the units', from the left; their entries belong to their unit.
    """

    name: str
    event_shape: tuple[int, ...]
    support: Any = constraints.real_vector
    inner: tuple[InnerDim, ...] = ()

    @property
    def transform(self) -> Transform:
        """From unconstrained values to the site's."""
        return biject_to(self.support)

    @property
    def unconstrained_shape(self) -> tuple[int, ...]:
        """Of one unconstrained value."""
        return tuple(self.transform.inverse_shape(torch.Size(self.event_shape)))

    @property
    def inner_shape(self) -> tuple[int, ...]:
        """Sizes of the inner dimensions."""
        return tuple(each.size for each in self.inner)

    @property
    def size(self) -> int:
        """Numbers in a unit's vector."""
        return prod(self.inner_shape) * prod(self.unconstrained_shape)


@dataclass(frozen=True)
class LocalVector:
    """The local sites of a model, and how their values and a unit's vector become each other.

    Attributes:
        plate: name of the plate of units.
        dim: its dimension, −1 or further to the left.
        num_units: its full size.
        sites: in the model's order.
        dtype: of the model's values; None where it was not run.
    """

    plate: str
    dim: int
    num_units: int
    sites: tuple[LocalSite, ...]
    dtype: torch.dtype | None = None

    @classmethod
    def one(cls, site: str, latent_dim: int, plate: str, num_units: int) -> Self:
        """A single site of real vectors in a single plate."""
        return cls(plate, -1, num_units, (LocalSite(site, (latent_dim,)),))

    @classmethod
    def of(cls, model: Program, *data: Any, without: Collection[str] = ()) -> Self:
        """Read off a model what its units' latents are; it is run once, on all the data.

        Args:
            model: a Pyro program.
            data: its data.
            without: latents that are left out, as those that are summed out; sites that are marked for
                enumeration always are.

        Raises:
            InputError: if a latent is shared by all units or discrete, a support differs from unit to unit,
                or there is no plate of units.
        """
        # The parameters that there are may be read; those of the model do not go to who holds none of them.
        store = pyro.get_param_store()
        with store.scope(store.get_state()), seeded(0), torch.no_grad(), evaluation(), Feasible():
            trace = poutine.trace(model).get_trace(*data)
        sites = {
            name: site
            for name, site in trace.nodes.items()
            if site["type"] == "sample" and not site_is_subsample(site)
        }
        latents = {
            name: site
            for name, site in sites.items()
            if not site["is_observed"]
            and name not in without
            and site["infer"].get("enumerate") != "parallel"
        }
        if not latents:
            raise InputError("the model has no latents of every unit that a guide could draw")
        unit = _unit_plate(sites)
        read = tuple(_read(name, site, unit) for name, site in latents.items())
        widest = reduce(torch.promote_types, (site["value"].dtype for site in latents.values()))
        return cls(unit.name, unit.dim, int(unit.full_size or unit.size), read, widest)

    @property
    def size(self) -> int:
        """q, the length of a unit's vector."""
        return sum(site.size for site in self.sites)

    @property
    def direct(self) -> bool:
        """Whether the vector is the value of the only site, so that it can be drawn as that site."""
        (first, *others) = self.sites
        real = _base(first.support, "base_constraint") is constraints.real
        return not others and not first.inner and len(first.event_shape) == 1 and real

    def rows(self, *data: Any) -> int:
        """The number of units in data: their rows, where the vector is one site's in a rightmost plate."""
        first = data[0] if data else None
        if self.direct and self.dim == -1 and isinstance(first, Tensor) and first.dim():
            return len(first)
        return self.num_units

    def program(self, at: Callable[[Tensor], TorchDistribution], num_units: int) -> Any:
        """A guide as a Pyro program: draw every unit's vector, and take the sites' values out of it.

        Args:
            at: the vectors' distribution for units at given indices (of any shape): batch shape that of the
                indices, event shape (q,).
            num_units: the full size of their plate.

        Returns:
            The value of the only site, or values by site.
        """
        # Without a number of its own the plate takes the last dimension.
        with pyro.plate(self.plate, num_units, dim=None if self.dim == -1 else self.dim) as index:
            if self.dim < -1:  # dimensions right of the units' are of size 1
                index = index.reshape(-1, *(1,) * (-1 - self.dim))
            if self.direct:
                return pyro.sample(self.sites[0].name, at(index))
            vector = pyro.sample(AUXILIARY, at(index), infer={"is_auxiliary": True})
            return {
                site.name: _sample(site, piece)
                for site, piece in zip(self.sites, self._pieces(vector), strict=True)
            }

    def vector(self, values: Mapping[str, Tensor]) -> Tensor:
        """The unconstrained vectors of given values: the inverse of what `program` does.

        Args:
            values: by site, as the program's sample statements give them: shape (…, units, *inner, *event).

        Returns:
            Shape (…, units, 1 for each dimension right of the units', q).
        """
        pieces = []
        for site in self.sites:
            free = site.transform.inv(values[site.name])
            width = len(site.unconstrained_shape)
            lead = free.shape[: free.dim() - width - (-1 - self.dim)]
            pieces.append(free.reshape(*lead, *(1,) * (-1 - self.dim), -1))
        batch = torch.broadcast_shapes(*(piece.shape[:-1] for piece in pieces))
        return torch.cat([piece.expand(*batch, -1) for piece in pieces], dim=-1)

    def auxiliary_values(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the program's own sample statements must draw for it to arrive at given values."""
        if self.direct:
            return {site.name: values[site.name] for site in self.sites}
        return {AUXILIARY: self.vector(values)}

    def _pieces(self, vector: Tensor) -> list[Tensor]:
        """Each site's unconstrained values, of shape (…, units, *inner, *unconstrained)."""
        lead, right = vector.shape[: vector.dim() - 1 - (-1 - self.dim)], range(self.dim + 1, 0)
        found = []
        for site, part in zip(
            self.sites, vector.split([site.size for site in self.sites], dim=-1), strict=True
        ):
            inner = {each.dim: each.size for each in site.inner}
            shape = [inner.get(dim, 1) for dim in right]
            found.append(part.reshape(*lead, *shape, *site.unconstrained_shape))
        return found


def _sample(site: LocalSite, free: Tensor) -> Tensor:
    """Take a site's value out of its unconstrained one, under its inner plates, at its density."""
    width = len(site.unconstrained_shape)
    with ExitStack() as plates:
        for each in site.inner:
            if each.plate is None:
                continue
            index = plates.enter_context(pyro.plate(each.plate, each.size, dim=each.dim))
            if len(index) != each.size:
                free = free.index_select(each.dim - width, index)
        transform, event = site.transform, len(site.event_shape)
        value = transform(free)
        slope = transform.log_abs_det_jacobian(free, value)
        density = -sum_rightmost(slope, slope.dim() - value.dim() + event)
        return pyro.sample(site.name, Delta(value, log_density=density, event_dim=event))


def _unit_plate(sites: Mapping[str, Any]) -> Any:
    """The outermost plate that contains every site; `pyro.deterministic` values are none.

    Raises:
        InputError: naming a latent that all units share, if there is no such plate.
    """
    proper = {name: site for name, site in sites.items() if not _fixed(site)}
    frames = {frame.name: frame for site in proper.values() for frame in _frames(site)}
    common = set.intersection(*({frame.name for frame in _frames(site)} for site in proper.values()))
    if not common:
        shared = [name for name, site in proper.items() if not site["is_observed"] and not _frames(site)]
        what = f": {', '.join(shared)} is shared by all data" if shared else ""
        raise InputError(
            "a guide with parameters for every unit needs one plate that contains every site of the "
            f"model{what}"
        )
    return frames[min(common, key=lambda name: frames[name].dim)]


def _frames(site: Mapping[str, Any]) -> list[Any]:
    return [frame for frame in site["cond_indep_stack"] if frame.vectorized]


def _fixed(site: Mapping[str, Any]) -> bool:
    return bool(site["is_observed"]) and isinstance(_base(site["fn"], "base_dist"), Delta)


def _base(wrapped: Any, attribute: str) -> Any:
    while hasattr(wrapped, attribute):
        wrapped = getattr(wrapped, attribute)
    return wrapped


def _read(name: str, site: Mapping[str, Any], unit: Any) -> LocalSite:
    fn = site["fn"]
    if fn.support.is_discrete:
        raise InputError(
            f"site {name} is discrete, and a guide with parameters for every unit draws real numbers; mark "
            "it with infer={'enumerate': 'parallel'} (pyro.infer.config_enumerate), so that it is summed out"
        )
    plates = {frame.dim: frame for frame in _frames(site) if frame.name != unit.name}
    batch = fn.batch_shape
    inner = []
    for dim in range(-len(batch), 0):
        if dim == unit.dim or (dim not in plates and batch[dim] == 1):
            continue
        if dim < unit.dim:
            raise InputError(
                f"site {name} has a dimension left of the plate of units {unit.name}; enclose it in a plate "
                "inside of that one"
            )
        plate = plates.get(dim)
        size = batch[dim] if plate is None else int(plate.full_size or plate.size)
        inner.append(InnerDim(None if plate is None else plate.name, dim, size))
    support = _common(fn.support, len(fn.event_shape), name)
    return LocalSite(name, tuple(fn.event_shape), support, tuple(inner))


def _common(support: Any, event_dim: int, name: str) -> Any:
    """A support whose bounds are those of one value, where those of all values are the same.

    Raises:
        InputError: if they differ.
    """
    found = copy.copy(support)
    for attribute, bound in vars(support).items():
        if isinstance(bound, constraints.Constraint):
            setattr(found, attribute, _common(bound, event_dim, name))
        elif isinstance(bound, Tensor) and bound.dim() > event_dim:
            first = bound[(0,) * (bound.dim() - event_dim)]
            if not bool((bound == first).all()):
                raise InputError(
                    f"the support of site {name} differs from unit to unit; a guide with parameters for "
                    "every unit needs the same for all"
                )
            setattr(found, attribute, first)
    return found
