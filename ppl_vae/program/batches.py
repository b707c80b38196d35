"""Minibatches that depend only on a seed and the step, so that a resumed fit sees the same ones."""

import torch
from torch import Tensor

__all__ = ["Batches"]


class Batches:
    """Equal slices of concatenated random permutations of the data.

    Args:
        num_data: N.
        batch_size: B, or None for all the data at every step.
        seed: of the permutations; the permutation of an epoch depends on the seed and the epoch alone.
    """

    def __init__(self, num_data: int, batch_size: int | None, seed: int) -> None:
        self.num_data = num_data
        self.batch_size = None if batch_size is None or batch_size >= num_data else batch_size
        self.seed = seed
        self._cache: dict[int, Tensor] = {}

    def epoch(self, step: int) -> int:
        """The epoch that the first datum of a step belongs to."""
        return step if self.batch_size is None else step * self.batch_size // self.num_data

    def index(self, step: int) -> Tensor | None:
        """The indices of one step, shape (batch_size,), or None for all the data."""
        if self.batch_size is None:
            return None
        first, stop = step * self.batch_size, (step + 1) * self.batch_size
        parts = []
        while first < stop:
            epoch, offset = divmod(first, self.num_data)
            part = self._permutation(epoch)[offset : offset + stop - first]
            parts.append(part)
            first += len(part)
        return torch.cat(parts)

    def _permutation(self, epoch: int) -> Tensor:
        if epoch not in self._cache:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
            self._cache = {e: p for e, p in self._cache.items() if e == epoch - 1}
            self._cache[epoch] = torch.randperm(self.num_data, generator=generator)
        return self._cache[epoch]
