"""When to stop SVI: R-hat of the iterates, averages of their tail, and what further steps would gain.

The learning rate stays constant until the iterates are stationary; their tail is averaged; the learning rate
falls by a factor, and so on, until what is still to be gained lies below a tolerance. Sources: Dhaka,
Catalina, Andersen, Magnusson, Huggins and Vehtari, "Robust, Accurate Stochastic Optimization for
Variational Inference", NeurIPS 2020; Welandawe, Andersen, Vehtari and Huggins, "A Framework for Improving
the Reliability of Black-box Variational Inference", JMLR 25 (2024). Departures: gains are differences of
the ELBO under common random numbers, and the averages' Monte Carlo error is measured in nats.
"""

import math
from dataclasses import dataclass

import numpy as np

from ppl_vae.base.plain import Plain

__all__ = [
    "Gain",
    "Stopping",
    "TailCheck",
    "doubling_ratio",
    "effective_sample_size",
    "expected_gain",
    "split_r_hat",
]

# Iterates whose split R-hat is above this are still on their way (Dhaka et al. 2020, section 4).
R_HAT_LIMIT = 1.1


@dataclass(frozen=True)
class TailCheck:
    """One look at the tail of the iterates. ELBOs and gains are in nats a unit.

    Attributes:
        step: after so many steps.
        level: how often the learning rate had been lowered.
        rate: the learning rate.
        r_hat: largest split R-hat over the tail (the window that is averaged).
        elbo: of the averaged parameters, under random numbers common to all checks.
        elbo_error: its Monte Carlo error; that of differences between checks is far smaller.
        gain: what going on is expected to gain, by `expected_gain`, and
        gain_error: the error of that; ∞ before the learning rate has been lowered once, since what lower
            rates gain is then unknown.
        action: "go on", "lower" (the learning rate) or "stop".
    """

    step: int
    level: int
    rate: float
    r_hat: float
    elbo: float
    elbo_error: float
    gain: float
    gain_error: float
    action: str


@dataclass(frozen=True)
class Stopping(Plain):
    """Why a fit ended where it did.

    Attributes:
        checks: every look at the iterates, in order.
        step: after which the fit ended.
        converged: whether the rule was met before the steps ran out.
        reason: one sentence with the numbers.
        expected_gain: nats a unit that ten times as many steps are expected to gain; NaN where there was
            no check. Half of it counts as uncertain.
        expected_gain_error: its error.
        mcse: Monte Carlo error of the averaged parameters, in sd of the guide: the shift of a Gaussian's
            mean that would cost as many nats, √(2 × nats). NaN where there was no check.
        ess: smallest effective sample size of an iterate's quantity over the averaged tail.
        tolerance: of the gain, in nats a unit.
        judged_on: "training data" or "held-out data".
    """

    INFINITE = None

    checks: tuple[TailCheck, ...]
    step: int
    converged: bool
    reason: str
    expected_gain: float
    expected_gain_error: float
    mcse: float
    ess: float
    tolerance: float
    judged_on: str


def split_r_hat(chains: np.ndarray) -> np.ndarray:
    """√(((n − 1)/n W + B/n) / W) of Gelman et al. (2013, equation 11.4), for parts of one sequence.

    Args:
        chains: parts of the sequences, shape (quantities, parts, draws).

    Returns:
        One value per quantity; 1 for a constant, ∞ where only the parts' means differ.
    """
    draws = chains.shape[-1]
    within = chains.var(-1, ddof=1).mean(-1)
    between = chains.mean(-1).var(-1, ddof=1)
    # Differences at the level of rounding are none.
    floor = (1e-12 * np.abs(chains).max((-2, -1))) ** 2
    within, between = np.where(within <= floor, 0.0, within), np.where(between <= floor, 0.0, between)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(between == 0, 0.0, between / within)
    return np.sqrt((draws - 1) / draws + ratio)


def effective_sample_size(chains: np.ndarray) -> np.ndarray:
    """Draws that would give the mean as precisely if they were independent (Geyer 1992; Gelman et al. 2013).

    The autocorrelations are those of equation 11.7, the differences between the parts' means included; their
    sum ends before the first negative sum of a pair.

    Args:
        chains: parts of the sequences, shape (quantities, parts, draws), none of them constant.

    Returns:
        One value per quantity, at most the number of draws in all.
    """
    _, parts, draws = chains.shape
    centred = chains - chains.mean(-1, keepdims=True)
    spectrum = np.fft.rfft(centred, 2 * draws, axis=-1)
    covariance = np.fft.irfft(np.abs(spectrum) ** 2, axis=-1)[..., :draws].mean(1) / draws
    within = covariance[:, :1] * draws / (draws - 1)
    total = covariance[:, :1] + chains.mean(-1).var(-1, ddof=1)[:, None]
    correlation = 1 - (within - covariance * draws / (draws - 1)) / total
    correlation[:, 0] = 1
    pairs = correlation[:, : draws // 2 * 2].reshape(len(chains), -1, 2).sum(-1)
    kept = np.minimum.accumulate(np.where(np.cumprod(pairs > 0, 1) > 0, pairs, 0.0), 1)
    return np.minimum(parts * draws, parts * draws / (2 * kept.sum(1) - 1).clip(1e-3))


@dataclass(frozen=True)
class Gain:
    """Nats a unit, and their error."""

    value: float
    error: float


def doubling_ratio(rise: Gain, earlier: Gain | None) -> float:
    """The gain of the last doubling of the steps over that of the one before, from 1/2 to 2.

    An ELBO that approaches its limit like 1/t has 1/2, one that rises like log t has 1, and one that rises by
    as much each step has 2. Where there was no doubling before, or one of the two is noise, it is 1.
    """
    if earlier is None or rise.value <= 2 * rise.error or earlier.value <= 2 * earlier.error:
        return 1.0
    return min(2.0, max(0.5, rise.value / earlier.value))


def expected_gain(rise: Gain, ratio: float) -> Gain:
    """What ten times as many steps would gain, where the last doubling gained ``rise``.

    The next doublings gain rise × ratio, rise × ratio², …; ten times as many steps are log₂ 10 = 3.32
    doublings.
    """
    doublings = math.log2(10)
    whole = int(doublings)
    factor = sum(ratio**k for k in range(1, whole + 1)) + (doublings - whole) * ratio ** (whole + 1)
    return Gain(factor * max(0.0, rise.value), factor * rise.error)
