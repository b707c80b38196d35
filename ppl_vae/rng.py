"""Random numbers that leave the caller's generator alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["derived", "keep_generator", "seeded"]


def derived(seed: int, *keys: int) -> int:
    """A seed for one part of a job, such as a chunk of its data, independent of those of other parts."""
    high, low = np.random.SeedSequence([seed, *keys]).generate_state(2)
    return (int(high) << 31) ^ int(low)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block under its own seed; the global generators are restored afterwards.

    Args:
        seed: any integer in [0, 2⁶³). The same seed gives the same numbers on the same machine and
            installation.
    """
    with keep_generator():
        torch.manual_seed(seed)
        yield


@contextmanager
def keep_generator() -> Iterator[None]:
    """Run a block that may draw random numbers, and leave the generators as they were."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        yield
