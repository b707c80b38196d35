"""The tail of a fit's iterates: averages of the parameters and series of a few quantities, by segments."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ppl_vae.inference.fitting.stopping import effective_sample_size, split_r_hat

__all__ = ["Segment", "Tail", "average_in", "boundaries"]


def boundaries() -> Iterator[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, …: the last two segments are about half of what lies behind."""
    yield 1
    power = 2
    while True:
        yield power
        yield power + power // 2
        power *= 2


def average_in(means: list[Tensor], leaves: list[Tensor], count: int) -> None:
    """Take the ``count``-th iterate into the means of them all, in place; the first is copied."""
    if not means:
        means += [leaf.detach().clone() for leaf in leaves]
        return
    for mean, leaf in zip(means, leaves, strict=True):
        mean.add_((leaf.detach() - mean) / count)


@dataclass
class Segment:
    """Consecutive iterates: their mean, how many, and the quantities of each."""

    first: int = 0
    last: int = 0
    count: int = 0
    mean: list[Tensor] = field(default_factory=list)
    series: list[Tensor] = field(default_factory=list)

    def add(self, leaves: list[Tensor], quantities: Tensor) -> None:
        """Take one iterate in; ``leaves`` are copied."""
        self.count += 1
        average_in(self.mean, leaves, self.count)
        self.series.append(quantities)

    @property
    def centre(self) -> float:
        """The middle step, counted from where the segments began."""
        return (self.first + self.last) / 2


@dataclass
class Tail:
    """The last two segments of a stretch of constant learning rate; steps are counted from its start."""

    before: Segment = field(default_factory=Segment)
    current: Segment = field(default_factory=Segment)

    def turn(self, step: int) -> None:
        """End the current segment at a step and begin another."""
        self.current.last = step
        self.before, self.current = self.current, Segment(step, step)

    def average(self) -> list[Tensor]:
        """The mean of the parameters over both segments."""
        weight = self.current.count / (self.before.count + self.current.count)
        return [a + weight * (b - a) for a, b in zip(self.before.mean, self.current.mean, strict=True)]

    def chains(self) -> np.ndarray:
        """Each segment's quantities in two halves, shape (quantities, 4, draws)."""
        halves = []
        for segment in (self.before, self.current):
            values = torch.stack(segment.series, 1).numpy()
            half = values.shape[1] // 2
            halves += [values[:, :half], values[:, -half:]]
        draws = min(half.shape[1] for half in halves)
        # The longer segment is thinned: R-hat compares parts of equal length.
        places = [np.linspace(0, half.shape[1] - 1, draws).round().astype(int) for half in halves]
        return np.stack([half[:, at] for half, at in zip(halves, places, strict=True)], 1)

    def r_hat(self) -> float:
        """The largest split R-hat of the quantities; NaN without enough iterates."""
        chains = self.chains()
        return float(split_r_hat(chains).max()) if chains.shape[-1] > 1 else math.nan

    def ess(self) -> float:
        """The smallest effective sample size of the quantities that move."""
        chains = self.chains()
        moving = chains[np.ptp(chains, (1, 2)) > 0]
        if chains.shape[-1] < 4 or not len(moving):
            return math.nan
        return float(effective_sample_size(moving).min())

    # What a checkpoint holds -------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Everything, by name."""
        found = {}
        for name, segment in (("before", self.before), ("current", self.current)):
            about = [segment.first, segment.last, segment.count]
            found[f"{name}/about"] = torch.tensor(about, dtype=torch.int64)
            found |= {f"{name}/mean/{number}": mean for number, mean in enumerate(segment.mean)}
            if segment.series:
                found[f"{name}/series"] = torch.stack(segment.series)
        return found

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "Tail":
        """What `tensors` gave."""
        segments = []
        for name in ("before", "current"):
            first, last, count = tensors[f"{name}/about"].tolist()
            number = sum(key.startswith(f"{name}/mean/") for key in tensors)
            mean = [tensors[f"{name}/mean/{at}"].clone() for at in range(number)]
            series = list(tensors[f"{name}/series"]) if f"{name}/series" in tensors else []
            segments.append(Segment(first, last, count, mean, series))
        return cls(*segments)
