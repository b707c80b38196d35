"""Posterior predictive checks against closed forms of the posterior predictive distribution."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from scipy import stats
from sklearn import datasets
from torch import Tensor

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.errors import InputError
from ppl_vae.diagnostics.prediction.predictive import Predictive, predictive_check
from ppl_vae.diagnostics.prediction.replicated import as_rows, observed_sites
from ppl_vae.diagnostics.prediction.statistics import distribution_kind
from ppl_vae.guides import LinearNormal, Prior
from ppl_vae.inference import exact
from ppl_vae.models import PPCA
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem

SIZE = 20


def row_of(found: Predictive, statistic: str) -> Any:
    return found.table.set_index("statistic").loc[statistic]


def mid_p(upper: float) -> float:
    return 2 * min(upper, 1 - upper)


def agrees(row: Any, truth: float, oracles: ModuleType, draws: int) -> None:
    """Within Monte Carlo error, and the half draw on either side that keeps p above zero."""
    assert abs(row["p_value"] - truth) < oracles.z_limit() * row["p_std_error"] + 1 / draws


def normal_model(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
    with pyro.plate("data", len(x)) as i:
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x[i])


def normal_guide(x: Tensor) -> None:
    """The exact posterior N(Σx / (n + 1), 1 / (n + 1))."""
    pyro.sample("mu", dist.Normal(x.sum() / (len(x) + 1), (len(x) + 1) ** -0.5))


@pytest.fixture
def x() -> Tensor:
    """With this very mean and sd, so that no p-value hangs on their luck."""
    values = np.random.default_rng(0).normal(size=SIZE)
    return torch.as_tensor(0.8 + 1.1 * (values - values.mean()) / values.std(ddof=1))


def test_p_values_of_a_conjugate_normal_are_the_closed_form(x: Tensor, oracles: ModuleType) -> None:
    """x̄_rep ~ N(m, 1/(n+1) + 1/n), and (n−1) s²_rep ~ χ² whatever the mean."""
    draws = 20_000
    with oracles.nothing_global_changes():
        found = predictive_check(Pair(normal_model, normal_guide), x, num_draws=draws)
    centre = float(x.sum()) / (SIZE + 1)
    mean = stats.norm(centre, np.sqrt(1 / (SIZE + 1) + 1 / SIZE))
    truth = mid_p(mean.sf(float(x.mean())))
    assert 0.03 < truth < 0.97
    agrees(row_of(found, "mean"), truth, oracles, draws)
    spread = stats.chi2(SIZE - 1).sf((SIZE - 1) * float(x.var()))
    agrees(row_of(found, "sd"), mid_p(spread), oracles, draws)
    row = row_of(found, "mean")
    assert row["observed"] == pytest.approx(float(x.mean()), abs=1e-12)
    assert abs(row["replicated_mean"] - centre) < oracles.z_limit() * mean.std() / np.sqrt(draws)
    assert row["replicated_sd"] == pytest.approx(mean.std(), rel=oracles.z_limit() / np.sqrt(2 * draws))
    assert (found.kind, found.method, found.num_draws) == ("real", "guide", draws)


def test_given_draws_take_the_place_of_the_guides(x: Tensor, oracles: ModuleType) -> None:
    """The guide is the prior here; only the posterior given knows the data."""
    draws = 8000
    mu = np.random.default_rng(1).normal(float(x.sum()) / (SIZE + 1), (SIZE + 1) ** -0.5, (4, 4000))
    given = Posterior(xr.Dataset({"mu": (("chain", "draw"), mu)}), "nuts", "chains")
    found = predictive_check(Pair(normal_model, Prior(normal_model)), x, posterior=given, num_draws=draws)
    mean = stats.norm(float(x.sum()) / (SIZE + 1), np.sqrt(1 / (SIZE + 1) + 1 / SIZE))
    agrees(row_of(found, "mean"), mid_p(mean.sf(float(x.mean()))), oracles, draws)
    assert (found.method, found.num_draws) == ("nuts", draws)
    assert dict(found.replicates.sizes)["chain"] == 4


def test_a_sticky_chain_counts_for_less(x: Tensor) -> None:
    """Every value of μ stands for 100 draws, and its error is larger than of independent draws."""
    mu = np.repeat(np.random.default_rng(1).normal(0.8, 0.6, (4, 20)), 100, axis=1)
    draws = xr.Dataset({"mu": (("chain", "draw"), mu)})
    pair = Pair(normal_model, normal_guide)
    errors = [
        row_of(predictive_check(pair, x, posterior=Posterior(draws, "nuts", kind), num_draws=8000), "mean")
        for kind in ("chains", "independent")
    ]
    assert errors[0]["p_value"] == errors[1]["p_value"]
    assert errors[0]["p_std_error"] > 3 * errors[1]["p_std_error"]


def test_discrete_statistics_have_mid_p_values(oracles: ModuleType) -> None:
    """Gamma–Poisson and beta–Bernoulli: sums of replicates are negative and beta binomial."""
    draws = 20_000
    counts, coins = torch.tensor([0.0, 2, 1, 0, 3, 1]), torch.tensor([1.0, 0, 1, 1, 0])

    def model(counts: Tensor, coins: Tensor) -> None:
        rate = pyro.sample("rate", dist.Gamma(torch.tensor(2.0), 1.0))
        chance = pyro.sample("chance", dist.Beta(torch.tensor(1.0), 2.0))
        with pyro.plate("days", len(counts)) as i:
            pyro.sample("count", dist.Poisson(rate), obs=counts[i])
        with pyro.plate("coins", len(coins)) as j:
            pyro.sample("coin", dist.Bernoulli(chance), obs=coins[j])

    def guide(counts: Tensor, coins: Tensor) -> None:
        pyro.sample("rate", dist.Gamma(2 + counts.sum(), 1.0 + len(counts)))
        pyro.sample("chance", dist.Beta(1 + coins.sum(), 2 + len(coins) - coins.sum()))

    found = predictive_check(Pair(model, guide), counts, coins, num_draws=draws)
    assert found.kinds == {"count": "counts", "coin": "binary"}
    assert found.kind == "mixed"
    for site, statistic, truth, number in (
        ("count", "mean", stats.nbinom(2 + 7, 7 / 13), 7),
        ("coin", "share of ones", stats.betabinom(5, 1 + 3, 2 + 2), 3),
    ):
        row = found.table[(found.table["site"] == site) & (found.table["statistic"] == statistic)].iloc[0]
        agrees(row, mid_p(truth.sf(number) + 0.5 * truth.pmf(number)), oracles, draws)


def test_the_joint_test_keeps_its_level_on_data_from_the_model(oracles: ModuleType) -> None:
    """At known parameters p-values are exact, and 5 % of all checks may fail: 28 statistics of 3 features."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            pyro.sample("x", dist.Normal(0 * z[..., None] + torch.zeros(3), 1.0).to_event(1), obs=x[i])

    pair, generator = Pair(model, Prior(model)), np.random.default_rng(3)
    repeats, failed, means = 120, 0, []
    for seed in range(repeats):
        x = torch.as_tensor(generator.normal(size=(30, 3)), dtype=torch.float32)
        found = predictive_check(pair, x, num_draws=100, seed=seed)
        failed += len(found.failing) > 0
        means.append(row_of(found, "mean of feature 2")["p_value"])
    assert failed <= stats.binom(repeats, 0.05).isf(oracles.LEVEL)
    assert stats.kstest(means, stats.uniform.cdf).pvalue > oracles.LEVEL


