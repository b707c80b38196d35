"""Programs that close over float32 tensors, run in float64.

``X @ w`` fails where ``X`` is a float32 tensor that a program closes over and ``w`` a float64 latent, though
``X * w`` does not: arithmetic promotes, linear algebra and indexed assignment do not.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["Promoted"]


class Promoted(TorchFunctionMode):
    """Let operations that refuse float32 beside float64 compute in float64, as arithmetic does."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        try:
            return func(*args, **kwargs)
        except RuntimeError:
            seen: set[torch.dtype] = set()
            wide = _mapped((*args, kwargs), seen)
            if not {torch.float32, torch.float64} <= seen or _in_place(func, kwargs):
                raise
            return func(*wide[:-1], **wide[-1])


def _in_place(func: Callable[..., Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call would have changed a tensor, of which a copy is no use."""
    name = getattr(func, "__name__", "")
    if name.startswith("__"):
        return name == "__setitem__" or (name.startswith("__i") and name not in ("__index__", "__invert__"))
    return name.endswith("_") or "out" in kwargs


def _mapped(value: Any, seen: set[torch.dtype]) -> Any:
    """Arguments with their float32 tensors in float64, all types noted."""
    if isinstance(value, Tensor):
        seen.add(value.dtype)
        return value.double() if value.dtype == torch.float32 else value
    if isinstance(value, dict):
        return {name: _mapped(each, seen) for name, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_mapped(each, seen) for each in value)
    return value
