"""The log density of a model in unconstrained space, and the tensors that it reads: what is traced of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to

from ppl_vae.base.clock import check_time
from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import seeded
from ppl_vae.engine.graph import Outputs, Untraceable
from ppl_vae.program.constrain import Constrain
from ppl_vae.program.enumeration import enumerating, is_marked, joint_log_prob
from ppl_vae.program.improper import Feasible
from ppl_vae.program.layout import plates_of, sample_sites
from ppl_vae.program.pair import Pair

__all__ = ["Density", "density"]


@dataclass(frozen=True, eq=False)
class Density:
    """log p(x, z) of a model as a function of one flat vector of unconstrained values.

    Attributes:
        pair: the model, with any guide over its latents.
        data: the model's data.
        names: the latent sites, in the model's order.
        shapes: of each site's unconstrained value.
        transforms: from unconstrained to constrained values, at one draw.
        moving: whether a site's support depends on other latents, and its transform with it.
        summed: discrete sites that are summed out.
        nesting: number of the model's plate dimensions.
    """

    pair: Pair
    data: tuple[Any, ...]
    names: tuple[str, ...]
    shapes: Mapping[str, torch.Size]
    transforms: Mapping[str, Any]
    moving: bool
    summed: tuple[str, ...] = ()
    nesting: int = 0

    @property
    def dim(self) -> int:
        """Length of the vector."""
        return sum(shape.numel() for shape in self.shapes.values())

    def unflatten(self, position: Tensor) -> dict[str, Tensor]:
        """Unconstrained values by site from vectors of shape (*lead, dim)."""
        lead = position.shape[:-1]
        parts = position.split([self.shapes[name].numel() for name in self.names], dim=-1)
        return {
            name: part.reshape(lead + self.shapes[name]) for name, part in zip(self.names, parts, strict=True)
        }

    def flatten(self, values: Mapping[str, Tensor]) -> Tensor:
        """The vector of constrained values, site by site: the inverse of `constrain`."""
        return torch.cat([self.transforms[name].inv(values[name]).reshape(-1) for name in self.names])

    @property
    def like(self) -> Tensor:
        """A tensor of the precision and on the device that positions have."""
        return next((tensor for tensor in self.tensors if tensor.is_floating_point()), torch.zeros(()))

    def shape_of(self, name: str) -> torch.Size:
        """The shape of a site's values in the model."""
        return torch.Size(self.transforms[name].forward_shape(self.shapes[name]))

    def unconstrained(self, values: Mapping[str, Tensor], rest: Tensor | None = None) -> Tensor:
        """The vector (dim,) of constrained values, each site in the support that it has at the others.

        Args:
            values: of latent sites.
            rest: a vector (dim,), for the sites without a value.
        """
        left = {} if rest is None else self.unflatten(rest)
        with self.pair.scope(), torch.no_grad(), Unconstrain(values, left, self.like) as found:
            self.pair.model(*self.data)
        return torch.cat([found.unconstrained[name].reshape(-1) for name in self.names])

    def drawn(self, seed: int) -> Tensor:
        """A draw (dim,) of the pair's guide; sites that cannot be drawn get a value of their support."""
        with self.pair.scope(), torch.no_grad(), seeded(seed), Feasible():
            sites = dict(sample_sites(poutine.trace(self.pair.guide).get_trace(*self.data)))
        return torch.cat(
            [
                biject_to(sites[name]["fn"].support).inv(sites[name]["value"]).reshape(-1)
                for name in self.names
            ]
        )

    def constrain(self, position: Tensor) -> dict[str, Tensor]:
        """Latent values by site from vectors of shape (*lead, dim)."""
        if not self.moving:
            return {name: self.transforms[name](value) for name, value in self.unflatten(position).items()}
        # A support that depends on another latent is known only when the model has come there.
        rows = [self._run(row)[0].values for row in position.reshape(-1, self.dim)]
        lead = position.shape[:-1]
        stacked = {name: torch.stack([row[name] for row in rows]) for name in self.names}
        return {name: values.reshape(lead + values.shape[1:]) for name, values in stacked.items()}

    def value(self, position: Tensor) -> Tensor:
        """log p(x, z) + log |dz/du|, a scalar, for a vector of shape (dim,)."""
        constrain, trace = self._run(position)
        if self.summed:
            return joint_log_prob(trace, self.summed) + constrain.log_jacobian
        return trace.log_prob_sum() + constrain.log_jacobian

    def _run(self, position: Tensor) -> tuple["Constrain", poutine.Trace]:
        check_time()
        constrain = Constrain(self.unflatten(position))
        with self.pair.scope(), enumerating(self.summed, self.nesting), constrain:
            return constrain, poutine.trace(self.pair.model).get_trace(*self.data)

    def value_and_gradient(self, position: Tensor) -> Outputs:
        """The log density and its gradient."""
        with torch.enable_grad():
            point = position if position.requires_grad else position.detach().requires_grad_(True)
            value = self.value(point)
            (gradient,) = torch.autograd.grad(value, point)
        return value.detach(), gradient

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors that the density reads beside its position."""
        held = [*self.pair.parameters().values(), *self.pair.buffers().values()]
        return [*held, *(t for t in self.data if isinstance(t, Tensor))]


class Unconstrain(Messenger):  # type: ignore[misc]
    """Give latents constrained values, and find the unconstrained ones: the inverse of `Constrain`.

    Args:
        values: by site.
        rest: unconstrained values of further sites.
        like: a tensor of their precision and device.
    """

    def __init__(self, values: Mapping[str, Tensor], rest: Mapping[str, Tensor], like: Tensor) -> None:
        super().__init__()
        self.values, self.rest, self.like = values, rest, like
        self.unconstrained: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        name = msg["name"]
        known = name in self.values or name in self.rest
        if not known or msg["is_observed"] or site_is_subsample(msg):
            return
        transform = biject_to(msg["fn"].support)
        if name in self.values:
            msg["value"] = self.values[name].to(self.like).reshape(msg["fn"].shape())
            self.unconstrained[name] = transform.inv(msg["value"])
        else:
            msg["value"] = transform(self.rest[name])
            self.unconstrained[name] = self.rest[name]
        msg["done"] = True


def density(pair: Pair, *data: Any) -> Density:
    """The unconstrained log density of an initialised pair's model.

    Sites with a flat prior get a value, as no value can be drawn of them.

    Raises:
        InputError: if the model has no latent sites, or its enumerated ones cannot be summed out.
        Untraceable: if a latent site is discrete and not marked for enumeration, or is so under a scale.
    """
    traces = []
    for seed in (0, 1):
        with pair.scope(), torch.no_grad(), seeded(seed), Feasible():
            traces.append(poutine.trace(pair.model).get_trace(*data))
    first, other = (
        {name: site for name, site in sample_sites(trace) if not site["is_observed"]} for trace in traces
    )
    shapes, transforms, moving = {}, {}, False
    summed = tuple(name for name, site in first.items() if site["fn"].support.is_discrete and is_marked(site))
    for name, site in first.items():
        if name in summed:
            continue
        if site["fn"].support.is_discrete:
            raise Untraceable(f"site {name} is discrete")
        transforms[name] = biject_to(site["fn"].support)
        unconstrained = transforms[name].inv(site["value"])
        shapes[name] = unconstrained.shape
        elsewhere = biject_to(other[name]["fn"].support)(unconstrained)
        moving = moving or not torch.allclose(elsewhere, site["value"])
    if summed and any(site["scale"] != 1 for _, site in sample_sites(traces[0])):
        raise Untraceable(f"site {summed[0]} is discrete and the program scales its terms")
    nesting = max((-f.dim for _, site in sample_sites(traces[0]) for f in plates_of(site)), default=0)
    if not shapes:
        raise InputError("the model has no continuous latent sites, so there is nothing to sample")
    return Density(pair, data, tuple(shapes), shapes, transforms, moving, summed, nesting)