def _location_scale(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(torch.zeros(()), 2.0))
    sigma = pyro.sample("sigma", dist.LogNormal(torch.zeros(()), 2.0))
    with pyro.plate("data", len(x)) as i:
        pyro.sample("x", dist.Normal(mu, sigma), obs=x[i])


def _at(**values: float) -> Callable[..., None]:
    """A guide that knows the answer."""

    def guide(*data: Tensor) -> None:
        for name, value in values.items():
            pyro.sample(name, dist.Delta(torch.tensor(value)))

    return guide


def test_a_normal_fails_where_tails_are_heavy_and_nowhere_else() -> None:
    # The quantiles of a distribution are its most typical data: what is failed is failed whatever the draws.
    levels = (np.arange(300) + 0.5) / 300
    heavy = torch.as_tensor(stats.t(2).ppf(levels), dtype=torch.float32)
    guide = _at(mu=float(heavy.mean()), sigma=float(heavy.std()))
    found = predictive_check(Pair(_location_scale, guide), heavy)
    assert {"maximum", "minimum"} <= set(found.failing["statistic"])
    assert not {"mean", "sd"} & set(found.failing["statistic"])
    assert "about the model" in found.sentence()
    light = torch.as_tensor(stats.norm(1, 2).ppf(levels), dtype=torch.float32)
    found = predictive_check(Pair(_location_scale, _at(mu=1.0, sigma=2.0)), light)
    assert not len(found.failing)
    assert "look like the data in all 5 test statistics" in found.sentence()


