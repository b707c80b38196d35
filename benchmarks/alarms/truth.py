"""How wrong an answer is, measured from draws of the true posterior.

An answer is *good* where no error exceeds its tolerance, and *bad* where one exceeds it by half as much
again; between the two either verdict is right.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance

from benchmarks.alarms.problems import Problem, Refusal
from ppl_vae.inference import guide as guide_draws
from ppl_vae.program.pair import Pair, Program

__all__ = ["REFUSED", "TOLERANCES", "Errors", "Tolerances", "Truth", "errors", "outcome", "truth"]

Floats = NDArray[np.floating[Any]]
Outcome = Literal["right", "false alarm", "miss", "grey"]
# Directions with less of the reference's (correlation) variance than this are combinations of others.
REDUNDANT = 1e-8


@dataclass(frozen=True)
class Tolerances:
    """What an answer may be off by.

    Attributes:
        mean: of a quantity's mean, in reference sd.
        sd: factor on a quantity's sd.
        wasserstein: 1-Wasserstein distance of a quantity, in reference sd.
        variance: factor on the variance in the worst direction of the joint posterior.
        joint_mean: the mean's error in the reference's own metric (Mahalanobis).
        correlation: of any two quantities.
        bad: an error of so many tolerances is bad; up to 1 is good.
        share: of the units that are judged; the worst tenth of the rows of a data set is let pass.
    """

    mean: float = 0.2
    sd: float = 1.2
    wasserstein: float = 0.2
    variance: float = 2.0
    joint_mean: float = 0.5
    correlation: float = 0.3
    bad: float = 1.5
    share: float = 0.9


TOLERANCES = Tolerances()


@dataclass(frozen=True)
class Errors:
    """Errors of one answer in units of their tolerances, the worst of each kind."""

    mean: float
    sd: float
    wasserstein: float
    variance: float
    joint_mean: float
    correlation: float

    @property
    def score(self) -> float:
        """The worst of them."""
        return float(max(asdict(self).values()))

    @property
    def worst(self) -> str:
        """Which one that is."""
        found = asdict(self)
        return max(found, key=lambda name: found[name])


@dataclass(frozen=True)
class Truth:
    """What is true of a case.

    Attributes:
        raw: errors of the guide's own draws.
        reweighted: typical errors of ten thousand draws after importance weighting.
        efficiency: ESS of the weights over their number, the smallest of the units that are judged.
    """

    raw: Errors
    reweighted: Errors
    efficiency: float

    def label(self, errors: Errors) -> Literal["good", "grey", "bad"]:
        """Good, bad, or between."""
        if errors.score <= 1:
            return "good"
        return "bad" if errors.score > TOLERANCES.bad else "grey"

    @property
    def kind(self) -> Literal["good", "grey", "bad"]:
        """Of the guide's own draws."""
        return self.label(self.raw)


REFUSED = "refused"


def outcome(truth: Truth, verdict: str, refusal: Refusal = "wrong") -> Outcome:
    """Whether a verdict is right.

    A good answer must be trusted. A bad one must not; "reweight" is right unless reweighting leaves it bad.
    Refusing is right where it is one of the right answers or the only one (``refusal``). Where an answer was
    due it is wrong: a false alarm about a good one, and a miss of a bad one, of which it says nothing.
    """
    if refusal != "wrong" and verdict == REFUSED:
        return "right"
    if verdict == REFUSED and truth.kind == "bad":
        return "miss"
    if refusal == "required":
        return "miss" if verdict == "trust" else "false alarm"
    if truth.kind == "grey":
        return "grey"
    if truth.kind == "good":
        return "right" if verdict == "trust" else "false alarm"
    if verdict == "trust" or (verdict == "reweight" and truth.label(truth.reweighted) == "bad"):
        return "miss"
    return "right"


