"""Rankings of many sides: how exact, and how fast beside others: ``python -m benchmarks.skills rankings``.

First a table of errors: of sums over all orders, beside SciPy's orthants, beside Simpson's rule on a fine
grid in the far tail, of published moments. Then one of processor milliseconds a game on one thread. trueskill
and openskill are timed in the same run where they are installed; they update skills by approximations of
their own, which is what their users wait for. ``--games`` says in batches of how many ours are computed,
``--repeats`` how often all are timed.
"""

import argparse
import itertools
import math
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
from scipy import integrate, stats
from torch import Tensor

from ppl_vae.models.skills.orders import log_orders, num_panels, order_moments
from ppl_vae.models.skills.ranking import Ranking

SIDES = (5, 10, 20, 40)


def main() -> None:
    """Read the command line and print both tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.skills rankings", description=__doc__)
    parser.add_argument("--games", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    _table(("what", "found", "wanted", "off by"), _errors())
    print()
    _table(("sides", "what", "ms a game", "times ours"), _times(given.games, given.repeats))


def _table(head: tuple[str, ...], rows: Any) -> None:
    print(f"| {' | '.join(head)} |", "| " + " | ".join("---" for _ in head) + " |", sep="\n", flush=True)
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


# Errors --------------------------------------------------------------------------------------------------


def _errors() -> Any:
    generator = np.random.default_rng(0)
    for sides in range(3, 9):
        u, c = generator.normal(0, 1.5, sides), generator.uniform(0.8, 1.3, sides)
        orders = np.array(list(itertools.permutations(range(sides))))
        with torch.no_grad():
            log_p = log_orders(torch.tensor(u[orders]), torch.tensor(c[orders]), num_panels(sides, 1.7))
        yield _row(f"sum of all {len(orders):,} orders of {sides}", float(log_p.exp().sum()), 1.0)
    for sides in (3, 5, 8):
        u, c = generator.normal(0, 0.7, sides), generator.uniform(0.8, 1.3, sides)
        yield _row(f"P of an order of {sides}, and SciPy's", math.exp(_log_p(u, c)), _orthant(u, c))
    for sides in (5, 20, 60):
        found = _log_p(np.zeros(sides), np.ones(sides))
        yield _row(f"log P of {sides} equals", found, -math.lgamma(sides + 1))
    yield from _published()
    for spread in (1.0, 3.0, 6.0):
        u, c = np.linspace(-spread, spread, 6), np.linspace(0.8, 1.2, 6)
        yield _row("log P of six in reverse, and on a fine grid", _log_p(u, c), _simpson(u, c))
        ranking = Ranking(torch.tensor(u[None]), torch.tensor(c), 1.0, [6], panels=num_panels(6, 1.5))
        with_margin = float(ranking.log_prob(torch.arange(6).double()[None]))
        yield _row("the same with a margin of 1", with_margin, _simpson(u + np.arange(6), c))


def _published() -> Any:
    """A game of five equals: skills N(0, 2²), and a standard normal between skill and performance."""
    u = torch.zeros(1, 5).double()
    _, mean, variance = order_moments(u, u + math.sqrt(5))
    sd = (4 - 0.8 * 4 + 0.8**2 * variance[0]).sqrt()
    for k, (at, wide) in enumerate([(2.0804, 1.4940), (0.8855, 1.3405), (0.0, 1.3107)]):
        yield _row(f"place {k + 1} of five equals: mean of the skill", 0.8 * float(mean[0, k]), at)
        yield _row(f"place {k + 1} of five equals: its sd", float(sd[k]), wide)


def _row(what: str, found: float, wanted: float) -> tuple[str, ...]:
    return what, f"{found:.12g}", f"{wanted:.12g}", f"{abs(found - wanted):.1e}"


def _log_p(u: np.ndarray, c: np.ndarray) -> float:
    panels = num_panels(len(u), float(c.max() / c.min()))
    return float(log_orders(torch.tensor(u[None]), torch.tensor(c[None]), panels))


def _orthant(u: np.ndarray, c: np.ndarray) -> float:
    steps = np.eye(len(u))[1:] - np.eye(len(u))[:-1]
    covariance = steps @ np.diag(c**2) @ steps.T
    normal = stats.multivariate_normal(steps @ u, covariance, maxpts=2_000_000, abseps=1e-9, releps=1e-7)
    return float(normal.cdf(np.zeros(len(u) - 1)))


def _simpson(u: np.ndarray, c: np.ndarray) -> float:
    x = np.linspace(u.min() - 9, u.max() + 9, 200_001)
    below = np.ones_like(x)
    for location, scale in zip(u[::-1], c[::-1], strict=True):
        below = integrate.cumulative_simpson(stats.norm.pdf(x, location, scale) * below, x=x, initial=0)
    return math.log(below[-1])


# Times ---------------------------------------------------------------------------------------------------


def _times(games: int, repeats: int) -> Any:
    generator = np.random.default_rng(1)
    for sides in SIDES:
        u = torch.tensor(generator.normal(0, 1, (games, sides)))
        c = torch.ones_like(u)
        runs = {"exact moments of all": order_moments, "log P": _without, "log P and its gradient": _with}
        taken = {
            what: _milliseconds(lambda run=run, u=u, c=c: run(u, c), games, repeats)
            for what, run in runs.items()
        }
        for name, rate in _others(sides):
            taken[name] = _milliseconds(rate, 1, 20 * repeats)
        ours = taken["exact moments of all"]
        for what, each in taken.items():
            yield str(sides), what, f"{each:.3f}", f"{each / ours:.1f}"


def _milliseconds(run: Callable[[], object], games: int, repeats: int) -> float:
    """The median of processor times, after one that counts for nothing."""
    run()
    found = []
    for _ in range(repeats):
        begun = time.process_time()
        run()
        found.append(time.process_time() - begun)
    return 1000 * float(np.median(found)) / games


@torch.no_grad()
def _without(u: Tensor, c: Tensor) -> None:
    log_orders(u, c)


def _with(u: Tensor, c: Tensor) -> None:
    log_orders(u.clone().requires_grad_(), c).sum().backward()


def _others(sides: int) -> Any:
    """An update of everybody's rating by one game, by the other packages that are installed."""
    for name, update in (("trueskill", _trueskill), ("openskill, Plackett-Luce", _openskill)):
        try:
            yield name, update(sides)
        except ImportError:
            yield f"{name}: not installed", lambda: None


def _trueskill(sides: int) -> Callable[[], object]:
    package = import_module("trueskill")
    ratings = [(package.Rating(25.0 + k % 3),) for k in range(sides)]
    return lambda: package.rate(ratings, ranks=list(range(sides)))


def _openskill(sides: int) -> Callable[[], object]:
    model = import_module("openskill.models").PlackettLuce()
    teams = [[model.rating(mu=25.0 + k % 3)] for k in range(sides)]
    return lambda: model.rate(teams)
