"""Sparse precisions: of linear-Gaussian models the exact posterior is in the family."""

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.guides.sparse import SparseNormal, elimination
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem

T = 50
Y = torch.sin(torch.arange(T, dtype=torch.float64) / 4)


def chain(y: Tensor) -> None:
    """A random walk of steps N(0, 1), seen through noise N(0, 0.5²)."""
    z = y.new_zeros(())
    for t in range(len(y)):
        z = pyro.sample(f"z_{t}", dist.Normal(z, 1.0))
        pyro.sample(f"y_{t}", dist.Normal(z, 0.5), obs=y[t])


def groups(y: Tensor) -> None:
    """A mean, and one number a group around it."""
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 3.0))
    with pyro.plate("group", len(y)) as i:
        theta = pyro.sample("theta", dist.Normal(mu, 1.5))
        pyro.sample("y", dist.Normal(theta, 0.5), obs=y[i])


def chain_posterior() -> tuple[Tensor, Tensor, float]:
    """Mean, precision and log p(y)."""
    steps = torch.eye(T, dtype=torch.float64) - torch.diag(Y.new_ones(T - 1), -1)
    prior = steps.T @ steps
    precision = prior + torch.eye(T).double() / 0.25
    marginal = prior.inverse() + 0.25 * torch.eye(T).double()
    evidence = dist.MultivariateNormal(torch.zeros_like(Y), marginal).log_prob(Y)
    return torch.linalg.solve(precision, Y / 0.25), precision, float(evidence)


def groups_posterior() -> tuple[Tensor, Tensor, float]:
    size = T + 1
    precision = torch.eye(size, dtype=torch.float64) * (1 / 2.25 + 1 / 0.25)
    precision[0, 0] = 1 / 9 + T / 2.25
    precision[0, 1:] = precision[1:, 0] = -1 / 2.25
    shift = torch.cat([Y.new_zeros(1), Y / 0.25])
    marginal = (2.25 + 0.25) * torch.eye(T).double() + 9
    evidence = dist.MultivariateNormal(torch.zeros_like(Y), marginal).log_prob(Y)
    return torch.linalg.solve(precision, shift), precision, float(evidence)


@pytest.mark.parametrize(("model", "exact"), [(chain, chain_posterior), (groups, groups_posterior)])
def test_the_exact_posterior_is_in_the_family(model: Any, exact: Any) -> None:
    mean, precision, evidence = exact()
    pair = Pair(model, guide := SparseNormal(model)).initialise(Y)
    size = len(mean)
    # A tree has one link fewer than nodes, and elimination from its leaves leaves no fill.
    assert len(guide.coefficients) == size - 1
    order = guide.order
    factor = torch.linalg.cholesky(precision[order][:, order])
    scales = factor.diagonal()
    regressions = (factor / scales).T
    guide.loc.data.copy_(mean)
    guide.scale = 1 / scales
    guide.coefficients.data.copy_(regressions.flatten()[guide.cells])
    problem = Problem.of(pair, Y)
    drawn = problem.terms(20)
    np.testing.assert_allclose(drawn.log_weights.detach(), evidence, rtol=1e-9)
    again = problem.terms(20, latents=drawn.draws)
    np.testing.assert_allclose(again.log_q.detach(), drawn.log_q.detach(), rtol=1e-9)
    sds = precision.inverse().diagonal().sqrt()
    np.testing.assert_allclose(guide._loc_scale()[1].detach(), sds, rtol=1e-9)


def test_fill_is_that_of_the_cholesky_factor() -> None:
    generator = np.random.default_rng(0)
    links = generator.random((30, 30)) < 0.06
    links = links | links.T
    # Diagonally dominant, with entries that do not cancel.
    matrix = np.where(links, -generator.random((30, 30)), 0.0)
    matrix = (matrix + matrix.T) / 2
    np.fill_diagonal(matrix, np.abs(matrix).sum(1) + 1)
    order, later = elimination(links)
    factor = np.linalg.cholesky(matrix[order][:, order])
    for k, others in enumerate(later):
        found = {order[i] for i in np.flatnonzero(np.abs(factor[:, k]) > 1e-12) if i > k}
        assert found == set(others)


def test_a_dense_graph_is_refused_in_a_sentence() -> None:
    def model(y: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(y.new_zeros(6), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(z.sum(-1), 1.0), obs=y[0])

    with pytest.raises(InputError, match="sparse dependence graph: given the data, 15 of 15 pairs"):
        Pair(model, SparseNormal(model)).initialise(Y)
    given = torch.eye(6, dtype=torch.bool)
    guide = SparseNormal(model, links=given)
    Pair(model, guide).initialise(Y)
    assert len(guide.coefficients) == 0
