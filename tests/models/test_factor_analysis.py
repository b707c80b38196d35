"""Factor analysis against NumPy, scikit-learn and the uniquenesses that R's factanal publishes."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn import decomposition

from ppl_vae.base.errors import InputError
from ppl_vae.data import Rows
from ppl_vae.inference import exact, svi
from ppl_vae.models import PPCA, FactorAnalysis
from ppl_vae.program.pair import Pair

Features = Callable[..., np.ndarray]
# Six tests of ability and intelligence in 112 persons (Smith and Stanley 1983; ability.cov in R).
ABILITY = np.array(
    [
        [24.641, 5.991, 33.520, 6.023, 20.755, 29.701],
        [5.991, 6.700, 18.137, 1.782, 4.936, 7.204],
        [33.520, 18.137, 149.831, 19.424, 31.430, 50.753],
        [6.023, 1.782, 19.424, 12.711, 4.757, 9.075],
        [20.755, 4.936, 31.430, 4.757, 52.604, 66.762],
        [29.701, 7.204, 50.753, 9.075, 66.762, 135.292],
    ]
)
# What `factanal(factors = 1 or 2, covmat = ability.cov)` prints.
UNIQUENESSES = {
    1: [0.535, 0.853, 0.748, 0.910, 0.232, 0.280],
    2: [0.455, 0.589, 0.218, 0.769, 0.052, 0.334],
}


def _rows(x: np.ndarray) -> Rows:
    return Rows("rows", x, tuple(f"f{k}" for k in range(x.shape[1])), "real")


def _with_covariance(covariance: np.ndarray, num_rows: int, seed: int = 0) -> np.ndarray:
    """Data whose 1/N covariance is this one exactly."""
    noise = np.random.default_rng(seed).normal(size=(num_rows, len(covariance)))
    left, _, right = np.linalg.svd(noise - noise.mean(0), full_matrices=False)
    return np.sqrt(num_rows) * left @ right @ np.linalg.cholesky(covariance).T


def _some(num_features: int = 5, latent_dim: int = 2) -> FactorAnalysis:
    torch.manual_seed(3)
    model = FactorAnalysis(num_features, latent_dim)
    with torch.no_grad():
        model.mean.normal_()
        model.log_noise_scale.normal_(-0.5, 0.5)
    return model


def test_evidence_is_the_gaussian_marginal_and_the_posterior_obeys_bayes_rule() -> None:
    model, x = _some(), torch.randn(7, 5, dtype=torch.float64)
    loadings, scale = model.loadings.detach().numpy(), model.noise_scale.detach().numpy()
    marginal = torch.distributions.MultivariateNormal(
        model.mean.detach(), torch.from_numpy(loadings @ loadings.T + np.diag(scale**2))
    )
    np.testing.assert_allclose(model.exact_log_evidence(x), marginal.log_prob(x), rtol=1e-10)
    z = torch.randn(7, 2, dtype=torch.float64)
    with torch.no_grad():
        prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
        noise = torch.distributions.Normal(z @ model.loadings.T + model.mean, model.noise_scale)
        found = prior + noise.log_prob(x).sum(1) - model.exact_posterior(x)["z"].log_prob(z)
    np.testing.assert_allclose(found, model.exact_log_evidence(x), rtol=1e-10)


@pytest.mark.parametrize("latent_dim", UNIQUENESSES)
def test_maximum_likelihood_has_the_uniquenesses_that_r_prints(latent_dim: int) -> None:
    x = _with_covariance(ABILITY, 112)
    model = FactorAnalysis.from_data(_rows(x), latent_dim=latent_dim)
    model.set_maximum_likelihood(torch.from_numpy(x))
    share = model.noise_scale.detach().square().numpy() / np.diag(ABILITY)
    # Half a unit of the last digit that is printed.
    np.testing.assert_allclose(share, UNIQUENESSES[latent_dim], rtol=0, atol=5.1e-4)
    assert model.heywood_cases == ()


def test_maximum_likelihood_is_scikit_learns_and_does_not_depend_on_units(features: Features) -> None:
    x = features("wine")
    other = decomposition.FactorAnalysis(2, tol=1e-10, max_iter=10_000, svd_method="lapack").fit(x)
    model = FactorAnalysis.from_data(_rows(x), latent_dim=2).set_maximum_likelihood(torch.from_numpy(x))
    value = exact.log_evidence(model, torch.from_numpy(x)).mean
    # Both stop where iterations gain next to nothing.
    assert value == pytest.approx(other.score(x), abs=1e-6)
    scales = np.logspace(-2, 2, x.shape[1])
    scaled = FactorAnalysis.from_data(_rows(x * scales), latent_dim=2)
    scaled.set_maximum_likelihood(torch.from_numpy(x * scales))
    elsewhere = exact.log_evidence(scaled, torch.from_numpy(x * scales)).mean
    assert elsewhere + np.log(scales).sum() == pytest.approx(value, abs=1e-6)


def test_no_direction_improves_on_what_em_comes_to(features: Features) -> None:
    x = torch.from_numpy(features("wine"))
    model = FactorAnalysis.from_data(_rows(x.numpy()), latent_dim=2)
    found = model.em(x, tolerance=1e-12)
    leaves = [found.loadings, found.mean, found.noise.log()]
    for leaf in leaves:
        leaf.requires_grad_()
    covariance = leaves[0] @ leaves[0].T + torch.diag(leaves[2].exp())
    value = torch.distributions.MultivariateNormal(leaves[1], covariance).log_prob(x).mean()
    assert float(value.detach()) == pytest.approx(found.log_likelihood[-1] / len(x), rel=1e-10)
    # A gain below 1e-12 nats is one of gradients below its root.
    assert max(slope.abs().max().item() for slope in torch.autograd.grad(value, leaves)) < 1e-5
    assert found.converged
    # Rounding of sums of a thousand nats.
    assert np.diff(found.log_likelihood).min() > -1e-9


def test_a_heywood_case_is_bounded_and_named() -> None:
    """One factor would have to explain .8 · .8 / .4 = 1.6 times the variance of the first feature."""
    x = _with_covariance(np.array([[1.0, 0.8, 0.8], [0.8, 1.0, 0.4], [0.8, 0.4, 1.0]]), 100)
    model = FactorAnalysis.from_data(_rows(x), latent_dim=1)
    with pytest.warns(UserWarning, match=r"noise variance of f0 has gone to its lower bound \(a Heywood"):
        model.set_maximum_likelihood(torch.from_numpy(x))
    assert model.heywood_cases == ("f0",)
    noise = model.noise_scale.detach().square().numpy()
    assert noise[0] == pytest.approx(0.005, rel=1e-5)
    # Where the first feature is the factor itself, the others' noise is what it leaves of them.
    np.testing.assert_allclose(noise[1:], 0.36, atol=0.005)
    # With half the bound, the likelihood is the larger one.
    lower = FactorAnalysis.from_data(_rows(x), latent_dim=1, min_noise=0.0025)
    assert lower.em(torch.from_numpy(x)).log_likelihood[-1] > model.em(torch.from_numpy(x)).log_likelihood[-1]


@pytest.mark.slow
def test_svi_reaches_the_maximum_likelihood(features: Features) -> None:
    x = torch.from_numpy(features("iris"))
    torch.manual_seed(0)
    model = FactorAnalysis.from_data(_rows(x.numpy()), latent_dim=1)
    best = model.em(x).log_likelihood[-1] / len(x)
    pair = Pair(model, FactorAnalysis.guides["linear"](model, x))
    svi.fit(pair, x, num_steps=1000, lr=0.05, num_particles=4, progress=False)
    reached = exact.log_evidence(model, x).mean
    # A fit's own tolerance is .05 nats a row.
    assert best - 0.05 < reached <= best + 1e-9


def test_em_finds_the_closed_form_of_ppca(features: Features) -> None:
    x = torch.from_numpy(features("wine"))
    model = PPCA.from_data(_rows(x.numpy()), latent_dim=3)
    found = model.em(x)
    model.set_maximum_likelihood(x)
    assert found.log_likelihood[-1] == pytest.approx(exact.log_evidence(model, x).total, rel=1e-12)
    product = found.loadings @ found.loadings.T
    np.testing.assert_allclose(product, (model.loadings @ model.loadings.T).detach(), atol=1e-4)


def test_bad_options_and_data_are_refused() -> None:
    x = np.random.default_rng(0).normal(size=(20, 4))
    for share in (0.0, 1.0, -0.1):
        with pytest.raises(InputError, match=r"min_noise is .*must be between 0 and 1"):
            FactorAnalysis(4, 1, min_noise=share)
    x[:, 2] = 5.0
    with pytest.raises(InputError, match="only one value of f2"):
        FactorAnalysis.from_data(_rows(x), latent_dim=1)
