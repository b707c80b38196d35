"""The gradient of the log density in unconstrained space, in float64."""

import torch

from benchmarks import harness, ours, problems
from benchmarks.harness import Measured
from benchmarks.peers.stock_pyro import Potential
from benchmarks.problems import Sampling
from ppl_vae.base.threads import one_thread

EVALUATIONS = 500


def eight_schools(repeats: int) -> Measured:
    return _against_pyro(problems.eight_schools(), repeats)


def bayesian_ppca(repeats: int) -> Measured:
    return _against_pyro(problems.bayesian_ppca(), repeats)


def skills(repeats: int) -> Measured:
    return _against_pyro(problems.sampled_skills(), repeats)


def _against_pyro(problem: Sampling, repeats: int) -> Measured:
    potential = Potential(problem)
    gradient = ours.gradient(problem.model, *problem.data)
    points = [potential.point(seed) for seed in range(5)]
    flat = [potential.flat(point) for point in points]
    for point, vector in zip(points, flat, strict=True):
        energy, slope = potential(point)
        value, found = gradient(vector)
        torch.testing.assert_close(value.reshape(()), -energy, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found, -potential.flat(slope), rtol=1e-8, atol=1e-8)

    def each(function, at) -> float:
        return harness.seconds(lambda: [function(at[k % 5]) for k in range(EVALUATIONS)]) / EVALUATIONS

    with one_thread():  # as samplers run them; a second thread only waits on problems of this size
        return harness.in_turn(lambda: each(gradient, flat), lambda: each(potential, points), repeats)
