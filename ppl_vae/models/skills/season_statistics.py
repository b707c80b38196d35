"""Test statistics of seasons of games: what a predictive check compares of their outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae.program.abilities import OwnStatistics

__all__ = ["Season", "season_statistics"]

# Beyond so many players each for itself says less than they do together.
MAX_PLAYERS = 128


@dataclass(frozen=True, eq=False)
class Season:
    """Who played when, which no replicate changes.

    Attributes:
        players: int64 of shape (G, K, M), −1 where there is no such player.
        time: shape (G,).
        names: of the players.
        outcome: "result", "score" or "goals".
        draws: whether results may be draws.
        at_home: whether the first side of two is known to be one of its own, such as that at home. In other
            files winners come first.
    """

    players: Tensor
    time: Tensor
    names: Sequence[str]
    outcome: str
    draws: bool
    at_home: bool = False

    def points(self, values: Tensor) -> Tensor:
        """What each side has of a game, shape (sets, G, K), 0 where there is no such side.

        Of results the share of the other sides that it beat, draws a half; of scores by how much it is ahead;
        of goals its own.
        """
        there = (self.players >= 0).any(-1)
        if self.outcome == "goals":
            return values
        if self.outcome == "score":
            return values - values.flip(-1)
        place = torch.where(there, values, torch.nan)
        ahead = (place[..., :, None] < place[..., None, :]).double().sum(-1)
        level = (place[..., :, None] == place[..., None, :]).double().sum(-1) - 1
        others = (there.sum(-1, keepdim=True) - 1).clamp(min=1)
        return torch.where(there, (ahead + 0.5 * level) / others, 0.0)

    def by_player(self, points: Tensor, games: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Sums of points by player, shape (sets, players), and how many games each played, (players,).

        Args:
            points: shape (sets, G, K).
            games: which games count, booleans of shape (G,).
        """
        there = self.players >= 0
        if games is not None:
            there = there & games[:, None, None]
        who = self.players[there]
        each = points[..., None].expand(*points.shape, self.players.shape[-1])[:, there]
        sums = points.new_zeros(len(points), len(self.names)).index_add(1, who, each)
        return sums, torch.bincount(who, minlength=len(self.names))

    def means(self, values: Tensor) -> Tensor:
        """Points a game of each player, shape (sets, players)."""
        sums, played = self.by_player(self.points(values))
        return sums / played.clamp(min=1)

    def statistics(self, values: Tensor) -> dict[str, Tensor]:
        """Numbers of each data set, shape (sets,), by name.

        None depends on the order of games; that of sides counts where the first one is at home.
        """
        points = self.points(values)
        sums, played = self.by_player(points)
        mean = sums / played.clamp(min=1)
        what = {"result": "points", "score": "lead", "goals": "goals"}[self.outcome]
        found = self._of_games(values, points)
        if self.at_home:
            found[f"mean {what} of the first side"] = points[..., 0].mean(1)
        if int((played > 0).sum()) > 2:
            found[f"sd of mean {what} between players"] = mean[:, played > 0].std(1)
        found |= self._drift(points, what)
        if len(self.names) <= MAX_PLAYERS:
            found |= {f"{what} of {name}": sums[:, k] for k, name in enumerate(self.names) if played[k]}
        return found

    def _of_games(self, values: Tensor, points: Tensor) -> dict[str, Tensor]:
        """How single games end."""
        if self.outcome == "result":
            two = values[..., 0] == values[..., 1]
            return {"share of draws": two.double().mean(1)} if self.draws and values.shape[-1] == 2 else {}
        ahead = (values[..., 0] - values[..., 1]).double()
        found = {"sd of the lead": ahead.std(1), "largest lead": ahead.abs().amax(1)}
        if self.outcome == "goals":
            level = (ahead == 0).double().mean(1)
            mean = values.mean((1, 2)).clamp(min=1e-9)
            spread = values.var((1, 2))
            found |= {
                "mean goals": mean,
                "variance over mean of goals": spread / mean,
                "share of draws": level,
            }
        return found

    def _drift(self, points: Tensor, what: str) -> dict[str, Tensor]:
        """How far players' later games differ from their earlier ones."""
        late = self.time > self.time.median()
        if not late.any() or late.all():
            return {}
        (first, before), (second, after) = self.by_player(points, ~late), self.by_player(points, late)
        both = (before > 0) & (after > 0)
        if int(both.sum()) < 3:
            return {}
        change = second[:, both] / after[both] - first[:, both] / before[both]
        return {f"sd of the change of mean {what}": change.std(1)}


def season_statistics(season: Season) -> OwnStatistics:
    """What a predictive check looks at, see `program.abilities.HasStatistics`."""
    what = {"result": "points", "score": "lead", "goals": "goals"}[season.outcome]
    return OwnStatistics(
        statistics=season.statistics,
        levels=season.means,
        names=[*season.names],
        label=f"mean {what} a game",
        caption=f"Mean {what} a game of each player (diamonds), and central 95 % in replicated seasons.",
    )
