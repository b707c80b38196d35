"""Whether float32 and float64 can hold data: times in seconds and long numbers lose their differences."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["held_exactly", "merged_columns"]

# Rounding errors above this share of a column's standard deviation are no longer small change.
_SHARE = 1e-4
# Below this share not even neighbours can have become equal.
_SMALL = 1e-6
# Share of distinct values that may become equal: in dense data some do, in any precision.
_MERGED, _DENSE = 0.01, 2.0**22


def merged_columns(values: NDArray[np.generic]) -> NDArray[np.int64]:
    """Columns whose values float32 cannot hold apart.

    A column is one where whole numbers that differ become equal, where more other values do than would by
    chance, or where rounding moves values by more than 10⁻⁴ of their standard deviation.

    Args:
        values: reals of shape (rows, columns); others than finite ones are left out.

    Returns:
        Positions of these columns, in order.
    """
    if values.dtype.kind not in "iuf" or values.dtype.itemsize < 4 or values.dtype == np.float32:
        return np.array([], dtype=np.int64)
    found = [column for column in range(values.shape[1]) if _merges(values[:, column])]
    return np.array(found, dtype=np.int64)


def _merges(column: NDArray[np.generic]) -> bool:
    exact = column.astype(np.float64)
    exact = exact[np.isfinite(exact)]
    if not exact.size:
        return False
    with np.errstate(over="ignore"):
        rounded = exact.astype(np.float32)
    if not np.isfinite(rounded).all():
        return True
    spread = float(exact.max()) - float(exact.min())
    if spread == 0:
        return False
    error = float(np.abs(exact - rounded).max())
    deviation = float(np.std((exact - exact.min()) / spread)) * spread
    if error > _SHARE * deviation:
        return True
    whole = column.dtype.kind in "iu" or bool(np.all(exact == np.round(exact)))
    # Rounding that is smaller than this cannot make neighbours equal; sorting is not needed to know it.
    if error <= (0 if whole else _SMALL * deviation):
        return False
    distinct = len(np.unique(exact))
    merged = 1 - len(np.unique(rounded)) / distinct
    return merged > (0 if whole else _MERGED + distinct / _DENSE)


def held_exactly(whole: NDArray[Any]) -> bool:
    """Whether float64 holds each of these whole numbers."""
    if not whole.size or max(abs(int(whole.min())), abs(int(whole.max()))) <= 2**53:
        return True
    return all(int(float(value)) == value for value in whole.ravel().tolist())
