"""Linear response against closed forms, quadrature, and its own repeats."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.inference.fitting import natural, response_optimum
from ppl_vae.inference.fitting.linear_response import LinearResponse, covariances, posterior
from ppl_vae.program.pair import Pair

pytestmark = pytest.mark.usefixtures("from_the_mode")

# A regression as it comes: columns far from zero, of different sizes and correlated.
GENERATOR = torch.Generator().manual_seed(3)
ROWS = torch.randn(40, 3, generator=GENERATOR, dtype=torch.float64)
DESIGN = torch.stack([torch.ones(40).double(), 20 + 10 * ROWS[:, 0], 5 + ROWS[:, 0] + ROWS[:, 1]], dim=1)
RESPONSE = DESIGN @ torch.tensor([2.0, 0.1, -0.4]).double() + 2 * ROWS[:, 2]
PRECISION = (DESIGN.T @ DESIGN / 4 + torch.eye(3) / 100).numpy()
SIGMA = np.linalg.inv(PRECISION)
MEAN = SIGMA @ (DESIGN.T @ RESPONSE).numpy() / 4


def regression(design: Tensor, response: Tensor) -> None:
    weights = pyro.sample("weights", dist.Normal(design.new_zeros(3), 10.0).to_event(1))
    with pyro.plate("row", len(design)):
        pyro.sample("y", dist.Normal(design @ weights, 2.0), obs=response)


@pytest.fixture(scope="module")
def fitted() -> Pair:
    """The regression with the best mean-field guide."""
    pair = Pair(regression, AutoNormal(regression))
    natural.fit(pair, DESIGN, RESPONSE, progress=False)
    return pair


def exponentials(sites: Mapping[str, Tensor]) -> dict[str, Tensor]:
    weights = sites["weights"]
    return {"product": 3 * weights[:, 1] * weights[:, 2], "exp": (weights[:, 1:] / 5).exp()}


def test_the_covariance_of_a_gaussian_posterior_is_exact(
    oracles: ModuleType, fitted: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, answers = Pair(regression, AutoDiagonalNormal(regression)).initialise(DESIGN, RESPONSE), []
    with oracles.nothing_global_changes():
        for pair in (new, fitted):
            before = {name: value.clone() for name, value in pair.parameters("guide").items()}
            answers.append(covariances(pair, DESIGN, RESPONSE, num_draws=64, progress=False))
            after = pair.parameters("guide")
            assert all(torch.equal(value, after[name]) for name, value in before.items())
    # Conjugate gradients, as for many latents, come to the same.
    monkeypatch.setattr(response_optimum, "MOST_DENSE", 0)
    solved = covariances(fitted, DESIGN, RESPONSE, num_draws=64, progress=False)
    np.testing.assert_allclose(solved.covariance, SIGMA, rtol=1e-6)
    assert (solved.sd_errors < 1e-6 * solved.sds).all()
    far, found = answers
    assert "nats below the best of the mean-field family, and a copy of it was fitted first" in far.note
    # On the same draws, whatever the start.
    np.testing.assert_allclose(far.mean_field_sds, found.mean_field_sds, rtol=1e-3)
    assert found.names == ("weights[0]", "weights[1]", "weights[2]")
    np.testing.assert_allclose(found.covariance, SIGMA, rtol=1e-6)
    # Mean-field's own variances are the precisions' inverses (Bishop 2006, 10.1.2).
    own = PRECISION.diagonal() ** -0.5
    assert (np.abs(found.mean_field_sds / own - 1) < 5 / 32**0.5).all()
    assert (own < 0.3 * found.sds).any()
    np.testing.assert_allclose(found.means, MEAN, rtol=1e-4)
    assert (found.sd_errors < 1e-6 * found.sds).all()
    assert found.note == ""
    assert found.distance.num_draws >= 512
    np.testing.assert_allclose(found.correlation.diagonal(), 1.0)


def test_functions_of_the_latents_by_closed_form(fitted: Pair) -> None:
    """E_q exp(c u_i) = exp(c m_i + c² s_i² / 2), and q's scales respond by half their fourth power."""
    found = covariances(fitted, DESIGN, RESPONSE, functions=exponentials, progress=False)
    assert found.names == ("product", "exp[0]", "exp[1]")
    s2, c = 1 / PRECISION.diagonal()[1:], 0.2
    level = np.exp(c * MEAN[1:] + c**2 * s2 / 2)
    expected = c**2 * np.outer(level, level) * (SIGMA[1:, 1:] + c**2 * np.diag(s2**2) / 2)
    along = 3 * MEAN[[2, 1]]
    sds = np.sqrt([along @ SIGMA[1:, 1:] @ along, *np.diag(expected)])
    # Errors by eight groups: Student's t of 7 degrees of freedom, beyond 8 once in 10,000 times.
    assert (np.abs(found.sds - sds) < 8 * found.sd_errors + 1e-8).all()
    assert (np.abs(found.means[1:] - level) < 8 * found.mean_errors[1:] + 1e-8).all()
    np.testing.assert_allclose(found.covariance[1:, 1:], expected, rtol=1e-2)


