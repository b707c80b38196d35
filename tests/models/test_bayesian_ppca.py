import math
from types import ModuleType

import numpy as np
import pytest
import torch
import xarray as xr
from pyro import poutine
from scipy import stats

from ppl_vae.base.errors import InputError
from ppl_vae.data import Rows
from ppl_vae.inference import elbo, guide, importance, svi
from ppl_vae.models import PPCA, BayesianPPCA
from ppl_vae.program.pair import Pair
from ppl_vae.program.terms import layout, terms


def _rows(num_rows: int = 30, num_features: int = 5) -> Rows:
    generator = np.random.default_rng(0)
    signal = generator.normal(size=(num_rows, 1)) @ generator.normal(size=(1, num_features))
    values = signal + 0.3 * generator.normal(size=(num_rows, num_features))
    return Rows("made", values, tuple(f"f{k}" for k in range(num_features)), "real")


def _latents(generator: np.random.Generator, num_features: int = 5) -> dict[str, np.ndarray]:
    return {
        "precision": generator.gamma(2.0, 1.0, 2),
        "loadings": generator.normal(size=(2, num_features)),
        "mean": generator.normal(size=num_features),
        "noise_scale": np.abs(generator.normal()) + 0.1,
    }


def test_joint_density_is_the_one_written_in_the_docstring() -> None:
    (x,) = _rows().tensors(torch.float64)
    model = BayesianPPCA(5, 2, prior_scale=1.7, ard_shape=2.5, ard_rate=0.8)
    value = _latents(np.random.default_rng(1))
    conditioned = poutine.condition(model, {k: torch.as_tensor(v) for k, v in value.items()})
    found = poutine.trace(conditioned).get_trace(x).log_prob_sum().item()
    covariance = value["loadings"].T @ value["loadings"] + value["noise_scale"] ** 2 * np.eye(5)
    expected = (
        stats.gamma(2.5, scale=1 / 0.8).logpdf(value["precision"]).sum()
        + stats.norm(0, 1.7 / np.sqrt(value["precision"])[:, None]).logpdf(value["loadings"]).sum()
        + stats.norm(0, 1.7).logpdf(value["mean"]).sum()
        + stats.halfnorm(scale=1.7).logpdf(value["noise_scale"])
        + stats.multivariate_normal(value["mean"], covariance).logpdf(x).sum()
    )
    assert found == pytest.approx(expected, rel=1e-6)


def test_marginal_density_is_ppcas_with_the_latent_coordinates_integrated_out(oracles: ModuleType) -> None:
    """The likelihood equals PPCA's exact evidence, and a Monte Carlo integral over z."""
    (x,) = _rows(num_rows=6).tensors(torch.float64)
    value = _latents(np.random.default_rng(2))
    conditioned = poutine.condition(BayesianPPCA(5, 2), {k: torch.as_tensor(v) for k, v in value.items()})
    trace = poutine.trace(conditioned).get_trace(x)
    trace.compute_log_prob()
    found = trace.nodes["x"]["log_prob"].numpy()
    ppca = PPCA(5, 2)
    with torch.no_grad():
        ppca.loadings.copy_(torch.as_tensor(value["loadings"].T))
        ppca.mean.copy_(torch.as_tensor(value["mean"]))
        ppca.log_noise_scale.fill_(math.log(value["noise_scale"]))
    np.testing.assert_allclose(found, ppca.exact_log_evidence(x), rtol=1e-6)

    pair = Pair(ppca, PPCA.guides["linear-mean-field"](ppca, x))
    svi.fit(pair, x, num_steps=300, lr=0.05, num_particles=4, train="guide", progress=False)
    integral = importance.log_evidence(pair, x, num_samples=4000, defensive=0.1, progress=False)
    scores = (integral.log_evidence - found) / integral.std_error
    assert np.abs(scores).max() < oracles.z_limit(len(scores))


