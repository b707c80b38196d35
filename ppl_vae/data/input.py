"""What an input of a model is, and how a prepared variable becomes a tensor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ppl_vae.base.errors import InputError
from ppl_vae.data.dataset import Variable
from ppl_vae.data.precision import merged_columns

if TYPE_CHECKING:
    import torch

    from ppl_vae.data.matching import Search

__all__ = ["Input", "WholeInput", "as_reals", "as_whole", "tensor_of", "writable"]


@dataclass(frozen=True, kw_only=True)
class Input(ABC):
    """One input of a program.

    Attributes:
        observed: whether the program observes it, or is conditioned on it.
    """

    # Features take what other inputs leave, and masks are of what was found.
    turn: ClassVar[int] = 0
    observed: bool = True

    @abstractmethod
    def prepare(self, name: str, search: Search) -> Variable | None:
        """The variable that this input is, of the kind that it takes; None where the program does without.

        Args:
            name: the input's.
            search: the data set, and which of its variables are spoken for.

        Raises:
            InputError: where there is none, or none that will do.
        """

    def covers(self, name: str, inputs: Mapping[str, Input]) -> str:
        """The name of the other input whose missing values this one of that name tells; "" for none."""
        return ""

    def takes(self, name: str) -> bool:
        """Whether a user may name a column for this beside the input's own name."""
        return False

    def tensor(self, variable: Variable, where: str, dtype: torch.dtype) -> torch.Tensor:
        """A prepared variable as the program receives it.

        Args:
            variable: from `prepare`.
            where: what to call it in a sentence.
            dtype: of the program's reals.
        """
        return as_reals(variable, where, dtype)


@dataclass(frozen=True, kw_only=True)
class WholeInput(Input):
    """One whose values are whole numbers."""

    def tensor(self, variable: Variable, where: str, dtype: torch.dtype) -> torch.Tensor:
        """See `Input.tensor`: int64."""
        return as_whole(variable)


def as_whole(variable: Variable) -> torch.Tensor:
    """A variable as int64."""
    import torch

    return tensor_of(variable.values, torch.int64)


def as_reals(variable: Variable, where: str, dtype: torch.dtype) -> torch.Tensor:
    """Reals in the program's type, in memory that is shared where that is possible.

    Raises:
        InputError: for float32 that could not hold a column's values apart.
    """
    import torch

    values = variable.values
    if (
        dtype == torch.float32
        and not _is_constant(values)
        and len(merged := merged_columns(values.reshape(-1, _width(values))))
    ):
        name = next(
            (names[merged[0]] for names in variable.labels.values() if len(names) > merged[0]), "its values"
        )
        raise InputError(
            f"{where}, feature {name}: its values differ by less than float32, in which this model "
            "computes, can hold; "
            "standardise the features (--standardize)."
        )
    return tensor_of(values, dtype)


def tensor_of(values: NDArray[Any], dtype: torch.dtype) -> torch.Tensor:
    """A tensor that shares memory with an array where that is possible; of one number that is broadcast, such
    as that of games that all count once, one that is expanded."""
    import torch

    if _is_constant(values):
        return torch.full((1,) * values.ndim, values.flat[0].item(), dtype=dtype).expand(values.shape)
    return torch.as_tensor(writable(values), dtype=dtype)


def _is_constant(values: NDArray[Any]) -> bool:
    """Whether an array is one number in memory."""
    return values.size > 1 and not any(values.strides)


def _width(values: NDArray[Any]) -> int:
    return int(values.shape[-1]) if values.ndim > 1 else 1


def writable(values: NDArray[Any]) -> NDArray[Any]:
    """In memory that tensors may share: PyTorch warns about read-only arrays and refuses negative strides."""
    return np.require(values, requirements=["C", "W"])
