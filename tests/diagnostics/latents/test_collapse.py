"""Active units and the KL of each dimension against closed forms."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoNormal
from sklearn import datasets
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.diagnostics.latents.collapse import Collapse, collapse
from ppl_vae.guides import LinearNormal, PerDatumFlow, PerDatumNormal, Prior
from ppl_vae.inference.evidence.elbo import elbo
from ppl_vae.models import PPCA, VAE, TrueSkill
from ppl_vae.program.pair import Pair

DOUBLE = torch.float64


def _ppca(oracles: ModuleType, covariance: str = "full", zero: bool = False) -> tuple[Pair, Tensor]:
    """PPCA on standardised wine at a rotated optimum, with its best linear guide."""
    x = datasets.load_wine().data
    x = torch.as_tensor((x - x.mean(0)) / x.std(0))
    model = PPCA(13, 2).set_maximum_likelihood(x, None if zero else oracles.rotation(25.0))
    guide = LinearNormal(13, 2, covariance=covariance, dtype=DOUBLE)
    with torch.no_grad():
        if zero:
            model.loadings[:, 1] = 0
        m, noise = _m(model)
        slope = torch.linalg.solve(m, model.loadings.T)
        guide.loc.weight.copy_(slope)
        guide.loc.bias.copy_(-slope @ model.mean)
        tril = torch.linalg.cholesky(noise * torch.linalg.inv(m))
        spread = tril.diagonal() ** 2 if covariance == "full" else noise / m.diagonal()
        raw = (spread - guide.floor).expm1().log()
        guide.raw_spread.copy_(torch.cat([raw, tril[1:, 0]]) if covariance == "full" else raw)
    return Pair(model, guide), x


def _m(model: PPCA) -> tuple[Tensor, Tensor]:
    noise = model.noise_scale.detach() ** 2
    loadings = model.loadings.detach()
    return loadings.T @ loadings + noise * torch.eye(2, dtype=DOUBLE), noise


def test_ppca_has_closed_forms(oracles: ModuleType) -> None:
    """Means M⁻¹Wᵀ(x − μ) vary by M⁻¹WᵀSWM⁻¹, and every datum's covariance is σ²M⁻¹."""
    pair, x = _ppca(oracles)
    found = collapse(pair, x)
    m, noise = (value.numpy() for value in _m(pair.model))
    slope = np.linalg.solve(m, pair.model.loadings.detach().numpy().T)
    of_means = slope @ np.cov(x.numpy().T, bias=True) @ slope.T
    within = noise * np.linalg.inv(m)
    np.testing.assert_allclose(found.table["variance_of_means"], np.diag(of_means), rtol=1e-10)
    np.testing.assert_allclose(found.table["mean_variance"], np.diag(within), rtol=1e-10)
    kl = 0.5 * (np.diag(within) + np.diag(of_means) - 1 - np.log(np.diag(within)))
    np.testing.assert_allclose(found.table["kl"], kl, rtol=1e-10)
    joint = 0.5 * (np.trace(within) + np.trace(of_means) - 2 - np.linalg.slogdet(within)[1])
    assert found.kl == pytest.approx(joint, rel=1e-10)
    assert found.kl > kl.sum()
    assert any("marginal" in note for note in found.notes)
    assert (found.num_active, found.latent_dim, found.num_units, found.analytic) == (2, 2, 178, True)
    assert list(found.table["component"]) == ["z[1]", "z[2]"]
    assert (found.table["kl_std_error"] == 0).all()


def test_a_dimension_without_loadings_is_exactly_off(oracles: ModuleType) -> None:
    """The floor of the guide's variance aside, its posterior is the prior."""
    pair, x = _ppca(oracles, "diagonal", zero=True)
    found = collapse(pair, x)
    row = found.table.iloc[1]
    assert abs(row["kl"]) < 1e-14
    assert row["variance_of_means"] == 0
    assert row["mean_variance"] == pytest.approx(1, abs=1e-12)
    assert found.table["active"].tolist() == [True, False]
    assert not found.collapsed
    assert "1 of 2 latent dimensions are active, and 1 does nothing" in found.sentence()


def test_the_prior_itself_is_collapsed(oracles: ModuleType) -> None:
    pair, x = _ppca(oracles)
    found = collapse(Pair(pair.model, Prior(pair.model)), x)
    assert found.collapsed
    assert (found.kl, found.table["kl"].abs().max()) == (0.0, 0.0)
    assert found.mutual_information == pytest.approx(0, abs=1e-12)
    assert found.sentence().startswith("Posterior collapse: none of the 2")


def test_the_kl_of_a_vae_is_that_of_its_elbo() -> None:
    x = torch.as_tensor(datasets.load_digits().data[:200] > 8, dtype=torch.float32)
    torch.manual_seed(1)
    model = VAE(64, 3, hidden=(16,))
    pair = Pair(model, model.encoder_guide())
    found = collapse(pair, x)
    whole = elbo(pair, x, num_particles=2).kl / 200
    assert found.kl == pytest.approx(whole, rel=1e-5)
    assert found.table["kl"].sum() == pytest.approx(whole, rel=1e-5)
    assert 0 < found.mutual_information < found.kl


