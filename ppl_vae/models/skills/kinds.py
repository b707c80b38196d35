"""The kinds of `Skills`: results of two sides, scores, goals, and rankings of more sides."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from pyro.distributions import MultivariateNormal, Normal, TorchDistribution
from torch import Tensor

from ppl_vae.data.games import Games
from ppl_vae.models.skills import exact
from ppl_vae.models.skills.duel_moments import probit_moments
from ppl_vae.models.skills.forecasts import duel_probabilities, goal_probabilities, goal_results
from ppl_vae.models.skills.further import matrix_of
from ppl_vae.models.skills.lineup import is_repeated
from ppl_vae.models.skills.links import Duel, duel_log_prob, log_draw, log_normal_cdf_of_many, log_win
from ppl_vae.models.skills.many_sides import RankingSkills
from ppl_vae.models.skills.model import Skills
from ppl_vae.models.skills.options import SkillsOptions
from ppl_vae.models.skills.results import THREE_WAYS, TWO_WAYS, TwoSides, number_of, result_of
from ppl_vae.models.skills.scores import Goals, ScoreDifference, goals_log_prob
from ppl_vae.program.chains import Chains
from ppl_vae.program.design import Design
from ppl_vae.program.factors import Tilted

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["DuelSkills", "GoalSkills", "ScoreSkills", "kind_of"]


def kind_of(games: Games, options: SkillsOptions) -> type[Skills]:
    """Which kind of model these games ask for."""
    if options.outcome != "result":
        return ScoreSkills if options.outcome == "score" else GoalSkills
    return DuelSkills if (games.sides == 2).all() else RankingSkills


class _Differences(Skills):
    """Games of two sides whose outcome depends on the difference of their strengths alone."""

    def rows(self, *data: Tensor) -> Design:
        """See `program.factors.LinearFactors`: a row a game, the first side's strength less the second's.

        Observed are the outcome, as `ended` has it, and √Σ w² over all who played.
        """
        column, value = self.lineup.matrix((1.0, -1.0), *data[1:5])
        weight = data[2][:1] if is_repeated(data[2]) else data[2]
        spread = weight.square().sum((-1, -2)).sqrt().expand(len(data[2]))
        count = data[5] if self.weighted else None
        return Design.of_entries(column, value, self.ended(data[0]), spread, count=count)

    def ended(self, outcome: Tensor) -> Tensor:
        """One number a game for how it ended, shape (G,), of the outcome (G, 2)."""
        raise NotImplementedError

    def scale(self, spread: Tensor) -> Tensor:
        """c of games of these √Σ w², in skill units."""
        return self.number("performance_sd") * spread

    @property
    def outcomes(self) -> tuple[str, ...]:
        """See `KnowsOutcomes`: of the first side; equal scores have no probability."""
        return THREE_WAYS if self.options.draws else TWO_WAYS

    @torch.no_grad()
    def outcome_probabilities(self, mean: Tensor, covariance: Tensor, *data: Tensor) -> Tensor:
        """See `KnowsOutcomes`."""
        variance = covariance[:, 0, 0] + covariance[:, 1, 1] - 2 * covariance[:, 0, 1]
        scale = self.scale(data[2].square().sum((-1, -2)).sqrt())
        ahead = mean[:, 0] - mean[:, 1]
        found = duel_probabilities(ahead, variance.clamp_min(0.0), scale, self.draw_margin, self.duel_link)
        return found if self.options.draws else found[:, ::2]

    def outcome_numbers(self, *data: Tensor) -> Tensor:
        """See `KnowsOutcomes`."""
        return number_of(self.result(data[0]), len(self.outcomes))

    def result(self, outcome: Tensor) -> Tensor:
        """1 where the first side did better, 0 where the second did, .5 where both did alike, shape (G,)."""
        return result_of(outcome)

    @property
    def draw_margin(self) -> Tensor | float:
        """ε, in skill units; 0 where there are no draws."""
        return self.number("margin") if self.options.draws else 0.0

    @property
    def duel_link(self) -> str:
        """That of two sides: the difference of two Gumbel performances is logistic."""
        return "logistic" if self.options.link == "gumbel" else self.options.link


class DuelSkills(_Differences):
    """Results of two sides: win, draw and loss by a link."""

    def ended(self, outcome: Tensor) -> Tensor:
        """1 where the first side won, 0 where the second did, .5 for a draw."""
        return result_of(outcome)

    def scale(self, spread: Tensor) -> Tensor:
        """c; by other links than probit that of one player against another is β."""
        found = super().scale(spread)
        return found if self.options.link == "probit" else found / 2**0.5

    def log_likelihood(self, predictor: Tensor, *observed: Tensor) -> Tensor:
        """See `program.factors.LinearFactors`: draws and decided games apart, each by their own formula."""
        result, spread = observed
        scale, margin, link = self.scale(spread), self.draw_margin, self.duel_link
        drawn = result == 0.5
        if not drawn.any():
            return self._won((2 * result - 1) * predictor, scale, margin)
        if not isinstance(margin, Tensor):
            return duel_log_prob(predictor, result, scale, margin, link)
        draws, decided = (rows.nonzero()[:, 0] for rows in (drawn, ~drawn))
        ahead = predictor[..., decided] * (2 * result[decided] - 1)
        parts = [
            log_draw(predictor[..., draws], scale[draws], margin, link),
            self._won(ahead, scale[decided], margin),
        ]
        order = torch.cat([draws, decided]).argsort()
        return torch.cat(parts, -1)[..., order]

    def _won(self, ahead: Tensor, scale: Tensor, margin: Tensor | float) -> Tensor:
        """log P(the side wins that is so far ahead), elementwise."""
        if self.duel_link == "probit":
            return log_normal_cdf_of_many((ahead - margin) / scale)
        return log_win(ahead, scale, margin, self.duel_link)

    def tilted(self, mean: Tensor, variance: Tensor, *observed: Tensor) -> Tilted | None:
        """See `program.factors.TiltedFactors`: closed for the probit link."""
        result, spread = observed
        if self.options.link != "probit":
            return None
        margin = self.draw_margin
        held = margin.detach() if isinstance(margin, Tensor) else margin
        return probit_moments(mean, variance, result, self.scale(spread).detach(), held)

    def _ended(self, strengths: Tensor, skill: Tensor, players: Tensor, weight: Tensor) -> TorchDistribution:
        difference = strengths[..., 0] - strengths[..., 1]
        scale = self.scale(weight.square().sum((-1, -2)).sqrt())
        return TwoSides(Duel(difference, scale, self.draw_margin, self.duel_link))


class ScoreSkills(_Differences):
    """Score differences, normal: all answers are known, given the model's numbers."""

    def ended(self, outcome: Tensor) -> Tensor:
        """The first side's score less the second's."""
        return outcome[..., 0] - outcome[..., 1]

    def result(self, outcome: Tensor) -> Tensor:
        """See `_Differences`: more is better."""
        return result_of(-outcome)

    def log_likelihood(self, predictor: Tensor, *observed: Tensor) -> Tensor:
        """See `program.factors.LinearFactors`."""
        difference, spread = observed
        found: Tensor = Normal(predictor, self.scale(spread), validate_args=False).log_prob(difference)
        return found

    def tilted(self, mean: Tensor, variance: Tensor, *observed: Tensor) -> Tilted | None:
        """See `program.factors.TiltedFactors`: a normal times a normal."""
        difference, spread = observed
        total = self.scale(spread).detach().square() + variance
        off = difference - mean
        log_total = -0.5 * (off.square() / total + total.log() + math.log(2 * math.pi))
        return Tilted(log_total, off / total, 1 / total)

    def _ended(self, strengths: Tensor, skill: Tensor, players: Tensor, weight: Tensor) -> TorchDistribution:
        scale = self.scale(weight.square().sum((-1, -2)).sqrt())
        return ScoreDifference(strengths[..., 0] - strengths[..., 1], scale)

    @torch.no_grad()
    def exact_posterior(self, *data: Tensor) -> dict[str, TorchDistribution]:
        """The normal posterior of all states.

        Raises:
            InputError: for more than 4,000 states.
        """
        site, chains, seen = self._seen(*data)
        mean, matrix = exact.posterior(chains, seen)
        covariance = torch.cholesky_inverse(matrix)
        return {site: MultivariateNormal(mean, covariance_matrix=covariance, validate_args=False)}

    @torch.no_grad()
    def exact_log_evidence(self, *data: Tensor) -> Tensor:
        """log p(score differences) in nats, shape (1,).

        Raises:
            InputError: for more than 4,000 states.
        """
        _, chains, seen = self._seen(*data)
        return exact.log_evidence(chains, seen).reshape(1)

    def _seen(self, *data: Tensor) -> tuple[str, Chains, exact.Seen]:
        """Site and prior, and the scores as observations of linear predictors, in float64."""
        site, chains = self.normal_prior()
        rows = self.rows(*data)
        difference, spread = rows.observed
        scale = self.scale(spread).double()
        power = torch.ones_like(scale) if rows.count is None else rows.count.double()
        return site, chains.detach(), exact.Seen(rows, difference.double(), scale, power)


