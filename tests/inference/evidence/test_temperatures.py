from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ppl_vae.base.seeds import seeded
from ppl_vae.inference import annealing
from ppl_vae.inference.evidence import temperatures
from ppl_vae.inference.evidence.temperatures import Plan, pilot
from ppl_vae.inference.evidence.tempered import TemperedPath
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem


def _plan(conjugate: Any, x: Tensor, steps: int, chains: int = 100, seed: int = 0) -> Plan:
    pair = Pair(conjugate.model, conjugate.guide)
    path = TemperedPath(Problem.of(pair, x), chains, "prior", "traced")
    with seeded(seed):
        return pilot(
            path,
            steps,
            target_accept=0.8,
            generator=torch.Generator().manual_seed(seed + 1000),
            advance=lambda n, text: None,
        )


def _speed(x: np.ndarray, beta: float) -> float:
    """Root mean square over units of the sd of log N(x; z, ½) under z ~ p(z) p(x | z)^β, by formula."""
    variance = 1 / (1 + 4 * beta)
    offset = 4 * beta * x * variance - x
    return float(np.sqrt(np.mean((2 * variance**2 + 4 * variance * offset**2) / (4 * 0.5**4))))


def test_the_thermodynamic_length_is_that_of_the_formula(
    conjugate: Any, x: Tensor, oracles: ModuleType
) -> None:
    """By the trapezoidal rule at the pilot's own temperatures, which the speeds determine."""
    betas = [0.0]
    while betas[-1] < 1:
        step = max(min(1 / _speed(x.numpy(), betas[-1]), 0.05), (1 - betas[-1]) / (400 - len(betas)))
        betas.append(min(1.0, betas[-1] + step))
    speeds = [_speed(x.numpy(), beta) for beta in betas]
    expected = np.trapezoid(speeds, betas)
    fine = np.linspace(0, 1, 10_001)
    assert expected == pytest.approx(np.trapezoid([_speed(x.numpy(), beta) for beta in fine], fine), rel=0.05)
    found = [_plan(conjugate, x, 10, seed=seed).length for seed in range(12)]
    error = np.std(found, ddof=1) / np.sqrt(12)
    assert error < 0.02 * expected
    assert abs(np.mean(found) - expected) < oracles.t_limit(11) * error


@pytest.mark.parametrize("steps", [2, 3, 50, 1000])
def test_temperatures_rise_from_zero_to_one(steps: int, conjugate: Any, x: Tensor) -> None:
    plan = _plan(conjugate, x, steps, chains=10)
    assert plan.betas.shape == (steps + 1,)
    assert plan.num_steps == steps
    assert (plan.betas[0], plan.betas[-1]) == (0.0, 1.0)
    assert (np.diff(plan.betas) > 0).all()
    assert plan.step_size.shape == (steps - 1, 40)
    assert plan.step_size.isfinite().all()
    assert (plan.step_size > 0).all()
    for inner in range(steps - 1):
        assert plan.factor(inner).shape == (1, 1)
    with pytest.raises(AttributeError):
        plan.length = 0.0  # type: ignore[misc]


def test_temperatures_are_spread_over_the_length(conjugate: Any, x: Tensor) -> None:
    """Equal parts of nine tenths of the length and one tenth of β."""
    plan = _plan(conjugate, x, 20)
    fine = np.linspace(0, 1, 20_001)
    speeds = np.array([_speed(x.numpy(), beta) for beta in fine])
    length = np.concatenate([[0], np.cumsum(0.5 * (speeds[1:] + speeds[:-1]) * np.diff(fine))])
    share = 0.9 * np.interp(plan.betas, fine, length / length[-1]) + 0.1 * plan.betas
    # The pilot's temperatures are a few per cent apart, and it sees speeds within a few per cent.
    np.testing.assert_allclose(share, np.linspace(0, 1, 21), atol=0.04)


def test_the_metric_is_the_spread_of_the_tempered_posterior(conjugate: Any, x: Tensor) -> None:
    """sd (1 + 4 β)^−½ of every unit; the pilot's chains remember about ten transitions."""
    plan = _plan(conjugate, x, 40, chains=200)
    sd = (1 + 4 * plan.betas[1:-1]) ** -0.5
    found = np.array([float(plan.factor(inner)) for inner in range(39)])
    np.testing.assert_allclose(found, sd, rtol=0.15)


@pytest.mark.parametrize("target", [0.8, 0.9])
@pytest.mark.parametrize("start", ["guide", "prior"])
def test_steps_have_the_acceptance_that_is_asked_for(
    target: float, start: Any, conjugate: Any, x: Tensor
) -> None:
    found = annealing.log_evidence(
        Pair(conjugate.model, conjugate.guide), x, start=start, num_temperatures=100, num_chains=50,
        target_accept=target, progress=False,
    )  # fmt: skip
    assert found.acceptance.shape == (40,)
    assert found.acceptance.mean() == pytest.approx(target, abs=0.04)
    assert np.abs(found.acceptance - target).max() < 0.1


def test_chains_without_density_do_not_set_the_temperatures(oracles: ModuleType) -> None:
    class Three:
        num_chains, units = 4, 3

    difference = torch.tensor([[1.0, -1e10, 5.0], [3.0, 2.0, -1e10], [-1e10, 4.0, -1e10], [5.0, 0.0, -1e10]])
    state = temperatures.ChainState(
        torch.zeros(12, 1), torch.zeros(12), torch.zeros(12, 1), (difference.flatten(),)
    )
    # Variances 4 of {1, 3, 5} and of {2, 4, 0}; a unit with one chain left has none.
    assert temperatures._speed(state, Three()) == pytest.approx(2.0)  # type: ignore[arg-type]