def truth(
    problem: Problem, guide: Program, num_draws: int | None = None, replicates: int = 5, seed: int = 11
) -> Truth:
    """Measure a guide by many draws, and its reweighted draws as they typically are.

    Weights of infinite variance make one reweighted answer a lottery ticket: of several independent ones the
    median counts. A guide that is a point has no weights, and nothing mends it.
    """
    num_draws = problem.draws if num_draws is None else num_draws
    pair, every = Pair(problem.model, guide), num_draws * replicates
    answer = guide_draws.draws(pair, *problem.data, num_draws=every, seed=seed)
    plate = problem.layout.unit_plate if problem.local else None
    own = _by_unit(problem.compared(answer.draws), plate)
    true = _by_unit(problem.truth(), plate)
    even = np.full(num_draws, 1 / num_draws)
    raw = _over_units(
        [errors(values[:num_draws], even, wanted) for values, wanted in zip(own, true, strict=True)]
    )
    if answer.log_weights is None or not all(np.ptp(values, 0).all() for values in own):
        return Truth(raw, raw, 0.0)
    log_weights = answer.log_weights.to_numpy()[0].reshape(every, -1)
    if log_weights.shape[1] == 1:
        log_weights = np.repeat(log_weights, len(own), 1)
    again, efficiency = [], []
    for first in range(0, every, num_draws):
        part = slice(first, first + num_draws)
        weights = _normalised(log_weights[part])
        found = [errors(own[u][part], weights[:, u], true[u]) for u in range(len(own))]
        again.append(_over_units(found))
        worth = 1 / (weights**2).sum(0) / num_draws
        efficiency.append(float(np.quantile(worth, 1 - TOLERANCES.share)))
    typical = sorted(again, key=lambda one: one.score)[len(again) // 2]
    return Truth(raw, typical, float(np.median(efficiency)))


def _normalised(log_weights: Floats) -> Floats:
    weights = np.exp(log_weights - log_weights.max(0))
    found: Floats = weights / weights.sum(0)
    return found


def _by_unit(draws: xr.Dataset, plate: str | None) -> list[Floats]:
    """Quantities by unit: arrays of shape (draws, quantities)."""
    joined = draws.stack(sample=("chain", "draw"))
    if plate is None:
        return [_matrix(joined)]
    return [_matrix(joined.isel({plate: u})) for u in range(joined.sizes[plate])]


def _matrix(draws: xr.Dataset) -> Floats:
    parts = [value.transpose("sample", ...).to_numpy() for value in draws.data_vars.values()]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], 1).astype(float)


def errors(values: Floats, weights: Floats, reference: Floats) -> Errors:
    """Errors of weighted draws (draws, quantities) against reference draws, in tolerances."""
    tolerance = TOLERANCES
    centre, sd = reference.mean(0), reference.std(0)
    own, true = (values - centre) / sd, (reference - centre) / sd
    mean, covariance = _moments(own, weights)
    wanted = np.cov(true.T, bias=True).reshape(len(sd), len(sd))
    spread = np.sqrt(covariance.diagonal())
    distances = [wasserstein_distance(own[:, k], true[:, k], weights) for k in range(len(sd))]
    ratios, shift = _joint(mean, covariance, wanted)
    return Errors(
        mean=float(np.abs(mean).max()) / tolerance.mean,
        sd=float(np.abs(np.log(np.maximum(spread, 1e-12))).max()) / np.log(tolerance.sd),
        wasserstein=max(distances) / tolerance.wasserstein,
        variance=float(np.abs(np.log(np.maximum(ratios, 1e-12))).max()) / np.log(tolerance.variance),
        joint_mean=shift / tolerance.joint_mean,
        correlation=_lost(covariance, wanted) / tolerance.correlation,
    )


def _moments(values: Floats, weights: Floats) -> tuple[Floats, Floats]:
    mean = weights @ values
    centred = values - mean
    return mean, (centred * weights[:, None]).T @ centred


def _joint(mean: Floats, covariance: Floats, wanted: Floats) -> tuple[Floats, float]:
    """Variance ratios in the generalised eigenvectors' directions, and the mean's Mahalanobis error."""
    eigenvalues, vectors = np.linalg.eigh(wanted)
    kept = eigenvalues > REDUNDANT * eigenvalues.max()
    whiten = vectors[:, kept] / np.sqrt(eigenvalues[kept])
    ratios = np.linalg.eigvalsh(whiten.T @ covariance @ whiten)
    return ratios, float(np.linalg.norm(whiten.T @ mean))


def _lost(covariance: Floats, wanted: Floats) -> float:
    spread = np.sqrt(np.maximum(covariance.diagonal(), 1e-24))
    return float(np.abs(covariance / np.outer(spread, spread) - wanted).max())


def _over_units(found: list[Errors]) -> Errors:
    columns: Mapping[str, list[float]] = {
        name: [asdict(one)[name] for one in found] for name in asdict(found[0])
    }
    if len(found) == 1:
        return found[0]
    return Errors(**{name: float(np.quantile(values, TOLERANCES.share)) for name, values in columns.items()})
