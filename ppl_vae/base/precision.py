"""One precision for a computation: the data that it is given, and the tensors that are made in it.

What a program closes over can be cast by neither; see `program.promoted.Promoted`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = ["cast_data", "default_dtype"]


def cast_data(data: tuple[Any, ...], dtype: torch.dtype) -> tuple[Any, ...]:
    """Floating-point tensors in another precision; everything else as it is."""
    return tuple(
        values.to(dtype) if isinstance(values, Tensor) and values.is_floating_point() else values
        for values in data
    )


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Run a block in which new tensors have this precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
