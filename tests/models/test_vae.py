import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from pyro import distributions as dist
from sklearn import datasets
from torch import Tensor
from torch.distributions import Normal

from ppl_vae.base.errors import InputError
from ppl_vae.data import Rows, load
from ppl_vae.guides import AmortisedNormal, LinearNormal, PerDatumNormal, num_raw
from ppl_vae.inference import elbo, guide, importance, nuts, svi
from ppl_vae.inference.evidence.elbo import analytic_kl
from ppl_vae.models import VAE
from ppl_vae.models.likelihoods import Gaussian
from ppl_vae.models.vae import encode, interpolate, reconstruct
from ppl_vae.program.pair import Pair


def _digits() -> Rows:
    bunch = datasets.load_digits()
    values = (bunch.data > 7).astype(np.float32)
    return Rows("digits", values, tuple(bunch.feature_names), "binary", (8, 8))


@dataclass(frozen=True)
class Fitted:
    pair: Pair
    train: Tensor
    test: Tensor
    fit: svi.Fit

    @property
    def model(self) -> VAE:
        return self.pair.model


def _fit(guide_name: str) -> Fitted:
    rows = _digits()
    train, test = (rows.take(slice(*ends)).tensors(torch.float32)[0] for ends in ((0, 1500), (1500, 1797)))
    torch.manual_seed(0)
    model = VAE.from_data(rows.take(slice(0, 1500)), latent_dim=4, hidden=(64,))
    pair = Pair(model, VAE.guides[guide_name](model, train))
    fit = svi.fit(pair, train, num_steps=400, batch_size=100, lr=5e-3, held_out=(test,), check_every=200,
                  progress=False)  # fmt: skip
    return Fitted(pair, train, test, fit)


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    """Amortised, diagonal covariance."""
    return _fit("amortised")


@pytest.fixture(scope="module")
def fitted_full() -> Fitted:
    """Amortised, full covariance."""
    return _fit("amortised-full")


def _log_bernoulli(logits: Tensor, x: Tensor) -> Tensor:
    return (x * logits - torch.nn.functional.softplus(logits)).sum(-1)


# The ELBO and its parts --------------------------------------------------------------------------


def test_kl_of_a_diagonal_normal_is_the_formula_with_its_sign() -> None:
    """½ Σ(μ² + σ² − 1 − ln σ²): zero at the prior and positive everywhere else."""
    mean = torch.randn(50, 3, dtype=torch.float64)
    variance = torch.rand(50, 3, dtype=torch.float64) * 3 + 0.01
    prior = dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1)
    found = analytic_kl(dist.Normal(mean, variance.sqrt()).to_event(1), prior)
    assert found is not None
    expected = 0.5 * (mean**2 + variance - 1 - variance.log()).sum(1)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert (expected > 0).all()
    at_prior = analytic_kl(prior, prior)
    assert at_prior is not None
    assert at_prior.item() == 0


def test_kl_of_a_full_normal_is_the_closed_form() -> None:
    """½ (tr Σ + μᵀμ − q − ln det Σ)."""
    root = torch.randn(20, 3, 3, dtype=torch.float64)
    covariance = root @ root.mT + 0.1 * torch.eye(3, dtype=torch.float64)
    mean = torch.randn(20, 3, dtype=torch.float64)
    prior = dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1)
    found = analytic_kl(dist.MultivariateNormal(mean, covariance), prior)
    assert found is not None
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
    expected = 0.5 * (trace + (mean**2).sum(1) - 3 - torch.logdet(covariance))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("which", ["fitted", "fitted_full"])
