"""Running sums of importance weights: all that is kept of them, however many there are."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ppl_vae.answers.pareto import smoothed_tail, tail_length

__all__ = ["Running", "summarise"]


@dataclass(frozen=True, eq=False)
class Running:
    """Sums over the weights of one stratum, by unit, in float64 logs.

    Attributes:
        count: S, the number of weights so far.
        log_weight, log_square: log Σ w and log Σ w², (units,).
        sum_log: Σ log w, (units,).
        largest: the largest ~3√S log weights, (M + 1, units).
        curve: at S = 2, 4, 8, …: S, the sum over units of the log mean weight, and that of its variance.
    """

    count: int
    log_weight: Tensor
    log_square: Tensor
    sum_log: Tensor
    largest: Tensor
    curve: Tensor

    @classmethod
    def empty(cls, units: int) -> Self:
        """No weights yet."""
        nothing = torch.full((units,), -torch.inf, dtype=torch.float64)
        zero = torch.zeros(units, dtype=torch.float64)
        return cls(0, nothing, nothing, zero, nothing[None][:0], torch.zeros(0, 3, dtype=torch.float64))

    @classmethod
    def room(cls, count: int, units: int) -> Self:
        """Room for the sums of so many weights, to be `put` there chunk by chunk of units.

        One block of memory for all: small results that are kept between large passing ones would tear the
        heap to pieces.
        """
        largest = torch.empty(min(count, tail_length(count) + 1), units, dtype=torch.float64)
        weight, square, log = torch.empty(3, units, dtype=torch.float64)
        curve = torch.zeros(count.bit_length() - 1, 3, dtype=torch.float64)
        return cls(count, weight, square, log, largest, curve)

    def put(self, columns: slice, part: "Running") -> None:
        """Write the sums of some of the units."""
        for name in _BY_UNIT:
            getattr(self, name)[..., columns] = getattr(part, name)
        self.curve[:, 0] = part.curve[:, 0]
        self.curve[:, 1:] += part.curve[:, 1:]

    def take(self, columns: slice) -> "Running":
        """The sums of some of the units, without what the course has seen of the others."""
        weight, square, log, largest = (getattr(self, name)[..., columns] for name in _BY_UNIT)
        nothing = torch.zeros_like(self.curve)
        nothing[:, 0] = self.curve[:, 0]
        return Running(self.count, weight, square, log, largest, nothing)

    def plus(self, log_w: Tensor) -> "Running":
        """With more log weights, of shape (K, units)."""
        sums, done = self, 0
        while done < len(log_w):
            power = 2 ** max(1, sums.count.bit_length())
            part = log_w[done : done + power - sums.count]
            sums = sums._plus(part)
            done += len(part)
            if sums.count == power:
                sums = sums._noted()
        return sums

    def _plus(self, log_w: Tensor) -> "Running":
        count = self.count + len(log_w)
        return Running(
            count,
            torch.logaddexp(self.log_weight, log_w.logsumexp(0)),
            torch.logaddexp(self.log_square, (2 * log_w).logsumexp(0)),
            self.sum_log + log_w.sum(0),
            _largest(torch.cat([self.largest, log_w]), tail_length(count) + 1),
            self.curve,
        )

    def _noted(self) -> "Running":
        value = self.log_weight - math.log(self.count)
        error = (0.5 * self.log_variance() - self.log_weight).exp()
        point = torch.stack([value.new_tensor(self.count), value.sum(), error.square().sum()])
        curve = torch.cat([self.curve, point[None]])
        return Running(self.count, self.log_weight, self.log_square, self.sum_log, self.largest, curve)

    def log_variance(self) -> Tensor:
        """log Var(Σ w) = log[S/(S − 1) (Σ w² − (Σ w)²/S)], without leaving the log scale."""
        size = self.count
        log_mean_square = self.log_square - math.log(size)
        excess = 1 - (2 * (self.log_weight - math.log(size)) - log_mean_square).exp()
        return self.log_square + excess.clamp_min(0).log() + math.log(size / (size - 1))

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Everything as tensors by name, to be saved."""
        named = {name: getattr(self, name) for name in _NAMES}
        named["count"] = torch.tensor(self.count)
        return {f"{prefix}.{name}": tensor for name, tensor in named.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], prefix: str) -> Self:
        """What `tensors` gave."""
        return cls(int(tensors[f"{prefix}.count"]), *(tensors[f"{prefix}.{name}"] for name in _NAMES))


_BY_UNIT = ("log_weight", "log_square", "sum_log", "largest")
_NAMES = (*_BY_UNIT, "curve")


def summarise(running: Sequence[Running]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Estimates and diagnostics by unit, and the course of the mean over units.

    Args:
        running: sums by stratum. The variance of a sum over strata of fixed sizes is the sum of theirs.

    Returns:
        Columns by the names of `Evidence`, and its ``curve``; empty where there are several strata, which
        are drawn one after another.
    """
    found = {name: values.numpy() for name, values in _columns(running).items()}
    if len(running) > 1:
        return found, np.zeros((0, 3))
    units = len(found["log_evidence"])
    samples, value, variance = running[0].curve.numpy().T
    return found, np.column_stack([samples, value / units, np.sqrt(variance) / units])


def _columns(strata: Sequence[Running]) -> dict[str, Tensor]:
    count = sum(sums.count for sums in strata)
    log_weight, log_square, log_variance = (
        torch.stack(values).logsumexp(0)
        for values in (
            [sums.log_weight for sums in strata],
            [sums.log_square for sums in strata],
            [sums.log_variance() for sums in strata],
        )
    )
    largest = _largest(torch.cat([sums.largest for sums in strata]), tail_length(count) + 1)
    shape, raw, smooth = smoothed_tail(largest)
    # Σ w without its largest terms; nothing where they are all that counts.
    rest = log_weight + torch.log1p(-(raw - log_weight).exp().clamp_max(1.0))
    log_evidence = log_weight - math.log(count)
    return {
        "log_evidence": log_evidence,
        "std_error": (0.5 * log_variance - log_weight).exp(),
        "ess": (2 * log_weight - log_square).exp(),
        "pareto_k": shape,
        "elbo": torch.stack([sums.sum_log for sums in strata]).sum(0) / count,
        "smoothed": torch.logaddexp(rest, smooth) - math.log(count),
    }


def _largest(log_w: Tensor, keep: int) -> Tensor:
    return log_w if len(log_w) <= keep else log_w.topk(keep, dim=0).values