def test_poisson_fails_the_dispersion_of_overdispersed_counts_and_its_own_model_does_not() -> None:
    def poisson(x: Tensor) -> None:
        rate = pyro.sample("rate", dist.LogNormal(torch.zeros(()), 2.0))
        with pyro.plate("data", len(x)) as i:
            pyro.sample("x", dist.Poisson(rate), obs=x[i])

    def negative_binomial(x: Tensor) -> None:
        rate = pyro.sample("rate", dist.LogNormal(torch.zeros(()), 2.0))
        with pyro.plate("data", len(x)) as i:
            pyro.sample("x", dist.GammaPoisson(2.0, 2.0 / rate), obs=x[i])

    x = torch.as_tensor(stats.nbinom(2, 2 / 7).ppf((np.arange(150) + 0.5) / 150), dtype=torch.float32)
    guide = _at(rate=float(x.mean()))
    wrong = predictive_check(Pair(poisson, guide), x)
    assert {"dispersion index", "share of zeros", "maximum"} <= set(wrong.failing["statistic"])
    assert "mean" not in set(wrong.failing["statistic"])
    assert row_of(wrong, "dispersion index")["observed"] == pytest.approx(float(x.var() / x.mean()), rel=1e-6)
    assert not len(predictive_check(Pair(negative_binomial, guide), x).failing)
    frequency = wrong.profiles["x"]["frequency"].to_numpy()[0]
    np.testing.assert_array_equal(frequency[:12], np.bincount(x.int().numpy(), minlength=40)[:12])
    band = wrong.profiles["x"]["replicated_frequency"].sel(quantile=0.5).to_numpy()[0]
    expected = 150 * stats.poisson(float(x.mean())).pmf(np.arange(len(band)))
    # The median of a count lies within one of its mean, up to Monte Carlo error.
    assert (np.abs(band - expected)[:-1] < 1 + 5 * np.sqrt(np.pi / 2 * expected[:-1] / 200)).all()


# Forms and arguments -----------------------------------------------------------------------------


def test_kinds_are_read_off_the_support() -> None:
    one = torch.ones(3)
    kinds = {
        "real": [dist.Normal(one, 1.0).to_event(1), dist.Gamma(one, 1.0), dist.LogNormal(one, 1.0)],
        "binary": [dist.Bernoulli(one / 2), dist.Bernoulli(one / 2).to_event(1), dist.OneHotCategorical(one)],
        "counts": [dist.Poisson(one), dist.Binomial(5, one / 2), dist.GammaPoisson(one, 1.0)],
        "categories": [dist.Categorical(one), dist.Categorical(one).mask(torch.tensor(True))],
    }
    for kind, distributions in kinds.items():
        assert [distribution_kind(fn) for fn in distributions] == [kind] * len(distributions)


