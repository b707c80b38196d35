"""What is traced of a pair: loss and gradients, log weights, and the log density in unconstrained space.

Each is a function without arguments that reads the pair's own tensors, and the list of the tensors that it
reads: what `graph.trace` needs.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO as PyroELBO
from pyro.infer import Trace_ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor
from torch.distributions import biject_to

from ppl_vae.inference.graph import Outputs, Untraceable
from ppl_vae.inference.sites import Given, Layout, sample_sites
from ppl_vae.program import Pair

__all__ = ["Density", "Objective", "Weighed", "density", "stock_elbo"]


class Weighed(Messenger):  # type: ignore[misc]
    """Weigh the latents' terms of model and guide by β, and all terms of a minibatch by N/B.

    Args:
        beta: β, a number or a scalar tensor.
        plate: the plate that minibatches are taken from.
        scale: N/B as a scalar tensor, put in the place of the program's own number.
        ratio: that number.
    """

    def __init__(
        self,
        beta: Tensor | float = 1.0,
        plate: str | None = None,
        scale: Tensor | None = None,
        ratio: float = 1.0,
    ) -> None:
        super().__init__()
        self.beta, self.plate, self.scale, self.ratio = beta, plate, scale, ratio

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if isinstance(msg["fn"], _Subsample):
            return
        if self.scale is not None and any(f.name == self.plate for f in msg["cond_indep_stack"]):
            msg["scale"] = msg["scale"] / self.ratio * self.scale
        if not msg["is_observed"] and not (isinstance(self.beta, float) and self.beta == 1.0):
            msg["scale"] = msg["scale"] * self.beta


def stock_elbo(shape: Layout, num_particles: int) -> Trace_ELBO:
    """Pyro's own ``Trace_ELBO``, its particles vectorised where the programs allow it."""
    together = shape.vectorized and num_particles > 1
    return Trace_ELBO(
        num_particles=num_particles, vectorize_particles=together, max_plate_nesting=shape.nesting
    )


@dataclass(frozen=True, eq=False)
class Objective:
    """Loss and gradients of one SVI step, as a function of its tensors.

    Attributes:
        pair: model and guide.
        data: the programs' full data.
        shape: the pair's layout.
        leaves: the parameters that are trained.
        loss: Pyro's ELBO.
        index: entries of the batch plate, or None for all the data.
        scale: N/B as a scalar tensor; None without an index.
        beta: β as a scalar tensor, or None where it is always 1.
        precision: bfloat16 to run the programs under autocast, else None.
    """

    pair: Pair
    data: tuple[Any, ...]
    shape: Layout
    leaves: tuple[Tensor, ...]
    loss: PyroELBO
    index: Tensor | None
    scale: Tensor | None
    beta: Tensor | None
    precision: torch.dtype | None

    @property
    def ratio(self) -> float:
        """N/B, the number that the program's own plate multiplies by."""
        return 1.0 if self.index is None else self.shape.batch_plate_size / len(self.index)

    @property
    def tensors(self) -> list[Tensor]:
        """Everything that changes from step to step, and the parameters and data."""
        found = (*self.leaves, self.beta, self.index, self.scale, *self.data)
        return [tensor for tensor in found if isinstance(tensor, Tensor)]

    def __call__(self, *_: Tensor) -> Outputs:
        """The loss and its gradient with respect to every leaf."""
        with torch.enable_grad():
            loss = self.value()
            gradients = torch.autograd.grad(loss, self.leaves, materialize_grads=True)
        return loss.detach(), *gradients

    def value(self) -> Tensor:
        """The loss."""
        given = {}
        if self.index is not None and self.shape.batch_plate:
            given[self.shape.batch_plate] = self.index
        weighed = Weighed(
            1.0 if self.beta is None else self.beta,
            self.shape.batch_plate,
            self.scale,
            self.ratio,
        )
        device = self.leaves[0].device.type
        cast = torch.autocast(device, self.precision) if self.precision else nullcontext()
        with self.pair.scope(), Given(given), weighed, cast:
            if type(self.loss) is Trace_ELBO:
                return _trace_elbo(self.pair, self.data, self.loss)
            # These read no numbers out of tensors; what other losses do, tracing finds out.
            return self.loss.differentiable_loss(self.pair.model, self.pair.guide, *self.data)


def _trace_elbo(pair: Pair, data: tuple[Any, ...], loss: Trace_ELBO) -> Tensor:
    """−ELBO of ``Trace_ELBO`` without its score-function terms, which are zero under reparameterisation.

    Pyro's own assembly reads numbers out of tensors, which cannot be traced.
    """
    total: Tensor | float = 0.0
    for model_trace, guide_trace in loss._get_traces(pair.model, pair.guide, data, {}):
        for name, site in sample_sites(guide_trace):
            if not getattr(site["fn"], "has_rsample", True) and not site["is_observed"]:
                raise Untraceable(f"site {name} of the guide cannot be reparameterised")
        particle = guide_trace.log_prob_sum() - model_trace.log_prob_sum()
        total = total + particle / loss.num_particles
    assert isinstance(total, Tensor)
    return total


@dataclass(frozen=True, eq=False)
class Density:
    """log p(x, z) of a model as a function of one flat vector of unconstrained values.

    Attributes:
        pair: the model, with any guide over its latents.
        data: the model's data.
        names: the latent sites, in the model's order.
        shapes: of each site's unconstrained value.
        transforms: from unconstrained to constrained values.
    """

    pair: Pair
    data: tuple[Any, ...]
    names: tuple[str, ...]
    shapes: Mapping[str, torch.Size]
    transforms: Mapping[str, Any]

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

    def constrain(self, position: Tensor) -> dict[str, Tensor]:
        """Latent values by site from vectors of shape (*lead, dim)."""
        return {name: self.transforms[name](value) for name, value in self.unflatten(position).items()}

    def value(self, position: Tensor) -> Tensor:
        """log p(x, z) + log |dz/du|, a scalar, for a vector of shape (dim,)."""
        values, jacobian = {}, torch.zeros((), dtype=position.dtype, device=position.device)
        for name, unconstrained in self.unflatten(position).items():
            transform = self.transforms[name]
            values[name] = transform(unconstrained)
            jacobian = jacobian + transform.log_abs_det_jacobian(unconstrained, values[name]).sum()
        with self.pair.scope(), Given(values):
            trace = poutine.trace(self.pair.model).get_trace(*self.data)
            return trace.log_prob_sum() + jacobian

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


def density(pair: Pair, *data: Any) -> Density:
    """The unconstrained log density of an initialised pair's model.

    Raises:
        Untraceable: if a latent site is discrete.
    """
    with pair.scope(), torch.no_grad():
        trace = poutine.trace(pair.model).get_trace(*data)
    latents = {name: site for name, site in sample_sites(trace) if not site["is_observed"]}
    shapes, transforms = {}, {}
    for name, site in latents.items():
        support = site["fn"].support
        if support.is_discrete:
            raise Untraceable(f"site {name} is discrete")
        transforms[name] = biject_to(support).with_cache(0)
        shapes[name] = transforms[name].inv(site["value"]).shape
    return Density(pair, data, tuple(latents), shapes, transforms)
