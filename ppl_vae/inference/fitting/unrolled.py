"""Several steps of Adam on a small model in one compiled graph."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from ppl_vae.engine.compiler import compile_graph
from ppl_vae.engine.graph import Graph, Untraceable, operations
from ppl_vae.engine.simplify import share
from ppl_vae.engine.torch_internals import foreach
from ppl_vae.inference.fitting.adam import in_graph
from ppl_vae.inference.fitting.objective import LossAndGradients
from ppl_vae.inference.fitting.schedule import Schedule

__all__ = ["UNROLLED", "Unrolled", "clipped"]

# Steps in one call of a compiled graph: compile time grows faster than the gain beyond about five.
UNROLLED = 5


class Unrolled:
    """Several whole steps of a small model, Adam included, as one compiled graph.

    Args:
        graph: of the objective.
        task: the objective.
        schedule: of the whole fit.

    Raises:
        Untraceable: if the steps cannot be traced together or compiled.
    """

    def __init__(self, graph: Graph, task: LossAndGradients, schedule: Schedule) -> None:
        self.graph, self.task, self.schedule = graph, task, schedule
        leaf = task.leaves[0].detach()
        # A fit of fewer steps than are unrolled still traces them.
        steps = range(max(schedule.num_steps, UNROLLED))
        self.like = leaf
        self.rates = None if schedule.levels else self._rates(steps)
        betas = [schedule.beta(step) for step in steps]
        self.betas = torch.tensor(betas, dtype=leaf.dtype, device=leaf.device)
        self.noise = [noise.empty(UNROLLED) for noise in graph.noise]
        # Step by step, as the program would draw.
        self.rooms = [
            (noise, stack[step])
            for step in range(UNROLLED)
            for noise, stack in zip(graph.noise, self.noise, strict=True)
        ]
        leaves = [leaf.detach() for leaf in task.leaves]
        # Tensors of their own: the same one given twice would be taken for one input.
        moments = [torch.zeros_like(leaf) for leaf in (*leaves, *leaves)]
        data = [t.contiguous() for t in task.data if isinstance(t, Tensor)]
        inputs = [*self._changing(0), *leaves, *moments, *data, *self._constant()]
        try:
            with torch.no_grad():
                module = operations(self._steps, inputs)
        except (RuntimeError, TypeError) as error:
            raise Untraceable(f"several steps cannot be traced together: {error}") from error
        share(module)
        module = GraphModule(module, module.graph)
        self.compiled = compile_graph(Graph(module, len(inputs), (), ()), *inputs)
        self._check(module, inputs)

    def run(
        self, first: int, leaves: list[Tensor], mean: list[Tensor], square: list[Tensor], data: list[Tensor]
    ) -> Tensor:
        """Steps from ``first`` on, in place on the parameters and Adam's moments; returns their losses."""
        inputs = [*self._changing(first), *leaves, *mean, *square, *data, *self._constant()]
        losses, *state = self.compiled.run(inputs)
        foreach("copy_")([*leaves, *mean, *square], list(state))
        return losses

    def _rates(self, steps: range) -> Tensor:
        corrections = np.array([self.schedule.corrections(step) for step in steps])
        return torch.as_tensor(corrections, dtype=self.like.dtype, device=self.like.device)

    def _changing(self, first: int) -> list[Tensor]:
        """Inputs that every step has of its own, stacked: rates, β, indices, noise."""
        task, last = self.task, first + UNROLLED
        # Rates that depend on the fit's course are known only when their steps come.
        found = [self._rates(range(first, last)) if self.rates is None else self.rates[first:last]]
        if task.beta is not None:
            found.append(self.betas[first:last])
        if task.index is not None:
            indices = [self.schedule.batches.index(step) for step in range(first, last)]
            stacked = torch.stack([index for index in indices if index is not None])
            found.append(stacked.to(found[0].device))
        for noise, room in self.rooms:
            noise.fill(room)
        return [*found, *self.noise]

    def _constant(self) -> list[Tensor]:
        scale = [] if self.task.scale is None else [self.task.scale]
        return [*scale, *(constant.contiguous() for constant in self.graph.constants)]

    def _steps(self, *given: Tensor) -> tuple[Tensor, ...]:
        """The steps as a function of all inputs; returns losses, parameters and moments."""
        rest = iter(given)
        rates = next(rest)
        beta = None if self.task.beta is None else next(rest)
        index = None if self.task.index is None else next(rest)
        noise = [next(rest) for _ in self.noise]
        number = len(self.task.leaves)
        leaves, mean, square = ([next(rest) for _ in range(number)] for _ in range(3))
        data = [next(rest) for t in self.task.data if isinstance(t, Tensor)]
        scale = [] if self.task.scale is None else [next(rest)]
        constants = list(rest)
        losses = []
        for step in range(UNROLLED):
            extra = [stack[step] for stack in (beta, index) if stack is not None]
            loss, *gradients = self.graph.module(
                *leaves, *extra, *scale, *data, *constants, *(stack[step] for stack in noise)
            )
            if self.schedule.clip_norm is not None:
                gradients = clipped(gradients, self.schedule.clip_norm)
            leaves, mean, square = in_graph(leaves, gradients, mean, square, rates[step])
            losses.append(loss.reshape(()))
        return torch.stack(losses), *leaves, *mean, *square

    @torch.no_grad()
    def _check(self, module: Callable[..., Any], inputs: list[Tensor]) -> None:
        # Adam's steps have one length, however small a gradient: where it is zero, rounding alone decides
        # the direction. A thousandth of the step size keeps that below the tolerance.
        inputs = [inputs[0] * inputs[0].new_tensor([1e-3, 1.0]), *inputs[1:]]
        tolerance = 1e-2 if self.task.precision else 1e-3
        expected, found = module(*inputs), self.compiled.run(inputs)
        for a, b in zip(expected, found, strict=True):
            largest = 1.0 + float(a.abs().max())
            if not torch.allclose(a, b, rtol=tolerance, atol=tolerance * largest, equal_nan=True):
                raise Untraceable("the compiled steps differ from the program's")


def clipped(gradients: list[Tensor], largest: float) -> list[Tensor]:
    """Gradients scaled to a norm of at most ``largest`` all together, as ``clip_grad_norm_`` does."""
    norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)
    return [gradient * factor for gradient in gradients]
