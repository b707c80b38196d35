"""The Monte Carlo error of a standard deviation of draws by chains."""

from typing import Any

import numpy as np
from arviz_stats.base import array_stats
from numpy.typing import NDArray

__all__ = ["sd_error"]


def sd_error(values: NDArray[np.floating[Any]]) -> float:
    """By the delta method from squared deviations and their own effective number of draws.

    ArviZ's ``mcse(method="sd")`` (1.1) takes the effective number of draws of the values themselves. Chains
    of NUTS are antithetic, so that there are more of these than draws, while squares gain nothing: on a
    normal posterior it is too small by half.

    Args:
        values: draws, shape (chains, draws).
    """
    squares = np.square(values - values.mean())
    effective = float(array_stats.ess(squares, method="mean"))
    return float(np.sqrt(squares.var() / effective) / (2 * values.std()))
