"""What a chain of NUTS learns in its warm-up: a step size, and a metric in windows that double.

Sources: Hoffman and Gelman (2014), section 3.2, for the step size; Seyboldt, Carlson and Carpenter (2026),
for the scale of a coordinate by its variance over that of its gradient, exact for independent normals.
"""

import numpy as np

__all__ = ["Metric", "StepSize", "windows"]

Array = np.ndarray

# Dual averaging: strength, early damping and forgetting, as in the paper.
_GAMMA, _T0, _KAPPA = 0.05, 10.0, 0.75
# A dense metric of more coordinates than this is learnt from too few draws and costs too much.
_MOST_DENSE = 500
# The correlations of a window count as those of so many draws more that are uncorrelated.
_SHRINK = 10
# Of a window's smallest eigenvalue to its largest; shrunk ones of draws near the mode are far above.
_LEAST_ROOT = 1e-12


def windows(warmup: int) -> frozenset[int]:
    """Iterations after which the metric is learnt anew: 10, 20, 40 … more, until 85 % of the warm-up."""
    last = round(0.85 * warmup)
    ends, length = [10], 20
    while ends[-1] + length < last - length:
        ends.append(ends[-1] + length)
        length *= 2
    return frozenset(end for end in (*ends, last) if 4 <= end <= last)


class StepSize:
    """A step size under which proposals are accepted at a given rate.

    Args:
        target: the rate.
    """

    def __init__(self, target: float) -> None:
        self.target, self.size = target, 1.0
        self.restart()

    def restart(self) -> None:
        """Forget all but the present size."""
        self._centre, self._error, self._mean, self._count = np.log(10 * self.size), 0.0, 0.0, 0

    def learn(self, acceptance: float) -> None:
        """Take one trajectory's mean acceptance probability into account."""
        self._count += 1
        count = self._count
        self._error += (self.target - acceptance - self._error) / (count + _T0)
        log_size = self._centre - np.sqrt(count) / _GAMMA * self._error
        self._mean += count**-_KAPPA * (log_size - self._mean)
        self.size = float(np.exp(log_size))

    def finish(self) -> None:
        """Settle on the mean of the last sizes."""
        if self._count:
            self.size = float(np.exp(self._mean))


class Metric:
    """The inverse mass matrix, diagonal or dense.

    Args:
        dim: number of coordinates.
        dense: whether to learn correlations, of at most 500 coordinates.
    """

    def __init__(self, dim: int, dense: bool) -> None:
        self._dense = dense and 1 < dim <= _MOST_DENSE
        self._scale = np.ones(dim)
        self._factor: Array | None = None
        self._positions: list[Array] = []
        self._gradients: list[Array] = []

    def velocity(self, momentum: Array) -> Array:
        """The inverse mass times a momentum."""
        scaled = self._scale * momentum
        if self._factor is not None:
            scaled = self._factor @ (self._factor.T @ scaled)
        return np.asarray(self._scale * scaled)

    def momentum(self, rng: np.random.Generator) -> Array:
        """A draw of the momentum, N(0, mass)."""
        drawn = rng.standard_normal(len(self._scale))
        if self._factor is not None:
            drawn = np.linalg.solve(self._factor.T, drawn)
        return np.asarray(drawn / self._scale)

    def learn(self, position: Array, gradient: Array) -> None:
        """Take a draw into account."""
        self._positions.append(position)
        self._gradients.append(gradient)

    def update(self) -> bool:
        """Put what was learnt since the last update in force; False where the chain has not moved."""
        positions, gradients = np.array(self._positions), np.array(self._gradients)
        self._positions, self._gradients = [], []
        with np.errstate(all="ignore"):
            variance = np.sqrt(positions.var(0) / gradients.var(0))
        good = np.isfinite(variance) & (variance > 0)
        if not good.any():
            return False
        # A coordinate whose gradient says nothing takes the variance of its draws.
        spread = np.where(positions.var(0) > 0, positions.var(0), self._scale**2)
        self._scale = np.sqrt(np.clip(np.where(good, variance, spread), 1e-20, 1e20))
        if self._dense:
            scaled = (positions - positions.mean(0)) / self._scale
            count, dim = scaled.shape
            covariance = (scaled.T @ scaled + _SHRINK * np.eye(dim)) / (count + _SHRINK)
            roots = np.linalg.eigvalsh(covariance)
            # Draws on their way from far off are all but on a line: that says nothing of correlations.
            sound = roots[0] > _LEAST_ROOT * roots[-1]
            self._factor = np.linalg.cholesky(covariance) if sound else None
        return True
