"""Games as columns of a data set, and back: ragged, as they are kept, or padded, as programs take them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppl_vae.data.dataset import Columns, Dataset, Variable
from ppl_vae.data.games import Floats, Games, Ints, duels_of, places_of

__all__ = ["columns_of", "games_of", "is_padded"]


def columns_of(games: Games) -> dict[str, Variable]:
    """The variables that `games_of` makes the same games of.

    ``player`` is ragged, of all entries of a game; so are ``side``, its side's number in the game, and
    ``weight``. ``place``, ``score`` and ``covariate`` are ragged, of all sides of a game. ``time`` and
    ``game_weight`` are one a game. What is None is left out, and ``side`` where every side is one player.
    """
    alone = len(games.player) == len(games.place)
    # By game; without teams the sides are the entries.
    ends = games.side_ptr if alone else games.entry_ptr[games.side_ptr]
    found = {"player": Variable(games.player, "index", levels=games.players, offsets=ends)}
    if not alone:
        numbers = np.arange(len(games.place)) - np.repeat(games.side_ptr[:-1], games.sides)
        found["side"] = Variable(np.repeat(numbers, games.sizes), "index", offsets=ends)
    if games.weight is not None:
        found["weight"] = Variable(games.weight, "real", offsets=ends)
    found["place"] = Variable(games.place, "count", offsets=games.side_ptr)
    if games.score is not None:
        found["score"] = Variable(games.score, "real", offsets=games.side_ptr)
    if games.covariates:
        values = np.stack([*games.covariates.values()], axis=1)
        labels = {"feature": tuple(games.covariates)}
        found["covariate"] = Variable(values, "real", labels=labels, offsets=games.side_ptr)
    if games.time is not None:
        found["time"] = Variable(games.time, "time")
    if games.game_weight is not None:
        found["game_weight"] = Variable(games.game_weight, "real")
    return found


def games_of(dataset: Dataset, columns: Columns | None = None) -> Games:
    """See `Games.of`."""
    if is_padded(dataset):
        return _of_padded(dataset)
    if all(name in dataset and dataset[name].is_ragged for name in ("player", "place")):
        return _of_ragged(dataset)
    if all(name in dataset and dataset[name].kind == "index" for name in ("winner", "loser")):
        return _of_positions(dataset)
    from ppl_vae.data.game_tables import table_games

    return table_games(dataset, columns)


def _of_positions(dataset: Dataset) -> Games:
    """Columns winner and loser of positions among the same players, as 0.1.0 kept them."""
    winner, loser = dataset["winner"], dataset["loser"]
    player = np.stack([winner.values, loser.values], axis=1).reshape(-1)
    place = np.tile(np.array([0, 1], dtype=np.int32), len(player) // 2)
    return duels_of(dataset.name, winner.levels, player, place, dataset.warnings)


def is_padded(dataset: Dataset) -> bool:
    """Whether a data set holds games as programs take them."""
    return "players" in dataset and "outcome" in dataset and dataset["players"].kind == "index"


def _of_ragged(dataset: Dataset) -> Games:
    player, place = dataset["player"], dataset["place"]
    assert player.offsets is not None
    assert place.offsets is not None
    entry_ptr = np.arange(len(player.values) + 1)
    if "side" in dataset:
        side = dataset["side"].values
        new = np.ones(len(side), dtype=bool)
        new[1:] = side[1:] != side[:-1]
        # A game's first entry may be of a side numbered as the last one of the game before.
        new[player.offsets[:-1][np.diff(player.offsets) > 0]] = True
        entry_ptr = np.append(np.flatnonzero(new), len(side))
    covariates = dataset.variables.get("covariate")
    named = () if covariates is None else next(iter(covariates.labels.values()))
    return Games(
        dataset.name,
        player.levels,
        place.offsets,
        entry_ptr,
        player.values,
        place.values.astype(np.int32, copy=False),
        weight=_values(dataset, "weight"),
        score=_values(dataset, "score"),
        time=_values(dataset, "time"),
        game_weight=_values(dataset, "game_weight"),
        covariates={}
        if covariates is None
        else {name: covariates.values[:, at] for at, name in enumerate(named)},
        warnings=dataset.warnings,
        history=dataset.history,
    )


def _values(dataset: Dataset, name: str) -> Floats | None:
    return dataset[name].values.astype(np.float64, copy=False) if name in dataset else None


def _of_padded(dataset: Dataset) -> Games:
    """What the program takes, as games again; all that is 1, 0 or empty throughout counts as not given."""
    players, outcome = dataset["players"], dataset["outcome"]
    if players.values.ndim == 2:
        place = np.empty(players.values.size, dtype=np.int32)
        place[::2], place[1::2] = outcome.values < 0.5, outcome.values > 0.5
        flat = players.values.reshape(-1)
        return duels_of(
            dataset.name, players.levels, flat, place, warnings=dataset.warnings, history=dataset.history
        )
    there = players.values >= 0
    num_games, sides, members = there.shape
    present: Any = slice(None)
    entries: Any = slice(None)
    if there.all():
        # Nothing is padding, and arrays are shared.
        side_ptr = np.arange(num_games + 1) * sides
        entry_ptr = np.arange(num_games * sides + 1) * members
    else:
        sizes = there.sum(2)
        present, entries = sizes > 0, there
        side_ptr, entry_ptr = _ends(present.sum(1)), _ends(sizes[present])

    def of_sides(values: Floats) -> Floats:
        return np.asarray(values[present].reshape(-1))

    score, weight = of_sides(outcome.values), _unless(dataset["weight"].values[entries], 1)
    covariates = dataset["covariate"]
    named = covariates.labels.get("covariate", ())
    return Games(
        dataset.name,
        players.levels,
        side_ptr,
        entry_ptr,
        players.values[entries].reshape(-1),
        places_of(score, side_ptr) if outcome.kind == "real" else score.astype(np.int32),
        weight=None if weight is None else weight.reshape(-1),
        score=score if outcome.kind == "real" else None,
        time=_unless(dataset["time"].values, 0),
        game_weight=_unless(dataset["game_weight"].values, 1),
        covariates={name: of_sides(covariates.values[..., at]) for at, name in enumerate(named)},
        warnings=dataset.warnings,
        history=dataset.history,
    )


def _unless(values: Floats, constant: float) -> Floats | None:
    return None if (values == constant).all() else values


def _ends(lengths: NDArray[np.int64]) -> Ints:
    ends = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=ends[1:])
    return ends
