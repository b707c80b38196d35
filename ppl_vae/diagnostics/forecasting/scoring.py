"""How good probabilistic forecasts were: log loss, Brier score, accuracy and calibration, beside base rates.

With p_nk the probability of outcome k of event n, and y_nk whether it happened:

log loss = −(1/N) Σ_n log Σ_k y_nk p_nk,   Brier = (1/N) Σ_n Σ_k (p_nk − y_nk)²,

both proper: no other forecast than one's belief makes them smaller in expectation. Accuracy counts events
whose most probable outcome happened; outcomes that share the first place share the event. The calibration
error is (1/NK) Σ_b |Σ_{(n,k) in bin b} (p_nk − y_nk)| over bins of all probabilities of all outcomes. It is
positive even for forecasts that are right, so that what such would have is simulated beside it.

Sources: Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78
(1950); Gneiting and Raftery, "Strictly proper scoring rules, prediction, and estimation", JASA 102 (2007);
Naeini, Cooper and Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015;
Bröcker and Smith, "Increasing the reliability of reliability diagrams", Weather and Forecasting 22 (2007),
for the bands of forecasts that are right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppl_vae.base.arguments import check_whole
from ppl_vae.base.errors import InputError
from ppl_vae.base.saved import Saved
from ppl_vae.base.wording import shown_error
from ppl_vae.diagnostics.forecasting.forecasts import Forecasts

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ForecastScores", "log_losses", "score_forecasts"]

# Central part of the bands.
BAND = (0.05, 0.95)
# Numbers drawn for one band: more events have fewer replicates, and narrower bands that need fewer.
MOST_DRAWS, FEWEST_REPLICATES = 2 * 10**8, 100

Floats = NDArray[np.float64]
Bins = Literal["uniform", "quantile"]


@dataclass(frozen=True, eq=False, repr=False)
class ForecastScores(Saved):
    """Scores of forecasts of later events.

    Attributes:
        table: a row a score (``log loss``, ``Brier``, ``accuracy``, ``calibration error``): its ``value``,
            ``std_error`` between clusters of events, ``low`` and ``high`` (5 % and 95 %), that of the
            ``base`` rates, how much ``better`` than them (positive is better) and ``better_std_error`` of the
            paired difference. NaN where there is none.
        curve: a row a bin of the calibration curve that holds any probability: the mean ``forecast``, the
            ``observed`` frequency with ``low`` and ``high`` (bootstrap), ``right_low`` and ``right_high``,
            between which the frequency would lie with right forecasts (5 % and 95 %), and the ``count``.
        num_events: how many events.
        right_error: the mean calibration error that right forecasts of these events would have.
        right_error_high: what they would exceed in one case of twenty.
        mode: "frozen", or "walk-forward" where every event was forecast from all before it.
        notes: what has to be said about the numbers, in sentences.
    """

    table: pd.DataFrame
    curve: pd.DataFrame
    num_events: int
    right_error: float
    right_error_high: float
    mode: str = "frozen"
    notes: tuple[str, ...] = ()

    def __getitem__(self, score: str) -> float:
        """A score by its name in the table."""
        return float(self.table.loc[score, "value"])

    def sentence(self) -> str:
        """What was found, in two sentences."""
        row = self.table.loc["log loss"]
        error = shown_error(row["std_error"], 4)
        text = f"Log loss {row['value']:.4f} ± {error} nats an event over {self.num_events:,} later events"
        if row["better"] == row["better"]:
            beside = "better" if row["better"] >= 0 else "worse"
            paired = shown_error(row["better_std_error"], 4)
            text += f", {abs(row['better']):.4f} ± {paired} {beside} than base rates"
        found = self["calibration error"]
        said = "no more than" if found <= self.right_error_high else "more than"
        return (
            f"{text}. Probabilities are off by {found:.3f} on average, {said} chance explains (right "
            f"forecasts: {self.right_error:.3f}, and below {self.right_error_high:.3f} in 95 %)."
        )


def score_forecasts(
    forecasts: Forecasts,
    *,
    base: ArrayLike | None = None,
    mode: str = "frozen",
    num_bins: int = 10,
    bins: Bins = "uniform",
    num_bootstrap: int = 1000,
    seed: int = 0,
) -> ForecastScores:
    """Score forecasts of events that nothing was learnt from.

    Args:
        forecasts: probabilities and what happened.
        base: the forecasts to stand beside, of shape (K,) or (events, K), such as `base_rates`.
        mode: "frozen" or "walk-forward"; it is told.
        num_bins: bins of the calibration curve.
        bins: "uniform" of equal width, or "quantile" of equally many probabilities.
        num_bootstrap: replicates behind the bands, of the clusters of events; fewer for very many events.
        seed: of them.

    Raises:
        InputError: for base rates of another shape, or numbers out of range.
    """
    check_whole(2, num_bins=num_bins, num_bootstrap=num_bootstrap)
    if bins not in ("uniform", "quantile"):
        raise InputError(f"bins is {bins!r}; it is uniform or quantile")
    beside = None if base is None else _beside(forecasts, base)
    binned = _Binned.of(forecasts, num_bins, bins)
    replicates = int(np.clip(MOST_DRAWS // len(forecasts), FEWEST_REPLICATES, num_bootstrap))
    rng = np.random.default_rng(seed)
    errors, frequencies = binned.bootstrap(replicates, rng)
    right_errors, right_frequencies = binned.if_right(replicates, rng)
    return ForecastScores(
        table=_table(forecasts, beside, binned, errors),
        curve=_curve(binned, frequencies, right_frequencies),
        num_events=len(forecasts),
        right_error=float(right_errors.mean()),
        right_error_high=float(np.quantile(right_errors, 0.95)),
        mode=mode,
        notes=_notes(forecasts),
    )


def log_losses(forecasts: Forecasts) -> Floats:
    """−log of the probability of what happened, in nats, shape (events,); ∞ for what was impossible."""
    with np.errstate(divide="ignore"):
        return -np.log(forecasts.probability[np.arange(len(forecasts)), forecasts.outcome])


def _brier(forecasts: Forecasts) -> Floats:
    return np.square(forecasts.probability - forecasts.happened).sum(1)


def _hits(forecasts: Forecasts) -> Floats:
    """1 where the most probable outcome happened; a share of it where several are the most probable."""
    best = forecasts.probability == forecasts.probability.max(1, keepdims=True)
    return (best * forecasts.happened).sum(1) / best.sum(1)


# The scores by event, and whether less is better.
BY_EVENT = {"log loss": (log_losses, True), "Brier": (_brier, True), "accuracy": (_hits, False)}


def _beside(forecasts: Forecasts, base: ArrayLike) -> Forecasts:
    """Base rates as forecasts of the same events."""
    rates = np.asarray(base, dtype=np.float64)
    shape = forecasts.probability.shape
    if rates.shape not in (shape, shape[1:]):
        raise InputError(f"base rates have shape {rates.shape}; the forecasts' is {shape}")
    rates = np.broadcast_to(rates, shape)
    return Forecasts.of(rates, forecasts.outcome, size=forecasts.size, cluster=forecasts.cluster)


def _table(forecasts: Forecasts, beside: Forecasts | None, binned: _Binned, errors: Floats) -> pd.DataFrame:
    import pandas as pd

    z = 1.6448536269514722
    rows = {}
    for name, (score, less) in BY_EVENT.items():
        values = score(forecasts)
        mean, error = _mean(values, forecasts.cluster)
        row = {"value": mean, "std_error": error, "low": mean - z * error, "high": mean + z * error}
        if beside is not None:
            others = score(beside)
            gained = others - values if less else values - others
            better, paired = _mean(gained, forecasts.cluster)
            row |= {"base": float(others.mean()), "better": better, "better_std_error": paired}
        rows[name] = row
    low, high = np.quantile(errors, BAND)
    rows["calibration error"] = {
        "value": binned.error, "std_error": float(errors.std(ddof=1)), "low": low, "high": high,
    }  # fmt: skip
    columns = ["value", "std_error", "low", "high", "base", "better", "better_std_error"]
    table = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=columns)
    return table.rename_axis("score").astype(np.float64)


def _mean(values: Floats, cluster: NDArray[np.int64]) -> tuple[float, float]:
    """A mean over events and its standard error between their clusters; infinite where a value is."""
    mean = float(values.mean())
    if not np.isfinite(mean):
        return mean, float("nan")
    sums = np.bincount(cluster, values - mean)
    count = len(sums)
    if count < 2:
        return mean, float("nan")
    return mean, float(np.sqrt(np.square(sums).sum() * count / (count - 1)) / len(values))


@dataclass(frozen=True, eq=False)
class _Binned:
    """Probabilities and outcomes in bins.

    Attributes:
        forecasts: whose.
        bin: which bin each probability is in, shape (events, K); that of columns that are no outcome is past
            the last.
        count, forecast, happened: how many probabilities each bin holds, their sum, and of how many the
            outcome happened, by cluster: shape (clusters, bins).
    """

    forecasts: Forecasts
    bin: NDArray[np.int64]
    count: Floats
    forecast: Floats
    happened: Floats

    @classmethod
    def of(cls, forecasts: Forecasts, num_bins: int, kind: Bins) -> _Binned:
        inside = forecasts.possible
        if kind == "uniform":
            edges = np.linspace(0.0, 1.0, num_bins + 1)
        else:
            edges = np.quantile(forecasts.probability[inside], np.linspace(0.0, 1.0, num_bins + 1))
        # A probability on an edge is in the bin below it, as scikit-learn has it.
        place = np.searchsorted(edges[1:-1], forecasts.probability, side="left")
        place = np.where(inside, place, num_bins)
        values = (inside.astype(np.float64), forecasts.probability, forecasts.happened)
        sums = (_by_cluster(forecasts.cluster, place, value, num_bins) for value in values)
        return cls(forecasts, place, *sums)

    @property
    def error(self) -> float:
        """The calibration error."""
        return float(np.abs((self.forecast - self.happened).sum(0)).sum() / self.count.sum())

    def bootstrap(self, replicates: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Calibration errors, and frequencies by bin, of clusters drawn with replacement.

        Returns:
            Shapes (replicates,) and (replicates, bins); NaN for bins that a replicate has nothing in.
        """
        clusters = len(self.count)
        errors, frequencies = np.empty(replicates), np.empty((replicates, self.count.shape[1]))
        for at in range(replicates):
            times = np.bincount(rng.integers(clusters, size=clusters), minlength=clusters).astype(np.float64)
            count, forecast, happened = (times @ sums for sums in (self.count, self.forecast, self.happened))
            errors[at] = np.abs(forecast - happened).sum() / count.sum()
            frequencies[at] = _shares(happened, count)
        return errors, frequencies

    def if_right(self, replicates: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """The same where outcomes are drawn from the forecasts themselves, events apart from each other."""
        num_bins, events = self.count.shape[1], np.arange(len(self.forecasts))
        upto = self.forecasts.probability.cumsum(1)
        count, forecast = self.count.sum(0), self.forecast.sum(0)
        errors, frequencies = np.empty(replicates), np.empty((replicates, num_bins))
        for at in range(replicates):
            # The last outcome takes what rounding leaves.
            drawn = np.minimum((upto < rng.random(len(events))[:, None]).sum(1), self.forecasts.size - 1)
            happened = np.bincount(self.bin[events, drawn], minlength=num_bins + 1)[:num_bins]
            errors[at] = np.abs(forecast - happened).sum() / count.sum()
            frequencies[at] = _shares(happened, count)
        return errors, frequencies


def _by_cluster(
    cluster: NDArray[np.int64], place: NDArray[np.int64], values: Floats, num_bins: int
) -> Floats:
    """Sums by cluster and bin, shape (clusters, bins)."""
    clusters = int(cluster.max()) + 1
    flat = cluster[:, None] * (num_bins + 1) + place
    size = clusters * (num_bins + 1)
    sums = np.bincount(flat.ravel(), weights=values.ravel(), minlength=size).astype(np.float64)
    return sums.reshape(clusters, num_bins + 1)[:, :num_bins]


def _shares(happened: NDArray[np.generic], count: Floats) -> Floats:
    return np.divide(happened, count, out=np.full(len(count), np.nan), where=count > 0)


def _curve(binned: _Binned, frequencies: Floats, right: Floats) -> pd.DataFrame:
    import pandas as pd

    count = binned.count.sum(0)
    held = count > 0
    bands = [np.nanquantile(each[:, held], BAND, axis=0) for each in (frequencies, right)]
    (low, high), (right_low, right_high) = bands
    return pd.DataFrame(
        {
            "forecast": binned.forecast.sum(0)[held] / count[held],
            "observed": binned.happened.sum(0)[held] / count[held],
            "low": low, "high": high, "right_low": right_low, "right_high": right_high,
            "count": count[held].astype(np.int64),
        }
    )  # fmt: skip


def _notes(forecasts: Forecasts) -> tuple[str, ...]:
    """What the numbers do not tell by themselves."""
    notes = []
    if missed := int(np.isinf(log_losses(forecasts)).sum()):
        events = "1 event" if missed == 1 else f"{missed} events"
        notes.append(f"{events} had an outcome whose probability was 0, so that the log loss is infinite")
    if forecasts.cluster.max() + 1 < len(forecasts):
        notes.append(
            "events of one cluster depend on each other: errors are between clusters, and what right "
            "forecasts would have is too narrow"
        )
    return tuple(notes)
