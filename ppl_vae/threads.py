"""One thread for small work: below a few million multiplications, threads cost more than they bring."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["one_thread"]


@contextmanager
def one_thread(use: bool = True) -> Iterator[None]:
    """Run a block on one thread; the caller's setting is restored afterwards.

    Small operators lose time to threads even on an idle machine (NUTS on 273 games: 1.6 times), and
    many times that on a busy one, where threads wait for each other.

    Args:
        use: False to leave everything as it is.
    """
    before = torch.get_num_threads()
    if use:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