def test_the_outermost_plate_is_the_rows() -> None:
    values = torch.arange(24.0).reshape(2, 3, 4)
    torch.testing.assert_close(as_rows(values, 0), values)
    torch.testing.assert_close(as_rows(values, 1), values)
    torch.testing.assert_close(as_rows(values.reshape(2, 1, 3, 4), 1), values)
    assert as_rows(values.reshape(2, 12), 1).shape == (2, 12, 1)
    assert as_rows(values.reshape(2, 12), 0).shape == (2, 12, 1)


def test_categories_are_compared_by_their_shares(oracles: ModuleType) -> None:
    x = torch.tensor([0] * 10 + [1] * 25 + [2] * 5)

    def model(x: Tensor) -> None:
        pyro.sample("mu", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("data", len(x)) as i:
            pyro.sample("x", dist.Categorical(torch.tensor([0.25, 0.5, 0.25])), obs=x[i])

    found = predictive_check(Pair(model, Prior(model)), x, num_draws=4000)
    truth = stats.binom(40, 0.25)
    agrees(row_of(found, "share of category 2"), mid_p(truth.cdf(5) - 0.5 * truth.pmf(5)), oracles, 4000)


def _ppca() -> tuple[Pair, Tensor]:
    x = torch.as_tensor(datasets.load_iris().data)
    model = PPCA(4, 2).set_maximum_likelihood(x)
    return Pair(model, LinearNormal(4, 2, dtype=torch.float64)), x


def test_some_units_alone_and_posteriors_of_them(oracles: ModuleType) -> None:
    pair, x = _ppca()
    index = torch.tensor([3, 100, 7, 60, 61, 120])
    whole = exact.draws(pair.model, x, num_draws=60)
    part = exact.draws(pair.model, x[index], num_draws=60)
    found = [predictive_check(pair, x, index=index, posterior=answer) for answer in (whole, part)]
    for one in (*found, predictive_check(pair, x, index=index)):
        assert row_of(one, "mean of feature 2")["observed"] == pytest.approx(
            float(x[index, 1].mean()), rel=1e-12
        )
    means, spreads = np.transpose(
        [row_of(one, "mean")[["replicated_mean", "replicated_sd"]] for one in found]
    )
    errors = spreads.astype(float) / np.sqrt(60)
    assert abs(means[0] - means[1]) < oracles.t_limit(59, 2) * np.hypot(*errors)
    # The posteriors shrink their means towards the whole data set's.
    assert abs(means[0] - float(x[index].mean())) < oracles.t_limit(59, 2) * errors[0] + 0.05


def test_a_seed_repeats_itself_and_answers_survive_the_disk(tmp_path: Path) -> None:
    pair, x = _ppca()
    names = ("a", "b", "c", "d")
    found = predictive_check(pair, x, feature_names=names, num_draws=50, seed=4)
    again = predictive_check(pair, x, feature_names=names, num_draws=50, seed=4)
    assert found.table.equals(again.table)
    assert "correlation of a and c" in set(found.table["statistic"])
    found.save(tmp_path / "predictive.nc")
    read = Predictive.load(tmp_path / "predictive.nc")
    assert read.table.equals(found.table)
    assert read.replicates.identical(found.replicates)
    assert read.profiles["x"].equals(found.profiles["x"])
    assert (read.kinds, read.notes, read.method, read.num_draws, read.seconds) == (
        found.kinds, found.notes, found.method, found.num_draws, found.seconds,
    )  # fmt: skip
    assert read.sentence() == found.sentence()
    assert "conservative" in found.notes[-1]


def test_programs_that_do_not_vectorise_are_replicated_one_by_one(oracles: ModuleType) -> None:
    def model(x: Tensor) -> None:
        theta = pyro.sample("theta", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)) as i:
            # theta[0] is the first particle under a plate of particles.
            pyro.sample("x", dist.Normal(theta[0], 1.0), obs=x[i])

    found = predictive_check(Pair(model, Prior(model)), torch.linspace(-1, 1, 10), num_draws=60)
    spread = row_of(found, "mean")["replicated_sd"]
    # Var x̄_rep = 1 + 1/10.
    low, high = oracles.spread_limits(59)
    assert low < spread**2 / 1.1 < high


