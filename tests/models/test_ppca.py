import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from ppl_vae.base.errors import InputError
from ppl_vae.data import Rows
from ppl_vae.guides import LinearNormal
from ppl_vae.inference import elbo, exact, guide, svi
from ppl_vae.models import PPCA
from ppl_vae.program.pair import Pair

Features = Callable[..., np.ndarray]
CASES = [
    ("iris", "std", 2),
    ("wine", "std", 2),
    ("breast_cancer", "std", 2),
    ("digits", "raw", 10),
    ("tobamovirus", "raw", 1),
    ("tobamovirus", "raw", 2),
    ("tobamovirus", "raw", 3),
]


def _rows(x: np.ndarray) -> Rows:
    return Rows("rows", x, tuple(f"f{k}" for k in range(x.shape[1])), "real")


def _learnt(model: PPCA) -> tuple[np.ndarray, np.ndarray, float]:
    return (
        model.loadings.detach().numpy(),
        model.mean.detach().numpy(),
        model.noise_scale.item() ** 2,
    )


@pytest.mark.parametrize(("name", "scaling", "latent_dim"), CASES)
def test_closed_form_maximum_has_the_published_noise_and_likelihood(
    name: str,
    scaling: str,
    latent_dim: int,
    features: Features,
    oracles: ModuleType,
    shared: Callable[[str], Path],
) -> None:
    cases = json.loads(shared("reference/ppca.json").read_text())["cases"]
    (case,) = [c for c in cases if (c["data"], c["scaling"], c["q"]) == (name, scaling, latent_dim)]
    if name == "tobamovirus":
        x = np.loadtxt(shared("data/tobamovirus/virus3.dat"))
    else:
        x = features(name, standardised=scaling == "std")
    model = PPCA(x.shape[1], latent_dim).set_maximum_likelihood(torch.from_numpy(x))
    # Half a unit of the last digit that was published.
    digits = _decimals(case["log_likelihood_per_row"])
    value = exact.log_evidence(model, torch.from_numpy(x)).mean
    assert abs(value - case["log_likelihood_per_row"]) <= 0.51 * 10**-digits
    if "sigma2" in case:
        assert abs(model.noise_scale.item() ** 2 - case["sigma2"]) <= 0.51 * 10 ** -_decimals(case["sigma2"])
    own = oracles.ppca_maximum_likelihood(x, latent_dim)
    assert value == pytest.approx(own.log_likelihood_per_row, rel=1e-9)


def _decimals(number: float) -> int:
    return len(repr(number).split(".")[1])


@pytest.mark.parametrize("name", ["iris", "wine"])
def test_closed_form_maximum_agrees_with_numpy_up_to_rotation(
    name: str, features: Features, oracles: ModuleType
) -> None:
    x = features(name)
    truth = oracles.ppca_maximum_likelihood(x, 2)
    for turn in (None, oracles.rotation(35.0)):
        model = PPCA(x.shape[1], 2).set_maximum_likelihood(torch.from_numpy(x), turn)
        loadings, mean, noise = _learnt(model)
        np.testing.assert_allclose(loadings @ loadings.T, truth.loadings @ truth.loadings.T, atol=1e-10)
        np.testing.assert_allclose(mean, truth.mean, atol=1e-12)
        assert noise == pytest.approx(truth.noise, rel=1e-10)
        off_diagonal = abs((loadings.T @ loadings)[0, 1])
        assert off_diagonal < 1e-10 if turn is None else off_diagonal > 0.1


def test_no_direction_improves_on_the_closed_form_maximum(features: Features) -> None:
    x = torch.from_numpy(features("iris"))
    model = PPCA(4, 2).set_maximum_likelihood(x, None)
    identity = torch.eye(4, dtype=torch.float64)
    covariance = model.loadings @ model.loadings.T + model.noise_scale.square() * identity
    value = torch.distributions.MultivariateNormal(model.mean, covariance).log_prob(x).mean()
    gradients = torch.autograd.grad(value, list(model.parameters()))
    assert max(gradient.abs().max().item() for gradient in gradients) < 1e-10


def test_exact_evidence_is_the_gaussian_marginal(features: Features, oracles: ModuleType) -> None:
    x = features("iris")
    model = PPCA(4, 2)
    expected = oracles.ppca_log_likelihood(x, *_learnt(model))
    found = exact.log_evidence(model, torch.from_numpy(x))
    np.testing.assert_allclose(found.log_evidence, expected, rtol=1e-10)
    assert (found.unit, found.kind, found.num_units, found.total_std_error) == ("datum", "exact", 150, 0.0)


