"""The bound of a chain guide beside kickscore's: ``python -m benchmarks.skills kickscore --python PYTHON``.

kickscore (Maystre, Kristof and Grossglauser 2019) fits the same family, Gaussian chains that are independent
of each other, by coordinate steps of the same natural gradients: its KL bound is our ELBO. The games are
simulated: 60 players, 2,000 games with draws, strengths that walk. PYTHON is the interpreter of an
environment that has kickscore, which this project does not install; it does one sweep after another, and has
not converged when its 400 end.
"""

import argparse
import math
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

PLAYERS, GAMES, MARGIN, DRIFT = 60, 2_000, 0.3, 0.05

THEIRS = """
import sys, time
import numpy as np, kickscore
games = np.load(sys.argv[1])
first, second, when, outcome = (games[name] for name in ("first", "second", "when", "outcome"))
margin, drift, sweeps = float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
model = kickscore.TernaryModel(margin=margin, obs_type="probit")
for player in np.unique([first, second]):
    own = when[(first == player) | (second == player)]
    model.add_item(str(player), kernel=kickscore.kernel.Wiener(var=drift, t0=own.min(), var_t0=1.0))
for one, other, at, ended in zip(first, second, when, outcome):
    winner, loser = (other, one) if ended == 0 else (one, other)
    model.observe([str(winner)], [str(loser)], t=float(at), tie=bool(ended == 0.5))
begun = time.process_time()
converged = model.fit(method="kl", tol=1e-10, max_iter=sweeps)
print(repr(float(model.log_likelihood)), time.process_time() - begun, converged)
"""


def main() -> None:
    """Read the command line and print both bounds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.skills kickscore", description=__doc__)
    parser.add_argument("--python", help="an interpreter with kickscore")
    parser.add_argument("--sweeps", type=int, default=400)
    given = parser.parse_args()
    torch.set_num_threads(1)
    first, second, when, outcome = _simulated()
    value, seconds, steps = _ours(first, second, when, outcome)
    print(f"ours: {value:.10f} nats in {seconds:.2f} processor seconds, {steps} iterations", flush=True)
    if not given.python:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "games.npz")
        np.savez(path, first=first, second=second, when=when, outcome=outcome)
        command = [given.python, "-c", THEIRS, path, str(MARGIN), str(DRIFT), str(given.sweeps)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    print(
        f"kickscore: {float(said[0]):.10f} nats in {float(said[1]):.2f}; converged by its own rule: {said[2]}"
    )
    print(f"apart: {abs(float(said[0]) - value):.1g} nats")


def _simulated() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    when = np.sort(rng.random(GAMES)) * 20
    moves = rng.normal(size=(PLAYERS, GAMES)) * np.sqrt(DRIFT * np.diff(when, prepend=when[0]))
    skill = rng.normal(size=(PLAYERS, 1)) + np.cumsum(moves, 1)
    first = rng.integers(0, PLAYERS, GAMES)
    second = (first + rng.integers(1, PLAYERS, GAMES)) % PLAYERS
    games = np.arange(GAMES)
    ahead = skill[first, games] - skill[second, games] + rng.normal(size=GAMES)
    outcome = np.where(np.abs(ahead) <= MARGIN, 0.5, ahead > 0)
    return first, second, when, outcome


def _ours(
    first: np.ndarray, second: np.ndarray, when: np.ndarray, outcome: np.ndarray
) -> tuple[float, float, int]:
    from ppl_vae.data.games import Games
    from ppl_vae.guides import ChainNormal
    from ppl_vae.inference.fitting import natural
    from ppl_vae.models.skills.model import Skills
    from ppl_vae.program.pair import Pair

    place = np.stack([outcome == 0, outcome == 1], 1).astype(np.int32)
    entries, player = np.arange(2 * GAMES + 1), np.stack([first, second], 1).reshape(-1)
    names = tuple(str(k) for k in range(PLAYERS))
    games = Games("simulated", names, entries[::2].copy(), entries, player, place.reshape(-1), time=when)
    model = Skills.from_data(
        games, draws=True, margin=MARGIN, skill_sd=1.0, performance_sd=math.sqrt(0.5), drift="1",
        drift_sd=math.sqrt(DRIFT),
    )  # fmt: skip
    pair, data = Pair(model, ChainNormal(model)), model.arguments_of(games)
    begun = time.process_time()
    found = natural.fit(pair, *data, tolerance=1e-9, num_nodes=32, progress=False)
    return found.final.value, time.process_time() - begun, found.steps
