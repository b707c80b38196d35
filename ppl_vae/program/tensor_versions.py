"""How often a tensor was changed in place, which PyTorch knows by a name that is not public."""

from torch import Tensor

__all__ = ["changes"]

VERSION = "_version"


def changes(values: Tensor) -> int | None:
    """How often a tensor was changed in place; None, which equals no count, where PyTorch does not say."""
    return getattr(values, VERSION, None)