def test_mutual_information_of_two_clusters_is_one_bit(oracles: ModuleType) -> None:
    """N data whose posteriors lie at ±20 with unit variance: I = ln 2, and separate ones have ln N."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(torch.zeros(1, dtype=DOUBLE), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[i])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            pyro.sample("z", dist.Normal(x[i], 1.0).to_event(1))

    pair = Pair(model, guide)
    two = collapse(pair, 20.0 * torch.tensor([[-1.0], [1.0]], dtype=DOUBLE).repeat(30, 1))
    assert two.mutual_information == pytest.approx(np.log(2), abs=1e-12)
    many = collapse(pair, 40 * torch.arange(50, dtype=DOUBLE)[:, None])
    assert many.mutual_information == pytest.approx(np.log(50), abs=1e-12)
    assert "log N" in many.sentence()
    # Two overlapping posteriors: 1 bit less the entropy of which one, by quadrature.
    near = collapse(pair, torch.tensor([[-0.8], [0.8]], dtype=DOUBLE).repeat(250, 1))
    at = np.linspace(-9, 9, 20001)
    log_q = -0.5 * (at - 0.8) ** 2 - 0.5 * np.log(2 * np.pi)
    other = -0.5 * (at + 0.8) ** 2 - 0.5 * np.log(2 * np.pi)
    mixture = np.logaddexp(log_q, other) - np.log(2)
    truth = np.sum(np.exp(log_q) * (log_q - mixture)) * (at[1] - at[0])
    error = near.mutual_information_std_error
    assert 0 < error < 0.05
    assert abs(near.mutual_information - truth) < oracles.z_limit() * error


def test_draws_agree_with_the_formulas(oracles: ModuleType) -> None:
    """A flow at the identity is the Gaussian that it started from, known to `collapse` only by draws."""
    pair, x = _ppca(oracles)
    normal = PerDatumNormal(len(x), 2, covariance="full", dtype=DOUBLE)
    with torch.no_grad():
        normal.raw[:, :2] = 0.2 * x[:, :2]
        normal.raw[:, 2:4] = -0.5
    exact = collapse(Pair(pair.model, normal), x)
    flow = Pair(pair.model, PerDatumFlow.from_normal(normal))
    drawn = collapse(flow, x, num_draws=2000)
    assert (exact.analytic, drawn.analytic) == (True, False)
    score = (drawn.table["kl"] - exact.table["kl"]) / drawn.table["kl_std_error"]
    assert score.abs().max() < oracles.z_limit(2)
    # The bias of 200 draws has been taken off: 1/200 would be many standard errors.
    few = collapse(flow, x, num_draws=200)
    assert (few.table["kl"] - exact.table["kl"]).abs().max() < oracles.z_limit(2) * few.table[
        "kl_std_error"
    ].max()
    assert few.table["kl_std_error"].max() < 0.004
    # Over 178 data, each mean with a variance of at most 1/2000.
    np.testing.assert_allclose(drawn.table["variance_of_means"], exact.table["variance_of_means"], rtol=0.1)
    gap = drawn.mutual_information - exact.mutual_information
    assert abs(gap) < oracles.z_limit() * np.hypot(
        drawn.mutual_information_std_error, exact.mutual_information_std_error
    )


def test_a_scale_of_the_priors_own_changes_nothing(oracles: ModuleType) -> None:
    """z ~ N(5, 10²) with the guide N(5 + 10 μ(x), (10 σ)²) carries what N(0, 1) with N(μ, σ²) carries."""

    def make(shift: float, scale: float) -> Pair:
        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)) as i:
                z = pyro.sample("z", dist.Normal(torch.tensor(shift, dtype=DOUBLE), scale))
                pyro.sample("x", dist.Normal((z - shift) / scale, 1.0), obs=x[i])

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)) as i:
                pyro.sample("z", dist.Normal(shift + scale * 0.05 * x[i], 0.9 * scale))

        return Pair(model, guide)

    x = torch.as_tensor(np.random.default_rng(0).normal(0, np.sqrt(2), 80))
    one, two = (collapse(make(*prior), x) for prior in ((0.0, 1.0), (5.0, 10.0)))
    for column in ("kl", "variance_of_means", "mean_variance"):
        np.testing.assert_allclose(two.table[column], one.table[column], rtol=1e-10)
    # 0.05² × 2 is below 0.01, though 10 times as large a latent moves by more.
    assert (one.num_active, two.num_active) == (0, 0)


def test_autoguides_are_judged_by_their_draws(oracles: ModuleType) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x[i])

    x = torch.linspace(-2, 2, 20)
    guide = AutoNormal(model, init_loc_fn=lambda site: x * 0.8, init_scale=0.4)
    found = collapse(Pair(model, guide), x, num_draws=500)
    truth = 0.5 * (0.16 + (0.8 * x.double().numpy()) ** 2 - 1 - np.log(0.16)).mean()
    row = found.table.iloc[0]
    assert abs(row["kl"] - truth) < oracles.z_limit() * row["kl_std_error"]
    assert np.isnan(found.mutual_information)
    with pytest.raises(InputError, match="one point"):
        collapse(Pair(model, AutoDelta(model)), x)


def test_some_units_alone_and_the_disk(oracles: ModuleType, tmp_path: Path) -> None:
    pair, x = _ppca(oracles)
    index = torch.tensor([5, 9, 100, 150, 33])
    with oracles.nothing_global_changes():
        part = collapse(pair, x, index=index)
    assert part.num_units == 5
    alone = collapse(pair, x[index])
    np.testing.assert_allclose(part.table["kl"], alone.table["kl"], rtol=1e-12)
    part.save(tmp_path / "collapse.nc")
    read = Collapse.load(tmp_path / "collapse.nc")
    assert read.table.equals(part.table)
    assert read.sentence() == part.sentence()
    assert (read.notes, read.kl, read.mutual_information, read.num_units, read.analytic, read.seconds) == (
        part.notes, part.kl, part.mutual_information, part.num_units, part.analytic, part.seconds,
    )  # fmt: skip


def test_models_without_a_latent_for_every_datum_are_refused() -> None:
    model = TrueSkill(2, link="logistic")
    with pytest.raises(InputError, match="all data share them"):
        collapse(Pair(model, Prior(model)), torch.ones(1), torch.tensor([[0, 1]]))
