"""Forecasts of real later games, beside what others published on the same games.

``python -m benchmarks.skills forecasts [NAME …] [--peers]``: big-five, internationals, robotics, formula-1,
update, walk; all by default. The model's numbers are learnt from the earlier games alone, by the ELBO (races:
by expectation propagation's estimate of the evidence). With --peers other packages, where installed, forecast
the same games in the same run (`_rivals`). Times are CPU seconds of one thread.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.skills import _seasons as seasons
from benchmarks.skills._beside import beside_frozen, beside_races, beside_walk
from ppl_vae.data.games import Games
from ppl_vae.diagnostics.forecasting.learning import walk
from ppl_vae.diagnostics.forecasting.live import Live
from ppl_vae.diagnostics.forecasting.standing import Standing, states_of
from ppl_vae.guides.chain_normal import ChainNormal
from ppl_vae.inference.fitting import ep, natural
from ppl_vae.models import Skills
from ppl_vae.program.pair import Pair
from ppl_vae.runs.game_jobs import score_expected

FOOTBALL = {"draws": True, "home": True, "drift": "1y"}
# Log losses on the same games that others reported.
PUBLISHED = {
    "big-five": "; published: WHR 1.0085, KickScore 1.0134, TrueSkill Through Time 1.0228, tuned on 2021-22"
}
# Each so many dates of a season, updates are set beside a fit of all games from nothing.
COMPARED = 20


def fitted(games: Games, **options: Any) -> tuple[Standing, float]:
    """A fit from nothing, the numbers that are not given learnt; and its CPU seconds."""
    begun = time.process_time()
    model = Skills.from_data(games, **options)
    data = model.arguments_of(games)
    pair = Pair(model, ChainNormal(model))
    learns = any(not held for held in model.held.values())
    natural.fit(pair, *data, train="both" if learns else "guide", progress=False)
    standing = Standing(model, states_of(pair, *data), games)
    return standing, time.process_time() - begun


def told(name: str, target: float, found: Any, seconds: float, note: str = "") -> None:
    """A line of the answer."""
    table = found.table if hasattr(found, "table") else found.results.table
    loss, error = table.loc["log loss", ["value", "std_error"]]
    rest = ", ".join(
        f"{score} {table.loc[score, 'value']:.3f}" for score in ("accuracy", "Brier", "calibration error")
    )
    met = "met" if loss <= target else "NOT met"
    print(f"{name}: log loss {loss:.4f} ± {error:.4f}, target ≤ {target:g}: {met}; {rest}")
    print(f"    {seconds:.1f} s{note}")
    if found_base := table.loc["log loss", "base"]:
        print(f"    base rates {found_base:.4f}{PUBLISHED.get(name.split(',')[0], '')}", flush=True)


def frozen(
    name: str, read: Callable[[], tuple[Games, Games]], target: float, peers: bool, **options: Any
) -> None:
    """Forecasts of all later games from the earlier ones alone."""
    before, after = read()
    standing, seconds = fitted(before, **options)
    numbers = ", ".join(f"{key} {value:.4g}" for key, value in standing.model.numbers.items())  # type: ignore[attr-defined]
    scored = score_expected(standing.expect(after), standing)
    told(f"{name}, frozen", target, scored.results, seconds, f" ({numbers})")
    if peers:
        beside_frozen(before, after)


def big_five(peers: bool) -> None:
    frozen("big-five", seasons.big_five, 1.003, peers, **FOOTBALL)


def internationals(peers: bool) -> None:
    frozen("internationals", seasons.internationals, 0.880, peers, **FOOTBALL)


def robotics(peers: bool) -> None:
    frozen("robotics", seasons.robotics, 0.680, peers, draws=True)


def walk_forward(peers: bool) -> None:
    """Every date of 2022-23 from all before it, the numbers as they were learnt before the season."""
    before, after = seasons.big_five()
    standing, _ = fitted(before, **FOOTBALL)
    begun = time.process_time()
    expected = walk(standing, after)
    seconds = time.process_time() - begun
    dates = len(np.unique(after.time))
    told("big-five, walk-forward", 0.992, score_expected(expected, standing), seconds, f" for {dates} dates")
    if peers:
        beside_walk(before, after)


def update(peers: bool) -> None:
    """A season learnt date by date beside fits from nothing: how far apart, and how much faster."""
    before, after = seasons.big_five()
    standing, learning = fitted(before, **FOOTBALL)
    held = {f"{key}": value for key, value in standing.model.numbers.items() if key != "performance_sd"}  # type: ignore[attr-defined]
    live, dates = Live(standing), np.unique(after.time)
    spent, again, off = [], [], []
    for number, date in enumerate(dates, start=1):
        games = after.take(np.flatnonzero(after.time == date))
        begun = time.process_time()
        live.add(games)
        spent.append(time.process_time() - begun)
        if number % COMPARED == 0 or number == len(dates):
            found = live.standing()
            other, seconds = fitted(found.games, **FOOTBALL, **held)
            again.append(seconds)
            off.append(_apart(found, other))
    means, widths = np.array(off).max(0)
    one, whole = float(np.mean(spent)), float(np.mean(again))
    print(
        f"update: {len(dates)} dates of the season; beside {len(again)} fits of all games from nothing, "
        f"means of all states are off by at most {means:.1g} sd, sds by {widths:.1g}\n"
        f"    {1e3 * one:.0f} ms an update, {1e3 * whole:.0f} ms a fit from nothing with the same numbers: "
        f"{whole / one:.1f} times, target 10: {'met' if whole / one >= 10 else 'NOT met'}; "
        f"{learning:.1f} s a fit that learns them: {learning / one:.0f} times",
        flush=True,
    )


def _apart(found: Standing, other: Standing) -> tuple[float, float]:
    """Of all states: means, in sds, and sds, relatively; the largest of each."""
    place = found.model.places_in(other.model)
    mean, variance = other.states.mean[place], other.states.variance[place]  # type: ignore[attr-defined]
    moved = (found.states.mean - mean).abs() / variance.sqrt()
    widened = (found.states.variance / variance).sqrt() - 1  # type: ignore[attr-defined]
    return float(moved.max()), float(widened.abs().max())


def formula_one(peers: bool) -> None:
    """Races from 2014 on, each from all before it; who was ahead of whom."""
    for car, name in ((False, "drivers"), (True, "drivers and cars")):
        races = seasons.formula_one(car=car)
        assert races.time is not None
        year = 1970 + races.time / 365.25
        begun = time.process_time()
        recent = races.take(np.flatnonzero((year >= 2008) & (year < 2014)))
        model = Skills.from_data(recent, drift="1y")
        ep.fit(
            Pair(model, ChainNormal(model)),
            *model.arguments_of(recent),
            tolerance=1e-3,
            train="both",
            progress=False,
        )
        held = {key: value for key, value in model.numbers.items() if key != "performance_sd"}
        before = races.take(np.flatnonzero((year >= 1994) & (year < 2014)))
        model = Skills.from_data(before, drift="1y", **held)
        pair, data = Pair(model, ChainNormal(model)), model.arguments_of(before)
        ep.fit(pair, *data, tolerance=1e-3, progress=False)
        standing = Standing(model, states_of(pair, *data), before)
        learning = time.process_time() - begun
        after = races.take(np.flatnonzero(year >= 2014))
        expected = walk(standing, after)
        seconds = time.process_time() - begun - learning
        found = score_expected(expected, standing, mode="walk-forward")
        numbers = ", ".join(f"{key} {value:.3g}" for key, value in held.items())
        told(f"formula-1, {name}", 0.445, found.pairs, seconds, f", {learning:.1f} s before 2014 ({numbers})")
        print(f"    who wins: log loss {found.results['log loss']:.3f}", flush=True)
        if peers and not car:
            beside_races(before, after)


STUDIES: dict[str, Callable[[bool], None]] = {
    "big-five": big_five, "internationals": internationals, "robotics": robotics, "formula-1": formula_one,
    "update": update, "walk": walk_forward,
}  # fmt: skip


def main() -> None:
    """Read the command line and print what was found, study by study."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.skills forecasts", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(STUDIES))
    parser.add_argument("--peers", action="store_true", help="other packages beside ours, where installed")
    given = parser.parse_args()
    if unknown := {*given.names} - {*STUDIES}:
        sys.exit(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(STUDIES)}")
    if lacks := seasons.missing():
        sys.exit(f"PPL_VAE_SHARED names no folder with {', '.join(lacks)}")
    torch.set_num_threads(1)
    for name in given.names or STUDIES:
        STUDIES[name](given.peers)


if __name__ == "__main__":
    main()
