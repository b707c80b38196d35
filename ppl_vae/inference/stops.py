"""The steps of a fit after which something beside a step happens."""

from dataclasses import dataclass

from ppl_vae.inference.batches import Batches
from ppl_vae.inference.rule import Rule
from ppl_vae.inference.unrolled import UNROLLED

__all__ = ["Stops"]


@dataclass(frozen=True)
class Stops:
    """The steps after which something beside a step happens: a fixed set, wherever a fit is resumed."""

    num_steps: int
    every: list[int]
    once: list[int]
    average_from: int
    epochs: Batches | None
    rule: Rule | None

    def after(self, step: int) -> int:
        """The first of them after ``step``."""
        found = [self.num_steps, *(stop for stop in self.once if stop > step)]
        periods = [*self.every, *([UNROLLED] if step >= self.average_from else [])]
        found += [(step // period + 1) * period for period in periods]
        if self.rule is not None:
            found.append(self.rule.after(step))
        stop = min(found)
        if self.epochs is not None:
            epoch = self.epochs.epoch(step)
            stop = next((s for s in range(step + 1, stop) if self.epochs.epoch(s) != epoch), stop)
        return stop