def test_elbo_is_reconstruction_minus_kl_written_by_hand(
    which: str, request: pytest.FixtureRequest, oracles: ModuleType
) -> None:
    done: Fitted = request.getfixturevalue(which)
    found = elbo(done.pair, done.test, num_particles=50)
    assert found.kl_is_analytic
    assert found.value == pytest.approx(found.reconstruction - found.kl, rel=1e-6)

    q = encode(done.pair.guide, done.test)
    covariance = torch.diag_embed(q.variance) if which == "fitted" else q.covariance_matrix
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
    kl = 0.5 * (trace + (q.mean**2).sum(1) - 4 - torch.logdet(covariance))
    assert found.kl == pytest.approx(kl.sum().item(), rel=1e-4)
    with torch.no_grad():
        z = q.sample(torch.Size([200]))
        by_hand = _log_bernoulli(done.model.decoder(z), done.test).sum(1)
    error = math.hypot(by_hand.std().item() / math.sqrt(200), found.std_error)
    assert abs(by_hand.mean().item() - found.reconstruction) < oracles.z_limit() * error


def test_elbo_with_the_kl_by_formula_agrees_with_the_drawn_one(fitted: Fitted, oracles: ModuleType) -> None:
    x = fitted.test
    formula = elbo(fitted.pair, x, num_particles=100)
    drawn = guide.draws(fitted.pair, x, num_draws=100, seed=9).log_weights.to_numpy()[0].astype(float).sum(1)
    error = math.hypot(formula.std_error, drawn.std(ddof=1) / 10)
    assert abs(formula.value - drawn.mean()) < oracles.z_limit() * error


def test_a_short_fit_learns_and_reports_held_out_progress(fitted: Fitted) -> None:
    held_out = fitted.fit.held_out
    assert held_out[:, 0].tolist() == [200, 400]
    assert held_out[1, 1] > held_out[0, 1]
    # The best model without latents: independent pixels.
    p = fitted.train.mean(0).clamp(1e-3, 1 - 1e-3)
    baseline = _log_bernoulli(p.logit(), fitted.test).mean().item()
    assert held_out[1, 1] > baseline + 3


# Guides ------------------------------------------------------------------------------------------


def _overconfident(floor: float) -> tuple[Pair, Tensor]:
    """An encoder whose raw variance is near −120, where softplus is exactly zero in float32."""
    torch.manual_seed(0)
    x = (torch.rand(32, 6) > 0.5).float()
    model = VAE(6, 2, hidden=(8,))
    network = torch.nn.Linear(6, num_raw(2, "diagonal"))
    with torch.no_grad():
        network.bias[2:] = -120.0
    return Pair(model, AmortisedNormal(network, 2, floor=floor)), x


def test_removing_the_variance_floor_breaks_training_and_the_floor_saves_it() -> None:
    pair, x = _overconfident(floor=0.0)
    with pytest.raises((InputError, ValueError), match=r"the loss became|constraint"):
        svi.fit(pair, x, num_steps=20, lr=0.01, progress=False)
    pair, x = _overconfident(floor=1e-6)
    fit = svi.fit(pair, x, num_steps=20, lr=0.01, progress=False)
    assert np.isfinite(fit.elbo).all()
    assert all(value.isfinite().all() for value in pair.state_dict().values())


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_guide_variances_never_fall_below_the_floor(covariance: str) -> None:
    network = torch.nn.Linear(5, num_raw(3, covariance))
    with torch.no_grad():
        network.weight.mul_(1e3)
        network.bias.fill_(-1e4)
    q = AmortisedNormal(network, 3, covariance=covariance, floor=1e-3).encode(torch.randn(40, 5))
    if covariance == "diagonal":
        assert (q.variance >= 1e-3 * (1 - 1e-5)).all()
    else:
        assert (q.scale_tril.diagonal(dim1=-2, dim2=-1) ** 2 >= 1e-3 * (1 - 1e-5)).all()


