"""Random numbers that leave the caller's generator alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from operator import index
from typing import Any

import numpy as np

from ppl_vae.errors import InputError

__all__ = ["check_seed", "derived", "keep_generator", "seeded"]


def check_seed(seed: Any) -> int:
    """The seed, if generators take it.

    Raises:
        InputError: unless it is a whole number in [0, 2⁶³).
    """
    try:
        whole = index(seed)
    except TypeError:
        whole = -1
    if not 0 <= whole < 2**63:
        raise InputError(f"the seed is {seed!r}; it must be a whole number from 0 to 2⁶³ − 1")
    return whole


def derived(seed: int, *keys: int) -> int:
    """A seed for one part of a job, such as a chunk of its data, independent of those of other parts.

    Raises:
        InputError: if the seed is none.
    """
    high, low = np.random.SeedSequence([check_seed(seed), *keys]).generate_state(2)
    return (int(high) << 31) ^ int(low)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block under its own seed; the global generators are restored afterwards.

    Args:
        seed: any integer in [0, 2⁶³). The same seed gives the same numbers on the same machine and
            installation.

    Raises:
        InputError: if the seed is none.
    """
    import torch

    whole = check_seed(seed)
    with keep_generator():
        torch.manual_seed(whole)
        yield


@contextmanager
def keep_generator() -> Iterator[None]:
    """Run a block that may draw random numbers, and leave the generators as they were."""
    import torch

    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        yield
