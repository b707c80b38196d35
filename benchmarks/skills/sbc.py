"""Simulated seasons of teams, draws and drift: ``python -m benchmarks.skills sbc --out FOLDER``.

Skills, their places on the leaderboard and who is first are ranked among the draws that answer the season
which they made. NUTS must pass; guides that lose correlations fail, and are named. Simulations are done in
parts of fifty, each kept in the folder as soon as it is done: a run that was ended goes on where it was, and
``--simulations`` may be raised later. ``--answers`` names what answers: nuts, and guides of the model.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.seeds import derived
from ppl_vae.data.games import Games
from ppl_vae.diagnostics.calibration.sbc import Calibration, sbc
from ppl_vae.guides import Prior
from ppl_vae.inference import guide, natural
from ppl_vae.models import Skills
from ppl_vae.models.skills.shown import leaders, totals
from ppl_vae.program.pair import Pair

PART = 50
PLAYERS, GAMES, DATES = 8, 48, 6
ANSWERS = ("nuts", "mean-field", "markov", "sparse-precision")
NUMBERS = {"skill_sd": 1.0, "drift_sd": 0.5, "margin": 0.5, "performance_sd": 0.7}


def main() -> None:
    """Read the command line, simulate what is missing, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.skills sbc", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--simulations", type=int, default=500)
    parser.add_argument("--answers", default=",".join(ANSWERS))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for answer in given.answers.split(","):
        spent = [
            run_part(answer, part, given.out, given.seed) for part in range(-(-given.simulations // PART))
        ]
        show(answer, joined(answer, given.out, given.simulations, given.seed), sum(spent))


def season() -> Games:
    """Two against two at home and away, everybody in every round; how it ended is to be simulated."""
    generator = np.random.default_rng(0)
    player = np.concatenate([generator.permutation(PLAYERS) for _ in range(GAMES // 2)])
    return Games(
        "season",
        tuple(f"P{k + 1}" for k in range(PLAYERS)),
        np.arange(0, 2 * GAMES + 1, 2),
        np.arange(0, 4 * GAMES + 1, 2),
        player,
        np.tile(np.array([0, 1], dtype=np.int32), GAMES),
        time=np.arange(GAMES) * DATES // GAMES * 1.0,
        covariates={"home": np.tile([1.0, 0.0], GAMES)},
    )


def board(model: Skills, draws: xr.Dataset) -> xr.Dataset:
    """What a leaderboard shows, draw by draw: skills, relative skills, places and who is first; and home."""
    skill = totals(model, draws)[..., leaders(model)]
    place = 1.0 + (skill[..., None, :] > skill[..., :, None]).sum(-1)
    dims = ("chain", "draw", "player")
    found = {
        "skill": (dims, skill),
        "relative_skill": (dims, skill - skill.mean(-1, keepdims=True)),
        "place": (dims, place),
        "first": (dims, (place == 1).astype(float)),
    }
    names = xr.Dataset(found, coords={"player": list(model.lineup.roster.names)})
    return names.merge(model.identifiable(draws)[["effect"]])


def answer_of(name: str, model: Skills, data: tuple[Any, ...]) -> Any:
    """What `sbc` takes: NUTS by its name, or a guide that is fitted to every season, by natural gradients
    where these take it, else by SVI."""
    if name in ("nuts", "mean-field"):
        return {"nuts": "nuts", "mean-field": "guide"}[name]
    family: Callable[..., Any] = model.guides[name]

    def fitted(*season: Any, num_draws: int, seed: int) -> Posterior:
        pair = Pair(model, family(model, *data))
        natural.fit(pair, *season, train="guide", progress=False)
        return guide.draws(pair, *season, num_draws=num_draws, seed=seed)

    return fitted


def run_part(answer: str, part: int, out: Path, seed: int) -> float:
    """Fifty simulations, unless they are done; their processor seconds."""
    path = out / f"{answer}-{seed}-{part}.npz"
    if path.exists():
        with np.load(path) as kept:
            return float(kept["seconds"])
    begin = time.process_time()
    games = season()
    model = Skills.from_data(games, draws=True, drift="1", home=True, **NUMBERS)
    data = games.dataset.arguments(model.inputs, torch.float64)
    own = Prior(model) if answer != "mean-field" else model.guides[answer](model, *data)
    found = sbc(
        Pair(model, own), *data, answer=answer_of(answer, model, data), num_simulations=PART,
        identifiable=lambda draws: board(model, draws), seed=derived(seed, part), progress=False,
    )  # fmt: skip
    spent = time.process_time() - begin
    ranks = {name: found.ranks["rank"].sel(quantity=name).to_numpy() for name in found.names}
    unfinished = path.with_suffix(".part.npz")
    np.savez(unfinished, seconds=spent, num_draws=found.num_draws, **ranks)
    unfinished.rename(path)
    print(f"{answer}: {(part + 1) * PART} simulations, {spent:.0f} CPU s", flush=True)
    return spent


def joined(answer: str, out: Path, simulations: int, seed: int = 0) -> Calibration:
    """All parts together, of the quantities that all of them ranked."""
    parts = []
    for part in range(-(-simulations // PART)):
        with np.load(out / f"{answer}-{seed}-{part}.npz") as kept:
            parts.append({name: kept[name] for name in kept.files})
    names = [name for name in parts[0] if all(name in part for part in parts)]
    names = [name for name in names if name not in ("seconds", "num_draws")]
    columns = np.stack([np.concatenate([part[name] for part in parts]) for name in names], 1)
    ranks = xr.Dataset(
        {"rank": (("simulation", "quantity"), columns)},
        coords={"simulation": np.arange(len(columns)), "quantity": names},
    )
    return Calibration(ranks=ranks, num_draws=int(parts[0]["num_draws"]), method=answer)


def show(answer: str, found: Calibration, seconds: float) -> None:
    """The sentence of a calibration, and what fails by kind of quantity."""
    print(f"\n{answer}: {found.sentence()} ({seconds:.0f} CPU s)")
    kinds: dict[str, list[str]] = {}
    for name in found.names:
        kinds.setdefault(name.partition("[")[0], []).append(name)
    for kind, names in kinds.items():
        rows = found.table.loc[names]
        failed = rows[~rows["passed"]]
        shapes = ", ".join(sorted({*failed["shape"]}))
        print(
            f"  {kind:15} {len(failed):2} of {len(rows):2} fail{': ' + shapes if shapes else ''}; smallest "
            f"adjusted p {rows['adjusted'].min():.2g}; ranks' variance {rows['spread'].mean():.2f} of a "
            f"uniform one's; central 90 % held {rows['coverage_90'].mean():.3f}"
        )
