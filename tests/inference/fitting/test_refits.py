"""Guides refitted to many data sets at once reach each one's own optimum, known in closed form."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import seeded
from ppl_vae.engine.graph import Untraceable
from ppl_vae.guides import Prior
from ppl_vae.inference.fitting.refits import Refitter, parameters_at
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem
from ppl_vae.program.terms import layout, terms

SIZE = 6
# Fewer draws and steps than by default, enough for two numbers.
QUICK: dict[str, Any] = {"num_steps": 300, "num_particles": 8}


def _model(design: Tensor, y: Tensor) -> None:
    """w ~ N(0, I₂), y_n ~ N(design_n · w, 1)."""
    w = pyro.sample("w", dist.Normal(torch.zeros(2, dtype=y.dtype), 1.0).to_event(1))
    with pyro.plate("data", len(y)) as i:
        pyro.sample("y", dist.Normal((design[i] * w).sum(-1), 1.0), obs=y[i])


def _case(guide: Callable[[Any], Any]) -> tuple[Pair, list[tuple[Tensor, Tensor]]]:
    """A pair and data sets whose answers lie several posterior sds apart."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=6)
    design = torch.from_numpy(np.stack([first, first + 0.5 * rng.normal(size=6)], axis=1))
    sets = [(design, torch.from_numpy(2 * rng.normal(size=6))) for _ in range(SIZE)]
    with seeded(0):
        pair = Pair(_model, guide(_model)).initialise(*sets[0])
    return pair, sets


def _posterior(design: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and precision (Bishop 2006, section 3.3)."""
    precision = torch.eye(2, dtype=y.dtype) + design.T @ design
    return torch.linalg.solve(precision, design.T @ y), precision


def _moments(pair: Pair, data: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """A guide's mean and covariance, from what its programs do to given noise."""
    shape = layout(pair, *data)
    with seeded(3), torch.no_grad():
        draws = terms(pair, *data, layout=shape, num_particles=50_000).draws["w"]
    return draws.mean(0), torch.cov(draws.T)


def test_a_full_rank_guide_finds_every_posterior(oracles: ModuleType) -> None:
    """The gradient has no noise where the guide is exact: what is left is the draws' own error."""
    pair, sets = _case(AutoMultivariateNormal)
    before = pair.state_dict()
    with oracles.nothing_global_changes():
        refitter = Refitter(Problem.of(pair, *sets[0]), sets[1], size=SIZE, **QUICK)
        found = refitter(sets)
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())
    scores = []
    for number in (0, 5, SIZE - 1):
        mean, precision = _posterior(*sets[number])
        covariance = torch.linalg.inv(precision)
        with parameters_at(pair, {name: value[number] for name, value in found.parameters.items()}):
            loc, spread = _moments(pair, sets[number])
        scores += ((loc - mean) / (covariance.diagonal() / 50_000).sqrt()).tolist()
        scores += ((spread.diagonal() / covariance.diagonal() - 1) / (2 / 50_000) ** 0.5).tolist()
        # The ELBO of the exact posterior is log p(x), at every draw.
        design, y = sets[number]
        marginal = dist.MultivariateNormal(
            torch.zeros_like(y), design @ design.T + torch.eye(len(y), dtype=y.dtype)
        )
        assert abs(float(found.elbo[number] - marginal.log_prob(y))) < 1e-3
    assert np.abs(scores).max() < oracles.z_limit(len(scores))


def test_a_mean_field_guide_finds_every_optimum() -> None:
    """The posterior's means, and the inverse diagonal of its precision (Bishop 2006, section 10.1.2).

    Judged by what the optimum's Gaussian loses to the one that was found: KL in closed form, at most the
    tolerance that the search promises.
    """
    pair, sets = _case(AutoNormal)
    refitter = Refitter(Problem.of(pair, *sets[0]), sets[1], size=SIZE, tolerance=0.005)
    found = refitter(sets)
    for number, data in enumerate(sets):
        mean, precision = _posterior(*data)
        with parameters_at(pair, {name: value[number] for name, value in found.parameters.items()}):
            loc, scale = pair.guide.median(*data)["w"], pair.guide._get_loc_and_scale("w")[1]
        kl = 0.5 * ((precision @ torch.diag(scale**2)).trace() + (loc - mean) @ precision @ (loc - mean))
        kl -= scale.log().sum()
        best = 0.5 * (2.0 + precision.diagonal().log().sum())
        assert -1e-9 < (kl - best).item() < 0.01


def test_short_blocks_and_other_seeds_change_nothing_but_the_noise() -> None:
    pair, sets = _case(AutoMultivariateNormal)
    refitter = Refitter(Problem.of(pair, *sets[0]), sets[1], size=SIZE, lr=0.1, **QUICK)
    whole, part = refitter(sets, seed=1), refitter(sets[:2], seed=2)
    for name, values in part.parameters.items():
        assert len(values) == 2
        torch.testing.assert_close(values, whole.parameters[name][:2], atol=2e-3, rtol=2e-3)
    again = refitter(sets, seed=1)
    assert all(torch.equal(again.parameters[name], values) for name, values in whole.parameters.items())


def test_compiled_steps_are_the_traced_ones() -> None:
    pair, sets = _case(AutoNormal)
    options = {"size": SIZE, "num_steps": 30, "lr": 0.1, "max_rounds": 2}
    one, other = (
        Refitter(Problem.of(pair, *sets[0]), sets[1], compile=compile, **options)(sets)
        for compile in (False, True)
    )
    for name, values in one.parameters.items():
        torch.testing.assert_close(values, other.parameters[name], rtol=1e-8, atol=1e-8)


def test_what_cannot_be_refitted_says_so() -> None:
    pair, sets = _case(lambda model: Prior(model))
    with pytest.raises(InputError, match="no parameters of its own"):
        Refitter(Problem.of(pair, *sets[0]), sets[1], size=2)

    def branching(design: Tensor, y: Tensor) -> None:
        scale = 1.0 if y.sum() > 0 else 2.0
        w = pyro.sample("w", dist.Normal(torch.zeros((), dtype=y.dtype), scale))
        with pyro.plate("data", len(y)) as i:
            pyro.sample("y", dist.Normal(w, 1.0), obs=y[i])

    pair = Pair(branching, AutoNormal(branching)).initialise(*sets[0])
    with pytest.raises(Untraceable):
        Refitter(Problem.of(pair, *sets[0]), sets[1], size=2)
