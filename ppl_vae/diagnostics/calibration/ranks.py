"""Ranks of true values among draws: are they uniform, by a simultaneous band for their ECDF.

Sources: Säilynoja, Bürkner and Vehtari, "Graphical test for discrete uniformity and its applications in
goodness-of-fit evaluation and multiple sample comparison" (2022), sections 2–3; Holm, "A simple sequentially
rejective multiple test procedure" (1979).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy.special import gammaln
from scipy.stats import binom

__all__ = ["Shape", "band", "describe", "evaluation_points", "holm", "p_value", "ranks"]

# The ECDF is looked at in at most so many points.
MOST_POINTS = 100
# Values of the pointwise statistic that differ by rounding alone are the same value.
ROUNDING = 1e-9

Shape = Literal["uniform", "too narrow", "too wide", "too low", "too high", "not uniform"]


def ranks(truth: np.ndarray, draws: np.ndarray, seed: int = 0) -> np.ndarray:
    """How many draws lie below each true value; ties are broken at random.

    Args:
        truth: shape (simulations, quantities).
        draws: shape (simulations, L, quantities).
        seed: of the ties.

    Returns:
        Integers from 0 to L, shape (simulations, quantities).
    """
    below = (draws < truth[:, None]).sum(1)
    ties = (draws == truth[:, None]).sum(1)
    return below + np.random.default_rng(seed).integers(0, ties, endpoint=True)


def evaluation_points(num_draws: int) -> np.ndarray:
    """The ranks k at which the ECDF is looked at: P(rank < k) is k/(L + 1) exactly, so ties do no harm."""
    count = min(num_draws, MOST_POINTS)
    return np.unique(np.round(np.arange(1, count + 1) * (num_draws + 1) / (count + 1)).astype(int))


def p_value(found: np.ndarray, num_draws: int) -> float:
    """The probability that ranks of a right answer leave a band that these ranks just touch.

    The statistic is the smallest two-sided binomial tail probability γ over the evaluation points; its
    distribution under uniformity is computed exactly, by a recursion over the points (Säilynoja et al.
    2022, algorithm 2).

    Args:
        found: ranks from 0 to L, shape (simulations,).
        num_draws: L.
    """
    points = evaluation_points(num_draws)
    counts = np.searchsorted(np.sort(found), points)  # how many ranks are below each point
    tails = _tails(len(found), num_draws)
    gamma = float(tails[np.arange(len(points)), counts].min())
    return float(np.clip(1.0 - _coverage(len(found), num_draws, gamma), 0.0, 1.0))


@lru_cache(maxsize=256)
def band(num_simulations: int, num_draws: int, level: float) -> tuple[np.ndarray, np.ndarray]:
    """The simultaneous band for the number of ranks below each evaluation point.

    A right answer leaves it, anywhere, with probability at most ``level``; ranks leave it exactly when
    `p_value` is at most ``level``.

    Returns:
        Smallest and largest count that are inside, each of shape (points,).
    """
    low, high = np.log(level) - np.log(MOST_POINTS) - 5.0, 0.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        if 1.0 - _coverage(num_simulations, num_draws, float(np.exp(middle))) <= level:
            low = middle
        else:
            high = middle
    return _limits(num_simulations, num_draws, float(np.exp(low)))


def holm(p_values: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Holm's correction for several quantities.

    Args:
        p_values: one a quantity.
        alpha: wanted probability of any false alarm at all.

    Returns:
        The adjusted p-values, and the level of each quantity's own test: a quantity fails exactly when its
        p-value is at most its level.
    """
    count = len(p_values)
    order = np.argsort(p_values, kind="stable")
    steps = count - np.arange(count)
    adjusted = np.minimum(np.maximum.accumulate(p_values[order] * steps), 1.0)
    failing = int((adjusted <= alpha).sum())
    # Once a quantity passes, those after it are held to the same level.
    levels = alpha / np.maximum(steps, count - failing)
    back = np.argsort(order, kind="stable")
    return adjusted[back], levels[back]


