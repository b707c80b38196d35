"""What several local sites carry: KLs given the parents' draws, against closed forms."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import special
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.diagnostics.latents.collapse import Collapse, collapse
from ppl_vae.guides import PerDatumNormal
from ppl_vae.program.pair import Pair
from tests.local_models import (
    Linear,
    components,
    exact_guide,
    gamma_poisson,
    inner_plate,
    mixed,
    random_walk,
    two_layers,
)

DOUBLE = torch.float64


def _layers(case: Linear, slope: float) -> Callable[[Tensor], None]:
    """A guide for the two layers, z2 ~ N(m, 0.4²) and z1 ~ N(n + slope · A z2, 0.3²), m and n read off x."""
    a = torch.as_tensor(case.prior[2:, :2])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            z2 = pyro.sample("z2", dist.Normal(0.5 * x[i][:, :2], 0.4).to_event(1))
            pyro.sample("z1", dist.Normal(x[i][:, 1:] + slope * z2 @ a.T, 0.3).to_event(1))

    return guide


@pytest.mark.parametrize("slope", [0.0, 0.7])
def test_each_layer_has_its_kl_given_the_layer_above(slope: float, oracles: ModuleType) -> None:
    """E_q(z2) KL(q(z1 | z2) ‖ p(z1 | z2)), quadratic in z2: with D = (slope − 1) A z2 + n of Gaussian law."""
    case = two_layers()
    found = collapse(Pair(case.model, _layers(case, slope)), *case.data)
    a = case.prior[2:, :2]
    var = np.diag(case.prior[2:, 2:] - a @ a.T)
    m = 0.5 * case.x[:, :2]
    upper = 0.5 * (0.16 + m**2 - 1 - np.log(0.16)).mean(0)
    off = case.x[:, 1:] + (slope - 1) * m @ a.T
    square = off**2 + 0.16 * ((slope - 1) * a**2 * (slope - 1)).sum(1)
    lower = 0.5 * ((0.09 + square) / var - 1 - np.log(0.09 / var)).mean(0)
    table = found.table
    assert table["component"].to_list() == ["z2[1]", "z2[2]", "z1[1]", "z1[2]", "z1[3]"]
    np.testing.assert_allclose(table["kl"][:2], upper, rtol=1e-9)
    score = (table["kl"][2:] - lower) / table["kl_std_error"][2:]
    assert np.abs(score).max() < oracles.z_limit(3)
    sites = found.by_site
    assert abs(sites["kl"]["z1"] - lower.sum()) < oracles.z_limit() * sites["kl_std_error"]["z1"]
    assert abs(found.kl - upper.sum() - lower.sum()) < oracles.z_limit() * found.kl_std_error
    assert any("the prior of z1 depends on other latents" in note for note in found.notes)


def test_a_layer_that_repeats_the_one_above_is_off(tmp_path: Path) -> None:
    """q(z1 | z2) = p(z1 | z2): its KL is zero at every draw, however far its means move with x."""
    case = two_layers()
    a = torch.as_tensor(case.prior[2:, :2])
    s = (torch.as_tensor(case.prior[2:, 2:]) - a @ a.T).diagonal().sqrt()

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            z2 = pyro.sample("z2", dist.Normal(0.5 * x[i][:, :2], 0.4).to_event(1))
            pyro.sample("z1", dist.Normal(z2 @ a.T, s).to_event(1))

    found = collapse(Pair(case.model, guide), *case.data, num_draws=1000)
    assert found.table["kl"][2:].abs().max() < 1e-12
    assert found.by_site["num_active"].to_dict() == {"z2": 2, "z1": 0}
    assert "2 of 2 in z2, 0 of 3 in z1" in found.sentence()
    found.save(tmp_path / "collapse.nc")
    again = Collapse.load(tmp_path / "collapse.nc")
    assert again.by_site.equals(found.by_site)
    assert again.kl_std_error == found.kl_std_error


@pytest.mark.parametrize("make", [two_layers, random_walk, inner_plate])
def test_the_posterior_over_all_sites_has_a_known_kl(make: Callable[[], Linear], oracles: ModuleType) -> None:
    """KL(N(m, Λ⁻¹) ‖ N(0, P)), and moments of L⁻¹ z with P = L Lᵀ where each site is a number."""
    case = make()
    with torch.random.fork_rng():
        guide = PerDatumNormal.from_model(case.model, *case.data, covariance="full", dtype=DOUBLE)
    found = collapse(Pair(case.model, exact_guide(case, guide)), *case.data, num_draws=500)
    inverse, cov = np.linalg.inv(case.prior), np.linalg.inv(case.precision)
    square = np.einsum("nk,kl,nl->n", case.means, inverse, case.means)
    kl = 0.5 * (np.trace(inverse @ cov) + square - len(cov))
    kl += 0.5 * (np.linalg.slogdet(case.prior)[1] - np.linalg.slogdet(cov)[1])
    assert abs(found.kl - kl.mean()) < oracles.z_limit() * found.kl_std_error
    assert found.kl_std_error < 0.1
    # Measured from its parents a Gaussian site is one row of the inverse Cholesky factor.
    rows = np.linalg.inv(np.linalg.cholesky(case.prior))
    within = np.einsum("ij,jk,ik->i", rows, cov, rows)
    count = 500 * len(case.x)
    score = (found.table["mean_variance"] / within - 1) / np.sqrt(2 / count)
    assert np.abs(score).max() < oracles.z_limit(len(within))
    assert np.isfinite(found.mutual_information)


def test_a_positive_latent_has_a_kl_by_formula() -> None:
    """Gamma(2 + x, 3/2) from Gamma(2, 1/2), the textbook's formula."""
    x = torch.tensor([0.0, 3.0, 9.0], dtype=DOUBLE)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            pyro.sample("rate", dist.Gamma(2 + x[i], 1.5))

    found = collapse(Pair(gamma_poisson, guide), x)
    a, b = 2 + x.numpy(), 1.5
    kl = (a - 2) * special.digamma(a) - special.gammaln(a) + special.gammaln(2)
    kl += 2 * np.log(b / 0.5) + a * (0.5 - b) / b
    assert found.table["kl"][0] == pytest.approx(kl.mean(), rel=1e-9)
    assert found.kl == pytest.approx(kl.mean(), rel=1e-9)
    assert found.table["component"].to_list() == ["rate[1]"]


