"""Expectation propagation beside TrueSkillThroughTime: ``python -m benchmarks.skills ep [PART …]``.

Parts: ``ttt`` (the fixed points of both, and the time to them), ``orders`` (six orders of three, of which its
version 1.1.0 gives two to the wrong players), ``large`` (447,000 dated games), ``bounds`` (EP's estimate of
log p(x) and its guide's ELBO beside natural gradients and importance sampling). All by default. Times are
processor seconds of one thread.

TrueSkillThroughTime is run where it can be imported, and left out where not; it is no dependency. Its normal
distribution function has a relative error of 1.2e-7 (Numerical Recipes' approximation), which is what remains
between the two fixed points. Known fault of 1.1.0: `Game.likelihood_teams` sorts teams by result with a
permutation ``o`` and gives back ``t[o[e]]``, which is not sorted back where ``o`` is no involution: of three
sides, two of the six orders give a loser the winner's likelihood.
"""

import argparse
import itertools
import resource
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import numpy as np
import torch

from ppl_vae.data.games import Games
from ppl_vae.guides.chain_normal import ChainNormal
from ppl_vae.inference.evidence import importance
from ppl_vae.inference.fitting import ep, natural
from ppl_vae.inference.fitting.propagation.factors import factors_of
from ppl_vae.inference.fitting.propagation.loop import propagate
from ppl_vae.inference.fitting.propagation.steps import Sites, step
from ppl_vae.models import Skills
from ppl_vae.program.pair import Pair

# Of the synthetic games: prior sd and drift a day in units of the performances' sd, and the margin of draws.
SD, DRIFT, MARGIN = 2.0, 0.5, 0.45062411
LARGE = 447_000


def main() -> None:
    """Read the command line and print a table for each part."""
    parts: dict[str, Callable[[], Iterator[tuple[str, ...]]]] = {
        "ttt": _beside_ttt, "orders": _orders, "large": _large, "bounds": _bounds,
    }  # fmt: skip
    parser = argparse.ArgumentParser(prog="python -m benchmarks.skills ep", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    asked = parser.parse_args().parts or [*parts]
    if unknown := {*asked} - {*parts}:
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    for name in asked:
        for number, row in enumerate(parts[name]()):
            print(f"| {' | '.join(row)} |", flush=True)
            if not number:
                print("| " + " | ".join("---" for _ in row) + " |", flush=True)
        print(flush=True)


def _ttt() -> Any:
    try:
        return import_module("trueskillthroughtime")
    except ModuleNotFoundError:
        print("trueskillthroughtime is not installed: its columns are left out")
        return None


def _duels(players: np.ndarray, outcome: np.ndarray, day: np.ndarray) -> Games:
    """Games of two players each."""
    count = len(players)
    place = np.stack([outcome < 0.5, outcome > 0.5], 1).astype(np.int32)
    ends = np.arange(2 * count + 1)
    names = tuple(str(k) for k in range(int(players.max()) + 1))
    return Games("duels", names, ends[::2].copy(), ends, players.ravel(), place.ravel(), time=day)


def _season(seed: int, num_games: int, num_players: int, num_days: int) -> Games:
    """Dated games with draws between players whose skills are N(0, 2²)."""
    rng = np.random.default_rng(seed)
    skill = rng.normal(0, SD, num_players)
    players = np.array([rng.choice(num_players, 2, replace=False) for _ in range(num_games)])
    ahead = np.diff(skill[players[:, ::-1]], axis=1)[:, 0] + rng.normal(0, np.sqrt(2), num_games)
    outcome = np.where(abs(ahead) < MARGIN, 0.5, ahead > 0)
    return _duels(players, outcome, np.sort(rng.integers(0, num_days, num_games)).astype(float))


def _model(games: Games, drift: float = DRIFT, draws: bool = True) -> tuple[Any, tuple[torch.Tensor, ...]]:
    held = {"skill_sd": SD, "performance_sd": 1.0, "drift_sd": drift, "drift": "1"}
    model: Any = Skills.from_data(games, draws=draws, **held, **({"margin": MARGIN} if draws else {}))
    return model, model.arguments_of(games)


# Fixed points --------------------------------------------------------------------------------------------


def _beside_ttt() -> Iterator[tuple[str, ...]]:
    ttt = _ttt()
    yield "games", "players", "ours: steps, CPU s", "TTT's: iterations, CPU s", "means differ by", "sds by"
    for num_games, num_players, days in ((300, 20, 60), (2000, 60, 200)):
        games = _season(num_games, num_games, num_players, days)
        model, data = _model(games)
        start = time.process_time()
        found = propagate(factors_of(model, *data, num_nodes=32), tolerance=1e-9)
        ours = f"{len(found.log_evidence)}, {time.process_time() - start:.2f}"
        row = (f"{num_games:,}", str(num_players), ours)
        yield (*row, *_difference(ttt, games, model, found)) if ttt else (*row, "–", "–", "–")


def _difference(ttt: Any, games: Games, model: Any, found: Any) -> tuple[str, str, str]:
    """TTT until it moves no more, and the largest differences over all players and dates."""
    pairs = games.player.reshape(-1, 2)
    place = games.place.reshape(-1, 2)
    # P(draw) of equals, by its own normal distribution function.
    chance = ttt.cdf(MARGIN, 0.0, 2**0.5) - ttt.cdf(-MARGIN, 0.0, 2**0.5)
    start = time.process_time()
    history = ttt.History(
        [[[str(a)], [str(b)]] for a, b in pairs], [[int(-k) for k in row] for row in place],
        [int(day) for day in games.time], mu=0.0, sigma=SD, beta=1.0, gamma=DRIFT, p_draw=chance,
    )  # fmt: skip
    change, iterations = history.convergence(epsilon=1e-11, iterations=1000, verbose=False)
    took = time.process_time() - start
    sd, offs = found.around.variance.sqrt(), []
    for name, curve in history.learning_curves().items():
        days = torch.tensor([float(day) for day, _ in curve]).double()
        who = torch.full((len(curve), 1, 1), int(name))
        at = model.lineup.schedule.states(who, days)[:, 0, 0]
        mean, wide = (torch.tensor([getattr(g, part) for _, g in curve]) for part in ("mu", "sigma"))
        offs.append(((found.sites.mean[at] - mean).abs().max(), (sd[at] - wide).abs().max()))
    worst = np.array(offs).max(0)
    return f"{iterations} (to {max(change):.0e}), {took:.1f}", f"{worst[0]:.1e}", f"{worst[1]:.1e}"


# Six orders of three -------------------------------------------------------------------------------------


def _orders() -> Iterator[tuple[str, ...]]:
    ttt = _ttt()
    yield "scores of three equals", "ours, exact", "TTT's"
    for scores in itertools.permutations(range(3)):
        place = [2 - score for score in scores]
        ends = np.arange(4)
        games = Games(
            "three", ("a", "b", "c"), np.array([0, 3]), ends, np.arange(3), np.array(place, np.int32)
        )
        model: Any = Skills.from_data(games, skill_sd=2.0, performance_sd=1.0)
        mean = propagate(factors_of(model, *model.arguments_of(games), num_nodes=32)).sites.mean
        theirs = "–"
        if ttt:
            prior = ttt.Player(ttt.Gaussian(0.0, 2.0), 1.0, 0.0)
            posterior = ttt.Game([[prior], [prior], [prior]], list(scores)).posteriors()
            theirs = ", ".join(f"{team[0].mu:+.4f}" for team in posterior)
            best = max(range(3), key=lambda k: posterior[k][0].mu)
            theirs += "" if scores[best] == 2 else " (wrong: not the winner gains most)"
        yield str(scores), ", ".join(f"{m:+.4f}" for m in mean.tolist()), theirs


# Many games ----------------------------------------------------------------------------------------------


def _large() -> Iterator[tuple[str, ...]]:
    yield "step", "change, in sds", "log p(x) by EP", "CPU s", "CPU s in all", "peak MB"
    model, data = _model(_tour(), 0.036 / 7**0.5, draws=False)
    start = time.process_time()
    factors = factors_of(model, *data, num_nodes=32)
    taken = time.process_time() - start
    states, rounds = factors.chains.num_states, len(factors.chains.sizes)
    yield f"design: {states:,} states in {rounds:,} rounds", "–", "–", f"{taken:.2f}", f"{taken:.2f}", _peak()
    sites, total = Sites.none(factors), taken
    for number in range(1, 13):
        start = time.process_time()
        done = step(factors, sites)
        sites, taken = done.sites, time.process_time() - start
        total += taken
        value = f"{done.log_evidence:,.6f}"
        yield str(number), f"{done.change:.1e}", value, f"{taken:.2f}", f"{total:.2f}", _peak()
        if done.change < 1e-8:
            break


def _peak() -> str:
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f}"


