"""The chess games: how far below the mean-field optimum a fit ends that keeps to its time."""

import time
from collections.abc import Callable

import torch

from benchmarks import chess
from benchmarks.harness import Measured
from benchmarks.reference import reference
from ppl_vae import svi
from ppl_vae.inference import natural


def by_svi(repeats: int) -> Measured:
    def gap(games: torch.Tensor, optimum: float) -> tuple[float, float]:
        pair = chess.skills(games, torch.float32)
        start = time.perf_counter()
        svi.fit(pair, games, **chess.SVI, progress=False)
        seconds = time.perf_counter() - start
        return optimum - natural.quadrature_elbo(pair, games).value, seconds

    return _measure(gap, repeats, limit=60.0)


def by_natural_gradients(repeats: int) -> Measured:
    def gap(games: torch.Tensor, optimum: float) -> tuple[float, float]:
        pair = chess.skills(games, torch.float64)
        start = time.perf_counter()
        found = natural.fit(pair, games)
        seconds = time.perf_counter() - start
        return abs(optimum - found.final.value), seconds

    return _measure(gap, repeats, limit=5.0)


def _measure(
    gap: Callable[[torch.Tensor, float], tuple[float, float]], repeats: int, limit: float
) -> Measured:
    """A fit that takes longer than the limit has missed its target, however close it comes."""
    games, published = chess.chess_games(), reference("skill")
    if games is None or published is None:
        raise FileNotFoundError("the chess games or their reference value are absent")
    optimum = published["chess_csc412"]["mean_field_optimum_ELBO"]
    gaps, seconds = zip(*(gap(games, optimum) for _ in range(repeats)), strict=True)
    slowest, worst = max(seconds), max(gaps)
    if slowest > limit:
        raise TimeoutError(f"took {slowest:.1f} s, more than {limit:g} s, and ended {worst:.3g} nats below")
    return Measured(list(gaps), [], "nats", f"in {slowest:.1f} s")