class GoalSkills(Skills):
    """Goals of two sides, Poisson: two rows a game, whose log rates are b ± d."""

    def rows(self, *data: Tensor) -> Design:
        """See `program.factors.LinearFactors`: rows 2 g and 2 g + 1 are those of the sides of game g."""
        column, value = self.lineup.matrix((1.0, -1.0), *data[1:5])
        value = value.expand(column.shape)
        base = torch.full_like(column[:, :1], self.lineup.rows[-1])
        columns = torch.cat([column, base], 1).repeat_interleave(2, 0)
        both = torch.stack([value, -value], 1).flatten(0, 1)
        values = torch.cat([both, torch.ones_like(both[:, :1])], 1)
        count = data[5].repeat_interleave(2) if self.weighted else None
        return Design.of_entries(columns, values, data[0].reshape(-1), count=count)

    def log_likelihood(self, predictor: Tensor, *observed: Tensor) -> Tensor:
        """See `program.factors.LinearFactors`."""
        return goals_log_prob(predictor, *observed)

    def predictor_rows(self, *data: Tensor) -> csr_array:
        """See `KnowsOutcomes`: log rates of goals."""
        return matrix_of(self.rows(*data), self.lineup.schedule.num_states)

    @property
    def outcomes(self) -> tuple[str, ...]:
        """See `KnowsOutcomes`: of the first side."""
        return THREE_WAYS

    def outcome_probabilities(self, mean: Tensor, covariance: Tensor, *data: Tensor) -> Tensor:
        """See `KnowsOutcomes`."""
        return goal_results(mean, covariance)

    def outcome_numbers(self, *data: Tensor) -> Tensor:
        """See `KnowsOutcomes`."""
        return number_of(result_of(-data[0]), 3)

    def score_probabilities(self, mean: Tensor, covariance: Tensor, *data: Tensor) -> Tensor:
        """See `KnowsScores`."""
        return goal_probabilities(mean, covariance)

    def _ended(self, strengths: Tensor, skill: Tensor, players: Tensor, weight: Tensor) -> TorchDistribution:
        ahead = strengths - strengths.flip(-1)
        return Goals(skill[..., self.lineup.rows[-1], None, None] + ahead)