def _tour() -> Games:
    """Games as tennis has them: some 20,000 players, of whom few play for thousands of days."""
    rng = np.random.default_rng(0)
    activity = rng.pareto(0.9, 22_000) + 0.12
    activity = np.minimum(activity, 40 * activity.mean())
    cumulative = np.cumsum(activity / activity.sum())
    players = np.searchsorted(cumulative, rng.random((LARGE, 2))).clip(max=len(activity) - 1)
    while (same := players[:, 0] == players[:, 1]).any():
        players[same, 1] = np.searchsorted(cumulative, rng.random(same.sum())).clip(max=len(activity) - 1)
    skill = rng.normal(0, 1.6, len(activity))
    ahead = skill[players[:, 0]] - skill[players[:, 1]] + rng.normal(0, np.sqrt(2), LARGE)
    number = np.unique(players, return_inverse=True)[1].reshape(players.shape)
    return _duels(number, (ahead > 0).astype(float), np.sort(rng.integers(0, 18_000, LARGE)).astype(float))


# Estimates and bounds ------------------------------------------------------------------------------------


def _bounds() -> Iterator[tuple[str, ...]]:
    yield (
        "games",
        "log p(x), importance sampling",
        "EP's estimate",
        "ELBO of EP's guide",
        "best ELBO",
        "sds, VI / EP",
    )
    for num_games, num_players in ((60, 8), (300, 20)):
        games = _season(num_games + 1, num_games, num_players, 20)
        model, data = _model(games, drift=0.2)
        pair, best = Pair(model, ChainNormal(model)), Pair(model, ChainNormal(model))
        found = ep.fit(pair, *data, progress=False)
        highest = natural.fit(best, *data, progress=False)
        judged = importance.log_evidence(pair, *data, num_samples=200_000, compile=False, progress=False)
        sds = [torch.as_tensor(p.guide.posterior()[1].variance).detach().sqrt() for p in (best, pair)]
        assert found.estimate is not None
        yield (
            str(num_games), f"{judged.total:.2f} ± {judged.total_std_error:.2f}",
            f"{found.estimate.log_evidence:.2f}", f"{found.final.value:.2f}", f"{highest.final.value:.2f}",
            f"{float((sds[0] / sds[1]).mean()):.3f}",
        )  # fmt: skip


if __name__ == "__main__":
    main()
