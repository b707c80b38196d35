"""What changes from step to step of a fit: learning rate, β, minibatches."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from ppl_vae.inference.fitting.adam import BETA1, BETA2
from ppl_vae.program.batches import Batches

__all__ = ["Schedule", "cosine"]


@dataclass(frozen=True, eq=False)
class Schedule:
    """What changes from step to step.

    Attributes:
        num_steps: of the whole fit.
        lr: the first step's learning rate.
        lr_end: the last step's, as a fraction of it.
        kl_warmup: steps over which β rises to 1.
        clip_norm: largest norm of a gradient, or None.
        batches: the entries of every step.
        levels: the learning rate of a step, where it depends on the fit's course and not on ``num_steps``.
    """

    num_steps: int
    lr: float
    lr_end: float
    kl_warmup: int
    clip_norm: float | None
    batches: Batches
    levels: Callable[[int], float] | None = None

    def rate(self, step: int) -> float:
        """The learning rate."""
        if self.levels is not None:
            return self.levels(step)
        return self.lr * cosine(step, self.num_steps, self.lr_end)

    def beta(self, step: int) -> float:
        """β. It starts above zero: at zero the guide's scale has no gradient and its entropy is lost."""
        return min(1.0, (step + 1) / self.kl_warmup) if self.kl_warmup else 1.0

    def corrections(self, step: int) -> tuple[float, float]:
        """Adam's step size with its first bias correction, and the root of its second."""
        count = step + 1
        return self.rate(step) / (1 - BETA1**count), math.sqrt(1 - BETA2**count)


def cosine(step: int, num_steps: int, end: float) -> float:
    """The learning rate's factor: 1 at the first step, ``end`` at the last, half a cosine between."""
    at = step / max(1, num_steps - 1)
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * at))