def test_full_covariance_guide_can_have_any_covariance_and_diagonal_cannot() -> None:
    for covariance, correlated in (("diagonal", False), ("full", True)):
        linear = LinearNormal(4, 2, covariance=covariance)
        with torch.no_grad():
            linear.raw_spread.copy_(torch.arange(1.0, linear.raw_spread.numel() + 1))
        q = linear.encode(torch.randn(1, 4))
        product = q.covariance_matrix if correlated else torch.diag_embed(q.variance)
        assert (product[0, 0, 1].abs() > 0.1).item() is correlated
    with pytest.raises(InputError, match="covariance 'banded' is not known; it is diagonal or full"):
        num_raw(2, "banded")


def test_per_datum_guide_of_a_frozen_decoder_is_no_worse_than_the_amortised_one(fitted: Fitted) -> None:
    """The amortisation gap is not negative: compared on the same data with paired draws."""
    x = fitted.test[:60]
    pair = Pair(fitted.model, PerDatumNormal(len(x), 4))
    kept = {name: value.clone() for name, value in fitted.model.state_dict().items()}
    svi.fit(pair, x, num_steps=500, lr=0.05, num_particles=4, train="guide", progress=False)
    assert all(torch.equal(value, kept[name]) for name, value in fitted.model.state_dict().items())
    ours = guide.draws(pair, x, num_draws=400, seed=1).log_weights.to_numpy()[0].astype(float)
    amortised = guide.draws(Pair(fitted.model, fitted.pair.guide), x, num_draws=400, seed=1)
    difference = (ours - amortised.log_weights.to_numpy()[0]).mean(1)
    assert difference.mean() > 5 * difference.std(ddof=1) / math.sqrt(len(difference))


def test_per_datum_guide_refuses_other_data(fitted: Fitted) -> None:
    pair = Pair(VAE(64, 4, hidden=(8,)), PerDatumNormal(30, 4))
    with pytest.raises(InputError, match="parameters for 30 data and was given 20"):
        svi.fit(pair, fitted.test[:30], held_out=(fitted.test[:20],), num_steps=1, progress=False)
    with pytest.raises(InputError, match="PerDatumNormal cannot encode new data"):
        encode(pair.guide, fitted.test)


# Likelihoods -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "learnt"),
    [("gaussian", 1, True), ("gaussian-pixel", 6, True), ("gaussian-fixed", 1, False)],
)
def test_gaussian_scales_are_bounded_below_and_learnt_where_they_say(
    name: str, size: int, learnt: bool
) -> None:
    model = VAE(6, 2, hidden=(8,), likelihood=name)
    scale = model.likelihood
    assert scale.scale.shape == (size,)
    assert scale.scale.tolist() == pytest.approx([0.3] * size, rel=1e-5)
    assert ("likelihood.raw_scale" in dict(model.named_parameters())) is learnt
    assert "likelihood.raw_scale" in model.state_dict()
    with torch.no_grad():
        scale.raw_scale.fill_(-1e6)
    assert scale.scale.tolist() == pytest.approx([scale.min_scale] * size)


def test_a_pixel_that_never_changes_drives_its_scale_to_the_bound_and_no_further() -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 3)
    x[:, 1] = 0.0
    model = VAE.from_data(Rows("r", x.numpy(), ("a", "b", "c"), "real"), latent_dim=1, hidden=(4,),
                          likelihood="gaussian-pixel")  # fmt: skip
    pair = Pair(model, VAE.guides["amortised"](model, x))
    fit = svi.fit(pair, x, num_steps=500, lr=0.05, progress=False)
    scale = model.likelihood.scale.detach()
    assert np.isfinite(fit.elbo).all()
    assert 0.01 <= scale[1] < 0.1
    assert (scale[[0, 2]] > 0.2).all()


def test_gaussian_likelihood_is_the_normal_density() -> None:
    likelihood, x, mean = Gaussian(4, "pixel"), torch.randn(5, 4), torch.randn(5, 4)
    expected = Normal(mean, torch.full((4,), 0.3)).log_prob(x).sum(1)
    np.testing.assert_allclose(likelihood(mean).log_prob(x).detach(), expected, rtol=1e-4)


