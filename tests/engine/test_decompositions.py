"""Written-out factors and solves against LAPACK's."""

from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from ppl_vae.engine.decompositions import LARGEST, cholesky_ex, solve_triangular
from ppl_vae.engine.graph import trace

DOUBLE = {"dtype": torch.float64}
# Condition numbers here are below a hundred.
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def _covariances(size: int, *batch: int) -> Tensor:
    root = torch.randn(*batch, size, 2 * size, **DOUBLE)
    return root @ root.mT / size + 0.5 * torch.eye(size, **DOUBLE)


@pytest.mark.parametrize("size", range(1, LARGEST + 1))
@pytest.mark.parametrize("batch", [(), (5,), (3, 2)])
def test_cholesky_factors_and_their_gradients(size: int, batch: tuple[int, ...]) -> None:
    matrix = _covariances(size, *batch)
    factor, codes = cholesky_ex(matrix)
    torch.testing.assert_close(factor, torch.linalg.cholesky(matrix), **CLOSE)
    assert codes.shape == batch
    assert codes.dtype == torch.int32
    weight = torch.randn(size, size, **DOUBLE).tril()
    slopes = []
    for function in (lambda m: cholesky_ex(m)[0], torch.linalg.cholesky):
        leaf = matrix.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad((function(leaf) * weight).sum(), leaf)
        # A symmetric matrix: only the symmetric part of a gradient means anything.
        slopes.append(slope + slope.mT)
    torch.testing.assert_close(*slopes, **CLOSE)


@pytest.mark.parametrize("size", range(1, LARGEST + 1))
@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize(("lead", "others"), [((), ()), ((4,), (4,)), ((), (4,)), ((4,), ()), ((3, 1), (5,))])
def test_triangular_solves(
    size: int, upper: bool, left: bool, lead: tuple[int, ...], others: tuple[int, ...]
) -> None:
    factor = torch.linalg.cholesky(_covariances(size, *lead))
    # What is on the other side of the diagonal is not read.
    factor = factor + 7 * torch.ones(size, size, **DOUBLE).triu(1)
    factor = factor.mT if upper else factor
    right = torch.randn(*others, *((size, 3) if left else (3, size)), **DOUBLE)
    expected = torch.linalg.solve_triangular(factor, right, upper=upper, left=left)
    found = solve_triangular(factor, right, upper=upper, left=left)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, **CLOSE)


def test_what_is_not_written_out_is_left_to_lapack() -> None:
    large = _covariances(LARGEST + 1)
    assert cholesky_ex(large) is NotImplemented
    assert cholesky_ex(_covariances(2), upper=True) is NotImplemented
    assert solve_triangular(large, large, upper=False) is NotImplemented
    assert solve_triangular(torch.eye(2), torch.eye(2), upper=False, unitriangular=True) is NotImplemented


def test_a_matrix_that_is_not_positive_definite_has_no_factor() -> None:
    factor, _ = cholesky_ex(torch.tensor([[1.0, 2.0], [2.0, 1.0]], **DOUBLE))
    assert factor.isnan().any()


@pytest.mark.parametrize("size", [1, 2, LARGEST, LARGEST + 1])
def test_multivariate_normals_in_graphs_are_pyros(size: int, agree: Any) -> None:
    """Draws, log densities and gradients with respect to the covariance, both sides of the limit."""

    def program(x: Tensor, covariance: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            leaf = covariance.detach().requires_grad_(True)
            normal = dist.MultivariateNormal(x, leaf, validate_args=False)
            value = normal.log_prob(normal.rsample() ** 2).sum()
            (slope,) = torch.autograd.grad(value, leaf)
        return value.detach(), slope + slope.mT

    x, covariance = torch.randn(3, size, **DOUBLE), _covariances(size)
    graph = trace(program, x, covariance)
    lapack = any("triangular" in str(node.target) for node in graph.module.graph.nodes)
    assert lapack == (size > LARGEST)
    for seed in range(3):
        agree(graph, program, x, covariance, seed=seed)
        covariance.copy_(_covariances(size))
