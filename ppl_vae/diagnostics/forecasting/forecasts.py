"""What was forecast of events, by probabilities, beside what happened, and what both are checked for.

An event has K possible outcomes: a game between two sides is won, drawn or lost, a race is won by one of its
starters. Forecasts are scored on events that are later than all that was learnt from: scores of events that
were chosen at random from among those learnt from say little about the future, since skills are then known
from both sides of every date.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ppl_vae.base.errors import InputError

__all__ = ["Forecasts", "base_rates", "check_later", "pairs_of_rankings", "uniform_rates", "walk_forward"]

# How far from one a sum of probabilities may be: rounding, and what files round to.
SUM_TOLERANCE = 1e-6
# By how much frequencies are moved towards equal ones, in events: what never happened is not impossible.
PRIOR_EVENTS = 1.0

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Forecasts:
    """Probabilities of the outcomes of events, and what happened.

    Attributes:
        probability: shape (events, K); rows sum to one. An event with fewer outcomes has zeros at the end.
        outcome: which of the K happened, int64 of shape (events,).
        size: how many outcomes each event has, int64 of shape (events,).
        cluster: events of one cluster may depend on each other, as the pairs of one race do: int64 of shape
            (events,). Errors are between clusters.
        labels: what the K outcomes are called, such as win, draw and loss; () for those that have no name.
    """

    probability: Floats
    outcome: Whole
    size: Whole
    cluster: Whole
    labels: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        probability: ArrayLike,
        outcome: ArrayLike,
        *,
        size: ArrayLike | None = None,
        cluster: ArrayLike | None = None,
        labels: Sequence[str] = (),
    ) -> Forecasts:
        """Forecasts from arrays or lists.

        Args:
            probability: shape (events, K), or (events,) for the first of two outcomes.
            outcome: shape (events,), whole numbers from 0 to K − 1; 0 is the first.
            size: outcomes of each event, K by default.
            cluster: which events belong together, by any numbers; each is alone by default.
            labels: names of the outcomes.

        Raises:
            InputError: for no events, shapes that do not fit, or what is no probability or no outcome; events
                are counted from 0.
        """
        chances = np.asarray(probability, dtype=np.float64)
        chances = np.stack([chances, 1.0 - chances], 1) if chances.ndim == 1 else chances
        happened = np.asarray(outcome)
        if chances.ndim != 2 or happened.shape != chances.shape[:1] or not len(chances):
            raise InputError(
                f"forecasts have shape {chances.shape} and outcomes {happened.shape}; they are (events, K) "
                "and (events,), of one event at least"
            )
        sizes = np.full(len(chances), chances.shape[1]) if size is None else np.asarray(size)
        together = np.arange(len(chances)) if cluster is None else np.unique(cluster, return_inverse=True)[1]
        _check(chances, happened, sizes)
        return cls(
            chances, happened.astype(np.int64), sizes.astype(np.int64), together.astype(np.int64), (*labels,)
        )

    def __len__(self) -> int:
        return len(self.outcome)

    @property
    def happened(self) -> Floats:
        """1 for the outcome that happened and 0 for the others, shape (events, K)."""
        return (np.arange(self.probability.shape[1]) == self.outcome[:, None]).astype(np.float64)

    @property
    def possible(self) -> NDArray[np.bool_]:
        """Which of the K columns are outcomes of an event, shape (events, K)."""
        return np.arange(self.probability.shape[1]) < self.size[:, None]

    def take(self, events: ArrayLike) -> Forecasts:
        """Some of the events, by position or by a mask."""
        chosen = np.asarray(events)
        outcome, size, cluster = (each[chosen] for each in (self.outcome, self.size, self.cluster))
        return Forecasts(self.probability[chosen], outcome, size, cluster, self.labels)


def _check(chances: Floats, happened: NDArray[Any], sizes: NDArray[Any]) -> None:
    """Refuse what is no probability, no size or no outcome, naming the first event."""
    width = chances.shape[1]
    least_and_sum = np.isfinite(chances).all(1) & (chances >= 0).all(1)
    least_and_sum &= np.abs(chances.sum(1) - 1.0) <= SUM_TOLERANCE
    if not least_and_sum.all():
        event = int(np.argmin(least_and_sum))
        shown = ", ".join(f"{p:.6g}" for p in chances[event][:4]) + (", …" if width > 4 else "")
        raise InputError(f"the forecast of event {event} is ({shown}); probabilities are ≥ 0 and sum to one")
    right = (sizes >= 1) & (sizes <= width) & (happened >= 0) & (happened < sizes) & (happened % 1 == 0)
    if not right.all():
        event = int(np.argmin(right))
        raise InputError(
            f"event {event} had outcome {happened[event]}; it has {sizes[event]}, counted from 0"
        )
    if (chances * (np.arange(width) >= sizes[:, None])).any():
        event = int(np.argmax((chances * (np.arange(width) >= sizes[:, None])).any(1)))
        raise InputError(f"event {event} has {sizes[event]} outcomes, and a probability for another")


def base_rates(outcome: ArrayLike, num_outcomes: int, *, exchangeable: bool = False) -> Floats:
    """How often each outcome happened, as the forecast that knows nothing else, shape (K,).

    One event in which all happened alike is added, for a log loss that stays finite.

    Args:
        outcome: of earlier events, shape (events,).
        num_outcomes: K.
        exchangeable: whether the two sides of an event have no order, as where the winner is named first: the
            first and the last outcome then have the same rate.

    Raises:
        InputError: for an outcome that is none of the K.
    """
    seen = np.asarray(outcome)
    if seen.size and not ((seen >= 0) & (seen < num_outcomes)).all():
        raise InputError(f"outcomes are 0 to {num_outcomes - 1}; got {seen.min()} to {seen.max()}")
    counts = np.bincount(seen.astype(np.int64), minlength=num_outcomes) + PRIOR_EVENTS / num_outcomes
    if exchangeable:
        counts[[0, -1]] = counts[[0, -1]].mean()
    return counts / counts.sum()


def uniform_rates(size: ArrayLike) -> Floats:
    """The same chance for every outcome of an event, shape (events, K): nothing is known of who starts.

    Args:
        size: outcomes of each event, shape (events,).
    """
    sizes = np.asarray(size, dtype=np.int64)
    possible = np.arange(sizes.max()) < sizes[:, None]
    return possible / sizes[:, None]


def pairs_of_rankings(places: ArrayLike) -> tuple[Whole, Whole, Whole]:
    """Every pair of sides of a ranking that differ in place.

    Args:
        places: shape (events, K), 0 best; NaN where there is no side.

    Returns:
        The event, the better side and the worse side of each pair, three arrays of shape (pairs,).
    """
    table = np.asarray(places, dtype=np.float64)
    better = table[:, :, None] < table[:, None, :]
    event, first, second = np.nonzero(better)
    return event, first, second


def check_later(
    earliest: float, last: float, *, what: str = "games", shown: Callable[[float], str] = str
) -> None:
    """Refuse a split of events that is not by time.

    Args:
        earliest: time of the first event to score.
        last: time of the last event that was learnt from.
        what: the events' name.
        shown: a time in words.

    Raises:
        InputError: where some events to score are earlier than some that were learnt from.
    """
    if earliest < last:
        raise InputError(
            f"{what} from {shown(earliest)} on cannot be scored by a fit that knows {what} up to "
            f"{shown(last)}: a split is by time, every scored game later than all that were learnt from"
        )


def walk_forward(
    time: ArrayLike, forecast: Callable[[Whole], Floats], learn: Callable[[Whole], None]
) -> Floats:
    """Forecast events in the order of their times, and learn those of a time before the next are forecast.

    Events of one time are forecast together: none of them is known to another.

    Args:
        time: of the events, shape (events,).
        forecast: from events' positions to their probabilities, shape (those events, K).
        learn: from events' positions to nothing: the state behind ``forecast`` moves on.

    Returns:
        Probabilities of all events in the order in which they were given, shape (events, K).

    Raises:
        InputError: for no events, or a time that is no number.
    """
    when = np.asarray(time, dtype=np.float64)
    if not when.size or not np.isfinite(when).all():
        raise InputError("walking forward takes events with a time each, of one event at least")
    order = np.argsort(when, kind="stable")
    cuts = np.flatnonzero(np.diff(when[order])) + 1
    found: dict[int, Floats] = {}
    for events in np.split(order, cuts):
        found.update(zip(events.tolist(), forecast(events), strict=True))
        learn(events)
    width = max(len(row) for row in found.values())
    rows = [np.pad(found[event], (0, width - len(found[event]))) for event in range(len(when))]
    return np.stack(rows)