def test_bad_options_and_data_are_refused() -> None:
    with pytest.raises(InputError, match="likelihood 'gamma' is not known; there are bernoulli, gaussian"):
        VAE(6, 2, likelihood="gamma")
    with pytest.raises(InputError, match="activation 'sine' is not known; there are relu"):
        VAE(6, 2, activation="sine")
    with pytest.raises(InputError, match="latent_dim is 0"):
        VAE(6, 0)
    with pytest.raises(InputError, match="a layer's width is 0; it must be at least 1"):
        VAE(6, 2, hidden=(0,))
    with pytest.raises(InputError, match=r"min_scale is 0\.5; it must be positive and below 0.3"):
        Gaussian(3, "global", min_scale=0.5)
    greys = Rows("g", np.full((4, 6), 0.5), tuple("abcdef"), "grey")
    with pytest.raises(InputError, match=r"row 0, column 0 is 0\.5"):
        VAE.from_data(greys)
    assert VAE.from_data(greys, likelihood="gaussian").num_features == 6


def test_output_bias_starts_at_the_datas_mean() -> None:
    rows = _digits()
    model = VAE.from_data(rows, latent_dim=2, hidden=(8,))
    mean = rows.values.mean(0).clip(1e-3, 1 - 1e-3)
    np.testing.assert_allclose(model.decoder[-1].bias.detach().sigmoid(), mean, rtol=1e-4)


# After a fit -------------------------------------------------------------------------------------


def test_sample_gives_probabilities_and_draws_on_request(fitted: Fitted) -> None:
    means, drawn = fitted.model.sample(20), fitted.model.sample(20, draw=True)
    assert means.shape == drawn.shape == (20, 64)
    assert ((means > 0) & (means < 1)).all()
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert len(means.unique()) > 100


def test_reconstruct_decodes_the_posterior_mean_and_draws_on_request(fitted: Fitted) -> None:
    x = fitted.test[:50]
    means = reconstruct(fitted.model, fitted.pair.guide, x)
    expected = fitted.model.decode(encode(fitted.pair.guide, x).mean)
    assert torch.equal(means, expected)
    drawn = reconstruct(fitted.model, fitted.pair.guide, x, draw=True)
    assert drawn.shape == x.shape
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    # Its own reconstruction is nearer to a datum than another's.
    error, other = ((x - r).abs().mean().item() for r in (means, means.roll(1, 0)))
    assert error < 0.75 * other


def test_interpolation_starts_and_ends_at_the_reconstructions(fitted: Fitted) -> None:
    first, last = fitted.test[0], fitted.test[7]
    path = interpolate(fitted.model, fitted.pair.guide, first, last, num_steps=5)
    ends = reconstruct(fitted.model, fitted.pair.guide, torch.stack([first, last]))
    assert path.shape == (5, 64)
    np.testing.assert_allclose(path[[0, -1]], ends, rtol=1e-5, atol=1e-6)
    middle = fitted.model.decode(encode(fitted.pair.guide, torch.stack([first, last])).mean.mean(0))
    np.testing.assert_allclose(path[2], middle, rtol=1e-5, atol=1e-6)
    drawn = interpolate(fitted.model, fitted.pair.guide, first, last, draw=True)
    assert drawn.shape == (8, 64)
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}
    with pytest.raises(InputError, match="num_steps is 1"):
        interpolate(fitted.model, fitted.pair.guide, first, last, num_steps=1)


@pytest.mark.parametrize("which", ["fitted", "fitted_full"])
def test_held_out_evidence_by_importance_sampling_is_above_the_elbo(
    which: str, request: pytest.FixtureRequest
) -> None:
    done: Fitted = request.getfixturevalue(which)
    evidence = importance.log_evidence(done.pair, done.test, num_samples=500, seed=4, progress=False)
    bound = elbo(done.pair, done.test, num_particles=100, seed=5)
    assert (evidence.unit, evidence.num_units) == ("datum", len(done.test))
    gap = evidence.total - bound.value
    assert gap > 5 * math.hypot(evidence.total_std_error, bound.std_error)
    assert np.isfinite(evidence.pareto_k).all()


