"""Who is ahead: levels of many players with their errors, and what they leave open of the order.

Means and standard deviations are those of a Gaussian posterior; ranks are functions of all levels together,
and are counted over joint draws: neighbours' levels may be correlated, and the best of many equals is not
known even where each is known well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ppl_vae.base.errors import InputError, listed
from ppl_vae.base.saved import Saved, kept

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CONSERVATIVE", "Leaderboard", "leaderboard", "ranks"]

# Standard deviations below the mean at which a level is shown that a player has almost surely.
CONSERVATIVE = 3.0
# The central 90 % of a normal, in standard deviations.
NINETY = 1.6448536269514722
RANKS = (0.05, 0.5, 0.95)
# Draws times players that are kept for questions about pairs.
MOST_KEPT = 4 * 10**6
# Draws times players that are worked on at once.
BLOCK = 10**6

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Leaderboard(Saved):
    """Players by what they are almost surely worth.

    Attributes:
        table: a row a player, the largest ``conservative`` level first: ``mean`` and ``sd`` of its level,
            ``low`` and ``high`` (5 % and 95 %), ``conservative`` (mean − 3 sd), ``p_first``, the probability
            that nobody's level is higher, and the 5 %, 50 % and 95 % quantiles of its rank, ``rank_low``,
            ``rank_median`` and ``rank_high``, 1 the best.
        draws: joint draws of the levels, shape (draws, players) in the order of the table; of large tables
            only some of the draws.
        num_draws: joint draws behind the ranks.
        date: when, in words; "" where levels have no date.
        notes: what has to be said about the numbers, in sentences.
    """

    table: pd.DataFrame
    draws: np.ndarray = field(metadata=kept("draw", "place"))
    num_draws: int
    date: str = ""
    notes: tuple[str, ...] = ()

    def above(self, players: Sequence[str]) -> pd.DataFrame:
        """P(the row's level is above the column's) over the joint draws; NaN on the diagonal.

        Raises:
            InputError: for a player that is not on the board.
        """
        import pandas as pd

        place = {name: at for at, name in enumerate(self.table.index)}
        if missing := [name for name in players if name not in place]:
            raise InputError(f"{listed(missing)}: no player of that name is on the leaderboard")
        chosen = self.draws[:, [place[name] for name in players]]
        ahead = np.stack([(chosen[:, [k]] > chosen).mean(0) for k in range(len(players))])
        np.fill_diagonal(ahead, np.nan)
        return pd.DataFrame(ahead, index=list(players), columns=list(players))

    @property
    def open_neighbours(self) -> int:
        """How many pairs of neighbours in the order of means the games do not put in order, at 5 to 1."""
        mean_order = np.argsort(-self.table["mean"].to_numpy(), kind="stable")
        draws = self.draws[:, mean_order]
        ahead = (draws[:, :-1] > draws[:, 1:]).mean(0)
        return int((ahead < 5 / 6).sum())


def leaderboard(
    players: Sequence[str],
    mean: Floats,
    sd: Floats,
    draws: Floats,
    *,
    date: str = "",
    notes: Sequence[str] = (),
) -> Leaderboard:
    """A leaderboard of levels with these moments and joint draws.

    Args:
        players: names.
        mean, sd: of every level, shape (players,).
        draws: of all levels together, shape (draws, players).
        date: when, in words.
        notes: sentences to go with it.

    Raises:
        InputError: for shapes that do not fit, fewer than two draws, or levels that are not finite.
    """
    import pandas as pd

    size = len(players)
    if mean.shape != (size,) or sd.shape != (size,) or draws.ndim != 2 or draws.shape[1] != size:
        raise InputError(
            f"{size} players need as many means, sds and columns of draws; got shapes {mean.shape}, "
            f"{sd.shape} and {draws.shape}"
        )
    # A sum is finite where all are, but for numbers that no level has.
    if len(draws) < 2 or not (np.isfinite(draws.sum()) and np.isfinite(mean).all()):
        raise InputError("a leaderboard takes at least two joint draws of levels, all of them finite")
    (low, median, high), first = _rank_distribution(draws)
    table = pd.DataFrame(
        {
            "mean": mean, "sd": sd, "low": mean - NINETY * sd, "high": mean + NINETY * sd,
            "conservative": mean - CONSERVATIVE * sd, "p_first": first,
            "rank_low": low, "rank_median": median, "rank_high": high,
        },
        index=pd.Index(players, name="player", dtype=object),
    )  # fmt: skip
    table = table.astype(dict.fromkeys(("rank_low", "rank_median", "rank_high"), np.int64))
    order = np.argsort(-table["conservative"].to_numpy(), kind="stable")
    some = draws[:: max(1, math.ceil(draws.size / MOST_KEPT))]
    return Leaderboard(table.iloc[order], some[:, order], len(draws), date, (*notes,))


def _rank_distribution(draws: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Quantiles of every player's rank, shape (3, players), and P(first); in blocks, for what sorting
    takes is several times as large as the draws."""
    count, size = draws.shape
    place = np.empty(draws.shape, dtype=np.int32)
    for start in range(0, count, rows := max(1, BLOCK // size)):
        place[start : start + rows] = ranks(draws[start : start + rows])
    quantiles, first = np.empty((len(RANKS), size), dtype=np.int64), np.empty(size)
    for start in range(0, size, columns := max(1, BLOCK // count)):
        block = place[:, start : start + columns]
        quantiles[:, start : start + columns] = np.quantile(block, RANKS, axis=0, method="inverted_cdf")
        first[start : start + columns] = (block == 1).mean(0)
    return quantiles, first


def ranks(draws: Floats) -> NDArray[np.int64]:
    """Every player's rank in every draw, 1 the highest level, of the shape of the draws."""
    found = np.empty(draws.shape, dtype=np.int64)
    order = np.argsort(-draws, axis=1, kind="stable")
    np.put_along_axis(found, order, np.arange(1, draws.shape[1] + 1)[None], axis=1)
    return found
