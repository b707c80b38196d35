"""A league of two seasons whose clubs' skills drift: home advantage, draws, and a leaderboard with error bars.

Twelve clubs meet at home and away, twice; who won was drawn from the model itself, so that the truth is known.
The margin of a draw, the drift and the spread of skills are learnt with the guide. What to look for: the
chain of each club is kept whole by both guides, but only the joint one keeps what clubs share. Games say how
clubs compare and not where all of them are, so that clubs rise and fall together: a guide that takes them for
independent is too sure of each single skill, as NUTS shows, and right about who is better.
"""

import argparse

import numpy as np
import torch

from ppl_vae import Pair, Skills, compare, guide, natural, nuts
from ppl_vae.data.games import Games
from ppl_vae.guides import Prior
from ppl_vae.program.problem import Problem
from ppl_vae.program.simulate import simulate

CLUBS = tuple(f"club {letter}" for letter in "ABCDEFGHIJKL")


def fixtures(rounds: int) -> Games:
    """Everybody against everybody at home and away, one game a week of each club."""
    order, player = [*range(len(CLUBS))], []
    for week in range(rounds):
        half = len(CLUBS) // 2
        pairs = list(zip(order[:half], order[:half - 1:-1], strict=True))
        player += [pair if week % 2 else pair[::-1] for pair in pairs]
        order = [order[0], order[-1], *order[1:-1]]
    count = len(player)
    weeks = np.repeat(np.arange(rounds), len(CLUBS) // 2)
    return Games(
        "league", CLUBS, np.arange(0, 2 * count + 1, 2), np.arange(2 * count + 1), np.ravel(player),
        np.tile(np.array([0, 1], dtype=np.int32), count), time=7.0 * weeks,
        covariates={"home": np.tile([1.0, 0.0], count)},
    )  # fmt: skip
