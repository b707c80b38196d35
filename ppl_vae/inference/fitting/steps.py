"""The steps of SVI: Adam on a pair's objective, through stock Pyro or through a traced graph.

All ways take the same random numbers in the same order and give the same parameters to rounding.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from pyro.infer import TraceEnum_ELBO
from torch import Tensor

from ppl_vae.base.clock import OutOfTime, time_left
from ppl_vae.engine.choice import engine_for
from ppl_vae.engine.compiler import Compiled, TooSlow, compile_graph, fall_back
from ppl_vae.engine.graph import Compile, Graph, Untraceable, check_graph, trace
from ppl_vae.engine.torch_internals import adam
from ppl_vae.inference.fitting.adam import BETA1, BETA2, EPSILON
from ppl_vae.inference.fitting.iwae import IWAE
from ppl_vae.inference.fitting.objective import LossAndGradients, Objective, PyroLoss
from ppl_vae.inference.fitting.schedule import Schedule
from ppl_vae.inference.fitting.unrolled import UNROLLED, Unrolled, clipped
from ppl_vae.program.layout import Layout
from ppl_vae.program.problem import Problem

__all__ = ["Stepper", "engine_of_fit", "stepper"]

# Up to this many parameters, Adam's own arithmetic is part of the graph; beyond, it is PyTorch's fused Adam.
FEW_PARAMETERS = 2**15
# Fewer steps are over before a graph is traced. A graph that runs operation by operation saves most of
# Pyro's time already; what compiling saves beyond, half a millisecond a step, pays for its ten to twenty
# seconds after about COMPILED steps.
TRACED, COMPILED = 100, 30_000


def engine_of_fit(compile: Compile, num_steps: int, stop: bool = False) -> str:
    """How a fit of so many steps runs; see `engine_for`.

    One that is to stop by itself rarely needs a tenth of its cap.
    """
    if stop:
        num_steps = max(num_steps // 10, min(num_steps, TRACED))
    return engine_for(compile, num_steps, compiled=COMPILED, traced=TRACED)


class Stepper(Protocol):
    """Runs steps in place on a pair's parameters, and keeps Adam's two moments."""

    engine: str
    compile_seconds: float

    def run(self, first: int, count: int, data: tuple[Any, ...]) -> np.ndarray:
        """Steps ``first`` to ``first + count − 1``; returns their losses.

        Fewer, but at least one, where a deadline passes.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """Adam's moments, to be saved."""
        ...

    def load_state(self, state: dict[str, Tensor], steps: int) -> None:
        """Put saved moments back, after so many steps."""
        ...


def stepper(
    problem: Problem,
    leaves: dict[str, Tensor],
    objective: Objective,
    schedule: Schedule,
    *,
    engine: str,
    precision: torch.dtype | None,
) -> Stepper:
    """The way to run a fit's steps; stock Pyro, with a warning, where the wanted one is not possible."""
    task = _task(problem, tuple(leaves.values()), objective, schedule, precision)
    if engine != "pyro":
        try:
            return _traced(task, schedule, engine == "compiled")
        except Untraceable as reason:
            fall_back("this fit", reason)
    return _Stock(task, schedule)


def _traced(task: LossAndGradients, schedule: Schedule, compiled: bool) -> "_Traced":
    try:
        return _Traced(task, schedule, compiled)
    except TooSlow:
        return _Traced(task, schedule, False)


def _task(
    problem: Problem,
    leaves: tuple[Tensor, ...],
    objective: Objective,
    schedule: Schedule,
    precision: torch.dtype | None,
) -> LossAndGradients:
    like = leaves[0].detach()
    index = schedule.batches.index(0)
    if index is not None:
        index = index.to(like.device)
    scale = None
    if index is not None and not _enumerates(objective, problem.layout):
        scale = like.new_tensor(problem.layout.batch_plate_size / len(index))
    beta = like.new_tensor(1.0) if schedule.kl_warmup else None
    return LossAndGradients(problem, leaves, objective, index, scale, beta, precision)


def _enumerates(objective: Objective, layout: Layout) -> bool:
    """Whether sums over enumerated latents are part of the loss: they want one scale, a number."""
    if isinstance(objective, PyroLoss):
        return isinstance(objective.loss, TraceEnum_ELBO)
    return bool(layout.summed or layout.marked) and not isinstance(objective, IWAE)


class _Stock:
    """Pyro's own ELBO, run afresh at every step, and PyTorch's Adam."""

    engine = "pyro"
    compile_seconds = 0.0

    def __init__(self, task: LossAndGradients, schedule: Schedule) -> None:
        self.task, self.schedule = task, schedule
        self.optimizer = torch.optim.Adam(task.leaves, lr=schedule.lr, betas=(BETA1, BETA2), eps=EPSILON)

    def run(self, first: int, count: int, data: tuple[Any, ...]) -> np.ndarray:
        losses = np.empty(count)
        leaves = self.task.leaves
        for step in range(first, first + count):
            for group in self.optimizer.param_groups:
                group["lr"] = self.schedule.rate(step)
            self.optimizer.zero_grad(set_to_none=True)
            try:
                loss = self._loss(step, data)
            except OutOfTime:
                if step == first:
                    raise
                return losses[: step - first]
            loss.backward(inputs=leaves)
            if self.schedule.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(leaves, self.schedule.clip_norm)
            self.optimizer.step()
            losses[step - first] = loss.item()
        return losses

    def _loss(self, step: int, data: tuple[Any, ...]) -> Tensor:
        task, like = self.task, self.task.leaves[0]
        index, beta = self.schedule.batches.index(step), self.schedule.beta(step)
        now = replace(
            task,
            problem=replace(task.problem, data=data),
            index=None if index is None else index.to(like.device),
            scale=None,
            beta=None if task.beta is None else like.new_tensor(beta),
        )
        return now.stock_value(beta)

    def state(self) -> dict[str, Tensor]:
        found = {}
        for number, leaf in enumerate(self.task.leaves):
            for name in ("exp_avg", "exp_avg_sq"):
                moment = self.optimizer.state[leaf].get(name)
                found[f"{name}/{number}"] = torch.zeros_like(leaf) if moment is None else moment.clone()
        return found

    def load_state(self, state: dict[str, Tensor], steps: int) -> None:
        for number, leaf in enumerate(self.task.leaves):
            moments = {name: state[f"{name}/{number}"].to(leaf) for name in ("exp_avg", "exp_avg_sq")}
            self.optimizer.state[leaf] = {"step": torch.tensor(float(steps)), **moments}


