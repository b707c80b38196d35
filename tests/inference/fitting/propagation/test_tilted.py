"""Moments of normals times factors against closed forms and SciPy's adaptive quadrature."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import integrate, optimize
from torch import Tensor
from torch.nn.functional import logsigmoid

from ppl_vae.inference.fitting.propagation.tilted import Quadrature

MEAN = torch.tensor([0.0, 1.0, -3.0, 2.0, -0.5, 8.0]).double()
VARIANCE = torch.tensor([1.0, 0.01, 2.0, 4.0, 0.5, 1.5]).double()


def poisson(d: Tensor) -> Tensor:
    return 3.0 * d - d.exp() - math.lgamma(4.0)


def narrow(d: Tensor) -> Tensor:
    """A likelihood of which nodes laid by the prior would see nothing."""
    return -0.5 * ((d - 6.0) / 0.003) ** 2


def probit(d: Tensor) -> Tensor:
    return torch.special.log_ndtr(d / 0.7)


def shared(d: Tensor) -> Tensor:
    """Another factor for each predictor, by a weight."""
    return torch.arange(1, 7).double() * logsigmoid(d)


FACTORS = {"probit": probit, "logistic": logsigmoid, "weighted": shared, "Poisson": poisson, "narrow": narrow}


def by_scipy(factor: Callable[[Tensor], Tensor], row: int) -> tuple[float, float, float]:
    """log Z, mean and variance of a tilted density, from its mode outwards."""
    mean, variance = float(MEAN[row]), float(VARIANCE[row])

    def log_density(d: float) -> float:
        value = float(factor(torch.full((6,), d, dtype=torch.float64))[row])
        return value - 0.5 * (d - mean) ** 2 / variance - 0.5 * math.log(2 * math.pi * variance)

    mode = float(optimize.minimize_scalar(lambda d: -log_density(d), tol=1e-12).x)
    top = log_density(mode)
    bend = (2 * top - log_density(mode + 1e-3) - log_density(mode - 1e-3)) / 1e-6
    sd = min(bend**-0.5 if bend > 0 else np.inf, variance**0.5)
    ends = mode + sd * np.linspace(-40, 40, 17)

    def integral(of: Callable[[float], float]) -> float:
        pieces = itertools.pairwise(ends)
        return sum(
            integrate.quad(lambda d: of(d) * math.exp(log_density(d) - top), a, b, epsrel=1e-12)[0]
            for a, b in pieces
        )

    total = integral(lambda _: 1.0)
    first = integral(lambda d: d) / total
    return top + math.log(total), first, integral(lambda d: (d - first) ** 2) / total


@pytest.mark.parametrize("name", FACTORS)
def test_moments_are_those_of_adaptive_quadrature(name):
    factor = FACTORS[name]
    rule = Quadrature(factor, 64)
    # The second call begins where the first, of other normals, has ended.
    rule(MEAN.flip(0), VARIANCE.flip(0))
    found = rule(MEAN, VARIANCE)
    mean, variance = MEAN + VARIANCE * found.slope, VARIANCE * (1 - VARIANCE * found.curvature)
    for row in range(len(MEAN)):
        log_total, first, second = by_scipy(factor, row)
        assert float(found.log_normaliser[row]) == pytest.approx(log_total, abs=1e-8)
        assert float(mean[row]) == pytest.approx(first, rel=1e-8, abs=1e-8)
        # The narrow one's variance is what is left of the prior's by subtraction.
        assert float(variance[row]) == pytest.approx(second, rel=1e-8, abs=1e-14)


def test_probit_factors_have_a_closed_form():
    found = Quadrature(probit, 64)(MEAN, VARIANCE)
    scale = (0.49 + VARIANCE).sqrt()
    x = (MEAN / scale).requires_grad_()
    log_total = torch.special.log_ndtr(x)
    (slope,) = torch.autograd.grad(log_total.sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    torch.testing.assert_close(found.log_normaliser, log_total.detach(), rtol=0, atol=1e-8)
    torch.testing.assert_close(found.slope, slope.detach() / scale, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.curvature, -bend / scale**2, rtol=0, atol=1e-8)


def test_memory_is_bounded_by_taking_nodes_in_blocks(monkeypatch):
    whole = Quadrature(logsigmoid, 24)(MEAN, VARIANCE)
    monkeypatch.setattr("ppl_vae.inference.fitting.propagation.tilted.CHUNK", 30)
    blocks = Quadrature(logsigmoid, 24)(MEAN, VARIANCE)
    torch.testing.assert_close(blocks.curvature, whole.curvature, rtol=1e-12, atol=1e-14)


def test_a_factor_that_is_not_concave_is_met_where_it_is():
    """A narrow Student factor far from the normal: quadrature over a fine grid is the oracle."""

    def student(d: Tensor) -> Tensor:
        return -1.5 * torch.log1p((d - 4.0) ** 2 / (2 * 0.5**2))

    mean, variance = torch.tensor([0.0, 3.5]).double(), torch.tensor([1.0, 1.0]).double()
    found = Quadrature(student, 200)(mean, variance)
    grid = torch.linspace(-12, 16, 400_001).double()
    for row in range(2):
        log_density = student(grid) - 0.5 * (grid - mean[row]) ** 2
        weights = (log_density - log_density.max()).exp()
        weights = weights / weights.sum()
        first = float((weights * grid).sum())
        assert float(mean[row] + found.slope[row]) == pytest.approx(first, abs=1e-5)
