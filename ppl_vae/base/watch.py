"""Single runs of a program that end when their time is over."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from ppl_vae.base.clock import check_time, time_left

__all__ = ["watched"]


class _Watch(TorchFunctionMode):
    """Looks at the clock before every operation of PyTorch's on tensors that Python calls.

    And at no other: ``no_grad`` and its kin put back what they changed by such calls, which must not fail.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if any(isinstance(value, Tensor | list | tuple) for value in args):
            check_time()
        return func(*args, **(kwargs or {}))


@contextmanager
def watched() -> Iterator[None]:
    """Let a block raise `OutOfTime` at any operation once the deadline that is in force has passed.

    For what runs a program a few times and may take long: looking costs about a microsecond an operation, too
    much for a loop, which looks once a turn. Without a deadline nothing is done.
    """
    if math.isinf(time_left()):
        yield
        return
    with _Watch():
        yield
