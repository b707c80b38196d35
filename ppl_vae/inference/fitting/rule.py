"""The stopping rule as a fit runs it: what it sees of the iterates, and what it decides."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import TypeVar

import torch
from torch import Tensor

from ppl_vae.inference.fitting.fixed_data import FixedData
from ppl_vae.inference.fitting.schedule import cosine
from ppl_vae.inference.fitting.stopping import (
    R_HAT_LIMIT,
    Gain,
    Stopping,
    TailCheck,
    doubling_ratio,
    expected_gain,
)
from ppl_vae.inference.fitting.tail import Tail, boundaries
from ppl_vae.inference.fitting.unrolled import UNROLLED

__all__ = ["GainRule"]

Seen = TypeVar("Seen")

# A level's learning rate over that of the level before. The bias of averaged iterates falls at least
# in proportion to it, so that all further levels together gain less than half of what the last one gained.
FACTOR = 0.3
# Up to so many parameters are looked at themselves; of more, the log weights of fixed data are, since
# networks' weights wander long after the function that they compute has settled.
FEW_PARAMETERS, MOST_QUANTITIES = 4096, 256
# The gain of a doubling over that of the one before, above which a fit rises by as much each step.
STEADY = 1.3
# Largest Monte Carlo error of the averaged parameters, in sd of the guide.
MCSE_LIMIT = 0.1
# The distance from the best of a family over what it was, below which a learning rate is still of use.
NEARER = 0.7
# Where the rule has not stopped the fit, the last tenth of the steps are for lowering the learning rate.
DECAY = 0.1


@dataclass
class _Point:
    """Parameters, and their ELBO a unit for each draw of the fixed noise, shape (particles,)."""

    leaves: list[Tensor]
    elbo: Tensor
    step: int = 0


class GainRule:
    """Watches a fit's parameters, lowers its learning rate, and ends it.

    Args:
        leaves: the parameters that are trained; changed in place when the rule acts.
        judged: what the ELBO is judged by.
        small: log weights of a few units, looked at in place of many parameters.
        lr: the first learning rate.
        start: steps before the rule begins (the KL warm-up).
        width: the shortest segment of iterates, in steps.
        num_steps: the cap.
        tolerance: of the expected gain, in nats a unit.
        on_held_out: whether ``judged`` holds data that the fit does not see.
        seed: of the choice of parameters looked at.
    """

    def __init__(
        self,
        leaves: list[Tensor],
        judged: FixedData,
        small: FixedData,
        *,
        lr: float,
        start: int,
        width: int,
        num_steps: int,
        tolerance: float,
        on_held_out: bool,
        seed: int,
    ) -> None:
        self.leaves, self.judged, self.small = leaves, judged, small
        self.start, self.width, self.num_steps = -(-start // UNROLLED) * UNROLLED, width, num_steps
        self.tolerance, self.on_held_out = tolerance, on_held_out
        self.decay_from = num_steps - max(1, round(DECAY * num_steps))
        self.sizes = [leaf.numel() for leaf in leaves]
        self.chosen = _choice(sum(self.sizes), seed) if sum(self.sizes) <= FEW_PARAMETERS else None
        self.rates: list[tuple[int, float]] = [(0, lr)]
        self.level_start = self.start
        self.tail = Tail()
        self.best: _Point | None = None
        self.best_at = 0
        self.previous: _Point | None = None
        self.history: list[tuple[int, Gain, Tensor]] = []
        self.checks: list[TailCheck] = []
        self.left = Gain(0.0, 0.0)
        self.averaging = Gain(math.nan, math.nan)
        self.ess = math.nan
        # The distance from the best of the guide's family, where something knows it, and what it last was.
        self.distance_of: Callable[[], Gain] | None = None
        self.distance = math.inf
        self.done = False

    # The schedule ------------------------------------------------------------------------------------

    def rate(self, step: int) -> float:
        """The learning rate of a step: the last level's; in the last tenth below the cap, half a cosine."""
        rate = next(rate for start, rate in reversed(self.rates) if start <= step)
        if step < self.decay_from:
            return rate
        return rate * cosine(step - self.decay_from, self.num_steps - self.decay_from, 0.01)

    def after(self, step: int) -> int:
        """The first step after ``step`` at which the rule wants to see the parameters."""
        if step >= self.decay_from:
            return self.num_steps
        if step < self.start:
            return min(self.start, self.decay_from)
        within = step - self.level_start
        stride = self._stride(within)
        end = self._boundary(within)
        return min(self.level_start + min(end, within + stride - within % stride), self.decay_from)

    def _boundary(self, within: int) -> int:
        return next(end * self.width for end in boundaries() if end * self.width > within)

    def _stride(self, within: int) -> int:
        """Steps between the iterates that are looked at: about a hundred iterates a segment."""
        segment = self._boundary(within) - max(
            (end * self.width for end in takewhile(lambda e: e * self.width <= within, boundaries())),
            default=0,
        )
        fewest = UNROLLED if self.chosen is not None else 2 * UNROLLED
        return max(fewest, segment // 100 // UNROLLED * UNROLLED)

    # What it sees ------------------------------------------------------------------------------------

    def see(self, step: int) -> None:
        """Look at the parameters after so many steps, and act where a segment ends."""
        within = step - self.level_start
        if self.done or within <= 0 or step > self.decay_from:
            return
        if within % self._stride(within - 1) == 0 or within == self._boundary(within - 1):
            self.tail.current.add(self.leaves, self._quantities())
        if within != self._boundary(within - 1):
            return
        self.tail.current.last = within
        if within >= 3 * self.width:
            self._check(step, within)
        if not self.done and step > self.level_start:
            self.tail.turn(within)

    def _quantities(self) -> Tensor:
        if self.chosen is None:
            return self.small.log_weights().mean(0)
        flat = torch.cat([leaf.detach().ravel() for leaf in self.leaves])
        return flat[self.chosen.to(flat.device)].double().cpu()

    def _elbo_at(self, values: list[Tensor]) -> Tensor:
        return self._at(values, lambda: self.judged.log_weights().mean(1))

    def _at(self, values: list[Tensor], look: Callable[[], Seen]) -> Seen:
        """What something sees where the parameters have these values."""
        kept = [leaf.detach().clone() for leaf in self.leaves]
        self._write(values)
        try:
            return look()
        finally:  # also where the time ends in between
            self._write(kept)

    @torch.no_grad()
    def _write(self, values: list[Tensor]) -> None:
        for leaf, value in zip(self.leaves, values, strict=True):
            leaf.copy_(value)

    # What it decides ---------------------------------------------------------------------------------

    def _check(self, step: int, within: int) -> None:
        tail = self.tail
        early, late = self._elbo_at(tail.before.mean), self._elbo_at(tail.current.mean)
        here = _Point(tail.average(), torch.empty(0), step)
        here.elbo = self._elbo_at(here.leaves)
        weight = tail.current.count / (tail.before.count + tail.current.count)
        # Both halves are off by their own Monte Carlo errors, whose variance is twice that of the
        # average: what the average wins over its halves is what its own error still costs.
        averaging = _mean(here.elbo - (1 - weight) * early - weight * late)
        rise = self._rise(here, early, late, within)
        earlier = next((gain for at, gain, _ in reversed(self.history) if 2 * at <= within), None)
        self.history.append((within, rise, here.elbo))
        ratio = doubling_ratio(rise, earlier)
        drift = expected_gain(rise, ratio)
        r_hat = tail.r_hat()
        if self.best is None or _mean(here.elbo - self.best.elbo).value > 0 or (
            not self.on_held_out and _same(here.elbo, self.best.elbo)
        ):  # fmt: skip
            self.best, self.best_at, self.averaging = here, within, averaging
            self.ess = tail.ess()
        falling = self._is_falling(here, within)
        slowed = earlier is not None and drift.value + drift.error <= self.tolerance / 2
        # At a rate that is far too small everything gains little: steadily.
        steady = self.previous is None and ratio > STEADY
        arrived = r_hat <= R_HAT_LIMIT or (slowed and not steady)
        if r_hat <= R_HAT_LIMIT:
            drift = Gain(max(0.0, rise.value), rise.error)
        level = self._level_gain()
        # A lower rate also slows what was still on its way at the rate before.
        ahead = Gain(self.left.value - level.value, self.left.error)
        drift = max(drift, ahead, key=lambda gain: gain.value)
        total = _total([level] if falling else [level, drift, averaging])
        action = self._action(arrived, falling, total, level)
        if self.distance_of is not None:
            action, total = self._by_distance(action, here, total)
        self.checks.append(TailCheck(
            step, len(self.rates) - 1, self.rates[-1][1], r_hat, _mean(here.elbo).value,
            _mean(here.elbo).error, total.value, total.error, action,
        ))  # fmt: skip
        if action == "stop":
            self.done = True
            self._write(self.best.leaves)
        elif action == "lower":
            self.left = Gain(0.0, 0.0) if falling or self.previous is not None else drift
            self._lower(step)

    def _action(self, arrived: bool, falling: bool, total: Gain, level: Gain) -> str:
        if not (arrived or falling):
            return "go on"
        small = total.value + total.error <= self.tolerance and (
            falling or _shift(self.averaging) <= MCSE_LIMIT
        )
        if self.previous is not None and small:
            return "stop"
        # Averages of the same length are no better at a lower rate: where the last lowering gained
        # little, longer ones are what is missing.
        if self.previous is not None and level.value + level.error <= self.tolerance / 2:
            return "go on"
        return "lower"

    def _by_distance(self, action: str, here: _Point, total: Gain) -> tuple[str, Gain]:
        """Stop where the best of the family is near; go on while it comes much nearer."""
        assert self.distance_of is not None
        far, before = self._at(here.leaves, self.distance_of), self.distance
        self.distance = far.value
        if far.value + 2 * far.error <= self.tolerance:
            self.best = here
            return "stop", Gain(max(far.value, 0.0), far.error)
        return ("go on" if far.value < NEARER * before else action), total

    def _is_falling(self, here: _Point, within: int) -> bool:
        """Whether the ELBO of held-out data is past its best."""
        if not self.on_held_out or self.best is None or here is self.best:
            return False
        fall = _mean(self.best.elbo - here.elbo)
        return fall.value - 2 * fall.error > (0.0 if within >= 2 * self.best_at else self.tolerance)

    def _rise(self, here: _Point, early: Tensor, late: Tensor, within: int) -> Gain:
        """What the last doubling of this level's steps has gained."""
        half = next((elbo for at, _, elbo in reversed(self.history) if 2 * at <= within), None)
        if half is not None:
            return _mean(here.elbo - half)
        doublings = math.log2(self.tail.current.centre / self.tail.before.centre)
        return _scaled(_mean(late - early), 1 / doublings)

    def _level_gain(self) -> Gain:
        """What the present rate has gained over the one before: further ones gain no more than that."""
        if self.previous is None or self.best is None:
            return Gain(0.0, math.inf)
        gain = _mean(self.best.elbo - self.previous.elbo)
        return Gain(max(0.0, gain.value), gain.error)

    def _lower(self, step: int) -> None:
        assert self.best is not None
        self._write(self.best.leaves)
        self.previous, self.best_at = self.best, 0
        self.rates.append((step, FACTOR * self.rates[-1][1]))
        self.level_start, self.tail, self.history = step, Tail(), []

    # The end -----------------------------------------------------------------------------------------

    def finish(self, step: int, late: bool = False) -> Stopping:
        """Put the best parameters in place where steps or time (``late``) ran out, and say what was found."""
        if not self.done and self.best is not None:
            at_end = self._elbo_at([leaf.detach().clone() for leaf in self.leaves])
            if _mean(self.best.elbo - at_end).value > 0:
                self._write(self.best.leaves)
        last = self.checks[-1] if self.checks else None
        gain = Gain(last.gain, last.gain_error) if last else Gain(math.nan, math.nan)
        return Stopping(
            checks=tuple(self.checks),
            step=step,
            converged=self.done,
            reason=self._reason(step, last, gain, late),
            expected_gain=gain.value,
            expected_gain_error=gain.error,
            mcse=_shift(self.averaging),
            ess=self.ess,
            tolerance=self.tolerance,
            judged_on="held-out data" if self.on_held_out else "training data",
        )

    def _reason(self, step: int, last: TailCheck | None, gain: Gain, late: bool) -> str:
        out = f"the time ran out after {step:,} steps" if late else f"the {step:,} steps ran out"
        on = " on held-out data" if self.on_held_out else ""
        if last is None:
            needed = self.start + 3 * self.width
            if late:
                return f"{out}, too few to judge convergence; the first check is after {needed:,}"
            return f"{step:,} steps are too few to judge convergence; the first check is after {needed:,}"
        expected = f"{gain.value:.2g} ± {gain.error:.1g} nats a unit{on} (tolerance {self.tolerance:g})"
        if self.done and self.on_held_out and self.best is not None and step > self.best.step:
            # What was gained and not kept is counted as nothing at all, without an error.
            gained = expected if gain.value or gain.error else f"nothing{on}"
            return (
                f"stopped after {step:,} steps: the ELBO of the held-out data was best around step "
                f"{self.best.step:,}, whose average is kept; a lower learning rate gained {gained}"
            )
        if self.done:
            return f"stopped after {step:,} steps: ten times as many are expected to gain {expected}"
        if not math.isfinite(gain.error):
            return (
                f"{out} at the first learning rate, before the iterates were stationary "
                f"(R-hat {last.r_hat:.2f}, limit {R_HAT_LIMIT}): ten times as many are expected to gain at "
                f"least {gain.value:.2g} nats a unit{on}"
            )
        if gain.value + gain.error > self.tolerance:
            return f"{out}: ten times as many are expected to gain {expected}"
        if _shift(self.averaging) > MCSE_LIMIT:
            return (
                f"{out} before the iterates' average was precise: its Monte Carlo error "
                f"is {_shift(self.averaging):.2f} sd of the guide (limit {MCSE_LIMIT:g})"
            )
        return (
            f"{out} before the iterates were stationary (R-hat {last.r_hat:.2f}, limit "
            f"{R_HAT_LIMIT}), though more are expected to gain {expected}"
        )

    # What a checkpoint holds -------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the rule's state, by name."""
        found = {f"tail/{name}": value for name, value in self.tail.tensors().items()}
        found |= {f"history/{number}": elbo for number, (_, _, elbo) in enumerate(self.history)}
        for name, point in (("best", self.best), ("previous", self.previous)):
            if point is not None:
                found[f"{name}/elbo"] = point.elbo.clone()
                found[f"{name}/step"] = torch.tensor(point.step)
                found |= {f"{name}/leaf/{n}": leaf.clone() for n, leaf in enumerate(point.leaves)}
        return found

    def about(self) -> str:
        """The rest of it, as JSON."""
        return json.dumps({
            "rates": self.rates, "level_start": self.level_start, "best_at": self.best_at,
            "rises": [[at, gain.value, gain.error] for at, gain, _ in self.history],
            "checks": [asdict(check) for check in self.checks],
            "left": [self.left.value, self.left.error],
            "averaging": [self.averaging.value, self.averaging.error], "ess": self.ess, "done": self.done,
            "distance": self.distance,
        })  # fmt: skip

    def load(self, tensors: dict[str, Tensor], about: str) -> None:
        """Put back what `tensors` and `about` gave.

        Raises:
            KeyError, ValueError: if something is missing.
        """
        content = json.loads(about)
        self.rates = [(start, rate) for start, rate in content["rates"]]
        self.level_start, self.best_at = content["level_start"], content["best_at"]
        self.history = [
            (at, Gain(value, error), tensors[f"history/{number}"])
            for number, (at, value, error) in enumerate(content["rises"])
        ]
        self.checks = [TailCheck(**check) for check in content["checks"]]
        self.left = Gain(*content["left"])
        self.averaging, self.ess = Gain(*content["averaging"]), content["ess"]
        self.distance, self.done = content.get("distance", math.inf), content["done"]
        self.tail = Tail.from_tensors(_under("tail/", tensors))
        self.best, self.previous = (self._point(_under(f"{name}/", tensors)) for name in ("best", "previous"))

    def _point(self, tensors: dict[str, Tensor]) -> _Point | None:
        if not tensors:
            return None
        leaves = [tensors[f"leaf/{n}"].to(leaf) for n, leaf in enumerate(self.leaves)]
        return _Point(leaves, tensors["elbo"], int(tensors["step"]))


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _choice(size: int, seed: int) -> Tensor:
    """Which parameters are looked at: all, or a fixed number of them."""
    if size <= MOST_QUANTITIES:
        return torch.arange(size)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(size, generator=generator)[:MOST_QUANTITIES].sort().values


def _shift(lost: Gain) -> float:
    """The shift of a Gaussian's mean, in its sd, that costs as many nats a unit."""
    return math.sqrt(2 * max(0.0, lost.value)) if lost.value == lost.value else math.nan


def _mean(values: Tensor) -> Gain:
    return Gain(values.mean().item(), values.std().item() / math.sqrt(len(values)))


def _same(a: Tensor, b: Tensor) -> bool:
    difference = _mean(a - b)
    return abs(difference.value) <= 2 * difference.error


def _scaled(gain: Gain, factor: float) -> Gain:
    return Gain(factor * gain.value, factor * gain.error)


def _total(gains: list[Gain]) -> Gain:
    """Sums of what each is expected to gain. Extrapolations count as uncertain by half their size."""
    value = sum(max(0.0, gain.value) for gain in gains)
    return Gain(value, math.hypot(*(gain.error for gain in gains)) + value / 2)
