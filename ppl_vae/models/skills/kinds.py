"""The kinds of `Skills`: results of two sides, scores, goals, and rankings of more sides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions import MultivariateNormal, TorchDistribution
from torch import Tensor

from ppl_vae.data.games import Games
from ppl_vae.models.skills import exact
from ppl_vae.models.skills.links import Duel, duel_log_prob
from ppl_vae.models.skills.model import Skills
from ppl_vae.models.skills.options import SkillsOptions
from ppl_vae.models.skills.results import TwoSides, result_of
from ppl_vae.models.skills.scores import Goals, ScoreDifference, goals_log_prob, score_log_prob
from ppl_vae.program.abilities import Rows

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["DuelSkills", "GoalSkills", "RankingSkills", "ScoreSkills", "kind_of"]


def kind_of(games: Games, options: SkillsOptions) -> type[Skills]:
    """Which kind of model these games ask for."""
    if options.outcome != "result":
        return ScoreSkills if options.outcome == "score" else GoalSkills
    return DuelSkills if (games.sides == 2).all() else RankingSkills


class _Differences(Skills):
    """Games of two sides whose outcome depends on the difference of their strengths alone."""

    def differences(self, *data: Tensor) -> csr_array:
        """A, a row a game: the first side's strength less the second's, shape (G, N)."""
        sides = self.lineup.sides(*data[1:5])
        found = (sides[::2] - sides[1::2]).tocsr()
        found.eliminate_zeros()
        return found

    def rows(self, *data: Tensor) -> Rows:
        """See `program.abilities.LinearFactors`: a row a game."""
        return Rows.of(self.differences(*data))

    def scale(self, weight: Tensor) -> Tensor:
        """c of every game, shape (G,), in skill units."""
        return self.side_sd(weight).square().sum(-1).sqrt()


class DuelSkills(_Differences):
    """Results of two sides: win, draw and loss by a link."""

    def scale(self, weight: Tensor) -> Tensor:
        """c of every game, shape (G,): by other links than probit that of one player against another is β."""
        found = super().scale(weight)
        return found if self.options.link == "probit" else found / 2**0.5

    @property
    def draw_margin(self) -> Tensor | float:
        """ε, in skill units; 0 where there are no draws."""
        return self.number("margin") if self.options.draws else 0.0

    @property
    def duel_link(self) -> str:
        """That of two sides: the difference of two Gumbel performances is logistic."""
        return "logistic" if self.options.link == "gumbel" else self.options.link

    def log_likelihood(self, predictor: Tensor, *data: Tensor) -> Tensor:
        """See `program.abilities.LinearFactors`; predictor and answer of shape (…, G)."""
        outcome, _, weight, _, _, game_weight = data
        found = duel_log_prob(
            predictor, result_of(outcome), self.scale(weight), self.draw_margin, self.duel_link
        )
        return game_weight * found

    def _ended(self, strengths: Tensor, skill: Tensor, players: Tensor, weight: Tensor) -> TorchDistribution:
        difference = strengths[..., 0] - strengths[..., 1]
        return TwoSides(Duel(difference, self.scale(weight), self.draw_margin, self.duel_link))


class RankingSkills(Skills):
    """Results of any number of sides: rankings of performances."""

    def _ended(self, strengths: Tensor, skill: Tensor, players: Tensor, weight: Tensor) -> TorchDistribution:
        return ranking(self, strengths, players, weight)


class ScoreSkills(_Differences):
    """Score differences, normal: all answers are known, given the model's numbers."""

    def log_likelihood(self, predictor: Tensor, *data: Tensor) -> Tensor:
        """See `program.abilities.LinearFactors`; predictor and answer of shape (…, G)."""
        outcome, _, weight, _, _, game_weight = data
        return game_weight * score_log_prob(predictor, outcome, self.scale(weight))

    def _ended(self, strengths: Tensor, skill: Tensor, players: Tensor, weight: Tensor) -> TorchDistribution:
        return ScoreDifference(strengths[..., 0] - strengths[..., 1], self.scale(weight))

    @torch.no_grad()
    def exact_posterior(self, *data: Tensor) -> dict[str, TorchDistribution]:
        """The normal posterior of all states.

        Raises:
            InputError: for more than 4,000 states.
        """
        site, chains, rows, precision, score = self._linear(*data)
        mean, matrix = exact.posterior(chains, rows, precision, score)
        covariance = torch.cholesky_inverse(matrix)
        return {site: MultivariateNormal(mean, covariance_matrix=covariance, validate_args=False)}

    @torch.no_grad()
    def exact_log_evidence(self, *data: Tensor) -> Tensor:
        """log p(score differences) in nats, shape (1,).

        Raises:
            InputError: for more than 4,000 states.
        """
        _, chains, rows, precision, score = self._linear(*data)
        power = data[5].double()
        scale = self.scale(data[2]).double()
        return exact.log_evidence(chains, rows, precision, score, power, scale).reshape(1)

    def _linear(self, *data: Tensor) -> tuple[str, Any, csr_array, Tensor, Tensor]:
        """Site and prior, A, the precision of each row, and the difference of its scores, in float64."""
        site, chains = self.normal_prior()
        precision = data[5].double() / self.scale(data[2]).double().square()
        score = (data[0][:, 0] - data[0][:, 1]).double()
        return site, chains.detach(), self.differences(*data), precision.detach(), score


class GoalSkills(Skills):
    """Goals of two sides, Poisson: two rows a game, whose log rates are b ± d."""

    def rows(self, *data: Tensor) -> Rows:
        """See `program.abilities.LinearFactors`: rows 2 g and 2 g + 1 are those of the sides of game g."""
        from scipy.sparse import coo_array, csr_array

        sides = self.lineup.sides(*data[1:5]).tocoo()
        other = sides.row ^ 1
        base = self.lineup.rows[-1]
        row = [sides.row, other, range(sides.shape[0])]
        column = [sides.col, sides.col, [base] * sides.shape[0]]
        value = [sides.data, -sides.data, [1.0] * sides.shape[0]]
        joined = (
            torch.cat([torch.as_tensor(part) for part in parts]).numpy() for parts in (value, row, column)
        )
        values, rows, columns = joined
        found = csr_array(coo_array((values, (rows, columns)), sides.shape))
        found.sum_duplicates()
        found.eliminate_zeros()
        return Rows.of(found)

    def log_likelihood(self, predictor: Tensor, *data: Tensor) -> Tensor:
        """See `program.abilities.LinearFactors`; predictor and answer of shape (…, 2 G)."""
        return data[5].repeat_interleave(2) * goals_log_prob(predictor, data[0].reshape(-1))

    def _ended(self, strengths: Tensor, skill: Tensor, players: Tensor, weight: Tensor) -> TorchDistribution:
        ahead = strengths - strengths.flip(-1)
        return Goals(skill[..., self.lineup.rows[-1], None, None] + ahead)


def ranking(model: Skills, strengths: Tensor, players: Tensor, weight: Tensor) -> TorchDistribution:
    """Places of games whose sides have these strengths, by the model's link.

    Args:
        model: of results.
        strengths: shape (…, G, K).
        players, weight: shape (G, K, M).
    """
    from ppl_vae.models.skills.ranking import Ranking

    raise NotImplementedError(Ranking)
