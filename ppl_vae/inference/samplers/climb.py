"""The steps of L-BFGS up a log density, told as they are taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Slope", "climb"]

Slope = Callable[[Tensor], tuple[float, Tensor]]
"""A position (dim,) to the log density there and its gradient."""

# Relative gain of a step, and largest entry of the gradient, at which it stops (the paper's).
GAIN, AT_REST = 1e-13, 1e-8
# No posterior lies so far out in unconstrained space.
FAR = 1e10
LINE_SEARCH = 20


def climb(
    slope: Slope, start: Tensor, step: Callable[[Tensor, Tensor], None], *, history: int, max_iterations: int
) -> int:
    """Go up until there is no more to gain, the iterations are over, or the density leads out of all bounds.

    Args:
        slope: the log density and its gradient.
        start: of finite density, shape (dim,).
        step: called with every accepted position and the gradient there, the start among them.
        history: how many steps L-BFGS remembers.
        max_iterations: at most so many steps.

    Returns:
        The number of steps.
    """
    from scipy.optimize import minimize

    ascent = _Ascent(slope, start, step)
    found = minimize(
        ascent.objective,
        start.double().cpu().numpy(),
        jac=True,
        method="L-BFGS-B",
        callback=ascent.accept,
        options={
            "maxcor": history,
            "maxiter": max_iterations,
            "maxfun": LINE_SEARCH * max_iterations,
            "maxls": LINE_SEARCH,
            "ftol": GAIN,
            "gtol": AT_REST,
        },
    )
    return int(found.nit)


class _Ascent:
    """SciPy's view of a log density: minus it, and what to say where it is not finite."""

    def __init__(self, slope: Slope, start: Tensor, step: Callable[[Tensor, Tensor], None]) -> None:
        self.slope, self.step, self.like = slope, step, start
        # Since the last accepted step, by position.
        self.seen: dict[bytes, tuple[float, Tensor]] = {}
        self.last: tuple[NDArray[np.float64], float, NDArray[np.float64]] | None = None

    def objective(self, at: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        value, slope = self.slope(torch.from_numpy(at.copy()).to(self.like))
        if not (np.isfinite(value) and bool(slope.isfinite().all())):
            return self._too_far(at)
        self.seen[at.tobytes()] = value, slope
        if self.last is None:
            self._keep(at)
        return -value, -slope.double().cpu().numpy()

    def accept(self, intermediate_result: Any) -> None:
        """SciPy's callback, known to it by its argument's name."""
        at = intermediate_result.x
        self._keep(at)
        if np.abs(at).max() > FAR:
            raise StopIteration

    def _keep(self, at: NDArray[np.float64]) -> None:
        value, slope = self.seen[at.tobytes()]
        self.seen = {at.tobytes(): (value, slope)}
        self.last = at.copy(), -value, -slope.double().cpu().numpy()
        self.step(torch.from_numpy(at.copy()).to(self.like), slope)

    def _too_far(self, at: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """A parabola through the last accepted step, whose minimum is at a tenth of the way to here.

        Line searches interpolate: infinities would end them.
        """
        if self.last is None:
            return np.inf, np.zeros_like(at)
        before, value, slope = self.last
        step = at - before
        fall = abs(float(slope @ step))
        return value + 4 * fall, step * (9 * fall / max(float(step @ step), 1e-300))
