"""Which tensors of games a model of skills takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ppl_vae.base.errors import InputError

if TYPE_CHECKING:
    from ppl_vae.data.games import Games
    from ppl_vae.models.skills.numbers import Numbers

__all__ = ["GameTensors", "check_tensors", "refuse_more_sides"]

# Games that are looked at together.
BLOCK = 2**16


class GameTensors(NamedTuple):
    """What a model of skills takes, of the shapes that `model.Skills.forward` says."""

    outcome: Tensor
    players: Tensor
    weight: Tensor
    time: Tensor
    covariate: Tensor
    game_weight: Tensor

    def block(self, start: int, size: int) -> GameTensors:
        """Some of the games."""
        return GameTensors(*(part[start : start + size] for part in self))


def check_tensors(model: Numbers, games: GameTensors) -> None:
    """See `model.Skills.check_data`; games are counted from 0, as rows of the tensors."""
    _check_shapes(games)
    lineup, width = model.lineup, games.covariate.shape[-1]
    if lineup.columns and width <= max(lineup.columns):
        raise InputError(f"the games have {width} covariates; the model takes {lineup.columns}")
    # In blocks, for what is made on the way is several times as large as the games.
    for start in range(0, len(games.players), BLOCK):
        _check_block(model, start, games.block(start, BLOCK))


def refuse_more_sides(games: Games) -> None:
    """Refuse games of more than two sides, of a model of two.

    Raises:
        InputError: naming the first, counted from 1.
    """
    if (many := games.sides > 2).any():
        at = int(many.argmax())
        raise InputError(
            f"game {at + 1} of {games.name} has {games.sides[at]} sides; the model is of games of two sides"
        )


def _check_block(model: Numbers, start: int, games: GameTensors) -> None:
    """Refuse some of the games, of which the first has this number."""
    outcome, players, time = games.outcome, games.players, games.time
    _check_players(players, model.lineup.schedule.num_players, start)
    _check_numbers(games, start)
    _check_powers(model, games.game_weight, start)
    unknown = model.lineup.schedule.unknown(players, time).any(-1).any(-1)
    if unknown.any():
        row = _first(unknown)
        raise InputError(
            f"game {start + row} is at {time[row]:g}, when one of its players has no game of those that the "
            "model was made for; forecasts of other dates are made from the posterior"
        )
    there = (players >= 0).any(-1)
    wrong = (there & ~outcome.isfinite()).any(-1)
    if wrong.any():
        row = _first(wrong)
        raise InputError(
            f"game {start + row} ended {outcome[row].tolist()}; the outcome of every side must be finite"
        )
    if model.options.outcome == "result":
        _check_places(model, outcome, there, start)
    elif model.options.outcome == "goals":
        goals = outcome.nan_to_num(0.0)
        if (wrong := ((goals < 0) | (goals != goals.round())).any(-1)).any():
            row = _first(wrong)
            raise InputError(f"game {start + row} ended {outcome[row].tolist()}; goals are whole numbers")


def _check_shapes(tensors: GameTensors) -> None:
    players, covariate = tensors.players, tensors.covariate
    if players.dim() != 3 or players.is_floating_point() or not len(players) or players.shape[1] < 2:
        raise InputError(
            "players are integers of shape (games, sides, members) with at least two sides; got "
            f"{players.dtype} of shape {tuple(players.shape)}"
        )
    games, sides, _ = players.shape
    wanted = {
        "outcome": (games, sides),
        "weight": tuple(players.shape),
        "time": (games,),
        "covariate": (games, sides, covariate.shape[-1] if covariate.dim() else 0),
        "game_weight": (games,),
    }
    for name, shape in wanted.items():
        if (found := tuple(getattr(tensors, name).shape)) != shape:
            raise InputError(f"the {name} of {games} games must have shape {shape}; got {found}")


def _check_players(players: Tensor, num_players: int, start: int) -> None:
    unknown = ((players < -1) | (players >= num_players)).any(-1).any(-1)
    if unknown.any():
        row = _first(unknown)
        raise InputError(f"game {start + row} is {players[row].tolist()}; players are 0 to {num_players - 1}")
    sides = (players >= 0).any(-1).sum(-1)
    if (few := sides < 2).any():
        row = _first(few)
        raise InputError(f"game {start + row} has fewer than two sides: {players[row].tolist()}")
    # Several of many sides may have something in common, such as a car; of two sides nobody is on both.
    twice = _repeats(players).any(-1) | (_repeats(players.flatten(1)) & (sides == 2))
    if twice.any():
        row = _first(twice)
        raise InputError(f"game {start + row} is {players[row].tolist()}: a player plays in it twice")


def _repeats(players: Tensor) -> Tensor:
    """Whether somebody stands twice in the last dimension."""
    found = players.sort(-1).values
    return ((found[..., 1:] == found[..., :-1]) & (found[..., 1:] >= 0)).any(-1)


def _check_numbers(games: GameTensors, start: int) -> None:
    _, players, weight, time, covariate, game_weight = games
    wrong = ((players >= 0) & ~((weight > 0) & weight.isfinite())).any(-1).any(-1)
    if wrong.any():
        row = _first(wrong)
        raise InputError(
            f"game {start + row} has the weights {weight[row].tolist()}; they must be positive and finite"
        )
    if (wrong := ~((game_weight > 0) & game_weight.isfinite())).any():
        row = _first(wrong)
        raise InputError(
            f"game {start + row} counts {game_weight[row]:g} times; that must be positive and finite"
        )
    if (wrong := ~(covariate.isfinite().flatten(1).all(-1) & time.isfinite())).any():
        raise InputError(f"game {start + _first(wrong)} has a date or covariate that is not finite")


def _check_powers(model: Numbers, game_weight: Tensor, start: int) -> None:
    if not model.weighted and (wrong := game_weight != 1).any():
        row = _first(wrong)
        raise InputError(
            f"game {start + row} counts {game_weight[row]:g} times, and the model was made of games without "
            "weights; fit all games from nothing, or leave their weights out"
        )


def _check_places(model: Numbers, outcome: Tensor, there: Tensor, start: int) -> None:
    """Places count how many sides finished ahead."""
    place = torch.where(there, outcome, torch.inf)
    ahead = (place[:, None, :] < place[:, :, None]).sum(-1)
    if (wrong := (there & (outcome != ahead)).any(-1)).any():
        row = _first(wrong)
        raise InputError(
            f"game {start + row} ended {outcome[row].tolist()}; places are how many sides finished ahead: "
            "0, 1, 2 and so on, the same for those that tied"
        )
    tied = ((place[:, None, :] == place[:, :, None]) & there[:, None, :] & there[:, :, None]).sum((-1, -2))
    drawn = (tied > there.sum(-1)) & (there.sum(-1) == 2)
    if drawn.any() and not model.options.draws:
        row = _first(drawn)
        raise InputError(
            f"game {start + row} ended {outcome[row].tolist()}, and the model has no draws (draws=True)"
        )


def _first(wrong: Tensor) -> int:
    return int(wrong.nonzero()[0])
