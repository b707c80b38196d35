"""Skills of players from wins, losses and draws (Herbrich, Minka and Graepel 2007)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypedDict, Unpack

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.errors import InputError
from ppl_vae.data.games import Games
from ppl_vae.data.inputs import DUELS, Input
from ppl_vae.models.base import DataType, FitDefaults, Unit, one_of
from ppl_vae.models.likelihoods.probit import BernoulliProbit
from ppl_vae.models.skills.duel_moments import probit_moments
from ppl_vae.models.skills.duel_outlook import DuelOutlook
from ppl_vae.models.skills.duel_statistics import duel_statistics, wins_by_player
from ppl_vae.models.skills.links import Duel, log_normal_cdf_of_many
from ppl_vae.models.skills.plane import skill_plane
from ppl_vae.program.abilities import OwnStatistics
from ppl_vae.program.chains import Chains
from ppl_vae.program.design import Design
from ppl_vae.program.factors import Tilted
from ppl_vae.program.shown import ViewContext
from ppl_vae.views import Contours, Intervals, Matrix, View

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["LINKS", "TrueSkill", "TrueSkillKeywords", "TrueSkillOptions"]

LINKS = ("probit", "logistic")
MAX_PLAYERS_FOR_PAIRS = 10
# Players on the leaderboard, and in the matrix of wins: more would not be read.
BOARD_PLAYERS, MATRIX_PLAYERS = 25, 12
_OF_OLD = (
    "the skill model observes outcomes and takes two arguments, as in svi.fit(pair, outcome, players): "
    "1 where a game's first player won, and a table of both players; games.duels() gives them, and for a "
    "table of winners and losers they are torch.ones(len(table)) and that table"
)


@dataclass(frozen=True)
class TrueSkillOptions:
    """What the skill model can be asked for; skills have units of their own.

    Attributes:
        link: probit or logistic.
        skill_mean: Prior mean, in skill units (default: 25 (probit), 0 (logistic))
        skill_sd: Prior sd, in skill units (default: 25/3 (probit), 1 (logistic))
        performance_sd: With the probit link: sd β of a performance, in skill units (default: 25/6)
        draw_margin: With the probit link: margin ε of a win, in skill units; less is a draw (default: 0)
    """

    link: str = "probit"
    skill_mean: float | None = None
    skill_sd: float | None = None
    performance_sd: float | None = None
    draw_margin: float | None = None


class TrueSkillKeywords(TypedDict, total=False):
    """`TrueSkillOptions` as keywords."""

    link: str
    skill_mean: float | None
    skill_sd: float | None
    performance_sd: float | None
    draw_margin: float | None


class TrueSkill(DuelOutlook, PyroModule):  # type: ignore[misc]
    """s_i ~ N(μ0, σ0²); player i beats j with probability Φ((s_i − s_j − ε)/(√2 β)) or σ(s_i − s_j).

    The probit link is TrueSkill's: each player performs at s_i + N(0, β²), and wins by a margin of
    more than ε; other games are draws, which there are none of where ε = 0. The logistic link is Bradley and
    Terry's. Only differences of skills enter the
    likelihood: the mean of all skills keeps its prior N(μ0, σ0²/n) exactly, and posteriors are
    compared through differences.

    Source: Herbrich, Minka and Graepel, "TrueSkill: A Bayesian Skill Rating System" (2007), section 2.

    Args:
        num_players: n ≥ 2.
        link: "probit" or "logistic".
        skill_mean: μ0; 25 for the probit link and 0 for the logistic one by default.
        skill_sd: σ0; 25/3 and 1 by default.
        performance_sd: β, probit link only; 25/6 by default.
        draw_margin: ε ≥ 0, probit link only; 0 by default.
        dtype: of the arithmetic.
        players: names.

    Raises:
        InputError: for a parameter out of range, or one that the link does not have.
    """

    data_type: ClassVar[type[DataType]] = Games
    inputs: ClassVar[Mapping[str, Input]] = DUELS
    name: ClassVar[str] = "trueskill"
    Options: ClassVar[type[TrueSkillOptions]] = TrueSkillOptions
    unit: ClassVar[Unit] = "data set"
    oracle: ClassVar[str] = "quadrature with two players; exact values that Infer.NET and choix publish"
    defaults: ClassVar[FitDefaults] = FitDefaults(num_steps=3000, lr=0.05, num_particles=16)
    guides: ClassVar[Mapping[str, Callable[..., nn.Module]]] = {
        "mean-field": lambda model, *data: AutoNormal(
            model, init_loc_fn=model.at_prior_mean, init_scale=model.skill_sd / 2
        ),
        "full-rank": lambda model, *data: AutoMultivariateNormal(
            model, init_loc_fn=model.at_prior_mean, init_scale=model.skill_sd / 2
        ),
    }

    def __init__(
        self,
        num_players: int,
        *,
        link: str = "probit",
        skill_mean: float | None = None,
        skill_sd: float | None = None,
        performance_sd: float | None = None,
        draw_margin: float | None = None,
        dtype: torch.dtype = torch.float64,
        players: tuple[str, ...] = (),
    ) -> None:
        super().__init__("trueskill")
        if link not in LINKS:
            raise InputError(f"link {link!r} is not known; it is {' or '.join(LINKS)}")
        if num_players < 2:
            raise InputError(f"there are {num_players} players; a game needs two")
        if link == "logistic" and (performance_sd is not None or draw_margin is not None):
            name = "performance_sd" if performance_sd is not None else "draw_margin"
            raise InputError(f"{name} belongs to the probit link; the logistic link has none")
        probit = link == "probit"
        self.num_players, self.link = num_players, link
        self.skill_mean = (25.0 if probit else 0.0) if skill_mean is None else skill_mean
        self.skill_sd = (25.0 / 3 if probit else 1.0) if skill_sd is None else skill_sd
        self.performance_sd = 25.0 / 6 if performance_sd is None else performance_sd
        self.draw_margin = 0.0 if draw_margin is None else draw_margin
        self.players = players or tuple(str(k) for k in range(num_players))
        self._check_numbers()
        self.register_buffer("prior_mean", torch.tensor(self.skill_mean, dtype=dtype))
        self.register_buffer("prior_sd", torch.tensor(self.skill_sd, dtype=dtype))

    @classmethod
    def from_data(
        cls, games: Games, options: TrueSkillOptions | None = None, **keywords: Unpack[TrueSkillKeywords]
    ) -> Self:
        """A model for the players of these games; options as one object or by name."""
        chosen = one_of(TrueSkillOptions, options, keywords)
        return cls(games.num_players, players=games.players, **asdict(chosen))

    def forward(self, outcome: Tensor, players: Tensor | None = None) -> Tensor:
        """The Pyro program.

        Args:
            outcome: shape (num_games,): 1 where the first player won, 0 where the second did, ½ for a draw.
            players: both players' numbers, integers of shape (num_games, 2).
        """
        if players is None:
            raise InputError(_OF_OLD)
        with pyro.plate("player", self.num_players):
            skill = pyro.sample("skill", dist.Normal(self.prior_mean, self.prior_sd))
        with pyro.plate("game", len(outcome)) as i:
            first, second = players[i].unbind(-1)
            result = self._outcome(skill[..., first] - skill[..., second])
            return pyro.sample("win", result, obs=outcome[i].to(skill.dtype))

    def check_data(self, outcome: Tensor, players: Tensor | None = None) -> None:
        """Refuse what are no games, and draws where the model has none.

        Raises:
            InputError: naming the first wrong game.
        """
        if players is None:
            raise InputError(_OF_OLD)
        self._check_players(players)
        if outcome.shape != players.shape[:1]:
            raise InputError(
                f"outcomes are numbers of shape ({len(players)},), one a game; got {tuple(outcome.shape)}"
            )
        if (drawn := outcome == 0.5).any() and not self.draw_margin:
            words = "give draw_margin a positive number" if self.link == "probit" else "take the probit link"
            raise InputError(
                f"game {int(drawn.nonzero()[0])} is a draw, and with no margin there are none: {words}"
            )
        if (wrong := ~(drawn | (outcome == 0) | (outcome == 1))).any():
            row = int(wrong.nonzero()[0])
            raise InputError(
                f"game {row} has the outcome {float(outcome[row]):g}; it is 1 (the first player won), 0 or ½"
            )

    def _check_players(self, players: Tensor) -> None:
        if players.dim() != 2 or players.shape[1] != 2 or players.is_floating_point() or not len(players):
            raise InputError(
                "players are integers of shape (num_games, 2), the first and the second; got "
                f"{players.dtype} of shape {tuple(players.shape)}"
            )
        unknown = ((players < 0) | (players >= self.num_players)).any(1)
        if unknown.any():
            row = int(unknown.nonzero()[0])
            raise InputError(
                f"game {row} is {players[row].tolist()}; players are 0 to {self.num_players - 1}"
            )
        if (same := players[:, 0] == players[:, 1]).any():
            row = int(same.nonzero()[0])
            raise InputError(f"game {row} has player {int(players[row, 0])} against itself")

    def normal_prior(self) -> tuple[str, Chains]:
        """The site "skill" and its prior N(μ0, σ0²), a chain of one state a player."""
        mean, variance = self.prior_mean, self.prior_sd**2
        return "skill", Chains.static(mean.expand(self.num_players), variance.expand(self.num_players))

    def rows(self, outcome: Tensor, players: Tensor) -> Design:
        """See `LinearFactors`: s_winner − s_loser of every game, of draws the first player's less the
        second's; what is observed is whether it was won (1) or drawn (½)."""
        if (lost := outcome == 0).any():
            players = torch.where(lost[:, None], players.flip(-1), players)
            outcome = torch.where(lost, 1.0, outcome)
        value = torch.tensor([1.0, -1.0], dtype=torch.float64, device=players.device)
        return Design.of_entries(players, value, outcome)

    def log_likelihood(self, predictor: Tensor, outcome: Tensor) -> Tensor:
        """log P(won) or log P(drawn) at differences of skills, elementwise, in nats."""
        if self.link == "probit" and not self.draw_margin:
            return log_normal_cdf_of_many((2 * outcome - 1) * (predictor / self._difference_sd))
        return self._outcome(predictor).log_prob(outcome)

    def extended(self, players: Sequence[str], player: Any, time: Any) -> TrueSkill:
        """See `KnowsOutcomes`: players who are new have the prior."""
        own = {"performance_sd": self.performance_sd, "draw_margin": self.draw_margin}
        return TrueSkill(
            len(players), link=self.link, skill_mean=self.skill_mean, skill_sd=self.skill_sd,
            dtype=self.prior_mean.dtype, players=tuple(players), **(own if self.link == "probit" else {}),
        )  # fmt: skip

    def of_appearances(self, players: Sequence[str], player: Any, time: Any) -> TrueSkill:
        """See `KnowsOutcomes`."""
        return self.extended(players, player, time)

    def tilted(self, mean: Tensor, variance: Tensor, outcome: Tensor) -> Tilted | None:
        """See `TiltedFactors`: closed for the probit link."""
        if self.link == "logistic":
            return None
        return probit_moments(mean, variance, outcome, math.sqrt(2) * self.performance_sd, self.draw_margin)

    def statistics(self, site: str, outcome: Tensor, players: Tensor) -> OwnStatistics | None:
        """What predictive checks look at: wins by player, and how far results are from a ranking."""
        if site != "win":
            return None
        names, draws = [str(player) for player in self.players], bool(self.draw_margin)
        return OwnStatistics(
            statistics=lambda values: duel_statistics(values[..., 0], players, names, draws=draws),
            levels=lambda values: wins_by_player(values[..., 0], players, len(names)),
            names=names,
            label="wins",
            caption="Wins of each player (diamonds) and central 95 % of the wins in replicated seasons.",
        )

    def win_probability(self, posterior: Posterior, players: Sequence[str] | None = None) -> pd.DataFrame:
        """E[P(row player beats column player next)] over the posterior.

        Args:
            posterior: draws of all skills.
            players: whose; all in the model's order by default, which takes n² × draws operations.
        """
        import pandas as pd

        place = {str(name): at for at, name in enumerate(self.players)}
        names = list(self.players) if players is None else list(players)
        skill = torch.as_tensor(_flat_skills(posterior)[:, [place[str(name)] for name in names]])
        with torch.no_grad():
            rows = [self._outcome_probability(skill[:, i, None] - skill).mean(0) for i in range(len(names))]
        table = torch.stack(rows).numpy()
        np.fill_diagonal(table, np.nan)
        return pd.DataFrame(table, index=names, columns=names)

    def leaderboard(self, posterior: Posterior) -> pd.DataFrame:
        """Players by descending conservative skill: posterior mean, sd and mean − 3 sd."""
        import pandas as pd

        skill = _flat_skills(posterior)
        mean, sd = skill.mean(0), skill.std(0, ddof=1)
        table = pd.DataFrame(
            {"mean": mean, "sd": sd, "conservative": mean - 3 * sd},
            index=pd.Index(self.players, name="player"),
        )
        return table.sort_values("conservative", ascending=False)

    def views(self, context: ViewContext) -> list[View]:
        """Leaderboard and win probabilities; for two players also their skills on one plane."""
        if not context.draws:
            return []
        answers = {name: Posterior(draws, name, "independent") for name, draws in context.draws.items()}
        boards = {name: self.leaderboard(answer) for name, answer in answers.items()}
        order = next(iter(boards.values())).index[:BOARD_PLAYERS]
        board = Intervals(
            caption="The leaderboard, by conservative skill (mean − 3 sd): overlapping bars are players that "
            "the games do not tell apart.",
            names=[str(player) for player in order],
            answers={name: _two_sd(table.loc[order]) for name, table in boards.items()},
            label="skill: posterior mean ± 2 sd",
        )
        names = [str(player) for player in order[:MATRIX_PLAYERS]]
        wins = Matrix(
            caption="Of a hundred games between two players, how many the row's player would win: near 50, "
            "the games played so far do not say who is better.",
            values=self.win_probability([*answers.values()][-1], names).to_numpy(),
            row_names=names, column_names=names, row_label="winner (wins of 100)", column_label="loser",
            limits=(0.0, 1.0), percent=True,
        )  # fmt: skip
        two = self.num_players == 2 and "svi" in answers
        return [board, wins, *([self._plane(answers["svi"], *context.data)] if two else [])]

    def _plane(self, posterior: Posterior, outcome: Tensor, players: Tensor) -> Contours:
        """The two skills of two players: their prior, likelihood, posterior and guide."""
        # Equal games have equal terms: each outcome is computed once.
        results, counts = torch.where(players[:, 0] == 0, outcome, 1 - outcome).unique(return_counts=True)

        def log_likelihood(difference: Tensor) -> Tensor:
            terms = [n * self._outcome(difference).log_prob(r) for r, n in zip(results, counts, strict=True)]
            return torch.stack(terms).sum(0)

        prior = float(self.skill_mean), float(self.skill_sd)
        return skill_plane(prior, log_likelihood, _flat_skills(posterior), self.players)

    def identifiable(self, draws: xr.Dataset) -> xr.Dataset:
        """Skills relative to the mean skill, and, for up to ten players, every difference s_i − s_j."""
        import xarray as xr

        skill = draws["skill"]
        found = xr.Dataset({"relative_skill": skill - skill.mean("player")})
        if self.num_players <= MAX_PLAYERS_FOR_PAIRS:
            first, second = np.triu_indices(self.num_players, k=1)
            values = skill.transpose("chain", "draw", "player").to_numpy()
            labels = [f"{self.players[i]} − {self.players[j]}" for i, j in zip(first, second, strict=True)]
            found = found.assign(
                difference=(("chain", "draw", "pair"), values[..., first] - values[..., second])
            ).assign_coords(pair=labels)
        return found

    def reported(self, draws: xr.Dataset) -> xr.Dataset:
        """The skills themselves: leaderboard, intervals and mean − 3 sd show them."""
        return draws[["skill"]]

    def event_dims(self) -> dict[str, tuple[str, ...]]:
        """Skills have no event dimension: players are a plate."""
        return {"skill": ()}

    def coords(self) -> dict[str, list[Any]]:
        """The players' names."""
        return {"player": list(self.players)}

    def at_prior_mean(self, site: dict[str, Any]) -> Tensor:
        """Where AutoGuides start."""
        return site["fn"].mean.detach().clone()

    def _outcome(self, difference: Tensor) -> dist.TorchDistribution:
        if self.link == "logistic":
            return dist.Bernoulli(logits=difference)
        scale = self._difference_sd
        if self.draw_margin:
            return Duel(difference, scale, self.draw_margin)
        return BernoulliProbit(difference / scale)

    @property
    def _difference_sd(self) -> float:
        """√2 β, of the difference of two performances."""
        return math.sqrt(2) * self.performance_sd

    def _outcome_probability(self, difference: Tensor) -> Tensor:
        if self.link == "logistic":
            return difference.sigmoid()
        return torch.special.ndtr((difference - self.draw_margin) / self._difference_sd)

    def _check_numbers(self) -> None:
        for name in ("skill_mean", "skill_sd", "performance_sd", "draw_margin"):
            if not math.isfinite(getattr(self, name)):
                raise InputError(f"{name} is {getattr(self, name)}; it must be finite")
        for name in ("skill_sd", "performance_sd"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be positive")
        if self.draw_margin < 0:
            raise InputError(f"draw_margin is {self.draw_margin}; it must not be negative")


def _flat_skills(posterior: Posterior) -> np.ndarray:
    """Draws of shape (draws, players), with chains joined."""
    skill = posterior.draws["skill"].transpose("chain", "draw", "player").to_numpy()
    return skill.reshape(-1, skill.shape[-1])


def _two_sd(table: pd.DataFrame) -> np.ndarray:
    """Mean − 2 sd, mean and mean + 2 sd, shape (players, 3)."""
    mean, sd = table["mean"].to_numpy(), table["sd"].to_numpy()
    return np.column_stack([mean - 2 * sd, mean, mean + 2 * sd])
