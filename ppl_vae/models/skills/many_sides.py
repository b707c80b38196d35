"""`Skills` of games of more than two sides: races, free-for-alls, and any of them among duels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.models.skills.forecasts import pair_probabilities, place_probabilities, winner_probabilities
from ppl_vae.models.skills.lineup import Lineup
from ppl_vae.models.skills.model import Skills
from ppl_vae.models.skills.orders import num_panels
from ppl_vae.models.skills.ranking import Ranking, truncated_moments
from ppl_vae.program.design import Design
from ppl_vae.program.factors import Tilted

if TYPE_CHECKING:
    from ppl_vae.data.games import Games

__all__ = ["RankingSkills", "shared_places"]


def shared_places(games: Games) -> str:
    """Which places sides of a game share: "none", "last" for the last alone, or "unordered" for any."""
    if not games.has_ties:
        return "none"
    game = np.repeat(np.arange(games.num_games), games.sides)
    worst = np.maximum.reduceat(games.place, games.side_ptr[:-1])
    before = games.place < worst[game]
    keys = game[before] * (int(games.sides.max()) + 1) + games.place[before]
    return "last" if len(np.unique(keys)) == len(keys) else "unordered"


class RankingSkills(Skills):
    """Results of any number of sides: the order of their performances."""

    ties: str = "unordered"
    panels: int | None = None
    all_sides: int = 0

    def suit(self, games: Games) -> None:
        """Note what all games have in common, so that a program need not look at it to be traced."""
        self.ties = "draw" if self.options.draws else shared_places(games)
        sides = games.sides
        self.all_sides = int(sides[0]) if (sides == sides[0]).all() else 0
        weight = np.ones(len(games.player)) if games.weight is None else games.weight
        spread = np.sqrt(np.add.reduceat(weight**2, games.entry_ptr[:-1]))
        ratio = float(spread.max() / spread.min())
        self.panels = num_panels(int(sides.max()), ratio) if ratio > 1 else None

    def _with(self, lineup: Lineup) -> Self:
        """What further games have in common is not known."""
        made = super()._with(lineup)
        made.ties, made.panels = "draw" if self.ties == "draw" else "unordered", self.panels
        return made

    @property
    def outcomes(self) -> tuple[str, ...]:
        """See `KnowsOutcomes`: each side may come first."""
        return ()

    @torch.no_grad()
    def outcome_probabilities(self, mean: Tensor, covariance: Tensor, *data: Tensor) -> Tensor:
        """See `KnowsOutcomes`."""
        return winner_probabilities(mean, covariance, *self._performances(*data))

    def outcome_numbers(self, *data: Tensor) -> Tensor:
        """See `KnowsOutcomes`: the side that came first alone."""
        first = data[0] == 0
        return torch.where(first.sum(-1) == 1, first.long().argmax(-1), -1)

    @torch.no_grad()
    def place_probabilities(self, mean: Tensor, covariance: Tensor, *data: Tensor, seed: int = 0) -> Tensor:
        """See `KnowsPlaces`."""
        return place_probabilities(mean, covariance, *self._performances(*data), seed=seed)

    @torch.no_grad()
    def pair_probabilities(self, mean: Tensor, covariance: Tensor, *data: Tensor) -> Tensor:
        """See `KnowsPlaces`."""
        scale, _, link = self._performances(*data)
        return pair_probabilities(mean, covariance, scale, link)

    def _performances(self, *data: Tensor) -> tuple[Tensor, Tensor, str]:
        """Scales of all sides, shape (G, K), how many each game has, and the law."""
        _, players, weight, *_ = data
        scale = self.side_scale(weight).expand(weight.shape[:2])
        return scale, (players >= 0).any(-1).sum(-1), self.options.link

    def side_scale(self, weight: Tensor) -> Tensor:
        """c of every side's performance, in skill units: β √Σ w², shape (G, K); by Gumbel's law β."""
        beta = self.number("performance_sd")
        return beta if self.options.link == "gumbel" else beta * weight.square().sum(-1).sqrt()

    def _ended(self, strengths: Tensor, skill: Tensor, players: Tensor, weight: Tensor) -> TorchDistribution:
        there = (players >= 0).any(-1)
        sides: list[int] | None = [self.all_sides] * len(there) if self.all_sides else None
        if sides is None and self.ties in ("draw", "unordered"):
            sides = there.sum(-1).tolist()
        margin = self.number("margin") if self.options.draws else 0.0
        # Nobody performs for a side that there is not: neither does one that is drawn.
        strengths = strengths if self.all_sides else torch.where(there, strengths, torch.nan)
        return Ranking(
            strengths, self.side_scale(weight), margin, sides, self.options.link, self.ties, self.panels
        )

    def rankings(self, *data: Tensor) -> tuple[Design, Tensor] | None:
        """See `program.factors.RankingFactors`: a row a side, those of a game one after another."""
        _, players, weight, time, covariate, _ = data
        there = (players >= 0).any(-1)
        states, part, amount = self.lineup.entries(players, weight, time, covariate)
        rows = torch.tensor(self.lineup.rows, dtype=torch.int64)[: amount.shape[-1]]
        column = torch.cat([states, rows.expand(*states.shape[:2], -1)], -1)[there]
        value = torch.cat([part, amount.to(part)], -1)[there]
        return Design.of_entries(column, value), there.sum(-1)

    def ranking_moments(self, mean: Tensor, variance: Tensor, *data: Tensor) -> Tilted:
        """See `program.factors.RankingFactors`; exact, a whole game at once.

        Raises:
            InputError: for Gumbel performances, and games that count other than once.
        """
        if self.options.link != "probit" or self.weighted:
            raise InputError(
                "moments of rankings are known of normal performances (the link probit) and games that count "
                "once; fit other rankings by SVI"
            )
        outcome, players, weight, *_ = data
        there = (players >= 0).any(-1)
        spread = self.side_scale(weight).detach()
        location, wide = (torch.full_like(outcome, torch.nan) for _ in range(2))
        location[there], wide[there] = mean, variance + spread[there].square()
        margin = float(self.number("margin")) if self.options.draws else 0.0
        ties = "draw" if self.options.draws else "unordered"
        log_z, found, left = truncated_moments(location, wide, outcome, margin=margin, ties=ties)
        total = wide[there]
        slope = (found[there] - mean) / total
        return Tilted(log_z, slope, (1 - left[there] / total) / total)
