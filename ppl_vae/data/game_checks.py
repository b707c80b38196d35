"""What games must be, whoever made them: the first game at fault is named."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import numpy as np
from numpy.typing import NDArray

from ppl_vae.base.errors import InputError, brief

if TYPE_CHECKING:
    from ppl_vae.data.games import Games

__all__ = ["check_games", "twice_in_a_game"]


def check_games(games: Games) -> None:
    """Refuse what is no table of games; see `Games`."""
    for words, ends, total in (
        ("side_ptr", games.side_ptr, len(games.place)),
        ("entry_ptr", games.entry_ptr, len(games.player)),
    ):
        rises = ends.ndim == 1 and len(ends) > 0 and not (ends[1:] < ends[:-1]).any()
        if not rises or ends[0] != 0 or ends[-1] != total:
            raise InputError(f"{games.name}: {words} must rise from 0 to {total}.")
    if len(games.entry_ptr) != len(games.place) + 1:
        raise InputError(
            f"{games.name}: entry_ptr is of {len(games.entry_ptr) - 1} sides, place of {len(games.place)}."
        )
    _check_lengths(games)
    if (few := games.side_ptr[1:] < games.side_ptr[:-1] + 2).any():
        game = int(few.argmax())
        number = games.sides[game]
        _refuse(games, game, f"has {number} side{'' if number == 1 else 's'}; a game has at least two")
    if (empty := games.entry_ptr[1:] <= games.entry_ptr[:-1]).any():
        _refuse(games, _game_of(games, int(empty.argmax())), "has a side without players")
    player = games.player
    if player.size and not 0 <= player.min() <= player.max() < games.num_players:
        raise InputError(f"{games.name} names players outside 0..{games.num_players - 1}.")
    if (twice := twice_in_a_game(games)) is not None:
        game, who = twice
        _refuse(games, game, f"has {brief(games.players[who])!r} in it twice; a player is on one side, once")
    _check_numbers(games)


def twice_in_a_game(games: Games) -> tuple[int, int] | None:
    """The first game that a player is in twice, and who that is; None where there is none.

    Of games of more than two sides, only sides are looked at: several may have a car or an engine in common.
    """
    if games.is_duels:
        same = games.player[::2] == games.player[1::2]
        game = int(same.argmax()) if same.any() else -1
        return None if game < 0 else (game, int(games.player[2 * game]))
    number = games.num_players
    # What must not meet is numbered by its side, or in a game of two sides by the game's first one.
    group = np.arange(len(games.place))
    first = np.repeat(games.side_ptr[:-1], games.sides)
    group = np.where(np.repeat(games.sides == 2, games.sides), first, group)
    keys = np.repeat(group, games.sizes) * number + games.player
    keys.sort()
    again = np.flatnonzero(keys[1:] == keys[:-1])
    if not len(again):
        return None
    side, who = divmod(int(keys[again[0]]), number)
    return _game_of(games, side), who


def _check_lengths(games: Games) -> None:
    wanted = {
        "weight": (games.weight, len(games.player)),
        "score": (games.score, len(games.place)),
        "time": (games.time, games.num_games),
        "game_weight": (games.game_weight, games.num_games),
        **{name: (values, len(games.place)) for name, values in games.covariates.items()},
    }
    for name, (values, number) in wanted.items():
        if values is not None and values.shape != (number,):
            raise InputError(f"{games.name}: {name} has shape {values.shape} where ({number},) is needed.")


def _check_numbers(games: Games) -> None:
    if games.place.size and games.place.min() < 0:
        _refuse(games, _game_of(games, int((games.place < 0).argmax())), "has a place below 0")
    for name in ("weight", "game_weight"):
        values: NDArray[np.float64] | None = getattr(games, name)
        if values is None or bool(((values > 0) & np.isfinite(values)).all()):
            continue
        at = int((~((values > 0) & np.isfinite(values))).argmax())
        game = at if name == "game_weight" else _game_of(games, _side_of(games, at))
        _refuse(games, game, f"has the {name.replace('_', ' ')} {values[at]:g}; a weight is positive")
    for name, values in {"time": games.time, "score": games.score, **games.covariates}.items():
        if values is not None and not bool(np.isfinite(values).all()):
            at = int((~np.isfinite(values)).argmax())
            _refuse(games, at if name == "time" else _game_of(games, at), f"has the {name} {values[at]:g}")


def _side_of(games: Games, entry: int) -> int:
    return int(np.searchsorted(games.entry_ptr, entry, side="right")) - 1


def _game_of(games: Games, side: int) -> int:
    return int(np.searchsorted(games.side_ptr, side, side="right")) - 1


def _refuse(games: Games, game: int, words: str) -> NoReturn:
    raise InputError(f"{games.name}, game {game + 1} {words}.")