# Counts with a gamma prior: log λ is known in closed form, and so is what mean-field makes of it ---------

COUNTS = torch.tensor([2.0, 0.0, 3.0]).double()
SHAPE, RATE = 1.5 + float(COUNTS.sum()), 0.5 + len(COUNTS)


def counted(counts: Tensor) -> None:
    half = counts.new_tensor(0.5)
    with pyro.plate("column", counts.shape[1]):
        rate = pyro.sample("rate", dist.Gamma(3 * half, half))
        with pyro.plate("row", len(counts)):
            pyro.sample("count", dist.Poisson(rate), obs=counts)


def both(sites: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"log": sites["rate"].log(), "rate": sites["rate"]}


def test_errors_are_those_of_repeats() -> None:
    """λ ~ Gamma(a, b): log λ responds by (2a + 1) / 2a², the first terms of trigamma(a), and λ by a / b².

    Columns have nothing to do with each other, nor have their draws.
    """
    repeats = 25
    data = COUNTS[:, None].expand(3, repeats)
    found = covariances(Pair(counted, AutoNormal(counted)), data, functions=both, progress=False)
    mean, variance = np.log(SHAPE / RATE) - 0.5 / SHAPE, (2 * SHAPE + 1) / (2 * SHAPE**2)
    of_means = ((found.means - mean) / found.mean_errors)[:repeats]
    of_sds = ((found.sds - variance**0.5) / found.sd_errors)[:repeats]
    for scores in (of_means, of_sds):
        # Of Student's t with 7 degrees of freedom .71, and beyond these bounds less than once in 10,000.
        assert 0.2 < np.median(np.abs(scores)) < 2.0, scores
    # The optimum's own equation makes these exact on any draws, as mean-field's mean is.
    np.testing.assert_allclose(found.means[repeats:], SHAPE / RATE, rtol=1e-3)
    np.testing.assert_allclose(found.sds[repeats:], SHAPE**0.5 / RATE, rtol=1e-3)
    assert (found.mean_field_sds[:repeats] < 0.99 * found.sds[:repeats]).all()


def logistic(x: Tensor, y: Tensor) -> None:
    weights = pyro.sample("weights", dist.Normal(x.new_zeros(2), 2.0).to_event(1))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=x @ weights), obs=y)


X2 = torch.stack([torch.ones(30).double(), 1 + 0.7 * ROWS[:30, 0]], 1)
Y2 = (X2 @ torch.tensor([0.5, -1.0]).double() + ROWS[:30, 1] > 0).double()


def test_a_logistic_regression_against_quadrature() -> None:
    grid = torch.cartesian_prod(*2 * [torch.linspace(-6, 6, 201).double()])
    logits = grid @ X2.T
    log_p = (Y2 * logits - torch.nn.functional.softplus(logits)).sum(1) - grid.square().sum(1) / 8
    weights = (log_p - log_p.logsumexp(0)).exp()
    mean = weights @ grid
    truth = ((grid - mean).T * weights) @ (grid - mean)
    sd = truth.diagonal().sqrt().numpy()
    found = covariances(Pair(logistic, AutoNormal(logistic)), X2, Y2, progress=False)
    assert found.mean_field_sds.max() / sd.max() < 0.75
    np.testing.assert_allclose(found.sds, sd, rtol=0.1)
    assert found.correlation[0, 1] == pytest.approx(float(truth[0, 1]) / sd.prod(), abs=0.1)


def test_blocks_keep_their_own_covariance() -> None:
    def two(design: Tensor, response: Tensor) -> None:
        slopes = pyro.sample("slopes", dist.Normal(design.new_zeros(2), 10.0).to_event(1))
        level = pyro.sample("level", dist.Normal(design.new_zeros(()), 10.0))
        with pyro.plate("row", len(design)):
            pyro.sample("y", dist.Normal(level + design[:, 1:] @ slopes, 2.0), obs=response)

    blocks = AutoGuideList(two)
    blocks.append(AutoMultivariateNormal(poutine.block(two, expose=["slopes"])))
    blocks.append(AutoNormal(poutine.block(two, expose=["level"])))
    found = covariances(Pair(two, blocks), DESIGN, RESPONSE, num_draws=64, progress=False)
    exact = SIGMA[np.ix_([1, 2, 0], [1, 2, 0])]
    np.testing.assert_allclose(found.covariance, exact, rtol=1e-4)