def test_evidence_agrees_with_a_grid_over_a_two_dimensional_latent(oracles: ModuleType) -> None:
    """log p(x) = log ∫ p(z) p(x | z) dz by the trapezoidal rule."""
    torch.manual_seed(0)
    x = (torch.rand(12, 9) > 0.5).float()
    model = VAE(9, 2, hidden=(16,), activation="tanh")
    with torch.no_grad():
        model.decoder[-1].weight.mul_(4)
    pair = Pair(model, VAE.guides["amortised-full"](model, x))
    svi.fit(pair, x, num_steps=300, lr=0.02, train="guide", progress=False)
    axis = torch.linspace(-7, 7, 281, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        logits = model.double().decoder(z)
        log_joint = Normal(0.0, 1.0).log_prob(z).sum(1) + _log_bernoulli(logits[None], x.double()[:, None])
    model.float()
    truth = log_joint.logsumexp(1).numpy() + 2 * math.log((axis[1] - axis[0]).item())
    found = importance.log_evidence(pair, x, num_samples=4000, defensive=0.1, seed=2, progress=False)
    scores = (found.log_evidence - truth) / found.std_error
    assert np.abs(scores).max() < oracles.z_limit(len(scores))
    assert found.total_std_error < 0.5


def test_nuts_agrees_with_weighted_draws_of_the_guide_on_eight_images(
    fitted: Fitted, oracles: ModuleType
) -> None:
    """Means of p(z | x) by NUTS and by self-normalised importance sampling, image by image."""
    x = fitted.test[:8]
    chains = nuts.sample(
        fitted.model,
        x,
        num_draws=200,
        warmup=100,
        chains=2,
        max_tree_depth=5,
        progress=False,
    )
    drawn = guide.draws(fitted.pair, x, num_draws=40_000, seed=1)
    log_w = drawn.log_weights.to_numpy()[0].astype(float)
    weights = np.exp(log_w - log_w.max(0))
    weights /= weights.sum(0)
    z = drawn.draws["z"].to_numpy()[0].astype(float)
    mean = np.einsum("sn,snk->nk", weights, z)
    error = np.sqrt(np.einsum("sn,snk->nk", weights**2, (z - mean) ** 2))
    nuts_mean = chains.draws["z"].mean(("chain", "draw")).to_numpy()
    nuts_error = chains.summary()["mcse_mean"].to_numpy().reshape(mean.shape)
    scores = (mean - nuts_mean) / np.hypot(error, nuts_error)
    assert np.abs(scores).max() < oracles.z_limit(scores.size)
    # A statement about the weighted draws, not about the guide's own.
    assert (1 / (weights**2).sum(0) > 200).all()


def test_mnist_evidence_is_above_the_elbo(shared: Callable[[str], Path]) -> None:
    shared("data/MNIST/raw/t10k-images-idx3-ubyte.gz")
    rows = load("mnist", data_dir=shared("data"), download=False)
    train, test = (
        torch.as_tensor(rows.values[ends] > 0.5, dtype=torch.float32)
        for ends in (slice(0, 4000), slice(60_000, 60_100))
    )
    torch.manual_seed(0)
    model = VAE(784, 8, hidden=(64,))
    pair = Pair(model, VAE.guides["amortised"](model, train))
    svi.fit(pair, train, num_steps=250, batch_size=100, lr=5e-3, progress=False)
    evidence = importance.log_evidence(pair, test, num_samples=200, seed=1, progress=False)
    bound = elbo(pair, test, num_particles=50, seed=2)
    assert evidence.total - bound.value > 5 * math.hypot(evidence.total_std_error, bound.std_error)
    # Learnt something: far above fair coins, 784 ln 2 nats an image.
    assert bound.mean > -0.5 * 784 * math.log(2)
