"""Random numbers that leave the caller's generator alone."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.base.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["check_seed", "derived", "generator_state", "keep_generator", "restore_generator", "seeded"]


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


def derived(seed: int, *keys: int | str) -> int:
    """A seed for one part of a job, such as a chunk of its data, independent of those of other parts.

    Args:
        seed: of the job.
        keys: what the part is called, in numbers or names: never its place among parts that may be chosen or
            ordered otherwise.

    Raises:
        InputError: if the seed is none.
    """
    numbers = [zlib.crc32(key.encode()) if isinstance(key, str) else key for key in keys]
    high, low = np.random.SeedSequence([check_seed(seed), *numbers]).generate_state(2)
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


def generator_state() -> dict[str, Tensor]:
    """Where the global generators are: ``rng``, and ``rng_cuda`` of the present device if it is in use."""
    import torch

    found = {"rng": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        found["rng_cuda"] = torch.cuda.get_rng_state()
    return found


def restore_generator(state: Mapping[str, Tensor]) -> None:
    """Put the global generators to where `generator_state` found them."""
    import torch

    torch.set_rng_state(state["rng"])
    if "rng_cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["rng_cuda"])
