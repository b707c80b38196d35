"""Mixture guides against posteriors that are mixtures, and their gradients against quadrature."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.guides.mixture import MixtureNormal
from ppl_vae.inference import pathfinder, svi
from ppl_vae.inference.fitting.objective import StratifiedELBO
from ppl_vae.inference.fitting.started import mixture_of_paths
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem

WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)
CENTRES = torch.tensor([[4.0, -1.0], [-3.0, 0.0]], dtype=torch.float64)
NOISE = torch.tensor([[[1.0, 0.6], [0.6, 1.0]], [[0.5, -0.2], [-0.2, 1.5]]], dtype=torch.float64)
PRIOR = 16 * torch.eye(2, dtype=torch.float64)
Y = torch.tensor([0.5, 0.2], dtype=torch.float64)


def model(y: Tensor) -> None:
    """z ~ N(0, 16 I), y ~ Σ_k w_k N(c_k + z, R_k): the posterior is a mixture of two Gaussians."""
    z = pyro.sample("z", dist.Normal(y.new_zeros(2), 4.0).to_event(1))
    each = dist.MultivariateNormal(CENTRES + z[..., None, :], NOISE)
    pyro.sample("y", dist.MixtureSameFamily(dist.Categorical(WEIGHTS), each), obs=y)


def one_by_one(y: Tensor) -> None:
    """The same; of many draws side by side it would take the first."""
    z = pyro.sample("z", dist.Normal(y.new_zeros(2), 4.0).to_event(1)).reshape(-1)[:2]
    each = dist.MultivariateNormal(CENTRES + z, NOISE)
    pyro.sample("y", dist.MixtureSameFamily(dist.Categorical(WEIGHTS), each), obs=y)


def posterior() -> tuple[Tensor, Tensor, Tensor, float]:
    """Weights, means and covariances, and log p(y)."""
    log_joint = WEIGHTS.log() + dist.MultivariateNormal(CENTRES, NOISE + PRIOR).log_prob(Y)
    covariances = (PRIOR.inverse() + NOISE.inverse()).inverse()
    means = torch.einsum("kij,kj->ki", covariances @ NOISE.inverse(), Y - CENTRES)
    return log_joint.softmax(0), means, covariances, float(log_joint.logsumexp(0))


@pytest.mark.parametrize("program", [model, one_by_one])
def test_at_the_posterior_every_draw_says_the_evidence(program: object) -> None:
    weights, means, covariances, evidence = posterior()
    trils = torch.linalg.cholesky(covariances)
    guide = MixtureNormal(program, locs=means, scale_trils=trils, weights=weights)
    problem = Problem.of(Pair(program, guide), Y)
    assert problem.layout.vectorized == (program is model)
    drawn = problem.terms(50)
    np.testing.assert_allclose(drawn.log_weights.detach(), evidence, rtol=1e-6)
    again = problem.terms(50, latents=drawn.draws)
    np.testing.assert_allclose(again.log_q.detach(), drawn.log_q.detach(), rtol=1e-6)
    left = float((drawn.draws["z"][..., 0] < 0).float().mean())
    assert left == pytest.approx(weights[0].item(), abs=5 * math.sqrt(0.25 / 50))
    with problem.pair.learning():
        loss = StratifiedELBO(3).value(problem, None, 1.0, 1.0)
    assert loss.item() == pytest.approx(-evidence, rel=1e-6)
    assert guide.strata is None


def test_gradients_are_those_of_the_elbo_by_quadrature() -> None:
    guide = MixtureNormal(model, locs=CENTRES / 2, init_scale=1.5, covariance="diagonal")
    pair = Pair(model, guide).initialise(Y)
    guide.logits.data += torch.tensor([0.7, -0.2])
    leaves = list(pair.parameters("guide").values())
    axis = torch.linspace(-14.0, 14.0, 281, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    each = dist.MultivariateNormal(CENTRES + z[:, None, :], NOISE)
    log_p = dist.MixtureSameFamily(dist.Categorical(WEIGHTS.expand(len(z), -1)), each).log_prob(Y)
    log_p = log_p + dist.Normal(0.0, 4.0).log_prob(z).sum(-1)
    log_q = guide.get_posterior().log_prob(z)
    exact = -(log_q.exp() * (log_p - log_q)).sum() * 0.1**2
    expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(exact, leaves)])
    problem, found, values = Problem.of(pair, Y), [], []
    torch.manual_seed(0)
    for _ in range(30):
        with pair.learning():
            loss = StratifiedELBO(300).value(problem, None, 1.0, 1.0)
        found.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, leaves)]))
        values.append(loss.item())
    assert np.mean(values) == pytest.approx(exact.item(), abs=5 * np.std(values) / math.sqrt(30))
    drawn = torch.stack(found)
    error = drawn.std(0) / math.sqrt(30)
    # Logits have one direction without effect: the rounding of a constant.
    assert ((drawn.mean(0) - expected).abs() < 5 * error + 1e-9).all()


def test_it_starts_at_the_modes_of_paths() -> None:
    weights, means, covariances, evidence = posterior()
    guide = mixture_of_paths(pathfinder.paths(model, Y, num_paths=8, progress=False), model)
    fit = svi.fit(Pair(model, guide), Y, num_steps=60, lr=0.01, num_particles=8, average=0.5, progress=False)
    assert guide.num_components == 2
    first = int(guide.locs[0, 0] > 0)
    found = guide.locs.detach()[[first, 1 - first]]
    sds = covariances.diagonal(dim1=-2, dim2=-1).sqrt()
    assert ((found - means).abs() < 0.5 * sds).all()
    # A Gaussian in one mode has no larger ELBO than that mode's share of the evidence.
    assert evidence + math.log(weights.max()) < fit.final.value < evidence + 5 * fit.final.std_error


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="num_components is 0"):
        MixtureNormal(model, 0)
    with pytest.raises(InputError, match="covariance 'round' is not known"):
        MixtureNormal(model, covariance="round")
