"""Smallest bulk effective sample size a second, warm-up included, compilation left out and reported.

Log densities of both sides are first compared at random points of unconstrained space, Jacobians
included, and the posterior means of all identifiable quantities afterwards.
"""

import itertools
from collections.abc import Callable

import numpy as np

from benchmarks import harness, ours, problems
from benchmarks.chains import Chains, check_same_means, smallest_ess
from benchmarks.harness import Measured
from benchmarks.peers import numpyro_runs, stock_pyro
from benchmarks.problems import Sampling

# Pyro's own chains take minutes where a gradient is expensive: fewer draws there, said in the row.
PYRO_DRAWS = {"bayesian_ppca": (100, 200)}


def eight_schools_against_pyro(repeats: int) -> Measured:
    return _against_pyro(problems.eight_schools(), repeats)


def bayesian_ppca_against_pyro(repeats: int) -> Measured:
    return _against_pyro(problems.bayesian_ppca(), repeats)


def skills_against_pyro(repeats: int) -> Measured:
    return _against_pyro(problems.sampled_skills(), repeats)


def eight_schools_against_numpyro(repeats: int) -> Measured:
    return _against_numpyro(problems.eight_schools(), ours.chains, repeats)


def bayesian_ppca_against_numpyro(repeats: int) -> Measured:
    return _against_numpyro(problems.bayesian_ppca(), ours.chains, repeats)


def skills_against_numpyro(repeats: int) -> Measured:
    return _against_numpyro(problems.sampled_skills(), ours.chains, repeats)


def hmc_against_numpyro(repeats: int) -> Measured:
    return _against_numpyro(problems.sampled_skills(), lambda p, seed: ours.hmc(p, seed, 500), repeats)


def long_hmc_against_numpyro(repeats: int) -> Measured:
    return _against_numpyro(problems.sampled_skills(), lambda p, seed: ours.hmc(p, seed, 2_000), repeats)


def _against_numpyro(problem: Sampling, sampler: Callable[[Sampling, int], Chains], repeats: int) -> Measured:
    numpyro_runs.prepare(devices=4)
    _same_density(problem)
    peer = numpyro_runs.Nuts(problem)
    mine, theirs = sampler(problem, 1_000), peer(1_000)
    apart = check_same_means(problem, mine, theirs)
    seeds = itertools.count()

    def rate(sample: Callable[[int], Chains]) -> float:
        chains = sample(next(seeds))
        return smallest_ess(problem, chains) / chains.seconds

    note = _note(mine, theirs, apart)
    return harness.in_turn(lambda: rate(lambda seed: sampler(problem, seed)), lambda: rate(peer), repeats,
                           unit="ESS/s", note=note)  # fmt: skip


def _against_pyro(problem: Sampling, repeats: int) -> Measured:
    """One run of the peer: it takes minutes."""
    warmup, num_draws = PYRO_DRAWS.get(problem.name, (500, 500))
    runs = [ours.chains(problem, seed) for seed in range(repeats + 1)][1:]
    peer = stock_pyro.nuts(problem, 0, num_draws, warmup)
    note = _note(runs[0], peer, check_same_means(problem, runs[0], peer))
    if (warmup, num_draws) != (500, 500):
        note += f"; the peer ran {warmup} + {num_draws} only"
    rates = [smallest_ess(problem, chains) / chains.seconds for chains in (*runs, peer)]
    return Measured(rates[:-1], rates[-1:], "ESS/s", f"{note}; the peer ran once, {peer.seconds:.0f} s")


def _same_density(problem: Sampling) -> None:
    potential, theirs = stock_pyro.Potential(problem), numpyro_runs.log_density(problem)
    for seed in range(5):
        point = potential.point(seed)
        value = theirs({name: at.numpy() for name, at in point.items()})
        np.testing.assert_allclose(value, -potential(point)[0].item(), rtol=1e-9)


def _note(mine: Chains, theirs: Chains, apart: float) -> str:
    compiled = f"left out: compiling {mine.compile_seconds:.1f} s, the peer's {theirs.compile_seconds:.1f} s"
    return f"{compiled}; means agree within {apart:.1f} Monte Carlo errors"
