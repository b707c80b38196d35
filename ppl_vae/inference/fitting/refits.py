"""One guide fitted to many data sets at once: a traced step of SVI, batched over data sets and parameters.

Every data set has its own copy of the guide's parameters, its own random numbers and its own Adam; the model
is held. Gradients go through the draws alone, so that a guide that contains the posterior comes to rest there
without noise (Roeder, Wu and Duvenaud, "Sticking the landing", 2017, section 3).
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from torch import Tensor

from ppl_vae.base.clock import check_time
from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import keep_generator, seeded
from ppl_vae.engine.choice import engine_for
from ppl_vae.engine.compiler import Compiled, TooSlow, compile_graph
from ppl_vae.engine.graph import Compile, Graph, Noise, Outputs, check_graph, trace, vmap_graph
from ppl_vae.engine.torch_internals import foreach
from ppl_vae.inference.fitting.adam import of_each
from ppl_vae.program.given_latents import has_log_density
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem

__all__ = ["RATES", "Refits", "Refitter", "parameters_at"]

Data = tuple[Any, ...]

# Learning rates that a pilot run chooses from: latents come in many units.
RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
# Data sets that decide, and their share of the steps.
PILOT_SETS, PILOT_STEPS = 8, 0.5
# Steps that are timed.
TIMED = 5
# Later rounds have this share of the first one's steps.
LATER = 0.5
# Shares of the steps at the learning rate itself, before it falls to a hundredth; and at the end, averaged.
CONSTANT, FALL, AVERAGED = 0.3, 0.01, 0.1
# Draws of common noise that judge whether a fit still rises.
JUDGED = 8
# Compiling pays for itself beyond so many numbers a step in the largest site.
WORTH_COMPILING = 2**17


@dataclass(frozen=True, eq=False)
class Refits:
    """Guides fitted to data sets, side by side.

    Attributes:
        parameters: each leaf of `Pair.parameters("guide")`, with a leading dimension of data sets.
        elbo: of each fit, in nats, shape (data sets,).
        rise: what the last round gained, in nats, shape (data sets,).
        lr: the learning rate that was used.
        steps: in all.
    """

    parameters: dict[str, Tensor]
    elbo: Tensor
    rise: Tensor
    lr: float
    steps: int


class Refitter:
    """Fits a pair's guide to blocks of data sets, all of one shape, from its present parameters.

    Args:
        problem: an initialised pair, whose parameters are read and left as they are, with a data set of the
            shape that all have.
        other: another data set, which only checks the graph.
        size: data sets in a block.
        num_steps: of the first round. Rounds of half as many follow until one of them gains nothing: the
            learning rate falls in each, so that a round that ends at rest by itself shows little.
        num_particles: draws a step.
        lr: learning rate at the start of a round; chosen by a pilot run of the first block by default.
        compile: whether to compile the step; "auto" does for large blocks.
        max_rounds: after which a fit ends, at rest or not.
        tolerance: mean gain of a round below which the fits rest, in nats a unit.

    Raises:
        InputError: if the guide has no parameters of its own.
        Untraceable: if the step cannot be traced and batched.
    """

    def __init__(
        self,
        problem: Problem,
        other: Data,
        *,
        size: int,
        num_steps: int = 600,
        num_particles: int = 16,
        lr: float | None = None,
        compile: Compile = "auto",
        max_rounds: int = 6,
        tolerance: float = 0.01,
    ) -> None:
        pair, layout = problem.pair, problem.layout
        self.size = size
        self.num_steps, self.num_particles, self.lr = num_steps, num_particles, lr
        self.max_rounds, self.tolerance = max_rounds, tolerance * layout.num_units
        self.leaves = pair.parameters("guide")
        if not self.leaves:
            raise InputError("the guide has no parameters of its own to be fitted to other data sets")
        self.start = [leaf.detach().clone() for leaf in self.leaves.values()]
        self.data = tuple(t.clone() if isinstance(t, Tensor) else t for t in problem.data)
        self.problem = replace(problem, data=self.data)
        work = size * num_particles * layout.num_units * layout.event_size
        compiled = engine_for(compile, work, compiled=WORTH_COMPILING) == "compiled"
        self.engine = "compiled" if compiled else "traced"
        self.late = False
        with pyro.validation_enabled(False), keep_generator():
            self.path = has_log_density(pair, *self.data)
            self.noise, self._run = self._traced(other, compiled)

    def __call__(self, data_sets: Sequence[Data], seed: int = 0) -> Refits:
        """Fit the guide to at most ``size`` data sets.

        Raises:
            InputError: if an ELBO is not finite at the end.
        """
        with seeded(seed), torch.no_grad():
            if self.lr is None:
                self.lr = self._pilot(data_sets)
            data = self._stacked(data_sets)
            rates = self.start[0].new_full((self.size,), self.lr)
            values = [leaf.expand(self.size, *leaf.shape).clone() for leaf in self.start]
            values = self._round(values, data, rates, self.num_steps)
            before, steps, later = self._judged(values, data, seed), self.num_steps, self._later()
            rise = torch.full_like(before, math.nan)
            for _ in range(self.max_rounds - 1):
                moved = self._round(values, data, rates, later)
                after, steps = self._judged(moved, data, seed), steps + later
                rise = (after - before).nan_to_num(nan=0.0).clamp_min(0.0)
                # A fit that a round made worse, on the same noise, keeps what it had.
                values = [_where(after >= before, new, old) for new, old in zip(moved, values, strict=True)]
                before = torch.where(after >= before, after, before)
                if bool(rise[: len(data_sets)].mean() <= self.tolerance):
                    break
        count = len(data_sets)
        if not before[:count].isfinite().all():
            raise InputError("the ELBO of a refitted guide is not finite: try a smaller lr")
        fitted = {name: value[:count] for name, value in zip(self.leaves, values, strict=True)}
        return Refits(fitted, before[:count], rise[:count], self.lr, steps)

    def estimate(self) -> float:
        """Seconds that a block takes, about: the pilot, and the fewest rounds that there may be."""
        with seeded(0), torch.no_grad():
            values = [leaf.expand(self.size, *leaf.shape).clone() for leaf in self.start]
            data = self._stacked([self.data])
            start = time.perf_counter()
            self._round(values, data, self.start[0].new_zeros(self.size), TIMED)
            each = (time.perf_counter() - start) / TIMED
        pilots = 0 if self.lr is not None else -(-len(RATES) * PILOT_SETS // self.size)
        return each * (self.num_steps * (1 + pilots * PILOT_STEPS) + self._later())

    def _later(self) -> int:
        return max(1, round(LATER * self.num_steps))

    def _pilot(self, data_sets: Sequence[Data]) -> float:
        """The learning rate with the best mean ELBO after a short fit of a few data sets."""
        few = list(data_sets[: min(PILOT_SETS, len(data_sets), self.size)])
        members = [(one, rate) for rate in RATES for one in few]
        losses = []
        for first in range(0, len(members), self.size):
            chosen = members[first : first + self.size]
            data = self._stacked([one for one, _ in chosen])
            rates = self.start[0].new_tensor([rate for _, rate in chosen])
            rates = torch.cat([rates, rates[-1:].expand(self.size - len(chosen))])
            values = [leaf.expand(self.size, *leaf.shape).clone() for leaf in self.start]
            values = self._round(values, data, rates, max(1, round(PILOT_STEPS * self.num_steps)))
            losses.append(-self._judged(values, data, 0)[: len(chosen)])
        table = torch.cat(losses).reshape(len(RATES), len(few)).nan_to_num(nan=math.inf, posinf=math.inf)
        return RATES[int(table.mean(1).argmin())]

    def _round(self, values: list[Tensor], data: list[Tensor], rates: Tensor, num_steps: int) -> list[Tensor]:
        """Adam with a falling learning rate; the last iterates are averaged."""
        mean, square = ([torch.zeros_like(v) for v in values] for _ in range(2))
        shaped = [rates.reshape(-1, *(1,) * (v.dim() - 1)).to(v) for v in values]
        averaged, average = max(1, round(AVERAGED * num_steps)), [torch.zeros_like(v) for v in values]
        for step in range(num_steps):
            check_time()
            _, *slopes = self._evaluate(values, data)
            # One wild draw must not end a fit.
            slopes = [slope.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0) for slope in slopes]
            falls = FALL ** (max(0.0, (step + 1) / num_steps - CONSTANT) / (1 - CONSTANT))
            values = of_each(values, slopes, mean, square, shaped, step=step, share=falls)
            if step >= num_steps - averaged:
                foreach("add_")(average, values, alpha=1 / averaged)
        return average

    def _judged(self, values: list[Tensor], data: list[Tensor], seed: int) -> Tensor:
        """Each data set's ELBO under noise that is the same at every call."""
        with seeded(seed + 104_729):
            losses = [self._evaluate(values, data)[0] for _ in range(JUDGED)]
        return -torch.stack(losses).mean(0)

    def _evaluate(self, values: list[Tensor], data: list[Tensor]) -> Outputs:
        drawn = [_drawn(noise, self.size) for noise in self.noise]
        return self._run(*values, *data, noise=drawn)

    def _stacked(self, data_sets: Sequence[Data]) -> list[Tensor]:
        """Every tensor of the data with a leading dimension; a short block is filled up."""
        filled = [*data_sets, *[data_sets[-1]] * (self.size - len(data_sets))]
        return [
            torch.stack([one[at] for one in filled])
            for at, values in enumerate(self.data)
            if isinstance(values, Tensor)
        ]

    def _traced(self, other: Data, compiled: bool) -> tuple[tuple[Noise, ...], Graph | Compiled]:
        """The step of one data set as a graph, checked, and batched over all."""
        leaves = [leaf.detach() for leaf in self.leaves.values()]
        tensors = [t for t in self.data if isinstance(t, Tensor)]
        graph = trace(self._step, *self.leaves.values(), *tensors)
        vary: list[tuple[Tensor, Callable[[Tensor], Tensor]]] = [(leaf, _nearby) for leaf in leaves]
        for at, values in enumerate(self.data):
            if isinstance(values, Tensor):
                vary.append((values, lambda _, at=at: other[at]))  # type: ignore[misc]
        check_graph(graph, self._step, *leaves, *tensors, vary=vary, points=2)
        example = [leaf.expand(self.size, *leaf.shape).contiguous() for leaf in self.start]
        example += self._stacked([self.data])
        batch = vmap_graph(graph, [True] * len(example), example)
        if not compiled:
            return graph.noise, batch
        try:
            return graph.noise, compile_graph(batch, *example)
        except TooSlow:
            self.engine, self.late = "traced", True
            return graph.noise, batch

    def _step(self, *_: Tensor) -> Outputs:
        """The negative ELBO of one data set, and its gradient with respect to every leaf."""
        leaves = list(self.leaves.values())
        with torch.enable_grad():
            drawn = self.problem.terms(self.num_particles)
            value = drawn.log_weights.mean(0).sum()
            path = value
            if self.path:
                # The score has mean zero; adding it to the gradient takes it out.
                held = {name: draw.detach() for name, draw in drawn.draws.items()}
                again = self.problem.terms(self.num_particles, latents=held)
                path = value + again.log_q.mean(0).sum()
            slopes = torch.autograd.grad(-path, leaves, materialize_grads=True)
        return -value.detach(), *slopes


@contextmanager
def parameters_at(pair: Pair, values: dict[str, Tensor]) -> Iterator[None]:
    """Run a block with other values of some of a pair's parameters, and put the former ones back."""
    leaves = pair.parameters()
    saved = {name: leaves[name].detach().clone() for name in values}
    try:
        with torch.no_grad():
            for name, value in values.items():
                leaves[name].copy_(value)
        yield
    finally:
        with torch.no_grad():
            for name, value in saved.items():
                leaves[name].copy_(value)


def _drawn(noise: Noise, size: int) -> Tensor:
    """Random numbers for all members of a batch."""
    out = noise.empty(size)
    if noise.in_place:  # elementwise: one call fills them all
        noise.fill(out)
    else:
        for one in out:
            noise.fill(one)
    return out


def _where(better: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(better.reshape(-1, *(1,) * (new.dim() - 1)), new, old)


def _nearby(leaf: Tensor) -> Tensor:
    return leaf + 0.05 * (1 + leaf.abs()) * torch.randn_like(leaf)
