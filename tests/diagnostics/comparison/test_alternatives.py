"""Families of guides on posteriors that are known: a correlated Gaussian, and one number."""

from types import ModuleType

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.errors import InputError
from ppl_vae.diagnostics import compare
from ppl_vae.diagnostics.comparison.alternatives import Flow, FullRank, LowRank, alternatives
from ppl_vae.guides.chain_normal import ChainNormal
from ppl_vae.inference import ep, laplace
from ppl_vae.models import Skills
from ppl_vae.program.pair import Pair
from tests.models.skills.seasons import season

X = torch.tensor([[1.0, -0.5], [0.5, 0.3], [1.5, 2.0]], dtype=torch.float64)


def regression(x: torch.Tensor) -> None:
    """a + b x_1 ~ N(x_2, 0.5²) with standard normal priors: a Gaussian posterior with correlation."""
    zero = torch.zeros((), dtype=x.dtype)
    a = pyro.sample("a", dist.Normal(zero, 1.0))
    b = pyro.sample("b", dist.Normal(zero, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(a + b * x[:, 0], 0.5), obs=x[:, 1])


def exact() -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of (a, b)."""
    design = np.stack([np.ones(3), X[:, 0].numpy()], axis=1)
    covariance = np.linalg.inv(np.eye(2) + design.T @ design / 0.25)
    return covariance @ design.T @ X[:, 1].numpy() / 0.25, covariance


def test_laplace_is_exact_for_a_gaussian_posterior() -> None:
    mean, covariance = exact()
    pair, cast = laplace.approximation(regression, X.float())
    assert cast[0].dtype == torch.float64
    found = pair.guide.get_posterior()
    np.testing.assert_allclose(found.mean.numpy(), mean, atol=1e-6)
    np.testing.assert_allclose(found.covariance_matrix.detach().numpy(), covariance, rtol=1e-5)


def test_families_side_by_side(oracles: ModuleType) -> None:
    mean, covariance = exact()
    with oracles.nothing_global_changes():
        found = alternatives(regression, X, num_steps=1200, lr=0.05, reweighted=True, progress=False, seed=2)
    assert list(found)[:4] == ["mean-field", "mean-field, reweighted", "full-rank", "full-rank, reweighted"]
    assert len(found) == 12
    # The best mean-field Gaussian has the inverse diagonal of the precision (Bishop 2006, 10.1.2).
    narrow = np.sqrt(1 / np.diag(np.linalg.inv(covariance)))
    summary = found["mean-field"].summary()
    # 4.5 standard errors of a thousand draws' sd and mean, and what Adam leaves.
    np.testing.assert_allclose(summary["sd"], narrow, rtol=4.5 / np.sqrt(2000) + 0.05)
    for name in ("full-rank", "low-rank", "flow", "laplace", "linear-response"):
        draws = np.stack([found[name].draws[site].to_numpy()[0] for site in "ab"])
        np.testing.assert_allclose(np.cov(draws), covariance, rtol=0.3)
        assert np.abs(draws.mean(1) - mean).max() < (4.5 / np.sqrt(1000) + 0.05) * np.sqrt(covariance.max())
        assert found[name].seconds > 0
    values = np.random.default_rng(0).multivariate_normal(mean, covariance, (1, 4000))
    draws = xr.Dataset({name: (("chain", "draw"), values[..., k]) for k, name in enumerate("ab")})
    compared = compare(found, reference=Posterior(draws, "exact", "independent", seconds=1.0))
    assert compared.verdicts["mean-field"] == "differs"
    for name in ("full-rank", "laplace", "laplace, reweighted", "linear-response"):
        assert compared.verdicts[name] == "agrees", compared.reasons
    assert (compared.costs["ess_per_second"] > 0).all()


def test_a_seed_fixes_the_answers() -> None:
    first, again = (
        alternatives(regression, X, guides=[LowRank(rank=1)], num_steps=50, progress=False, seed=4)
        for _ in "ab"
    )
    assert first["low-rank"].draws.equals(again["low-rank"].draws)


def test_an_answer_does_not_depend_on_its_place_among_others() -> None:
    def answers(*guides: str) -> dict[str, Posterior]:
        return alternatives(regression, X, guides=guides, num_steps=40, num_draws=50, progress=False, seed=1)

    alone, last = answers("full-rank"), answers("mean-field", "full-rank")
    xr.testing.assert_equal(alone["full-rank"].draws, last["full-rank"].draws)


def test_what_cannot_serve_is_left_out_and_named() -> None:
    def funnel(x: torch.Tensor) -> None:
        scale = pyro.sample("scale", dist.LogNormal(0.0, 3.0))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, scale))
            pyro.sample("y", dist.Normal(z, 10.0), obs=x[:, 0])

    def one(x: torch.Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
        with pyro.plate("row", len(x)):
            pyro.sample("y", dist.Normal(z, 1.0), obs=x[:, 0])

    wide = torch.zeros(50, 1)
    with pytest.raises(
        InputError, match=r"no guide serves this model: laplace is left out: Laplace's approx"
    ):
        alternatives(funnel, wide, guides=["laplace"], progress=False)
    with pytest.warns(RuntimeWarning, match="flow is left out: a flow needs at least two latent numbers"):
        found = alternatives(one, X, guides=[Flow(), FullRank()], num_steps=20, progress=False)
    assert list(found) == ["full-rank"]
    with pytest.raises(InputError, match="the guide 'fullrank' is not known; there are mean-field, block"):
        alternatives(one, X, guides=["fullrank"])


@pytest.mark.parametrize("drift", ["", "1"])
def test_expectation_propagation_stands_beside_others(drift: str) -> None:
    games = season(30, 5, dates=6)
    model = Skills.from_data(games, skill_sd=1.0, draws=True, margin=0.5, drift=drift)
    data = games.dataset.arguments(type(model).inputs_for(model.options), torch.float64)
    found = alternatives(model, *data, guides=["ep"], num_draws=2000, progress=False)
    pair = Pair(model, ChainNormal(model))
    ep.fit(pair, *data, progress=False)
    answer = pair.guide.posterior()[1]  # type: ignore[attr-defined]
    drawn = torch.as_tensor(found["ep"].draws["skill"].to_numpy()).reshape(2000, -1)
    error = answer.variance.detach().sqrt() / 2000**0.5
    # Of some tens of states, at five standard errors.
    assert bool(((drawn.mean(0) - answer.mean.detach()).abs() < 5 * error).all())
    assert bool(((drawn.std(0) / (error * 2000**0.5) - 1).abs() < 5 / 4000**0.5).all())


def test_expectation_propagation_is_left_out_of_other_models() -> None:
    with pytest.raises(InputError, match=r"ep is left out: .* has no linear factors of Gaussian chains"):
        alternatives(regression, X, guides=["ep"], progress=False)
