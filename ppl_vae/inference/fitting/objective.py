"""What the steps of a fit minimise: objectives, an open protocol, and their loss with its gradients.

An objective is any object with the method `Objective.value`. Pyro's ELBOs are here, the importance-weighted
bound is in `iwae`; one of a user's may add to them what belongs to learning alone, such as a penalty.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO as PyroELBO
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import kl_divergence
from torch.overrides import TorchFunctionMode

from ppl_vae.base.errors import InputError
from ppl_vae.engine.graph import Outputs, Untraceable
from ppl_vae.guides.mixture import MixtureNormal, Strata
from ppl_vae.program.layout import Layout, Substitute, sample_sites
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem
from ppl_vae.program.pyro_internals import dice_elbo, traces

__all__ = [
    "Checked",
    "LossAndGradients",
    "MeanFieldELBO",
    "Objective",
    "OfPyro",
    "PyroLoss",
    "StratifiedELBO",
    "TraceELBO",
]


@runtime_checkable
class Objective(Protocol):
    """What is minimised."""

    def value(
        self, problem: Problem, index: Tensor | None, scale: Tensor | float, beta: Tensor | float
    ) -> Tensor:
        """The loss in nats for the whole data, a scalar, to be differentiated; with noise from the generator.

        It is traced once into a graph where that is possible, in which what else changes from step to step
        than the arguments, the parameters and the data is frozen.

        Args:
            problem: the pair, its full data and its layout. The parameters are those of its modules, and by
                name ``problem.pair.parameters()``.
            index: entries of the data plate in this step's batch, shape (batch,); None for all of them.
            scale: N/B, by which sums over the batch are multiplied.
            beta: weight of the latents' terms, which a KL warm-up raises to 1.
        """
        ...


@runtime_checkable
class Checked(Protocol):
    """An objective that cannot learn every pair."""

    def check(self, problem: Problem, batch_size: int | None) -> None:
        """Refuse what it cannot learn.

        Raises:
            InputError: saying why.
        """
        ...


@runtime_checkable
class OfPyro(Protocol):
    """An objective that is one of Pyro's own, which stock steps leave to Pyro."""

    def pyro_loss(self, layout: Layout) -> PyroELBO:
        """Pyro's object for a pair of this layout."""
        ...


class ScaleTerms(Messenger):  # type: ignore[misc]
    """Weigh the latents' terms of model and guide by β, and all terms of a minibatch by N/B.

    What is summed out is no latent to a guide: its terms are those of the sum, and stay as they are.

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
        if site_is_subsample(msg):
            return
        if self.scale is not None and any(f.name == self.plate for f in msg["cond_indep_stack"]):
            msg["scale"] = msg["scale"] / self.ratio * self.scale
        latent = not msg["is_observed"] and msg["infer"].get("enumerate") != "parallel"
        if latent and not (isinstance(self.beta, float) and self.beta == 1.0):
            msg["scale"] = msg["scale"] * self.beta


@dataclass(frozen=True)
class TraceELBO:
    """−ELBO by Pyro's ``Trace_ELBO``, or by ``TraceEnum_ELBO`` where latents are to be enumerated.

    Attributes:
        num_particles: draws of the guide, vectorised where the programs allow it.
    """

    num_particles: int = 1

    def pyro_loss(self, layout: Layout) -> PyroELBO:
        """Pyro's object for a pair of this layout."""
        kind = TraceEnum_ELBO if layout.summed or layout.marked else Trace_ELBO
        return _made(kind, layout, self.num_particles)

    def value(
        self, problem: Problem, index: Tensor | None, scale: Tensor | float, beta: Tensor | float
    ) -> Tensor:
        """The loss; see `Objective`."""
        return _value(self.pyro_loss(problem.layout), problem, index, scale, beta)


