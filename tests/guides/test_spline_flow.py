"""The spline flow: a Gaussian at its start, the density of its map, and a banana."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import ComposeTransform

from ppl_vae.base.errors import InputError
from ppl_vae.guides.spline_flow import SplineFlow
from ppl_vae.inference import svi
from ppl_vae.program.pair import Pair

pytest.importorskip("zuko")
Y = torch.tensor(1.0, dtype=torch.float64)


def banana(y: Tensor) -> None:
    """y ~ N(b + a², 0.3²): a posterior along a parabola."""
    a = pyro.sample("a", dist.Normal(y.new_zeros(()), 1.0))
    b = pyro.sample("b", dist.Normal(y.new_zeros(()), 2.0))
    pyro.sample("y", dist.Normal(b + a**2, 0.3), obs=y)


def log_evidence() -> float:
    axis = torch.linspace(-8.0, 8.0, 161, dtype=torch.float64)
    a, b = torch.cartesian_prod(axis, axis).T
    joint = dist.Normal(0.0, 1.0).log_prob(a) + dist.Normal(0.0, 2.0).log_prob(b)
    joint = joint + dist.Normal(b + a**2, 0.3).log_prob(Y)
    return float(joint.logsumexp(0)) + 2 * math.log(16 / 160)


def best_gaussian() -> float:
    """The largest ELBO of a full-rank Gaussian, whose expectations are polynomials of its moments.

    The best one has E a = 0 and no correlation; then E (y − b − a²)² = (y − m)² − 2 (y − m) s² + 3 s⁴ + v².
    """
    s, v = np.meshgrid(np.linspace(0.05, 2, 200), np.linspace(0.05, 2, 200))
    # The best m: d/dm of (m² / 4 + ((y − m)² − 2 (y − m) s²) / .09) / 2 is zero.
    m = (1 - s**2) / 0.09 / (0.25 + 1 / 0.09)
    miss = (1 - m) ** 2 - 2 * (1 - m) * s**2 + 3 * s**4 + v**2
    log_p = -(s**2 + (m**2 + v**2) / 4 + miss / 0.09) / 2 - math.log(2 * 0.3) - 1.5 * math.log(2 * math.pi)
    return float((log_p + np.log(s * v) + 1 + math.log(2 * math.pi)).max())


def test_it_starts_as_a_gaussian() -> None:
    guide = SplineFlow(banana, init_scale=0.5)
    Pair(banana, guide).initialise(Y)
    start, at = guide.get_posterior(), 0.7 * torch.randn(100, 2, dtype=torch.float64)
    expected = dist.Normal(guide.loc, 0.5).to_event(1).log_prob(at)
    np.testing.assert_allclose(start.log_prob(at).detach(), expected.detach(), rtol=1e-9)


def test_its_density_is_that_of_its_map() -> None:
    guide = SplineFlow(banana, init_scale=1.0)
    pair = Pair(banana, guide).initialise(Y)
    torch.manual_seed(0)
    for leaf in pair.parameters("guide").values():
        leaf.data += 0.2 * torch.randn_like(leaf)
    found = guide.get_posterior()

    def placed(noise: Tensor) -> Tensor:
        return ComposeTransform(found.transforms)(noise)

    for noise in 2 * torch.randn(10, 2, dtype=torch.float64):
        slopes = torch.autograd.functional.jacobian(placed, noise)
        expected = dist.Normal(0.0, 1.0).log_prob(noise).sum() - slopes.logdet()
        # A copy is no draw that the guide remembers: it goes back through the splines.
        again = found.log_prob(placed(noise).detach().clone())
        assert again.item() == pytest.approx(expected.item(), rel=1e-9)


def test_it_bends_where_no_gaussian_does() -> None:
    pair = Pair(banana, SplineFlow(banana))
    fit = svi.fit(pair, Y, num_steps=250, lr=0.02, num_particles=8, average=0.25, progress=False)
    assert fit.final.value - 5 * fit.final.std_error > best_gaussian()
    assert fit.final.value < log_evidence() + 5 * fit.final.std_error


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="num_transforms is 0"):
        SplineFlow(banana, num_transforms=0)
    with pytest.raises(InputError, match="bins is 1"):
        SplineFlow(banana, bins=1)
