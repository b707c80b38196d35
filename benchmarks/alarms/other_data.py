"""Simulated data of five models whose truth comes from another sampler; needs neither torch nor JAX."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DATA"]

Floats = NDArray[np.floating[Any]]


def _mixed() -> dict[str, Floats]:
    """Six measurements of each of eight groups."""
    rng = np.random.default_rng(71)
    group = np.repeat(np.arange(8), 6)
    x = rng.normal(size=48)
    y = 1 + 0.8 * rng.normal(size=8)[group] - 0.5 * x + 0.7 * rng.normal(size=48)
    return {"x": x, "y": y, "member": np.eye(8)[group]}


def _garch() -> dict[str, Floats]:
    """Sixty returns whose variance remembers."""
    rng = np.random.default_rng(72)
    y, variance = [], 0.5
    for noise in rng.normal(size=60):
        y.append(0.1 + variance**0.5 * noise)
        variance = 0.1 + 0.25 * (y[-1] - 0.1) ** 2 + 0.65 * variance
    return {"y": np.array(y)}


def _censored() -> dict[str, Floats]:
    """Logarithms of survival times, the study's end, and whether the end came first."""
    rng = np.random.default_rng(73)
    x = rng.normal(size=40)
    time = 1 + 0.6 * x + 0.8 * rng.normal(size=40)
    return {"x": x, "y": np.minimum(time, 1.4), "late": (time > 1.4).astype(float)}


def _horseshoe() -> dict[str, Floats]:
    """Six predictors, two of which matter."""
    rng = np.random.default_rng(74)
    x = rng.normal(size=(40, 6))
    return {"x": x, "y": x @ np.array([2.0, -1.0, 0, 0, 0, 0]) + rng.normal(size=40)}


def _level() -> dict[str, Floats]:
    """A random walk of 20 steps seen through noise, both sizes unknown."""
    rng = np.random.default_rng(75)
    return {"y": np.cumsum(0.6 * rng.normal(size=20)) + 0.5 * rng.normal(size=20)}


DATA: Mapping[str, Callable[[], dict[str, Floats]]] = {
    "mixed": _mixed,
    "garch": _garch,
    "censored": _censored,
    "horseshoe": _horseshoe,
    "unknown_level": _level,
}
