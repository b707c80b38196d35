"""Games that come after others: numbered alike, and joined with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ppl_vae.base.errors import InputError, listed
from ppl_vae.data.games import Floats, Games

__all__ = ["joined_games", "numbered_like", "unseen_players"]


def numbered_like(games: Games, first: Games) -> Games:
    """Games with the players' positions of others; players that those lack come after theirs.

    Names are compared as they are. Covariates have the others' order: those that only ``games`` have are left
    out, and one that they lack must not be needed.

    Args:
        games: later ones.
        first: whose players and covariates come first.

    Raises:
        InputError: for a covariate of the others, a date or weights that ``games`` lack.
    """
    # Players who are on the list and play none of these games are none of theirs.
    playing = [games.players[at] for at in np.unique(games.player)]
    known = {*first.players}
    new = [name for name in playing if name not in known]
    place = {name: at for at, name in enumerate((*first.players, *new))}
    number = np.array([place.get(name, -1) for name in games.players], dtype=np.int64)
    if missing := [name for name in first.covariates if name not in games.covariates]:
        raise InputError(
            f"{games.name} has no column {missing[0]!r} of its sides, which the games learnt from have: "
            f"it has {listed(games.covariates) or 'none'}"
        )
    if first.time is not None and games.time is None:
        raise InputError(
            f"{games.name} has no dates, which the games learnt from have: give it a column date"
        )
    return replace(
        games,
        players=(*first.players, *new),
        player=number[games.player],
        time=games.time if first.time is not None else None,
        covariates={name: games.covariates[name] for name in first.covariates},
    )


def unseen_players(games: Games, num_known: int) -> tuple[str, ...]:
    """Who of the players of these games is none of the first so many, in order of appearance."""
    return tuple(games.players[at] for at in np.unique(games.player) if at >= num_known)


def joined_games(first: Games, later: Games) -> Games:
    """Games and others behind them, under the first ones' name.

    Args:
        first: some games.
        later: further ones; see `numbered_like`.

    Raises:
        InputError: where the later ones lack scores, dates or a covariate that the first have.
    """
    further = numbered_like(later, first)
    if first.score is not None and further.score is None:
        raise InputError(f"{later.name} has no scores, which {first.name} has")
    return Games(
        first.name,
        further.players,
        np.concatenate([first.side_ptr, first.side_ptr[-1] + further.side_ptr[1:]]),
        np.concatenate([first.entry_ptr, first.entry_ptr[-1] + further.entry_ptr[1:]]),
        np.concatenate([first.player, further.player]),
        np.concatenate([first.place, further.place]),
        weight=_both(first.weight, further.weight, len(first.player), len(further.player)),
        score=None if first.score is None else _both(first.score, further.score, 0, 0),
        time=_both(first.time, further.time, 0, 0),
        game_weight=_both(first.game_weight, further.game_weight, first.num_games, further.num_games),
        covariates={
            name: np.concatenate([values, further.covariates[name]])
            for name, values in first.covariates.items()
        },
        warnings=tuple(dict.fromkeys((*first.warnings, *later.warnings))),
        history=tuple(dict.fromkeys((*first.history, *later.history))),
    )


def _both(first: Floats | None, later: Floats | None, before: int, after: int) -> Floats | None:
    """Both columns in one; ones in the place of one that is not there."""
    if first is None and later is None:
        return None
    parts = (np.ones(before) if first is None else first, np.ones(after) if later is None else later)
    return np.concatenate(parts)
