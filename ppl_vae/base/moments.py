"""The standard deviation of values that may all be the same."""

import numpy as np

__all__ = ["standard_deviation"]


def standard_deviation(values: np.ndarray, axis: int | None = None, ddof: int = 0) -> np.ndarray:
    """Exactly zero where all values are the same: their mean is rounded, and NumPy's is then about 1e-17.

    What does not move has no R-hat, effective size or correlation, and is told from what does by that zero.

    Args:
        values: of any shape.
        axis: along which; over all values by default.
        ddof: what is taken from their number.
    """
    first = values.reshape(-1)[:1] if axis is None else values.take([0], axis)
    # Draws that overflowed have no spread; they are reported as such and not warned about.
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where((values == first).all(axis), 0.0, values.std(axis, ddof=ddof))