@dataclass(frozen=True)
class MeanFieldELBO:
    """−ELBO by Pyro's ``TraceMeanField_ELBO``: the KL of each site by formula, where there is one.

    That KL is right if the guide's sites do not depend on each other, or come in the model's order.

    Attributes:
        num_particles: draws of the guide, vectorised where the programs allow it.
    """

    num_particles: int = 1

    def pyro_loss(self, layout: Layout) -> PyroELBO:
        """Pyro's object for a pair of this layout."""
        return _made(TraceMeanField_ELBO, layout, self.num_particles)

    def value(
        self, problem: Problem, index: Tensor | None, scale: Tensor | float, beta: Tensor | float
    ) -> Tensor:
        """The loss; see `Objective`."""
        return _value(self.pyro_loss(problem.layout), problem, index, scale, beta)

    def check(self, problem: Problem, batch_size: int | None) -> None:
        """Refuse discrete latents that are to be enumerated.

        Raises:
            InputError: if there are any.
        """
        if names := sorted(problem.layout.summed or problem.layout.marked):
            raise InputError(
                f"objective='mean-field' does not sum out discrete latents, and {names[0]} is one; "
                "objective='elbo' does"
            )


@dataclass(frozen=True)
class StratifiedELBO:
    """−ELBO of a mixture guide, by draws of each of its components; see `guides.mixture`.

    Attributes:
        num_particles: draws of each component.
    """

    num_particles: int = 1

    def value(
        self, problem: Problem, index: Tensor | None, scale: Tensor | float, beta: Tensor | float
    ) -> Tensor:
        """The loss; see `Objective`."""
        guide, layout = problem.pair.guide, problem.layout
        assert isinstance(guide, MixtureNormal)
        total = self.num_particles * guide.num_components
        together = layout.nesting if layout.vectorized and total > 1 else None
        with Strata(guide, total, together):
            return _value(_made(Trace_ELBO, layout, total), problem, index, scale, beta)

    def check(self, problem: Problem, batch_size: int | None) -> None:
        """Refuse discrete latents.

        Raises:
            InputError: if there are any.
        """
        if names := sorted(problem.layout.summed or problem.layout.marked):
            raise InputError(f"a mixture guide takes continuous latents alone, and {names[0]} is discrete")


@dataclass(frozen=True)
class PyroLoss:
    """An ELBO object of Pyro's that a user made.

    Attributes:
        loss: the object.
    """

    loss: PyroELBO

    def pyro_loss(self, layout: Layout) -> PyroELBO:
        """The object."""
        return self.loss

    def value(
        self, problem: Problem, index: Tensor | None, scale: Tensor | float, beta: Tensor | float
    ) -> Tensor:
        """The loss; see `Objective`."""
        return _value(self.loss, problem, index, scale, beta)


def _made(kind: type[PyroELBO], layout: Layout, num_particles: int) -> PyroELBO:
    together = layout.vectorized and num_particles > 1
    return kind(num_particles=num_particles, vectorize_particles=together, max_plate_nesting=layout.nesting)


def batch_of(problem: Problem, index: Tensor | None) -> Substitute:
    """Gives the programs' plate the entries of a batch."""
    plate = problem.layout.batch_plate
    return Substitute({} if index is None or plate is None else {plate: index})


def ratio_of(problem: Problem, index: Tensor | None) -> float:
    """N/B, the number that the program's own plate multiplies by."""
    return 1.0 if index is None else problem.layout.batch_plate_size / len(index)


def _value(
    loss: PyroELBO, problem: Problem, index: Tensor | None, scale: Tensor | float, beta: Tensor | float
) -> Tensor:
    plate = problem.layout.batch_plate
    tensor = scale if isinstance(scale, Tensor) else None
    with batch_of(problem, index), ScaleTerms(beta, plate, tensor, ratio_of(problem, index)):
        return _assembled(problem.pair, problem.data, loss)


def _assembled(pair: Pair, data: tuple[Any, ...], loss: PyroELBO) -> Tensor:
    """The loss from traces of both programs: Pyro's own assembly reads numbers out of tensors.

    Raises:
        Untraceable: for other losses than ``Trace_ELBO``, ``TraceMeanField_ELBO`` and ``TraceEnum_ELBO``.
    """
    if type(loss) not in _PARTICLES:
        raise Untraceable(f"the loss {type(loss).__name__} is not known to the compiled engine")
    particle = _PARTICLES[type(loss)]
    total: Tensor | float = 0.0
    for model_trace, guide_trace in traces(loss, pair.model, pair.guide, data):
        total = total - particle(model_trace, guide_trace) / loss.num_particles
    assert isinstance(total, Tensor)
    return total