def test_identifiable_functions_equal_numpys_and_ignore_rotation_and_signs() -> None:
    generator = np.random.default_rng(0)
    columns = generator.normal(size=(2, 7, 2, 3))
    turn = np.linalg.qr(generator.normal(size=(2, 2)))[0]
    turned = np.einsum("ij,abjk->abik", turn, columns)
    model = BayesianPPCA(3, 2, feature_names=("a", "b", "c"))

    def draws(loadings: np.ndarray) -> xr.Dataset:
        rest = {"mean": (("chain", "draw", "feature"), np.zeros((2, 7, 3)))}
        rest["noise_scale"] = (("chain", "draw"), np.ones((2, 7)))
        return xr.Dataset({"loadings": (("chain", "draw", "component", "feature"), loadings), **rest})

    found, again = model.identifiable(draws(columns)), model.identifiable(draws(turned))
    for chain, draw in ((0, 0), (1, 6)):
        w = columns[chain, draw].T
        at = found.isel(chain=chain, draw=draw)
        singular = np.linalg.svd(w, compute_uv=False)
        np.testing.assert_allclose(at["singular_value"], singular, rtol=1e-10)
        for i, j, label in ((0, 0, "a × a"), (0, 2, "a × c"), (1, 2, "b × c")):
            assert at["covariance"].sel(pair=label).item() == pytest.approx((w @ w.T)[i, j])
    for name in ("covariance", "singular_value"):
        np.testing.assert_allclose(found[name], again[name], atol=1e-10)
    assert not np.allclose(columns, turned)


def test_a_few_steps_raise_the_elbo_for_every_guide() -> None:
    rows = _rows()
    (x,) = rows.tensors(torch.float64)
    for guide_name in BayesianPPCA.guides:
        torch.manual_seed(0)
        model = BayesianPPCA.from_data(rows, latent_dim=2)
        pair = Pair(model, BayesianPPCA.guides[guide_name](model, x))
        before = elbo(pair, x, num_particles=50)
        svi.fit(pair, x, num_steps=200, lr=0.03, num_particles=4, progress=False)
        after = elbo(pair, x, num_particles=50)
        assert after.value - before.value > 5 * math.hypot(before.std_error, after.std_error), guide_name
        assert after.num_units == 1
        assert layout(pair, x).unit == "dataset"


def test_irrelevant_columns_are_switched_off() -> None:
    """One true direction: the second singular value is a small part of the first."""
    rows = _rows(num_rows=100)
    (x,) = rows.tensors(torch.float64)
    torch.manual_seed(0)
    model = BayesianPPCA.from_data(rows, latent_dim=2)
    pair = Pair(model, BayesianPPCA.guides["mean-field"](model, x))
    svi.fit(pair, x, num_steps=600, lr=0.05, num_particles=4, progress=False)
    found = model.identifiable(guide.draws(pair, x, num_draws=500).draws)
    first, second = found["singular_value"].mean(("chain", "draw")).to_numpy()
    assert second < 0.35 * first
    noise = found["noise_scale"]
    # The guide's sd may be half the posterior's.
    assert abs(noise.mean().item() - 0.3) < 10 * noise.std().item()


def test_the_whole_data_set_is_one_unit_and_draws_carry_the_features_names() -> None:
    rows = _rows()
    (x,) = rows.tensors(torch.float64)
    model = BayesianPPCA.from_data(rows, latent_dim=2)
    pair = Pair(model, BayesianPPCA.guides["mean-field"](model, x))
    shape = layout(pair, x)
    assert terms(pair, x, layout=shape, num_particles=3).log_p.shape == (3, 1)
    drawn = guide.draws(pair, x, num_draws=4).draws
    assert drawn["loadings"].dims == ("chain", "draw", "component", "feature")
    assert list(drawn.coords["feature"].to_numpy()) == list(rows.feature_names)


@pytest.mark.parametrize("name", ["prior_scale", "ard_shape", "ard_rate"])
def test_priors_out_of_range_are_refused(name: str) -> None:
    for value in (0.0, -1.0, math.nan):
        with pytest.raises(InputError, match=f"{name} is"):
            BayesianPPCA(5, 2, **{name: value})


def test_latent_dimension_out_of_range_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        BayesianPPCA(5, 0)
    with pytest.raises(InputError, match="less than the number of features, 5"):
        BayesianPPCA(5, 5)
