"""Small seasons of games for tests."""

from collections.abc import Sequence

import numpy as np

from ppl_vae.data.games import Games

Side = str | Sequence[str]


def games_of(rows: Sequence[tuple[Sequence[Side], Sequence[float]]], **columns: object) -> Games:
    """Games of these sides with these places, or scores under ``score=True``.

    Args:
        rows: for each game its sides, each a name or several, and a number for each.
        columns: further fields of `Games`; ``scores`` makes places of scores.
    """
    names: dict[str, int] = {}
    sides = [[side] if isinstance(side, str) else list(side) for teams, _ in rows for side in teams]
    player = np.array([names.setdefault(name, len(names)) for side in sides for name in side])
    numbers = [np.asarray(values, dtype=float) for _, values in rows]
    place = [(values[:, None] > values).sum(1) for values in numbers]
    scores = columns.pop("scores", False)
    if scores:
        place = [(values[:, None] < values).sum(1) for values in numbers]
        columns["score"] = np.concatenate(numbers)
    return Games(
        "season",
        tuple(names),
        np.cumsum([0, *(len(teams) for teams, _ in rows)]),
        np.cumsum([0, *map(len, sides)]),
        player,
        np.concatenate(place).astype(np.int32),
        **columns,  # type: ignore[arg-type]
    )


def season(
    num_games: int, num_players: int, *, size: int = 1, seed: int = 0, dates: int = 0, scores: str = ""
) -> Games:
    """A season of two sides of a size at random: wins, draws and losses, or scores ("real" or "whole")."""
    generator = np.random.default_rng(seed)
    names = [f"P{k}" for k in range(num_players)]
    rows = []
    for _ in range(num_games):
        chosen = [names[k] for k in generator.permutation(num_players)[: 2 * size]]
        result = ((0, 1), (1, 0), (0, 0))[generator.integers(3)]
        if scores:
            drawn = generator.normal(size=2) if scores == "real" else generator.poisson(1.4, 2)
            result = tuple(drawn.tolist())
        rows.append(((chosen[:size], chosen[size:]), result))
    time = np.sort(generator.integers(0, dates, num_games)).astype(float) if dates else None
    home = np.tile([1.0, 0.0], num_games)
    home[: num_games // 4] = 0.0
    return games_of(rows, time=time, covariates={"home": home}, scores=bool(scores))