def test_its_draws_are_a_posterior_with_weights(fitted: Pair) -> None:
    answer = posterior(fitted, DESIGN, RESPONSE, num_draws=4000, num_common=64, progress=False)
    draws = answer.draws["weights"].to_numpy()[0]
    white = np.linalg.solve(np.linalg.cholesky(SIGMA), (draws - MEAN).T)
    # Five standard errors of 4,000 draws' moments.
    assert np.abs(white.mean(1)).max() < 5 / 4000**0.5
    assert np.abs(np.cov(white) - np.eye(3)).max() < 5 * (2 / 4000) ** 0.5
    assert (answer.method, answer.dependence) == ("linear-response", "independent")
    # The Gaussian is the posterior: all weights are alike.
    assert answer.log_weights is not None
    assert float(answer.log_weights.std()) < 1e-3
    assert answer.stats.attrs["note"] == ""
    rate, again = (
        posterior(
            Pair(counted, AutoNormal(counted)), COUNTS[:, None], num_draws=50, num_common=32, progress=False
        )
        for _ in "ab"
    )
    assert float(rate.draws["rate"].min()) > 0
    assert again.draws.equals(rate.draws)
    assert "a copy of it was fitted first" in again.stats.attrs["note"]


def test_summed_out_discrete_latents_do_not_matter(tmp_path: Any) -> None:
    def enumerated(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(x.new_zeros(()), 3.0))
        with pyro.plate("row", len(x)):
            part = pyro.sample("part", dist.Bernoulli(x.new_tensor(0.3)), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(mean + 2 * part, 1.0), obs=x)

    def mixed(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(x.new_zeros(()), 3.0))
        parts = dist.Categorical(x.new_tensor([0.7, 0.3]).expand(len(x), 2))
        means = torch.stack([mean, mean + 2], -1).expand(len(x), 2)
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.MixtureSameFamily(parts, dist.Normal(means, 1.0)), obs=x)

    data, found = ROWS[:8, 0] + 1, []
    for model in (enumerated, mixed):
        guide = AutoNormal(poutine.block(model, hide=["part"]))
        found.append(covariances(Pair(model, guide), data, num_draws=64, progress=False))
    np.testing.assert_allclose(found[0].covariance, found[1].covariance, rtol=1e-6)
    found[0].save(tmp_path / "response.nc")
    again = LinearResponse.load(tmp_path / "response.nc")
    assert (again.names, again.distance) == (found[0].names, found[0].distance)
    np.testing.assert_array_equal(again.covariance, found[0].covariance)
    assert list(found[0].summary().columns) == ["mean", "mean_error", "sd", "sd_error", "mean_field_sd"]


class Bent(torch.autograd.Function):
    """−x²/2, which autograd can differentiate once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return -0.5 * x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return -slope * ctx.saved_tensors[0]


def bent(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
    pyro.factor("bent", Bent.apply(z - x))


def undetermined(x: Tensor) -> None:
    a, b = (pyro.sample(name, dist.Normal(x.new_zeros(()), 1.0).mask(False)) for name in "ab")
    pyro.sample("x", dist.Normal(a + b, 1.0), obs=x)


DATA = {counted: COUNTS[:, None], bent: COUNTS[0], undetermined: COUNTS[0]}


@pytest.mark.filterwarnings("ignore:.*through stock Pyro")
@pytest.mark.parametrize(
    ("model", "guide", "words"),
    [
        (counted, AutoMultivariateNormal, "full-rank.* has its correlations already.*natural.fit"),
        (counted, lambda m: AutoLowRankMultivariateNormal(m, rank=1), "low-rank"),
        (counted, AutoDelta, "this pair's is AutoDelta"),
        (bent, AutoNormal, "autograd has none"),
        (undetermined, AutoNormal, "no strict one"),
    ],
)
def test_what_cannot_be_mended_is_refused(model: Any, guide: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        covariances(Pair(model, guide(model)), DATA[model], progress=False)


def test_functions_that_are_none_are_refused() -> None:
    pair = Pair(counted, AutoNormal(counted))
    for functions, words in (
        (lambda sites: sites["rate"].mean(), "by name"),
        (lambda sites: {"mean": sites["rate"].mean()}, "a leading dimension of draws"),
        (lambda sites: {"one": torch.ones(len(sites["rate"]))}, "do not depend on the latents"),
        ("rates", "'rates' is not known"),
    ):
        with pytest.raises(InputError, match=words):
            covariances(pair, COUNTS[:, None], functions=functions, num_draws=64, progress=False)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="num_draws"):
        covariances(pair, COUNTS[:, None], num_draws=8, progress=False)
