"""What `svi.fit` has beside its steps: averaging, the stopping rule, held-out data, the progress bar."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae.base.clock import OutOfTime, no_deadline, time_left
from ppl_vae.inference.evidence import bounds
from ppl_vae.inference.evidence.elbo import elbo
from ppl_vae.inference.fitting.fixed_data import FixedData
from ppl_vae.inference.fitting.iwae import IWAE
from ppl_vae.inference.fitting.observers import next_multiple
from ppl_vae.inference.fitting.rule import GainRule
from ppl_vae.inference.fitting.settling import Settling
from ppl_vae.inference.fitting.state import State
from ppl_vae.inference.fitting.stopping import Gain, Stopping
from ppl_vae.inference.fitting.tail import average_in
from ppl_vae.inference.fitting.unrolled import UNROLLED
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem

if TYPE_CHECKING:
    from ppl_vae.inference.fitting.fit_result import Distance

__all__ = ["Average", "Bar", "HeldOut", "LastQuarter", "StoppingRule"]

# Steps of the shortest stretch of iterates that the stopping rule averages.
FEWEST_WIDTH, MOST_WIDTH = 100, 2000
# Data that open layers are settled by between steps; at the end of a fit it is all of them.
MOST_SETTLING = 2048


class Average:
    """Averages the parameters over the last steps (every fifth iterate), and puts the average in place.

    Args:
        num_steps: of the fit.
        fraction: of them, at the end.
    """

    name = "average"

    def __init__(self, num_steps: int, fraction: float) -> None:
        self.num_steps, self.start = num_steps, num_steps - round(fraction * num_steps)
        self.mean: list[Tensor] = []
        self.count = 0

    def after(self, step: int) -> int:
        """The step at which it begins; from there on every fifth."""
        return self.start if step < self.start else min(next_multiple(UNROLLED, step), self.num_steps)

    def look(self, state: State) -> None:
        """Take the parameters as they are into the average; at the last step, put it in place."""
        leaves = list(state.leaves.values())
        if state.step > self.start and state.step % UNROLLED == 0:
            self.count += 1
            average_in(self.mean, leaves, self.count)
        if state.step == self.num_steps:
            self._write(leaves)

    def finish(self, state: State) -> None:
        """Where something else ended the fit, what there is of an average counts."""
        if state.step < self.num_steps:
            self._write(list(state.leaves.values()))

    @torch.no_grad()
    def _write(self, leaves: list[Tensor]) -> None:
        for mean, leaf in zip(self.mean, leaves, strict=False):
            leaf.copy_(mean)

    def tensors(self) -> dict[str, Tensor]:
        """The average, and of how many iterates it is."""
        return {"count": torch.tensor(self.count), **{str(n): mean for n, mean in enumerate(self.mean)}}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        self.count = int(tensors["count"])
        self.mean = [tensors[str(number)] for number in range(len(tensors) - 1)]


class StoppingRule:
    """Shows the parameters to the stopping rule, and ends the fit where the rule says so.

    Args:
        state: a fit before its first step; its learning rate becomes the rule's.
        held_out: data to judge by; None for the fit's own.
        judge: gives the distance from the best of the guide's family; None where that is not known.
    """

    name = "rule"

    def __init__(
        self,
        state: State,
        held_out: tuple[Any, ...] | None,
        judge: Callable[[], Distance] | None = None,
    ) -> None:
        self.rule = _rule(state, held_out)
        if judge is not None:
            self.rule.distance_of = lambda: _per_unit(judge(), state.layout.num_units)
        state.rate = self.rule.rate

    def after(self, step: int) -> int:
        """As the rule says; under a deadline, whole groups of few steps, between which the clock is seen."""
        stop = self.rule.after(step)
        return stop if time_left() == float("inf") else min(stop, step + UNROLLED - step % UNROLLED)

    def look(self, state: State) -> bool:
        """Let it see, and tell whether it is done."""
        self.rule.see(state.step)
        return self.rule.done

    def tensors(self) -> dict[str, Tensor]:
        """The rule's state."""
        about = torch.frombuffer(bytearray(self.rule.about().encode()), dtype=torch.uint8)
        return {"about": about, **self.rule.tensors()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        self.rule.load(tensors, bytes(tensors["about"].numpy()).decode())

    @property
    def done(self) -> bool:
        """Whether the rule has ended the fit."""
        return self.rule.done

    def stopping(self, state: State, late: bool) -> Stopping:
        """Put the best parameters in place, and say why the fit ended."""
        found = self.rule.finish(state.step, late)
        if self.done or late or state.step == state.options.num_steps:
            return found
        return replace(found, reason=f"an observer ended the fit after {state.step} steps")


def _rule(state: State, held_out: tuple[Any, ...] | None) -> GainRule:
    options, batches, seed = state.options, state.batches, state.seed
    judged_by = state.problem if held_out is None else Problem.of(state.pair, *held_out)
    traced, settling = state.engine != "pyro", _settling(state)
    # A guide of one datum's own parameters moves once an epoch: a segment has two of them.
    epoch = batches.num_data / batches.batch_size if batches.batch_size else 1
    width = max(FEWEST_WIDTH, min(MOST_WIDTH, 2 * math.ceil(epoch)))
    return GainRule(
        list(state.leaves.values()),
        FixedData(
            judged_by, seed, state.weighted,
            most_units=2048, most_particles=4096, budget=2**22, traced=traced, settling=settling,
        ),
        FixedData(
            state.problem, seed, state.weighted,
            most_units=64, most_particles=8, traced=traced, settling=settling,
        ),
        lr=options.lr, start=options.kl_warmup, width=-(-width // UNROLLED) * UNROLLED,
        num_steps=options.num_steps, tolerance=options.tolerance, on_held_out=held_out is not None,
        seed=seed,
    )  # fmt: skip


def _per_unit(distance: Distance, num_units: int) -> Gain:
    return Gain(distance.value / num_units, distance.std_error / num_units)


def _settling(state: State) -> Settling:
    """Settles open layers by a part of the data, for a look between steps."""
    return Settling(state.problem, seed=state.seed, train=state.options.train, most=MOST_SETTLING)


class HeldOut:
    """Estimates the objective per unit of data that the fit does not see.

    Args:
        state: a fit before its first step, whose ``check_every`` are the steps between checks; there is one
            at the end too.
        data: those data.
    """

    name = "held_out"

    def __init__(self, state: State, data: tuple[Any, ...]) -> None:
        self.data, self.every, self.settling = data, state.options.check_every, _settling(state)
        self.checks: list[tuple[float, float]] = []

    def after(self, step: int) -> int:
        """The next multiple of ``every``."""
        return next_multiple(self.every, step)

    def look(self, state: State) -> None:
        """Check: short, and not to be left half done."""
        with no_deadline(), self.settling.for_now():
            value = held_out_mean(state.pair, self.data, state.weighted, state.seed)
        self.checks.append((state.step, value))

    def finish(self, state: State) -> None:
        """Check the parameters that the fit ends with."""
        if not self.checks or self.checks[-1][0] != state.step:
            self.look(state)

    def tensors(self) -> dict[str, Tensor]:
        """The checks so far."""
        return {"checks": torch.tensor(self.checks, dtype=torch.float64).reshape(-1, 2)}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        self.checks = [(row[0], row[1]) for row in tensors["checks"].tolist()]


def held_out_mean(pair: Pair, data: tuple[Any, ...], weighted: IWAE | None, seed: int) -> float:
    """The ELBO or the bound per unit."""
    if weighted is None:
        return elbo(pair, *data, num_particles=4, seed=seed).mean
    return bounds.iwae(
        pair, *data, num_particles=weighted.num_particles, num_repeats=2, seed=seed, progress=False
    ).mean


class LastQuarter:
    """Keeps log weights of fixed data three quarters through, to tell what the last quarter brought.

    Args:
        state: the fit.
    """

    name = "earlier"

    def __init__(self, state: State) -> None:
        self.fixed = FixedData(state.problem, state.seed, state.weighted, settling=_settling(state))
        self.num_steps = state.options.num_steps
        self.start = self.num_steps - self.num_steps // 4
        self.log_weights: Tensor | None = None

    def after(self, step: int) -> int:
        """Three quarters through, and then the end."""
        return self.start if step < self.start else self.num_steps

    def look(self, state: State) -> None:
        """Evaluate: short, and not to be left half done."""
        if state.step == self.start:
            with no_deadline():
                self.log_weights = self.fixed.log_weights()

    def tensors(self) -> dict[str, Tensor]:
        """The log weights, once there are any."""
        return {} if self.log_weights is None else {"log_weights": self.log_weights}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        self.log_weights = tensors.get("log_weights")


class Bar:
    """Moves a progress bar; it looks at the clock too.

    Args:
        advance: moves the bar by so many steps and shows a text (`progress.progress_bar`).
        start: steps that it shows already.
    """

    def __init__(self, advance: Callable[[int, str], None], start: int) -> None:
        self.advance, self.shown = advance, start

    def after(self, step: int) -> int:
        """Every hundred steps."""
        return next_multiple(100, step)

    def look(self, state: State) -> None:
        """Show how far the fit is."""
        moved, self.shown = state.step - self.shown, state.step
        self.advance(moved, f"ELBO {state.last_elbo:.1f}")

    def finish(self, state: State) -> None:
        """Show the end."""
        with suppress(OutOfTime):
            self.look(state)