def test_statistics_of_ones_own(x: Tensor) -> None:
    pair = Pair(normal_model, normal_guide)
    found = predictive_check(pair, x, statistics={"median": lambda values: values.median()})
    assert row_of(found, "median")["observed"] == pytest.approx(float(x.median()))
    for wrong in (lambda values: values, lambda values: values.sum() * torch.nan):
        with pytest.raises(InputError, match="statistic 'mine' gave"):
            predictive_check(pair, x, statistics={"mine": wrong})


def test_values_wider_than_their_distribution_are_not_replicated() -> None:
    """A row of two values seen by one normal: Pyro sums both densities, and would draw one value."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x[i])), 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x[i])

    with pytest.raises(InputError, match=r"x has values of shape \(5, 2\) from .* draws \(5, 1\)"):
        predictive_check(Pair(model, Prior(model)), torch.randn(5, 2))


def test_what_cannot_be_checked_is_said(x: Tensor) -> None:
    def constant(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("above", dist.Bernoulli(logits=z + x), obs=torch.ones(()))

    with pytest.raises(InputError, match="all 1, written into the model"):
        predictive_check(Pair(constant, Prior(constant)), x)

    def ones(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("data", len(x)) as i:
            pyro.sample("above", dist.Bernoulli(logits=z), obs=x[i])

    assert predictive_check(Pair(ones, Prior(ones)), torch.ones(9)).kind == "binary"
    pair = Pair(normal_model, normal_guide)
    with pytest.raises(InputError, match="needs at least 40"):
        predictive_check(pair, x, num_draws=10)
    other = Posterior(xr.Dataset({"tau": (("chain", "draw"), np.zeros((1, 50)))}), "nuts", "chains")
    with pytest.raises(InputError, match="no draws of mu"):
        predictive_check(pair, x, posterior=other)
    wide = Posterior(xr.Dataset({"mu": (("chain", "draw", "d"), np.zeros((1, 50, 2)))}), "nuts", "chains")
    with pytest.raises(InputError, match=r"draws of mu have shape \(2,\)"):
        predictive_check(pair, x, posterior=wide)
    with pytest.raises(InputError, match="no plate of units"):
        predictive_check(pair, x, index=torch.tensor([0]))


def without_a_plate(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
    pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


@pytest.mark.parametrize("shape", [(20,), (5, 4), (2, 5, 2)])
def test_data_wider_than_their_site_are_replicated_value_by_value(
    x: Tensor, shape: tuple[int, ...], oracles: ModuleType
) -> None:
    data = x.reshape(shape)

    def guide(data: Tensor) -> None:
        normal_guide(data.reshape(-1))

    draws = 4000
    pair = Pair(without_a_plate, guide)
    found = predictive_check(pair, data, statistics={"sd": lambda v: v.std()}, num_draws=draws)
    # Given μ the values are independent N(μ, 1): their sd is that of SIZE of them, whatever μ is.
    upper = float(stats.chi2(SIZE - 1).sf((SIZE - 1) * float(x.var())))
    agrees(row_of(found, "sd"), mid_p(upper), oracles, draws)


def test_residuals_that_hold_latents_are_no_data(x: Tensor) -> None:
    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
        with pyro.plate("data", len(x)) as i:
            pyro.sample("e", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0), obs=x[i] - mu)

    with pytest.raises(InputError, match="observed at e depend on the latents"):
        predictive_check(Pair(model, normal_guide), x)


def test_missing_values_are_no_sign_of_latents(x: Tensor) -> None:
    """Values that the model masks are NaN, which equals nothing: not even itself."""
    data = torch.cat([x, x.new_full((2,), torch.nan)])

    def model(data: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(data.new_zeros(()), 1.0))
        with pyro.plate("data", len(data)) as i:
            pyro.sample("x", dist.NanMaskedNormal(mu, 1.0), obs=data[i])

    pair = Pair(model, lambda data: normal_guide(data[~data.isnan()]))
    found, notes = observed_sites(Problem.of(pair, data))
    assert [site.name for site in found] == ["x"]
    assert not notes
