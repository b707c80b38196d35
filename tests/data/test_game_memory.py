"""What reading many games takes at most, beside what the file's text and names do."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from ppl_vae.data import game_cells
from ppl_vae.data.inputs import DUELS
from ppl_vae.data.named import load_dataset
from ppl_vae.data.prepare import prepare

GAMES, PLAYERS = 50_000, 100
# Bytes a game: 16 for both players' positions, 8 for places, 16 for where entries end,
# as many in another view, 8 for the outcome; 70 were measured, and 110 where every step held its own copies.
MOST = 85
# Of these, what is kept: positions, the outcome, and which games are for training.
KEPT = 32


def _written(path: Path, header: str, games: int) -> Path:
    rng = np.random.default_rng(0)
    first = rng.integers(0, PLAYERS, games)
    second = (first + rng.integers(1, PLAYERS, games)) % PLAYERS
    ended = [",1-0", ",0-1"] if "result" in header else [""]
    rows = (f"p{a},p{b}{ended[a % len(ended)]}" for a, b in zip(first, second, strict=True))
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.mark.parametrize("header", ["winner,loser", "home,away,result"])
def test_games_are_read_in_bounded_memory(
    header: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks of the file are to be small beside it; and what is imported is there before.
    monkeypatch.setattr(game_cells, "BLOCK", 10_000)
    few, many = (_written(tmp_path / f"{games}.csv", header, games) for games in (100, GAMES))
    prepare(load_dataset(str(few), games=True), DUELS)
    tracemalloc.start()
    try:
        ready = prepare(load_dataset(str(many), games=True), DUELS)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert ready.dataset.num_units == GAMES
    assert kept / GAMES < KEPT + 4
    # The advantage at home is a number of each side more.
    assert peak / GAMES < MOST + 16 * header.startswith("home")