@dataclass(frozen=True)
class Described:
    """How ranks differ from uniform ones.

    Attributes:
        shape: in a word or two; "uniform" where the test is passed.
        shift: mean of the ranks as a fraction, less 1/2: positive where draws lie too low.
        spread: variance of the ranks relative to a uniform one's: above 1 where draws are too narrow.
    """

    shape: Shape
    shift: float
    spread: float


def describe(found: np.ndarray, num_draws: int, passed: bool) -> Described:
    """Say how ranks differ from uniform ones.

    Args:
        found: ranks from 0 to L, shape (simulations,).
        num_draws: L.
        passed: whether they are uniform as far as the test can see.
    """
    fraction = (found + 0.5) / (num_draws + 1)
    uniform = (1.0 - 1.0 / (num_draws + 1) ** 2) / 12
    shift, spread = float(fraction.mean() - 0.5), float(((fraction - 0.5) ** 2).mean() / uniform)
    size = np.sqrt(len(found))
    # Under uniformity a fraction has the standard deviation 1/√12, and its squared distance from 1/2, as a
    # multiple of 1/12, that of √(4/5).
    by_shift, by_spread = size * shift * np.sqrt(12), size * (spread - 1) / np.sqrt(0.8)
    shape: Shape
    if passed:
        shape = "uniform"
    elif max(abs(by_shift), abs(by_spread)) < 2:
        shape = "not uniform"
    elif abs(by_shift) >= abs(by_spread):
        shape = "too low" if shift > 0 else "too high"
    else:
        shape = "too narrow" if spread > 1 else "too wide"
    return Described(shape, shift, spread)


@lru_cache(maxsize=16)
def _tails(num_simulations: int, num_draws: int) -> np.ndarray:
    """2 min{P(R ≤ r), P(R ≥ r)} at every point and for every count r, shape (points, simulations + 1)."""
    counts = np.arange(num_simulations + 1)
    chance = evaluation_points(num_draws)[:, None] / (num_draws + 1)
    below = binom.cdf(counts, num_simulations, chance)
    above = binom.sf(counts - 1, num_simulations, chance)
    return 2.0 * np.minimum(below, above)


def _limits(num_simulations: int, num_draws: int, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest count at each point whose two-sided tail probability is above γ."""
    inside = _tails(num_simulations, num_draws) > gamma * (1 + ROUNDING)
    low = inside.argmax(1)
    high = inside.shape[1] - 1 - inside[:, ::-1].argmax(1)
    # A level so high that nothing is inside leaves the most probable count.
    empty = ~inside.any(1)
    middle = _tails(num_simulations, num_draws).argmax(1)
    return np.where(empty, middle + 1, low), np.where(empty, middle, high)


def _coverage(num_simulations: int, num_draws: int, gamma: float) -> float:
    """P(the ECDF of uniform ranks stays where every two-sided tail probability is above γ).

    Counts below successive points are a Markov chain: of the n − r ranks that are left, a binomial number
    falls between one point and the next.
    """
    low, high = _limits(num_simulations, num_draws, gamma)
    if (low > high).any():
        return 0.0
    log_factorial = gammaln(np.arange(num_simulations + 2) + 1.0)
    points = evaluation_points(num_draws) / (num_draws + 1)
    before, probability, last = np.array([0]), np.array([1.0]), 0.0
    for point, least, most in zip(points, low, high, strict=True):
        now = np.arange(least, most + 1)
        left = num_simulations - before[:, None]
        step = now - before[:, None]
        chance = (point - last) / (1.0 - last)
        possible = step >= 0
        step = np.where(possible, step, 0)
        rest = np.maximum(left - step, 0)
        log_mass = log_factorial[left] - log_factorial[step] - log_factorial[rest]
        log_mass += step * np.log(chance) + rest * np.log1p(-chance)
        probability = probability @ np.where(possible, np.exp(log_mass), 0.0)
        before, last = now, point
    return float(probability.sum())
