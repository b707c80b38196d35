"""Hessians as matrices against the products that they are made of, and Newton steps against SciPy's."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuideList, AutoMultivariateNormal, AutoNormal
from torch import Tensor

from ppl_vae.inference.fitting.fixed_noise import FixedNoise, Objective
from ppl_vae.inference.fitting.gaussians.curvature import hessians, settled
from ppl_vae.inference.fitting.gaussians.gaussian import antithetic
from ppl_vae.inference.fitting.gaussians.gaussian_fit import GaussianOptions
from ppl_vae.inference.fitting.gaussians.target import target_of
from ppl_vae.program.pair import Pair

X = torch.linspace(-2, 2, 12, dtype=torch.float64)
Y = (X + torch.sin(7 * X) > 0).double()


def logistic(x: Tensor, y: Tensor) -> None:
    level = pyro.sample("level", dist.Normal(x.new_zeros(()), 2.0))
    slopes = pyro.sample("slopes", dist.Normal(x.new_zeros(2), 2.0).to_event(1))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=level + slopes[0] * x + slopes[1] * x**2), obs=y)


def blocks() -> Pair:
    guide = AutoGuideList(logistic)
    guide.append(AutoMultivariateNormal(poutine.block(logistic, expose=["slopes"])))
    guide.append(AutoNormal(poutine.block(logistic, expose=["level"])))
    return Pair(logistic, guide)


def _ignored(elbo: float) -> None:
    """What iterations tell."""


def test_hessians_and_the_optimum_that_they_lead_to() -> None:
    with target_of(blocks().initialise(X, Y), X, Y) as target:
        noise = antithetic(20, 3, 0)
        start = FixedNoise().maximise(target, target.guide.read(), noise, GaussianOptions(), _ignored)[0]
        objective = Objective(target, start, noise)
        # Away from the origin of the coordinates, where scales are not 1: two groups, each at a place.
        places = [objective.start + shift * np.arange(1.0, 8.0) for shift in (0.02, -0.01)]
        members = [objective.member(place) for place in places]
        found = hessians(objective, members, progress=False)
        for matrix, place, own in zip(found, places, noise.chunk(2), strict=True):
            alone = Objective(target, start, own)
            columns = np.stack([alone.product(place, column) for column in np.eye(7)], 1)
            # The objective takes the derivative of log |R| at its own coordinates, as this does.
            np.testing.assert_allclose(matrix.numpy(), columns, atol=1e-10)
        # Other draws have another optimum: the steps end where SciPy's do.
        other = Objective(target, start, antithetic(20, 3, 1))
        (matrix,) = hessians(other, [other.origin], progress=False)
        reached = settled(other, matrix, 1e-12)
        assert reached is not None
        options = GaussianOptions(tolerance=1e-9)
        truth = FixedNoise().maximise(target, start, other.noise, options, _ignored)[0]
        np.testing.assert_allclose(reached.loc.numpy(), truth.loc.numpy(), atol=1e-5)
        np.testing.assert_allclose(reached.covariance().numpy(), truth.covariance().numpy(), atol=1e-5)
        # Where a matrix says nothing of the way there, the steps do not go on.
        assert settled(other, 0.1 * matrix, 1e-12) is None
        assert settled(other, -matrix, 1e-12) is None
