"""What models of games take of a data set: six inputs, padded to the largest game, or a duel's two."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from ppl_vae.base.errors import InputError
from ppl_vae.data.dataset import Dataset, Variable
from ppl_vae.data.game_columns import games_of, is_padded
from ppl_vae.data.game_roles import is_role
from ppl_vae.data.games import Floats, Games
from ppl_vae.data.input import Input, as_reals, as_whole, tensor_of

if TYPE_CHECKING:
    import torch

    from ppl_vae.data.matching import Search

__all__ = [
    "DUELS",
    "Covariates",
    "DuelOutcome",
    "DuelPlayers",
    "GameInput",
    "GameTime",
    "GameWeight",
    "Observes",
    "Outcome",
    "Players",
    "Weight",
    "game_inputs",
]

Observes = Literal["place", "score"]


@dataclass(frozen=True, kw_only=True)
class GameInput(Input):
    """One input of a program of games; the games themselves are read once for all of them."""

    def prepare(self, name: str, search: Search) -> Variable:
        """See `Input.prepare`."""
        if name in search.dataset and self._is_ready(search.dataset, search.dataset[name]):
            return search.dataset[name]
        return self.of(_games_in(search))

    def takes(self, name: str) -> bool:
        """See `Input.takes`: the parts that columns of a table of games play."""
        return is_role(name)

    @abstractmethod
    def of(self, games: Games) -> Variable:
        """The variable of these games.

        Raises:
            InputError: for games that lack what it needs.
        """

    def _is_ready(self, dataset: Dataset, found: Variable) -> bool:
        """Whether a variable of that name is what `of` would make."""
        return is_padded(dataset) and dataset["players"].values.ndim == 3


def _games_in(search: Search) -> Games:
    found = search.views.get("games")
    if found is None:
        found = search.views["games"] = games_of(search.dataset, search.columns)
        search.history += [words for words in found.history if words not in search.dataset.history]
        search.warnings += [words for words in found.warnings if words not in search.dataset.warnings]
        search.taken.update(search.dataset)
    return cast(Games, found)


@dataclass(frozen=True, kw_only=True)
class Outcome(GameInput):
    """How games ended, (games, sides), NaN where there is no such side.

    Attributes:
        observes: "place", 0 the best and ties equal, or "score".
    """

    observes: Observes = "place"

    def of(self, games: Games) -> Variable:
        """See `GameInput.of`."""
        if self.observes == "place":
            return Variable(by_side(games, games.place, np.nan), "count", dims=("side",))
        if games.score is None:
            raise InputError(f"{games.name} has no scores, which the model observes: it has places alone.")
        return Variable(by_side(games, games.score, np.nan), "real", dims=("side",))

    def _is_ready(self, dataset: Dataset, found: Variable) -> bool:
        kind = "count" if self.observes == "place" else "real"
        return super()._is_ready(dataset, found) and found.kind == kind


@dataclass(frozen=True, kw_only=True)
class Players(GameInput):
    """Who is in each side, (games, sides, members): int64 positions, −1 where there is no such player."""

    observed: bool = False

    def of(self, games: Games) -> Variable:
        """See `GameInput.of`."""
        values = by_member(games, games.player, -1)
        return Variable(values, "index", dims=("side", "member"), levels=games.players)

    def tensor(self, variable: Variable, where: str, dtype: torch.dtype) -> torch.Tensor:
        """See `Input.tensor`: int64."""
        return as_whole(variable)


@dataclass(frozen=True, kw_only=True)
class Weight(GameInput):
    """Which part of the game each player played, (games, sides, members); 0 where there is no such player."""

    observed: bool = False

    def of(self, games: Games) -> Variable:
        """See `GameInput.of`."""
        weight = np.broadcast_to(1.0, games.player.shape) if games.weight is None else games.weight
        return Variable(by_member(games, weight, 0.0), "real", dims=("side", "member"))


@dataclass(frozen=True, kw_only=True)
class GameTime(GameInput):
    """When each game was, (games,), float64 whatever the program computes in; 0 without time."""

    observed: bool = False

    def of(self, games: Games) -> Variable:
        """See `GameInput.of`."""
        return Variable(np.broadcast_to(0.0, games.num_games) if games.time is None else games.time, "time")

    def tensor(self, variable: Variable, where: str, dtype: torch.dtype) -> torch.Tensor:
        """See `Input.tensor`: float64."""
        import torch

        return tensor_of(variable.values, torch.float64)


@dataclass(frozen=True, kw_only=True)
class Covariates(GameInput):
    """What else a side had, such as its home ground, (games, sides, covariates); 0 where there is no side."""

    observed: bool = False

    def of(self, games: Games) -> Variable:
        """See `GameInput.of`."""
        columns = [by_side(games, values, 0.0)[..., None] for values in games.covariates.values()]
        if len(columns) == 1:
            values = columns[0]
        elif columns:
            values = np.concatenate(columns, axis=2)
        else:
            values = np.empty((games.num_games, int(games.sides.max(initial=2)), 0))
        labels = {"covariate": tuple(games.covariates)} if columns else {}
        return Variable(values, "real", dims=("side", "covariate"), labels=labels)

    def tensor(self, variable: Variable, where: str, dtype: torch.dtype) -> torch.Tensor:
        """See `Input.tensor`."""
        import torch

        if not variable.values.size:
            return torch.zeros(variable.values.shape, dtype=dtype)
        return as_reals(variable, where, dtype)


@dataclass(frozen=True, kw_only=True)
class GameWeight(GameInput):
    """The power that each game's likelihood is raised to, (games,)."""

    observed: bool = False

    def of(self, games: Games) -> Variable:
        """See `GameInput.of`."""
        weight = np.broadcast_to(1.0, games.num_games) if games.game_weight is None else games.game_weight
        return Variable(weight, "real")