def test_exact_posterior_satisfies_bayes_rule(features: Features) -> None:
    """log p(x, z) − log p(z | x) is log p(x) at any z."""
    x = torch.from_numpy(features("iris"))
    model = PPCA(4, 2)
    z = torch.randn(150, 2, dtype=torch.float64)
    with torch.no_grad():
        prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
        fit = (
            torch.distributions.Normal(z @ model.loadings.T + model.mean, model.noise_scale)
            .log_prob(x)
            .sum(1)
        )
    posterior = model.exact_posterior(x)["z"].log_prob(z)
    np.testing.assert_allclose(prior + fit - posterior, model.exact_log_evidence(x), rtol=1e-10)


def test_exact_draws_have_the_exact_moments(features: Features, oracles: ModuleType) -> None:
    x = features("iris")[:8]
    model = PPCA(4, 2).set_maximum_likelihood(torch.from_numpy(features("iris")), oracles.rotation(20.0))
    loadings, mean, noise = _learnt(model)
    m = loadings.T @ loadings + noise * np.eye(2)
    expected = (x - mean) @ loadings @ np.linalg.inv(m)
    covariance = noise * np.linalg.inv(m)
    num_draws = 4000
    drawn = exact.draws(model, torch.from_numpy(x), num_draws=num_draws, seed=1)
    z = drawn.draws["z"].to_numpy()[0]
    scores = (z.mean(0) - expected) / np.sqrt(np.diag(covariance) / num_draws)
    assert np.abs(scores).max() < oracles.z_limit(scores.size + 3 * len(x))
    centred = z - expected
    product = np.einsum("sni,snj->snij", centred, centred)
    spread = (product.mean(0) - covariance) / (product.std(0, ddof=1) / np.sqrt(num_draws))
    assert np.abs(spread).max() < oracles.z_limit(scores.size + 3 * len(x))


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
@pytest.mark.parametrize("name", ["iris", "wine"])
def test_svi_reaches_the_maximum_likelihood(
    name: str, seed: int, features: Features, oracles: ModuleType
) -> None:
    x = features(name)
    torch.manual_seed(seed)
    model = PPCA.from_data(_rows(x), latent_dim=2)
    data = torch.from_numpy(x)
    defaults = PPCA.defaults
    fit = svi.fit(
        Pair(model, PPCA.guides["linear"](model, data)),
        data,
        num_steps=defaults.num_steps,
        lr=defaults.lr,
        num_particles=defaults.num_particles,
        seed=seed,
        progress=False,
    )
    assert defaults.num_steps == 3000
    best = oracles.ppca_maximum_likelihood(x, 2).log_likelihood_per_row
    reached = oracles.ppca_log_likelihood(x, *_learnt(model)).mean()
    assert best - 0.001 < reached <= best + 1e-9
    assert fit.final.mean - best < oracles.z_limit() * fit.final.std_error / len(x)


def _set_linear(model: PPCA, approximation: LinearNormal) -> None:
    """The best Gaussian of the guide's family: the exact posterior, or its mean-field projection."""
    loadings, mean, noise = (torch.as_tensor(value) for value in _learnt(model))
    m = loadings.T @ loadings + noise * torch.eye(model.latent_dim)
    slope = torch.linalg.solve(m, loadings.T)
    with torch.no_grad():
        approximation.loc.weight.copy_(slope)
        approximation.loc.bias.copy_(-slope @ mean)
        if approximation.covariance == "diagonal":
            variance = noise / m.diagonal() - approximation.floor
            approximation.raw_spread.copy_(variance.expm1().log())
        else:
            tril = torch.linalg.cholesky(noise * torch.linalg.inv(m))
            diagonal = (tril.diagonal().square() - approximation.floor).expm1().log()
            rows, columns = torch.tril_indices(model.latent_dim, model.latent_dim, -1)
            approximation.raw_spread.copy_(torch.cat([diagonal, tril[rows, columns]]))


@pytest.mark.parametrize("degrees", [0.0, 30.0])
def test_elbo_of_the_exact_family_is_the_exact_evidence(
    degrees: float, features: Features, oracles: ModuleType
) -> None:
    x = torch.from_numpy(features("wine"))
    model = PPCA(13, 2).set_maximum_likelihood(x, oracles.rotation(degrees))
    pair = Pair(model, LinearNormal(13, 2, covariance="full", dtype=torch.float64))
    _set_linear(model, pair.guide)
    truth = exact.log_evidence(model, x)
    weights = guide.draws(pair, x, num_draws=20).log_weights.to_numpy()[0]
    # Every weight is the evidence itself, so there is no Monte Carlo error at all.
    np.testing.assert_allclose(weights, np.broadcast_to(truth.log_evidence, weights.shape), atol=1e-8)
    # With the KL by formula the reconstruction's noise remains.
    found = elbo(pair, x, num_particles=400)
    assert abs(found.value - truth.total) < oracles.z_limit() * found.std_error
    assert found.std_error / len(x) < 0.01