class _Traced:
    """The objective as a graph, run operation by operation or compiled.

    Raises:
        Untraceable: if it is not possible.
    """

    def __init__(self, task: LossAndGradients, schedule: Schedule, compiled: bool) -> None:
        self.task, self.schedule = task, schedule
        self.engine = "compiled" if compiled else "traced"
        if not all(leaf.is_contiguous() for leaf in task.leaves):
            raise Untraceable("a parameter is not contiguous in memory")
        self.leaves = [leaf.detach() for leaf in task.leaves]
        self.mean = [torch.zeros_like(leaf) for leaf in self.leaves]
        self.square = [torch.zeros_like(leaf) for leaf in self.leaves]
        self.counts = [torch.zeros((), device=leaf.device) for leaf in self.leaves]
        with _kept(list(task.pair.buffers().values())):
            self.graph = trace(task, *task.tensors)
            check_graph(self.graph, task, *task.tensors, vary=_varied(task))
        self.one: Graph | Compiled = self.graph
        self.many: Unrolled | None = None
        self.compile_seconds = 0.0
        if compiled and sum(leaf.numel() for leaf in self.leaves) <= FEW_PARAMETERS:
            self.many = Unrolled(self.graph, task, schedule)
            self.compile_seconds = self.many.compiled.seconds
        elif compiled:
            self.one = compile_graph(self.graph, *task.tensors)
            self.compile_seconds = self.one.seconds
            check_graph(self.graph, task, *task.tensors, vary=_varied(task), run=self.one,
                  points=1, tolerance=1e-2 if task.precision else 1e-3)  # fmt: skip

    @torch.no_grad()
    def run(self, first: int, count: int, data: tuple[Any, ...]) -> np.ndarray:
        data_tensors = [t.contiguous() for t in data if isinstance(t, Tensor)]
        losses: list[Tensor] = []
        step, last = first, first + count
        while step < last and not (losses and time_left() <= 0):
            if self.many is not None and step + UNROLLED <= last:
                losses.append(self.many.run(step, self.leaves, self.mean, self.square, data_tensors))
                step += UNROLLED
            else:
                losses.append(self._step(step, data_tensors).reshape(1))
                step += 1
        return torch.cat(losses).double().cpu().numpy()

    def _step(self, step: int, data: list[Tensor]) -> Tensor:
        task = self.task
        if task.beta is not None:
            task.beta.fill_(self.schedule.beta(step))
        if task.index is not None:
            index = self.schedule.batches.index(step)
            assert index is not None
            task.index.copy_(index)
        extra = [t for t in (task.beta, task.index, task.scale) if t is not None]
        loss, *gradients = self.one(*self.leaves, *extra, *data)
        if self.schedule.clip_norm is not None:
            gradients = clipped(gradients, self.schedule.clip_norm)
        for count in self.counts:
            count.fill_(step + 1)
        adam(
            self.leaves, gradients, self.mean, self.square, self.counts, rate=self.schedule.rate(step),
            betas=(BETA1, BETA2), epsilon=EPSILON,
        )  # fmt: skip
        return loss

    def state(self) -> dict[str, Tensor]:
        found = {}
        for number, (mean, square) in enumerate(zip(self.mean, self.square, strict=True)):
            found[f"exp_avg/{number}"] = mean.clone()
            found[f"exp_avg_sq/{number}"] = square.clone()
        return found

    def load_state(self, state: dict[str, Tensor], steps: int) -> None:
        for number, (mean, square) in enumerate(zip(self.mean, self.square, strict=True)):
            mean.copy_(state[f"exp_avg/{number}"])
            square.copy_(state[f"exp_avg_sq/{number}"])


def _varied(task: LossAndGradients) -> list[tuple[Tensor, Callable[[Tensor], Tensor]]]:
    """Random other values of what changes from step to step."""
    size = task.problem.layout.batch_plate_size
    found: list[tuple[Tensor, Callable[[Tensor], Tensor]]] = [(leaf, _nearby) for leaf in task.leaves]
    if task.beta is not None:
        found.append((task.beta, torch.rand_like))
    if task.index is not None:
        found.append((task.index, lambda index: torch.randperm(size)[: len(index)].to(index)))
    return found


@contextmanager
def _kept(buffers: list[Tensor]) -> Iterator[None]:
    """Put tensors back that running a program in a block has changed."""
    saved = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, saved, strict=True):
                buffer.copy_(value)


def _nearby(leaf: Tensor) -> Tensor:
    return leaf + 0.05 * (1 + leaf.abs()) * torch.randn_like(leaf)
