"""PPCA and factor analysis of data with missing values, against conditional normals by NumPy."""

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.data import as_dataset, standardise
from ppl_vae.data.rows import IncompleteRows, Rows
from ppl_vae.guides import PatternNormal
from ppl_vae.inference import elbo, exact, guide, svi
from ppl_vae.models import PPCA, VAE, FactorAnalysis
from ppl_vae.models.linear_gaussian import LinearGaussian
from ppl_vae.program.pair import Pair

Features = Callable[..., np.ndarray]
FAMILIES = {"ppca": PPCA, "factor-analysis": FactorAnalysis}
every_family = pytest.mark.parametrize("name", FAMILIES)


def incomplete(num_rows: int = 12, num_features: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of two factors, a third of whose values is missing; one row is complete and one empty."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(num_rows, 2)) @ generator.normal(size=(2, num_features))
    x += 0.5 * generator.normal(size=x.shape) + 3
    there = generator.random(x.shape) > 1 / 3
    there[0], there[1] = True, False
    there[range(2, 2 + num_features), range(num_features)] = True
    return torch.from_numpy(np.where(there, x, np.nan)), torch.from_numpy(there)


def some(name: str, num_features: int = 5) -> Any:
    """A model at arbitrary parameters."""
    torch.manual_seed(1)
    model = FAMILIES[name](num_features, 2)
    with torch.no_grad():
        model.mean.normal_(3.0)
        model.log_noise_scale.normal_(-0.5, 0.3)
    return model


def joint(model: LinearGaussian) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of (z, x)."""
    loadings, mean = model.loadings.detach().numpy(), model.mean.detach().numpy()
    noise = np.broadcast_to(model.noise_scale.detach().numpy() ** 2, mean.shape)
    covariance = np.block([[np.eye(2), loadings.T], [loadings, loadings @ loadings.T + np.diag(noise)]])
    return np.concatenate([np.zeros(2), mean]), covariance


def conditional(model: LinearGaussian, row: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean and covariance of (z, x) given what is observed of a row, and its log density."""
    mean, covariance = joint(model)
    at = 2 + np.flatnonzero(~np.isnan(row))
    block, difference = covariance[np.ix_(at, at)], row[at - 2] - mean[at]
    gain = np.linalg.solve(block, covariance[at]).T
    log_density = -0.5 * (
        difference @ np.linalg.solve(block, difference)
        + np.linalg.slogdet(block)[1]
        + len(at) * math.log(2 * math.pi)
    )
    return mean + gain @ difference, covariance - gain @ covariance[at], log_density


@every_family
def test_posterior_evidence_and_imputation_are_the_conditional_normals(name: str) -> None:
    model, (x, there) = some(name), incomplete()
    posterior = model.exact_posterior(x, there)["z"]
    evidence, imputed = model.exact_log_evidence(x, there), model.impute(x, there)
    assert not there[1].any()
    assert there[0].all()
    for n, row in enumerate(x.numpy()):
        mean, covariance, log_density = conditional(model, row)
        np.testing.assert_allclose(posterior.mean[n], mean[:2], atol=1e-10)
        np.testing.assert_allclose(posterior.covariance_matrix[n], covariance[:2, :2], atol=1e-10)
        assert evidence[n].item() == pytest.approx(log_density, abs=1e-10)
        missing = np.isnan(row)
        np.testing.assert_allclose(imputed.mean[n], np.where(missing, mean[2:], row), atol=1e-10)
        sd = np.sqrt(np.diag(covariance)[2:].clip(0))
        np.testing.assert_allclose(imputed.sd[n], np.where(missing, sd, 0.0), atol=1e-10)
    # Complete rows are what they are without a mask.
    np.testing.assert_allclose(evidence[:1], model.exact_log_evidence(x[:1]), rtol=1e-12)
    np.testing.assert_allclose(posterior.mean[:1], model.exact_posterior(x[:1])["z"].mean, rtol=1e-9)


@every_family
def test_the_program_is_the_observed_values_density_and_what_is_masked_has_no_part(name: str) -> None:
    model, (x, there) = some(name), incomplete()
    z = torch.randn(len(x), 2, dtype=torch.float64)
    with torch.no_grad():
        fit = torch.distributions.Normal(z @ model.loadings.T + model.mean, model.noise_scale)
        expected = torch.where(there, fit.log_prob(x.nan_to_num(7.0)), 0.0).sum(1)
    gradients = []
    for filled in (x, x.nan_to_num(1e6), x.nan_to_num(-3.0)):
        model.zero_grad()
        conditioned = pyro.poutine.condition(model, data={"z": z})
        trace = pyro.poutine.trace(conditioned).get_trace(filled, there)
        trace.compute_log_prob()
        np.testing.assert_allclose(trace.nodes["x"]["log_prob"].detach(), expected, rtol=1e-12)
        trace.nodes["x"]["log_prob"].sum().backward()
        gradients.append([leaf.grad.clone() for leaf in model.parameters()])
    for leaf, one, two in zip(*gradients, strict=True):
        assert leaf.isfinite().all()
        assert torch.equal(leaf, one)
        assert torch.equal(leaf, two)


@every_family
def test_em_rises_to_where_no_direction_improves(name: str) -> None:
    x, there = incomplete(200, 7, seed=2)
    model = FAMILIES[name].from_data(IncompleteRows.of(as_dataset(x.numpy())), latent_dim=2)
    found = model.em(x, there, tolerance=1e-12)
    assert (found.converged, found.bounded) == (True, ())
    # Rounding of sums of some hundred nats.
    assert np.diff(found.log_likelihood).min() > -1e-9
    model.set_maximum_likelihood(x, x_observed=there)
    evidence = exact.log_evidence(model, x, there).total
    assert evidence == pytest.approx(found.log_likelihood[-1], rel=1e-8)
    loadings, mean, log_noise = found.loadings, found.mean, found.noise.log()
    log_noise = log_noise[0] if name == "ppca" else log_noise
    leaves = [leaf.clone().requires_grad_() for leaf in (loadings, mean, log_noise)]
    covariance = leaves[0] @ leaves[0].T + torch.diag(leaves[2].exp().expand(7))
    value = torch.zeros((), dtype=torch.float64)
    for row, known in zip(x, there, strict=True):
        if known.any():
            block = torch.distributions.MultivariateNormal(leaves[1][known], covariance[known][:, known])
            value = value + block.log_prob(row[known])
    assert value.item() == pytest.approx(found.log_likelihood[-1], rel=1e-10)
    slopes = torch.autograd.grad(value / len(x), leaves)
    assert max(slope.abs().max().item() for slope in slopes) < 1e-5


@every_family
def test_em_of_a_mask_without_gaps_is_em_of_complete_data(name: str, features: Features) -> None:
    x = torch.from_numpy(features("wine"))
    model = FAMILIES[name].from_data(Rows("rows", x.numpy(), ("f",) * 13, "real"), latent_dim=2)
    masked, complete = model.em(x, torch.ones_like(x, dtype=torch.bool)), model.em(x)
    assert masked.log_likelihood[-1] == pytest.approx(complete.log_likelihood[-1], abs=1e-6 * len(x))


def _set_exact(model: LinearGaussian, approximation: PatternNormal) -> None:
    with torch.no_grad():
        scale = model.noise_scale.detach().expand(model.num_features)[:, None]
        approximation.factors.copy_(model.loadings / scale)
        approximation.slopes.copy_(model.loadings / scale**2)
        approximation.offsets.copy_(-approximation.slopes * model.mean[:, None])


@every_family
def test_elbo_of_the_exact_guide_is_the_evidence_of_every_pattern(name: str, oracles: ModuleType) -> None:
    model, (x, there) = some(name), incomplete()
    pair = Pair(model, model.guides["linear"](model, x, there))
    _set_exact(model, pair.guide)
    truth = exact.log_evidence(model, x, there)
    weights = guide.draws(pair, x, there, num_draws=20).log_weights.to_numpy()[0]
    # Every weight is the evidence itself, so there is no Monte Carlo error at all.
    np.testing.assert_allclose(weights, np.broadcast_to(truth.log_evidence, weights.shape), atol=1e-8)
    found = elbo(pair, x, there, num_particles=400)
    assert abs(found.value - truth.total) < oracles.z_limit() * found.std_error
    # Mean-field: the same means and variances 1 / Λ_ii, which lose ½ (Σ ln Λ_ii − ln det Λ) nats.
    field = Pair(model, model.guides["linear-mean-field"](model, x, there))
    _set_exact(model, field.guide)
    precision = torch.linalg.inv(model.exact_posterior(x, there)["z"].covariance_matrix)
    lost = 0.5 * (precision.diagonal(dim1=1, dim2=2).log().sum(1) - torch.linalg.slogdet(precision)[1])
    weights = guide.draws(field, x, there, num_draws=4000, seed=1).log_weights.to_numpy()[0]
    error = weights.std(0, ddof=1) / np.sqrt(len(weights))
    gap = truth.log_evidence - weights.mean(0)
    assert (np.abs(gap - lost.numpy()) < oracles.z_limit(len(x)) * error + 1e-9).all()


def test_svi_of_the_masked_elbo_reaches_the_maximum_likelihood() -> None:
    x, there = incomplete(60, 5, seed=2)
    rows = IncompleteRows.of(as_dataset(x.numpy()))
    torch.manual_seed(0)
    model = PPCA.from_data(rows, latent_dim=1)
    best = model.em(x, there).log_likelihood[-1] / len(x)
    pair = Pair(model, PPCA.guides["linear"](model, x, there))
    fit = svi.fit(pair, x, there, num_steps=600, lr=0.1, num_particles=4, progress=False)
    reached = exact.log_evidence(model, x, there).mean
    # A fit's own tolerance is .05 nats a row.
    assert best - 0.05 < reached <= best + 1e-9
    assert fit.engine != "stock"


@every_family
def test_gradients_are_finite_and_reach_every_parameter(name: str) -> None:
    x, there = incomplete()
    model = some(name)
    for guide_name in model.guides:
        approximation = model.guides[guide_name](model, x, there)
        loss = Trace_ELBO(4, max_plate_nesting=1, vectorize_particles=True)
        value = loss.differentiable_loss(model, approximation, x, there)
        leaves = [*model.parameters(), *approximation.parameters()]
        for gradient in torch.autograd.grad(value, leaves):
            assert gradient.isfinite().all()
            assert (gradient != 0).any()


def test_columns_without_a_value_are_refused_by_name_and_rows_without_one_are_not() -> None:
    x, _ = incomplete()
    data = as_dataset(dict(zip("abcde", x.numpy().T, strict=True)))
    rows = IncompleteRows.of(data)
    assert np.isnan(rows.values[1]).all()
    assert [tuple(t.shape) for t in rows.tensors(torch.float64)] == [(12, 5), (12, 5)]
    again = IncompleteRows.of(rows.dataset)
    np.testing.assert_array_equal(again.values, rows.values)
    assert PPCA.from_data(data, latent_dim=2).feature_names == tuple("abcde")
    empty = as_dataset({"a": x[:, 0].numpy(), "b": np.full(12, np.nan), "c": x[:, 2].numpy()})
    for family in (PPCA, FactorAnalysis):
        with pytest.raises(InputError, match="no value of b in any training row"):
            family.from_data(empty, latent_dim=1)
    with pytest.raises(InputError, match="missing, and the model takes no missing values"):
        Rows.of(data)
    with pytest.raises(InputError, match="missing, and the model takes no missing values"):
        data.arguments(VAE.inputs)
    standard = IncompleteRows.of(standardise(data))
    np.testing.assert_allclose(np.nanmean(standard.values, 0), 0, atol=1e-12)
    np.testing.assert_allclose(np.nanstd(standard.values, 0), 1, rtol=1e-12)


def test_masks_that_do_not_fit_are_refused() -> None:
    x, there = incomplete()
    model = some("ppca")
    for wrong, words in (
        (there[:, :3], "booleans of the data's shape"),
        (there.double(), "booleans of the data's shape"),
        (torch.ones_like(there), "is nan and said to be observed"),
    ):
        with pytest.raises(InputError, match=words):
            model.check_data(x, wrong)


@every_family
def test_ninety_per_cent_of_the_missing_values_lie_in_their_ninety_per_cent_intervals(
    name: str, oracles: ModuleType
) -> None:
    model, generator = some(name), np.random.default_rng(5)
    mean, covariance = joint(model)
    whole = torch.from_numpy(generator.multivariate_normal(mean, covariance, size=2000)[:, 2:])
    there = torch.from_numpy(generator.random(whole.shape) > 0.4)
    found = model.impute(whole.where(there, torch.nan), there)
    inside = (found.mean - whole).abs() <= 1.6449 * found.sd
    # Values of a row depend on each other, rows do not.
    excess = torch.where(there, 0.0, inside.double() - 0.9).sum(1)
    assert abs(excess.mean()) < oracles.z_limit(2) * excess.std() / len(excess) ** 0.5


def test_tobamoviruses_without_a_fifth_of_their_values_look_as_with_all_of_them(
    shared: Callable[[str], Any], oracles: ModuleType
) -> None:
    """Figure 2 of Tipping and Bishop (1999); the comparison is with filling in the features' means."""
    whole = torch.from_numpy(np.loadtxt(shared("data/tobamovirus/virus3.dat")))
    picture = PPCA(18, 2).set_maximum_likelihood(whole).exact_posterior(whole)["z"].mean
    farther, worse = [], []
    for seed in range(6):
        gone = np.random.default_rng(seed).permutation(whole.numel())[:136]
        there = torch.from_numpy(~np.isin(np.arange(whole.numel()), gone).reshape(whole.shape))
        x = whole.where(there, torch.nan)
        model = PPCA(18, 2).set_maximum_likelihood(x, x_observed=there)
        filled = torch.where(there, x, x.nanmean(0))
        other = PPCA(18, 2).set_maximum_likelihood(filled)
        by_model = _distance(picture, model.exact_posterior(x, there)["z"].mean)
        farther.append(_distance(picture, other.exact_posterior(filled)["z"].mean) - by_model)
        errors = [
            (values - whole)[~there].square().mean() for values in (filled, model.impute(x, there).mean)
        ]
        worse.append(float(errors[0] - errors[1]))
        # The directions of two pictures that have nothing to do with each other are 1 apart and more.
        assert by_model < 0.5
    for gain in (farther, worse):
        error = np.std(gain, ddof=1) / np.sqrt(len(gain))
        assert np.mean(gain) > 2 * error


def _distance(one: Tensor, other: Tensor) -> float:
    """Root mean square distance after the best rotation, over the size of the first picture."""
    left, _, right = torch.linalg.svd(other.T @ one)
    return float((one - other @ left @ right).norm() / one.norm())