@dataclass(frozen=True, kw_only=True)
class DuelOutcome(GameInput):
    """How duels ended, (games,): 1 where the first player won, 0 where the second did, ½ for a draw."""

    def of(self, games: Games) -> Variable:
        """See `GameInput.of`."""
        _check_duels(games)
        first, second = games.place[::2], games.place[1::2]
        outcome = np.sign(second - first).astype(np.float64)
        outcome += 1.0
        outcome *= 0.5
        return Variable(outcome, "grey")

    def _is_ready(self, dataset: Dataset, found: Variable) -> bool:
        return is_padded(dataset) and found.values.ndim == 1


@dataclass(frozen=True, kw_only=True)
class DuelPlayers(GameInput):
    """Who plays each duel, (games, 2): int64 positions."""

    observed: bool = False

    def of(self, games: Games) -> Variable:
        """See `GameInput.of`."""
        _check_duels(games)
        return Variable(games.player.reshape(-1, 2), "index", dims=("side",), levels=games.players)

    def tensor(self, variable: Variable, where: str, dtype: torch.dtype) -> torch.Tensor:
        """See `Input.tensor`: int64."""
        return as_whole(variable)

    def _is_ready(self, dataset: Dataset, found: Variable) -> bool:
        return is_padded(dataset) and found.values.ndim == 2


DUELS: Mapping[str, Input] = {"outcome": DuelOutcome(), "players": DuelPlayers()}


def game_inputs(observes: Observes = "place") -> Mapping[str, Input]:
    """The inputs of a program of games in the order of its parameters.

    Args:
        observes: what of each side it observes.
    """
    return {
        "outcome": Outcome(observes=observes),
        "players": Players(),
        "weight": Weight(),
        "time": GameTime(),
        "covariate": Covariates(),
        "game_weight": GameWeight(),
    }


def _check_duels(games: Games) -> None:
    if games.game_weight is not None or games.weight is not None:
        counts = (
            "games count more or less than others" if games.weight is None else "players play parts of games"
        )
        raise InputError(f"{games.name}: {counts}, and the model takes none of these weights.")
    if games.is_duels:
        return
    game = int((games.sides != 2).argmax()) if (games.sides != 2).any() else -1
    if game >= 0:
        words = f"game {game + 1} has {games.sides[game]} sides"
    else:
        side = int((games.sizes != 1).argmax())
        words = f"game {side // 2 + 1} has a side of {games.sizes[side]} players"
    raise InputError(f"{games.name}: {words}, and the model takes games of one player against another.")


def by_side(games: Games, values: NDArray[Any], empty: float) -> Floats:
    """One number a side as (G, K), with another where a game has fewer sides."""
    sides = games.sides
    most = int(sides.max(initial=2))
    if len(values) == most * games.num_games:
        return values.astype(np.float64, copy=False).reshape(-1, most)
    found = np.full((games.num_games, most), empty)
    found[np.arange(most) < sides[:, None]] = values
    return found


def by_member(games: Games, values: NDArray[Any], empty: float) -> NDArray[Any]:
    """One number an entry as (G, K, M), with another where there is no such side or player."""
    sides, sizes = games.sides, games.sizes
    shape = games.num_games, int(sides.max(initial=2)), int(sizes.max(initial=1))
    if len(values) == np.prod(shape):
        return values.reshape(shape)
    found = np.full(shape, empty, dtype=values.dtype)
    members = np.zeros(shape[:2], dtype=np.int64)
    members[np.arange(shape[1]) < sides[:, None]] = sizes
    found[np.arange(shape[2]) < members[..., None]] = values
    return found
