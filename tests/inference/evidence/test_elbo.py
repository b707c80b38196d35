from types import ModuleType
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor

from ppl_vae.guides import Prior
from ppl_vae.inference import elbo, importance
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem


def _exact(x: np.ndarray, slope: float, scale: float) -> tuple[float, float]:
    """Reconstruction and KL of q = N(slope x, scale²), both in closed form."""
    rest = (x - slope * x) ** 2 + scale**2
    reconstruction = -0.5 * np.log(2 * np.pi * 0.25) - 0.5 * rest / 0.25
    kl = 0.5 * ((slope * x) ** 2 + scale**2 - 1 - 2 * np.log(scale))
    return reconstruction.sum(), kl.sum()


def test_elbo_and_its_parts_are_the_closed_form(conjugate: Any, x: Tensor, oracles: ModuleType) -> None:
    found = elbo(Pair(conjugate.model, conjugate.guide), x, num_particles=1000)
    reconstruction, kl = _exact(x.numpy(), 0.3, 1.0)
    assert found.kl_is_analytic
    assert found.kl == pytest.approx(kl, rel=1e-9)
    assert abs(found.reconstruction - reconstruction) < oracles.z_limit(2) * found.std_error
    assert abs(found.value - (reconstruction - kl)) < oracles.z_limit(2) * found.std_error
    assert found.value == pytest.approx(found.reconstruction - found.kl)
    assert (found.num_units, found.num_particles) == (40, 1000)
    assert found.mean == found.value / 40


def test_standard_error_is_the_spread_over_seeds(conjugate: Any, x: Tensor, oracles: ModuleType) -> None:
    pair = Pair(conjugate.model, conjugate.guide)
    found = [elbo(pair, x, num_particles=10, seed=seed) for seed in range(60)]
    variance = np.var([one.value for one in found], ddof=1)
    claimed = np.mean([one.std_error**2 for one in found])
    low, high = oracles.spread_limits(59)
    assert low < variance / claimed < high


def test_without_a_formula_the_kl_is_drawn(x: Tensor, oracles: ModuleType) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x[i])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            pyro.sample("z", dist.StudentT(torch.tensor(5.0, dtype=x.dtype), 0.8 * x[i], 0.5))

    pair = Pair(model, guide)
    found = elbo(pair, x, num_particles=2000)
    assert not found.kl_is_analytic
    assert found.kl > 0
    truth = stats.norm(0, np.sqrt(1.25)).logpdf(x).sum()
    assert found.value < truth - 5 * found.std_error


def test_elbo_of_the_prior_and_evidence_are_ordered(conjugate: Any, x: Tensor, oracles: ModuleType) -> None:
    """ELBO ≤ importance-sampling estimate ≤ log p(x), with a strict gap for a poor proposal."""
    truth = conjugate.log_evidence(x).sum()
    for pair in (Pair(conjugate.model, conjugate.guide), Pair(conjugate.model, Prior(conjugate.model))):
        bound = elbo(pair, x, num_particles=400, seed=1)
        few, many = (
            np.array(
                [
                    importance.log_evidence(pair, x, num_samples=k, seed=seed, progress=False).total
                    for seed in range(20)
                ]
            )
            for k in (5, 200)
        )
        # Gaps of dozens of errors, and one that there is none of.
        spread = few.std(ddof=1) / np.sqrt(20)
        assert bound.value + 3 * bound.std_error < few.mean() - 3 * spread
        assert few.mean() + 3 * spread < many.mean()
        assert many.mean() <= truth + oracles.t_limit(19, 2) * many.std(ddof=1) / np.sqrt(20)


def test_chunks_of_units_cover_them_once_and_change_nothing(conjugate: Any, x: Tensor, oracles: Any) -> None:
    problem = Problem.of(Pair(conjugate.model, conjugate.guide), x)
    chunks = [chunk.units for chunk in problem.chunks(16, budget=16 * 7)]
    assert all(len(chunk) <= 7 for chunk in chunks)
    assert torch.cat(chunks).tolist() == list(range(40))
    (whole,) = problem.chunks(16)
    assert whole.index is None
    some = torch.tensor([9, 3, 5])
    few = [chunk.units for chunk in problem.rows(some).chunks(16, budget=16)]
    assert torch.cat(few).tolist() == [9, 3, 5]
