"""The chess games: how far below the mean-field optimum a fit ends that keeps to its time."""

import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.harness import Measured
from benchmarks.reference import folder, reference
from ppl_vae import Pair, TrueSkill, svi
from ppl_vae.inference import natural

Games = tuple[torch.Tensor, torch.Tensor]

GAMES = "data/chess_csc412/games.csv"
# The noise of single draws is what limits it: averaged over T steps it leaves about one nat for every T
# players. Full batches, because minibatches save little (drawing a step's skills and updating them costs
# nearly as much as the games do) and add noise of their own; one draw a step, because averaging over steps
# does as well as averaging over draws.
SVI = {"num_steps": 8000, "lr": 0.05, "lr_end": 0.1, "average": 0.95, "compile": True}


def chess_games() -> Games | None:
    """The outcome of every game, 1 throughout, and its winner and loser; None where they are absent."""
    path = folder() / GAMES
    if not path.exists():
        return None
    players = torch.as_tensor(np.loadtxt(path, delimiter=",", skiprows=1, dtype=np.int64) - 1)
    return torch.ones(len(players), dtype=torch.float64), players


def skills(games: Games, dtype: torch.dtype) -> Pair:
    model = TrueSkill(int(games[1].max()) + 1, link="logistic", dtype=dtype)
    return Pair(model, TrueSkill.guides["mean-field"](model))


def by_svi(repeats: int) -> Measured:
    def gap(games: Games, optimum: float) -> tuple[float, float]:
        pair = skills(games, torch.float32)
        start = time.perf_counter()
        svi.fit(pair, *games, **SVI, progress=False)
        seconds = time.perf_counter() - start
        return optimum - natural.quadrature_elbo(pair, *games).value, seconds

    return _measure(gap, repeats, limit=60.0)


def by_natural_gradients(repeats: int) -> Measured:
    def gap(games: Games, optimum: float) -> tuple[float, float]:
        pair = skills(games, torch.float64)
        start = time.perf_counter()
        found = natural.fit(pair, *games)
        seconds = time.perf_counter() - start
        return abs(optimum - found.final.value), seconds

    return _measure(gap, repeats, limit=5.0)


def _measure(gap: Callable[[Games, float], tuple[float, float]], repeats: int, limit: float) -> Measured:
    """A fit that takes longer than the limit has missed its target, however close it comes."""
    games, published = chess_games(), reference("skill")
    if games is None or published is None:
        raise FileNotFoundError("the chess games or their reference value are absent")
    optimum = published["chess_csc412"]["mean_field_optimum_ELBO"]
    gaps, seconds = zip(*(gap(games, optimum) for _ in range(repeats)), strict=True)
    slowest, worst = max(seconds), max(gaps)
    if slowest > limit:
        raise TimeoutError(f"took {slowest:.1f} s, more than {limit:g} s, and ended {worst:.3g} nats below")
    return Measured(list(gaps), [], "nats", f"in {slowest:.1f} s")