def test_summed_and_shared_latents_are_named(oracles: ModuleType) -> None:
    x = torch.linspace(-2, 2, 5, dtype=DOUBLE)
    with torch.random.fork_rng():
        pair = Pair(mixed, PerDatumNormal.from_model(mixed, x, dtype=DOUBLE))
    assert any("c is discrete" in note for note in collapse(pair, x).notes)

    def local(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            pyro.sample("z", dist.Normal(x[i], 0.5))

    with pytest.raises(InputError, match="prior of z depends on c, which is summed out"):
        collapse(Pair(components, local), x)

    def shared(x: Tensor) -> None:
        top = pyro.sample("top", dist.Normal(torch.zeros((), dtype=DOUBLE), 1.0))
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(top, 1.0))
            pyro.sample("x", dist.Normal(z, 0.7), obs=x[i])

    def both(x: Tensor) -> None:
        pyro.sample("top", dist.Normal(torch.tensor(0.5, dtype=DOUBLE), 0.3))
        local(x)

    found = collapse(Pair(shared, both), x)
    assert any("top is shared by all data" in note for note in found.notes)
    # E over top ~ N(0.5, 0.3²) of KL(N(x, 0.25) ‖ N(top, 1)).
    truth = 0.5 * (0.25 + (x.numpy() - 0.5) ** 2 + 0.09 - 1 - np.log(0.25)).mean()
    # All data share a draw of top: the error of the mean over data is that of the slope Σ (x − 0.5) = −2.5.
    error = np.sqrt((0.5 * 0.3) ** 2 + 0.5 * 0.09**2) / np.sqrt(200)
    assert abs(found.table["kl"][0] - truth) < oracles.z_limit() * error
    assert found.table["kl_std_error"][0] == pytest.approx(error, rel=0.3)


def test_a_guide_with_a_discrete_draw_has_the_other_sites() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            k = pyro.sample("k", dist.Bernoulli(torch.tensor(0.5, dtype=DOUBLE)))
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=DOUBLE), 1.0))
            pyro.sample("x", dist.Normal(z + k, 1.0), obs=x[i])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            pyro.sample("k", dist.Bernoulli(torch.tensor(0.25, dtype=DOUBLE)))
            pyro.sample("z", dist.Normal(x[i], 0.5))

    x = torch.linspace(-2, 2, 5, dtype=DOUBLE)
    found: Any = collapse(Pair(model, guide), x)
    kl = 0.5 * (0.25 + x.numpy() ** 2 - 1 - np.log(0.25)).mean()
    assert found.table["kl"][0] == pytest.approx(kl, rel=1e-12)
    assert any("k is discrete" in note for note in found.notes)
