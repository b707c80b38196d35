"""The first run of programs that make no parameter while they run: on a few entries of their plates."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

__all__ = ["first_entries", "made_whole"]

FEW = 64


def made_whole(*programs: Callable[..., Any]) -> bool:
    """Whether all say that they are: `made_whole` is an attribute of theirs that is True."""
    return all(getattr(program, "made_whole", False) is True for program in programs)


class _FirstEntries(Messenger):  # type: ignore[misc]
    """Give plates that take all of their entries a few of them."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not site_is_subsample(msg) or msg["done"] or msg["value"] is not None:
            return
        if msg["fn"].subsample_size is None:
            msg["value"], msg["done"] = torch.arange(min(FEW, msg["fn"].size)), True


@contextmanager
def first_entries(use: bool) -> Iterator[None]:
    """Run programs of a block on few entries: what a network computes of all data at once fills memory.

    Args:
        use: False to leave everything as it is.
    """
    if not use:
        yield
        return
    with _FirstEntries():
        yield