def test_training_the_exact_family_alone_closes_its_gap(features: Features, oracles: ModuleType) -> None:
    x = torch.from_numpy(features("iris"))
    model = PPCA(4, 2).set_maximum_likelihood(x, oracles.rotation(30.0))
    pair = Pair(model, LinearNormal(4, 2, covariance="full", dtype=torch.float64))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    svi.fit(pair, x, num_steps=800, lr=0.05, num_particles=4, train="guide", progress=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    weights = guide.draws(pair, x, num_draws=100).log_weights.to_numpy()[0]
    gap = exact.log_evidence(model, x).mean - weights.mean()
    error = weights.mean(1).std(ddof=1) / np.sqrt(len(weights))
    # Not negative beyond noise, and a small part of the mean-field guide's gap.
    limit = oracles.z_limit() * error
    assert -limit < gap < 0.02 * model.mean_field_gap() + limit


@pytest.mark.parametrize(("degrees", "expects_gap"), [(30.0, True), (45.0, True), (0.0, False)])
def test_gap_of_the_mean_field_guide_is_the_formulas(
    degrees: float, expects_gap: bool, features: Features, oracles: ModuleType
) -> None:
    """½ (Σ ln M_ii − ln det M) nats a row; trained with the model held at a rotated ML solution."""
    x = torch.from_numpy(features("iris"))
    model = PPCA(4, 2).set_maximum_likelihood(x, oracles.rotation(degrees))
    pair = Pair(model, LinearNormal(4, 2, covariance="diagonal", dtype=torch.float64))
    # Half as many steps leave two thousandths of a nat to be gained from some starts.
    svi.fit(pair, x, num_steps=1600, lr=0.05, num_particles=4, train="guide", progress=False)
    loadings, _, noise = _learnt(model)
    m = loadings.T @ loadings + noise * np.eye(2)
    formula = 0.5 * (np.log(np.diag(m)).sum() - np.linalg.slogdet(m)[1])
    assert formula > 0.1 if expects_gap else abs(formula) < 1e-12
    assert model.mean_field_gap() == pytest.approx(formula, abs=1e-12)

    # The gap at the family's optimum, free of optimisation error.
    best = Pair(model, LinearNormal(4, 2, covariance="diagonal", dtype=torch.float64))
    _set_linear(model, best.guide)
    gap, error = _gap(best, x)
    assert abs(gap - formula) < oracles.z_limit(3) * error + 1e-9
    # The trained guide: no better than the optimum, and within a thousandth of a nat a row.
    gap, error = _gap(pair, x)
    limit = oracles.z_limit(3) * error
    assert formula - limit - 1e-9 < gap < formula + limit + 1e-3


def _gap(pair: Pair, x: torch.Tensor, num_draws: int = 2000) -> tuple[float, float]:
    weights = guide.draws(pair, x, num_draws=num_draws, seed=3).log_weights.to_numpy()[0].mean(1)
    return exact.log_evidence(pair.model, x).mean - weights.mean(), weights.std(ddof=1) / np.sqrt(num_draws)


def test_per_datum_guide_reaches_the_mean_field_optimum(features: Features, oracles: ModuleType) -> None:
    x = torch.from_numpy(features("iris")[::10].copy())
    model = PPCA(4, 2).set_maximum_likelihood(torch.from_numpy(features("iris")), oracles.rotation(30.0))
    pair = Pair(model, PPCA.guides["per-datum"](model, x))
    svi.fit(pair, x, num_steps=800, lr=0.1, num_particles=4, train="guide", progress=False)
    gap, error = _gap(pair, x)
    assert abs(gap - model.mean_field_gap() - 2.5e-3) < oracles.z_limit() * error + 2.5e-3


def test_latent_dimension_out_of_range_is_refused() -> None:
    x = np.random.default_rng(0).normal(size=(20, 3))
    low_rank = np.column_stack([x, x.sum(1), x[:, 0] - x[:, 2]])
    for latent_dim in (0, -1):
        with pytest.raises(InputError, match="at least 1"):
            PPCA(5, latent_dim)
    with pytest.raises(InputError, match="less than the number of features, 5"):
        PPCA(5, 5)
    with pytest.raises(InputError, match="less than the rank of the data, 3"):
        PPCA.from_data(_rows(low_rank), latent_dim=3)
    assert PPCA.from_data(_rows(low_rank), latent_dim=2).latent_dim == 2
    with pytest.raises(InputError, match="less than the rank"):
        PPCA(5, 3).set_maximum_likelihood(torch.from_numpy(low_rank))
    # Fewer rows than features: the rank of centred data is at most N − 1.
    with pytest.raises(InputError, match="rank of the data, 3"):
        PPCA.from_data(_rows(np.random.default_rng(1).normal(size=(4, 6))), latent_dim=3)


def test_from_data_starts_at_the_datas_mean_and_scale() -> None:
    x = 40 + 7 * np.random.default_rng(0).normal(size=(50, 4))
    model = PPCA.from_data(_rows(x), latent_dim=2)
    np.testing.assert_allclose(model.mean.detach(), x.mean(0))
    assert model.noise_scale.item() == pytest.approx(x.std(axis=0).mean(), rel=0.2)
