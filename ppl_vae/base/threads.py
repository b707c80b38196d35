"""One thread for small work: threads that wait for each other cost more than they bring."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["SMALL_WORK", "one_thread"]

# Below this many multiplications a step runs on one thread: a fixed function of the problem's size, so that
# the numbers do not depend on the number of cores. Two threads can halve a step's time at best; on two cores
# that others used too they multiplied it by 18 at 2^26 multiplications and by 4 at 2^28
# (`python -m benchmarks.threads`).
SMALL_WORK = 2**28


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
