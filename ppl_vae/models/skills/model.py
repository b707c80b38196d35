"""Skills of players and teams from how their games ended, at rest or drifting from date to date.

Sources: Herbrich, Minka and Graepel, "TrueSkill: A Bayesian Skill Rating System" (2007), for performances and
margins; Dangauthier, Herbrich, Minka and Graepel, "TrueSkill Through Time" (2008), for skills that drift;
Rao and Kupper (1967) and Davidson (1970), for draws by the other links; Plackett (1975) and Luce (1959), for
rankings; Maher (1982), for goals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Self, Unpack, cast

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch import Tensor, nn

from ppl_vae.data.game_inputs import game_inputs
from ppl_vae.data.games import Games
from ppl_vae.data.input import Input
from ppl_vae.guides.chain_normal import ChainNormal
from ppl_vae.guides.joint_normal import JointNormal
from ppl_vae.models.base import DataType, FitDefaults, Unit, one_of
from ppl_vae.models.skills import shown
from ppl_vae.models.skills.checks import GameTensors, check_tensors, refuse_more_sides
from ppl_vae.models.skills.choices import choices
from ppl_vae.models.skills.further import (
    extended_lineup,
    level_rows,
    lineup_of,
    places_in,
    side_rows,
)
from ppl_vae.models.skills.lineup import Lineup
from ppl_vae.models.skills.numbers import Numbers
from ppl_vae.models.skills.options import SkillsKeywords, SkillsOptions
from ppl_vae.models.skills.prior import prior_parts
from ppl_vae.models.skills.season_statistics import Season, season_statistics
from ppl_vae.models.skills.starts import Starts, lineup_for, starts_for
from ppl_vae.program.chain_prior import ChainPrior
from ppl_vae.program.chains import Chains

if TYPE_CHECKING:
    import xarray as xr
    from scipy.sparse import csr_array

    from ppl_vae.program.abilities import OwnStatistics
    from ppl_vae.program.shown import ViewContext
    from ppl_vae.views import View

__all__ = ["Skills"]

Whole = NDArray[np.int64]
Reals = NDArray[np.float64]


class Skills(Numbers):
    """A side is as strong as its players' skills add up to; games reveal it by results, scores or goals.

    A player's skills at the dates of its games are a Gaussian Markov chain: s at the first date is N(μ, σ²);
    over a time Δ it moves by N(0, γ² Δ) ("walk"), or is drawn back to μ so that its sd stays σ ("ou").
    Without drift each player has one skill. Strengths further add the effect of home and of other
    covariates, and means of groups of players. Given its strengths u, a game of two sides of which the first
    is d = u₁ − u₂ ahead ends

    - "result": by a link of d, with the margin ε for draws; more sides are ranked by their performances, and
      of those that share a place the order is not known;
    - "score": y₁ − y₂ ~ N(d, c²), with c² = β² Σ w² over all who play and w the parts that they played;
    - "goals": y₁ ~ Poisson(exp(b + d)) and y₂ ~ Poisson(exp(b − d)).

    Numbers that the options give are held, others are parameters: σ, γ, ε, the groups' sd, and of scores β.

    Args:
        lineup: states, players and effects.
        options: as they were asked for.
        starts: where the parameters begin.
        weighted: whether games count by their weights.
        dtype: of the arithmetic.
    """

    data_type: ClassVar[type[DataType]] = Games
    inputs: ClassVar[Mapping[str, Input]] = game_inputs()
    name: ClassVar[str] = "skills"
    Options: ClassVar[type[SkillsOptions]] = SkillsOptions
    unit: ClassVar[Unit] = "data set"
    made_whole: ClassVar[bool] = True
    oracle: ClassVar[str] = "quadrature; of scores the exact smoother and the dense Gaussian process"
    defaults: ClassVar[FitDefaults] = FitDefaults(num_steps=3000, lr=0.05, num_particles=16)
    guides: ClassVar[Mapping[str, Callable[..., nn.Module]]] = {
        "markov": lambda model, *data: ChainNormal(model),
        "mean-field": lambda model, *data: AutoNormal(model, init_loc_fn=model.at_prior_mean, init_scale=0.5),
        "full-rank": lambda model, *data: AutoMultivariateNormal(
            model, init_loc_fn=model.at_prior_mean, init_scale=0.5
        ),
        "sparse-precision": lambda model, *data: JointNormal(model),
    }

    def __init__(
        self,
        lineup: Lineup,
        options: SkillsOptions,
        starts: Starts,
        *,
        weighted: bool = False,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__(self.name)
        self.lineup, self.options, self.weighted = lineup, options, weighted
        self.starts, self.dtype = starts, dtype
        learnt = {"skill_sd": True, "performance_sd": options.outcome == "score"}
        learnt |= {"drift_sd": bool(options.drift), "margin": options.draws}
        learnt["group_sd"] = bool(lineup.effects.groups)
        for number, learns in learnt.items():
            self.add_number(number, getattr(options, number), getattr(starts, number), learns, dtype)
        for part, values in prior_parts(lineup, options, starts).items():
            self.register_buffer(part, values.to(dtype), persistent=False)

    @classmethod
    def from_data(
        cls, games: Games, options: SkillsOptions | None = None, **keywords: Unpack[SkillsKeywords]
    ) -> Self:
        """A model for the players and dates of these games; options as one object or by name.

        It is of the subclass for these games: of two sides, or of more; of results, of scores or of goals.

        Raises:
            InputError: for games that lack what the options need.
        """
        from ppl_vae.models.skills.kinds import kind_of

        chosen = one_of(SkillsOptions, options, keywords)
        lineup = lineup_for(games, chosen)
        weighted = games.game_weight is not None
        made = kind_of(games, chosen)(lineup, chosen, starts_for(games, chosen), weighted=weighted)
        made.suit(games)
        return cast(Self, made)

    def suit(self, games: Games) -> None:
        """Note what else all games have in common; nothing here."""

    @classmethod
    def inputs_for(cls, options: SkillsOptions) -> Mapping[str, Input]:
        """What the program takes: places, or scores where it observes them."""
        return game_inputs("place" if options.outcome == "result" else "score")

    @classmethod
    def choices(
        cls, games: Games, drifts: Sequence[str], links: Sequence[str] | None = None
    ) -> dict[str, SkillsOptions]:
        """See `OffersChoices`: each link with each drift, with and without an advantage of the side at home
        where games have one; draws where any game is drawn, their margin learnt. Links are by default probit
        and logistic, and Davidson's law of draws where there are any."""
        return choices(games, drifts, links)

    def normal_prior(self) -> tuple[str, Chains]:
        """The site "skill" and its prior: chains of all states."""
        skill_sd = self.number("skill_sd")
        sd = self.given_sd + self.own_sd * skill_sd + self.by_group * self.number("group_sd")
        rounds = self.lineup.schedule.states_by_rounds.rounds
        if not self.options.drift:
            return "skill", Chains(self.prior_mean, sd.square(), torch.zeros_like(sd), rounds)
        first = torch.arange(rounds[-1], device=sd.device) < rounds[1]
        moved = self.number("drift_sd").square() * self.gap
        if self.options.process == "walk":
            variance, phi = torch.where(first, sd.square(), moved), torch.ones_like(sd)
        else:
            # Stationary: what is lost of a deviation over a time is made up for by new changes.
            rate = moved / skill_sd.square()
            variance = sd.square() * torch.where(first, 1.0, -torch.expm1(-rate))
            phi = torch.exp(-rate / 2)
        return "skill", Chains(self.prior_mean, variance, torch.where(first, 0.0, phi), rounds)

    def forward(
        self,
        outcome: Tensor,
        players: Tensor,
        weight: Tensor,
        time: Tensor,
        covariate: Tensor,
        game_weight: Tensor,
    ) -> Tensor:
        """The Pyro program.

        Args:
            outcome: shape (G, K): places, 0 the best, or scores; NaN where there is no such side.
            players: int64 of shape (G, K, M), −1 where there is no such player.
            weight: the part of the game that each played, of the same shape.
            time: shape (G,).
            covariate: of each side, shape (G, K, C).
            game_weight: the power that each game's likelihood is raised to, shape (G,).
        """
        skill = pyro.sample("skill", ChainPrior(self.normal_prior()[1]))
        # The plate's dimension stands between particles and states.
        skill = skill.squeeze(-2) if skill.dim() > 1 else skill
        with pyro.plate("game", len(outcome)) as i:
            strengths = self.lineup.strengths(skill, players[i], weight[i], time[i], covariate[i])
            with self._power(game_weight[i]):
                ended = self._ended(strengths, skill, players[i], weight[i])
                return pyro.sample("outcome", ended, obs=outcome[i])

    def _power(self, game_weight: Tensor) -> AbstractContextManager[Any]:
        return poutine.scale(scale=game_weight) if self.weighted else nullcontext()

    def _ended(self, strengths: Tensor, skill: Tensor, players: Tensor, weight: Tensor) -> TorchDistribution:
        """How games end whose sides have these strengths.

        Args:
            strengths: shape (…, G, K).
            skill: the states, shape (…, N).
            players, weight: shape (G, K, M).
        """
        raise NotImplementedError

    def check_data(self, *games: Tensor) -> None:
        """Refuse games that the model was not made for: the arguments of `forward`.

        Raises:
            InputError: naming the first, counted from 0.
        """
        check_tensors(self, GameTensors(*games))

    def arguments_of(self, games: Games) -> tuple[Tensor, ...]:
        """See `KnowsOutcomes`."""
        if self.outcomes:
            refuse_more_sides(games)
        return games.tensors(self.dtype, "place" if self.options.outcome == "result" else "score")

    def extended(self, players: Sequence[str], player: Whole, time: Reals) -> Self:
        """See `KnowsOutcomes`: players who are new have the model's own prior, and no group."""
        return self._with(extended_lineup(self.lineup, players, player, time))

    def of_appearances(self, players: Sequence[str], player: Whole, time: Reals) -> Self:
        """See `KnowsOutcomes`."""
        return self._with(lineup_of(self.lineup, players, player, time))

    def _with(self, lineup: Lineup) -> Self:
        """The same numbers, of other states."""
        made = type(self)(lineup, self.options, self.starts, weighted=self.weighted, dtype=self.dtype)
        made.load_state_dict(self.state_dict())
        return made

    def appearances(self) -> tuple[Whole, Reals]:
        """See `KnowsOutcomes`."""
        states = self.lineup.schedule.states_by_rounds
        return states.chain, states.time

    def places_in(self, larger: Self) -> Tensor:
        """See `KnowsOutcomes`."""
        return places_in(self, larger)

    def level_rows(self, player: Whole, time: Reals) -> csr_array:
        """See `KnowsOutcomes`: skills, with the means of groups and what is known of players."""
        return level_rows(self, player, time)

    @property
    def outcomes(self) -> tuple[str, ...]:
        """See `KnowsOutcomes`."""
        raise NotImplementedError

    @property
    def side_columns(self) -> tuple[str, ...]:
        """See `KnowsOutcomes`."""
        return self.lineup.effects.sides

    def outcome_probabilities(self, mean: Tensor, covariance: Tensor, *data: Tensor) -> Tensor:
        """See `KnowsOutcomes`."""
        raise NotImplementedError

    def outcome_numbers(self, *data: Tensor) -> Tensor:
        """See `KnowsOutcomes`."""
        raise NotImplementedError

    def predictor_rows(self, *data: Tensor) -> csr_array:
        """See `KnowsOutcomes`: strengths of sides."""
        return side_rows(self.lineup, *data[1:5])

    def statistics(self, site: str, *data: Tensor) -> OwnStatistics | None:
        """See `HasStatistics`: points, leads or goals by player, and how they change."""
        at_home = data[4].shape[-1] > 0 and data[1].shape[1] == 2
        names, options = self.lineup.roster.names, self.options
        season = Season(data[1], data[3], names, options.outcome, draws=options.draws, at_home=at_home)
        return season_statistics(season) if site == "outcome" else None

    def identifiable(self, draws: xr.Dataset) -> xr.Dataset:
        """See `shown.identifiable`."""
        return shown.identifiable(self, draws)

    def reported(self, draws: xr.Dataset) -> xr.Dataset:
        """See `shown.reported`."""
        return shown.reported(self, draws)

    def views(self, context: ViewContext) -> list[View]:
        """See `shown.views`."""
        return shown.views(self, context)

    def event_dims(self) -> dict[str, tuple[str, ...]]:
        """All states are one event."""
        return {"skill": ("state",)}

    def coords(self) -> dict[str, list[Any]]:
        """What each state is of, and when."""
        return {"state": shown.state_names(self.lineup)}

    def at_prior_mean(self, site: dict[str, Any]) -> Tensor:
        """Where AutoGuides start."""
        mean: Tensor = site["fn"].mean.detach().clone()
        return mean
