"""EM as a method of a fit: the maximum of the likelihood, with the guide at the posterior there."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import ppl_vae
from ppl_vae import InputError
from ppl_vae.data.rows import Rows
from ppl_vae.guides import AmortisedNormal
from ppl_vae.guides.normal import multivariate_normal, raw_scale_tril, raw_spread
from ppl_vae.inference import em, exact, fit
from ppl_vae.models import PPCA, VAE, FactorAnalysis, GaussianMixture
from ppl_vae.models.linear_gaussian import LinearGaussian
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem


def rows_of(missing: bool) -> tuple[Tensor, ...]:
    """Thirty rows of five features around two factors, and where they have a value."""
    random = np.random.default_rng(2)
    x = random.normal(size=(30, 2)) @ random.normal(size=(2, 5)) + random.normal(size=(30, 5)) + 2.0
    data = torch.from_numpy(x)
    if not missing:
        return (data,)
    there = torch.from_numpy(random.random(x.shape) > 0.2)
    return torch.where(there, data, torch.nan), there


def model_of(name: str, x: Tensor) -> LinearGaussian:
    if name == "ppca":
        return PPCA(5, 2)
    return FactorAnalysis(5, 2, variances=x.nan_to_num().var(0))


def highest(model: LinearGaussian, *data: Tensor) -> float:
    """By the model's own ascent to the maximum, from elsewhere."""
    model.set_maximum_likelihood(data[0], x_observed=data[1] if len(data) > 1 else None)
    return float(exact.log_evidence(model, *data).total)


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "missing"])
@pytest.mark.parametrize("name", ["ppca", "factor-analysis"])
def test_the_elbo_is_the_maximum_of_the_likelihood(name: str, missing: bool) -> None:
    data = rows_of(missing)
    torch.manual_seed(0)
    model = model_of(name, data[0])
    best = highest(model_of(name, data[0]), *data)
    for kind in ("linear", "linear-mean-field", "per-datum"):
        pair = Pair(model, model.guides[kind](model, *data))
        found = em.fit(pair, *data, progress=False)
        # The guide is the posterior, or the best of independent coordinates, which loses a known amount.
        precision = exact_precision(model, *data)
        lost = 0.5 * (precision.diagonal(dim1=-2, dim2=-1).log().sum(-1) - torch.linalg.slogdet(precision)[1])
        expected = best - (0.0 if kind == "linear" else float(lost.expand(30).sum()))
        # EM ends where 30 rows have less than 1e-8 nats each to gain.
        assert found.final.value == pytest.approx(expected, abs=4 * found.final.std_error + 1e-5)
        if kind == "linear":
            # Every draw of the posterior has the weight p(x).
            weights = Problem.of(pair, *data).terms(3).log_weights
            torch.testing.assert_close(weights, exact_evidence(model, *data).expand_as(weights))
        assert found.elbo[-1] == pytest.approx(best, abs=1e-5)
        assert np.diff(found.elbo).min() > -1e-8
        assert (found.method, found.engine, found.converged) == ("EM", "formulas", True)


def exact_evidence(model: LinearGaussian, *data: Tensor) -> Tensor:
    return torch.from_numpy(exact.log_evidence(model, *data).log_evidence)


def exact_precision(model: LinearGaussian, *data: Tensor) -> Tensor:
    posterior = model.exact_posterior(*data)["z"]
    assert isinstance(posterior, torch.distributions.MultivariateNormal)
    return posterior.precision_matrix


def test_raw_numbers_of_a_spread_are_those_that_give_it() -> None:
    roots = torch.randn(7, 3, 3, dtype=torch.float64)
    precision = roots @ roots.mT + 0.1 * torch.eye(3, dtype=torch.float64)
    tril = raw_scale_tril(raw_spread(precision, "full", 1e-6), 3, 1e-6)
    found = multivariate_normal(torch.zeros(7, 3, dtype=torch.float64), tril).precision_matrix
    torch.testing.assert_close(found, precision, rtol=1e-8, atol=1e-8)
    sharp = 1e9 * torch.eye(3, dtype=torch.float64)
    assert raw_spread(sharp, "diagonal", 1e-6).isfinite().all()


def test_a_run_of_a_mixture_is_the_best_of_its_starts(tmp_path: Path) -> None:
    run = ppl_vae.fit("gaussian-mixture", "iris", method="em", out=tmp_path / "run", progress=False)
    # scikit-learn's best of twenty on standardised irises.
    assert run.fit.final.value == pytest.approx(-290.531, abs=0.05)
    assert run.fit.elbo[-1] == pytest.approx(run.fit.final.value, abs=1e-2)
    assert run.fit.method == "EM"
    assert run.fit.converged
    assert run.fit.choice is not None
    assert run.fit.choice.method == "em"
    assert run.fit.reason.startswith("the best of 10 runs of EM from k-means++ starts")
    again = ppl_vae.fit("gaussian-mixture", "iris", method="em", out=tmp_path / "again", progress=False)
    assert np.array_equal(run.fit.elbo, again.fit.elbo)


def test_one_start_is_one_run_and_log_p_is_in_the_units_of_the_data() -> None:
    random = np.random.default_rng(0)
    x = torch.from_numpy(np.concatenate([random.normal(0, 1, (40, 2)), random.normal(30, 5, (40, 2))]))
    rows = Rows("two", x.numpy(), ("a", "b"), "real")
    model = GaussianMixture.from_data(rows, num_components=2, num_starts=1)
    found = em.fit(Pair(model, GaussianMixture.guides["exact"](model, x)), x, progress=False)
    assert found.reason == "the best of 1 run of EM from k-means++ starts"
    assert found.elbo[-1] == pytest.approx(float(model.exact_log_evidence(x).sum()), abs=1e-2)


def test_what_em_does_not_take_is_refused_in_a_sentence() -> None:
    (x,) = rows_of(False)
    model = PPCA(5, 2)
    linear = model.guides["linear"](model, x)
    with pytest.raises(InputError, match="method='em' does not take this pair: vae has no EM"):
        fit(
            Pair(vae := VAE(5, 2, hidden=(), likelihood="gaussian"), vae.encoder_guide()),
            x.float(),
            method="em",
            progress=False,
        )
    with pytest.raises(InputError, match="lr belongs to SVI; method='em' does not know it"):
        fit(Pair(model, linear), x, method="em", lr=0.1, progress=False)
    with pytest.raises(InputError, match="tolerance belongs to other methods; method='em'"):
        fit(Pair(model, linear), x, method="em", tolerance=0.1, progress=False)
    with pytest.raises(InputError, match="EM learns the model's parameters, which train='guide' holds"):
        fit(Pair(model, linear), x, method="em", train="guide", progress=False)
    other = AmortisedNormal(torch.nn.Linear(5, 4, dtype=torch.float64), 2)
    with pytest.raises(InputError, match="LinearNormal, PatternNormal, PerDatumNormal, not for Amortised"):
        fit(Pair(model, other), x, method="em", progress=False)


def test_a_fit_by_em_is_not_resumed(tmp_path: Path) -> None:
    from ppl_vae.runs.fit_job import fit_run
    from ppl_vae.runs.run import settings_for

    with pytest.raises(InputError, match=r"EM keeps no checkpoint .* fit anew, with --overwrite$"):
        fit_run(settings_for("ppca", "iris", {"method": "em"}, {}), tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()
