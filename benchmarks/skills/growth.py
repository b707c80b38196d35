"""Natural gradients on more and more games: ``python -m benchmarks.skills growth``.

Static games (`TrueSkill`, 10^3 to 10^7 of them, of one player for every fifty games) from their tensors to an
ELBO that rises by less than .01 nats an iteration; dated games (`Skills` with drift, and a guide that keeps
every player's states as a chain) like those of a professional tour of half a century, 447,000 games of 20,633
players. All is made from a seed. Every row runs in a process of its own, on one thread, and reports its
processor seconds and the most memory that it held; the ELBO's distance is that from a fit to 1e-6 nats with
more nodes, which is not timed. ``--games`` gives other numbers of static games, ``--dated`` of dated ones
(0 for none), ``--no-optimum`` leaves the distances out.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

STATIC = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
DATED, PLAYERS, DAYS = 447_000, 20_633, 18_000
COLUMNS = ("games", "states", "rows", "iterations", "prepared", "fitted", "process", "MB", "nats off")


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.skills growth", description=__doc__)
    parser.add_argument("--games", type=int, nargs="*", default=STATIC)
    parser.add_argument("--dated", type=int, default=DATED)
    parser.add_argument("--no-optimum", action="store_true")
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.row:
        print(json.dumps(_row(given.row[0], int(given.row[1]), given.no_optimum)))
        return
    print(f"| what | {' | '.join(COLUMNS)} |", "| --- " * (len(COLUMNS) + 1) + "|", sep="\n", flush=True)
    spent = [_printed("static", games, given.no_optimum)["fitted"] for games in given.games]
    if len(spent) > 1:
        logs = (math.log(ends[-1] / ends[0]) for ends in (spent, given.games))
        ends = f"{given.games[0]:,} to {given.games[-1]:,} games"
        print(f"\nexponent of fitting from {ends}: {next(logs) / next(logs):.2f}")
    if given.dated:
        print()
        _printed("dated", given.dated, given.no_optimum)


def _printed(what: str, games: int, no_optimum: bool) -> dict[str, float]:
    """One row, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.skills", "growth", "--row", what, str(games)]
    done = subprocess.run(
        [*command, *["--no-optimum"] * no_optimum], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"| {what} |", *(f"{found.get(name, math.nan):,.6g} |" for name in COLUMNS), flush=True)
    return found


def _row(what: str, games: int, no_optimum: bool) -> dict[str, float]:
    torch.set_num_threads(1)
    from ppl_vae.inference.fitting import natural
    from ppl_vae.inference.fitting.factors import quadrature
    from ppl_vae.program.factors import LinearFactors

    begun = time.process_time()
    pair, data = _static(games) if what == "static" else _dated(games)
    prepared = time.process_time() - begun
    begun = time.process_time()
    found = natural.fit(pair, *data, tolerance=0.01, progress=False)
    fitted = time.process_time() - begun
    own = resource.getrusage(resource.RUSAGE_SELF)
    model = pair.model
    assert isinstance(model, LinearFactors)
    row = {
        "games": games, "states": model.normal_prior()[1].num_states, "iterations": found.steps,
        "prepared": prepared, "fitted": fitted, "process": own.ru_utime + own.ru_stime,
        "MB": own.ru_maxrss / 1024,
    }  # fmt: skip
    row["rows"] = quadrature.read(pair, *data)[2].size
    if not no_optimum:
        before = natural.quadrature_elbo(pair, *data, num_nodes=32).value
        best = natural.fit(pair, *data, tolerance=1e-6, num_nodes=32, progress=False)
        row["nats off"] = best.elbo[-1] - before
    return row


def _met(rng: np.random.Generator, games: int, players: int) -> tuple[Any, Any]:
    """Who played whom, a few of them often, and who won."""
    chance = np.cumsum(1 / (np.arange(players) + 60.0))
    first, second = (
        np.searchsorted(chance, chance[-1] * rng.random(games)).astype(np.int64) for _ in range(2)
    )
    second = np.where(first == second, (second + 1) % players, second)
    skill = rng.normal(size=players)
    won = rng.random(games) < 1 / (1 + np.exp(skill[second] - skill[first]))
    return np.stack([first, second], 1), won


def _static(games: int) -> tuple[Any, tuple[Tensor, Tensor]]:
    from ppl_vae.models import TrueSkill
    from ppl_vae.program.pair import Pair

    players = max(20, games // 50)
    met, won = _met(np.random.default_rng(0), games, players)
    model = TrueSkill(players, link="logistic")
    pair = Pair(model, TrueSkill.guides["mean-field"](model, None))
    return pair, (torch.from_numpy(won).double(), torch.from_numpy(met))


def _dated(games: int) -> tuple[Any, tuple[Tensor, ...]]:
    from ppl_vae.data.games import Games
    from ppl_vae.guides import ChainNormal
    from ppl_vae.models.skills.model import Skills
    from ppl_vae.program.pair import Pair

    rng = np.random.default_rng(0)
    players = max(20, round(PLAYERS * games / DATED))
    met, won = _met(rng, games, players)
    seen, met = np.unique(met, return_inverse=True)
    day = np.sort(rng.integers(0, DAYS, games)).astype(np.float64)
    place = np.stack([~won, won], 1).astype(np.int32).reshape(-1)
    names = tuple(f"player {k}" for k in seen)
    entries = np.arange(2 * games + 1)
    played = Games("tour", names, entries[::2].copy(), entries, met.reshape(-1), place, time=day)
    model = Skills.from_data(played, drift="1y", drift_sd=0.3, skill_sd=1.0)
    return Pair(model, ChainNormal(model)), model.arguments_of(played)