def _trace_elbo(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Tensor:
    """log p − log q of one draw; score-function terms are zero under reparameterisation."""
    for name, site in sample_sites(guide_trace):
        if not getattr(site["fn"], "has_rsample", True) and not site["is_observed"]:
            raise Untraceable(f"site {name} of the guide cannot be reparameterised")
    return model_trace.log_prob_sum() - guide_trace.log_prob_sum()


def _mean_field_elbo(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Tensor:
    """log p(x | z) of one draw less the KL of every site, by formula where there is one."""
    total: Tensor | float = 0.0
    for name, site in model_trace.nodes.items():
        if site["type"] != "sample":
            continue
        if site["is_observed"]:
            total = total + site["log_prob_sum"]
            continue
        own = guide_trace.nodes[name]
        try:
            kl = scale_and_mask(kl_divergence(own["fn"], site["fn"]), own["scale"], own["mask"])
            total = total - (kl.sum() if isinstance(kl, Tensor) else kl * own["fn"].batch_shape.numel())
        except NotImplementedError:
            total = total + site["log_prob_sum"] - own["score_parts"].entropy_term.sum()
    for name, own in guide_trace.nodes.items():
        if own["type"] == "sample" and name not in model_trace.nodes:
            total = total - own["score_parts"].entropy_term.sum()
    assert isinstance(total, Tensor)
    return total


def _enumerated_elbo(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Tensor:
    """The ELBO of one draw with enumerated latents summed out (Pyro's Dice estimator)."""
    with _NoneIsZero():
        return dice_elbo(model_trace, guide_trace)


class _NoneIsZero(TorchFunctionMode):
    """Take all probabilities for positive, which Pyro's sum asks of their values.

    It leaves out the terms of zero probability; where there are any, they are zero all the same, or the
    loss shows that they are not.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.all:
            return True
        return func(*args, **(kwargs or {}))


_PARTICLES: dict[type, Callable[[poutine.Trace, poutine.Trace], Tensor]] = {
    Trace_ELBO: _trace_elbo,
    TraceMeanField_ELBO: _mean_field_elbo,
    TraceEnum_ELBO: _enumerated_elbo,
}


@dataclass(frozen=True, eq=False)
class LossAndGradients:
    """Loss and gradients of one step of SVI, as a function of its tensors.

    Attributes:
        problem: the pair and its data.
        leaves: the parameters that are trained.
        objective: what is minimised.
        index: entries of the batch plate, or None for all the data.
        scale: N/B as a scalar tensor; None without an index, or where it is the program's own number.
        beta: β as a scalar tensor, or None where it is always 1.
        precision: bfloat16 to run the programs under autocast, else None.
    """

    problem: Problem
    leaves: tuple[Tensor, ...]
    objective: Objective
    index: Tensor | None = None
    scale: Tensor | None = None
    beta: Tensor | None = None
    precision: torch.dtype | None = None

    @property
    def pair(self) -> Pair:
        """Model and guide."""
        return self.problem.pair

    @property
    def data(self) -> tuple[Any, ...]:
        """The programs' full data."""
        return self.problem.data

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
        """The loss.

        Raises:
            InputError: if the objective gives something else than one number.
        """
        scale = ratio_of(self.problem, self.index) if self.scale is None else self.scale
        beta = 1.0 if self.beta is None else self.beta
        with self.pair.learning(), self.cast():
            loss = self.objective.value(self.problem, self.index, scale, beta)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            shown = f"of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise InputError(f"the objective's value is {shown}; it must be a tensor of one number")
        return loss

    def stock_value(self, beta: float) -> Tensor:
        """The loss by Pyro's own object where the objective is one of those, else as `value` has it."""
        if not isinstance(self.objective, OfPyro):
            return self.value()
        loss = self.objective.pyro_loss(self.problem.layout)
        with self.pair.learning(), batch_of(self.problem, self.index), ScaleTerms(beta), self.cast():
            return loss.differentiable_loss(self.pair.model, self.pair.guide, *self.data)

    def cast(self) -> Any:
        """Autocast, if it was asked for."""
        device = self.leaves[0].device.type
        return torch.autocast(device, self.precision) if self.precision else nullcontext()
