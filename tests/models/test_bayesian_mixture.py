import itertools
import math
from types import ModuleType

import numpy as np
import pytest
import torch
import xarray as xr
from pyro import poutine
from scipy import special, stats

from benchmarks.posteriors import posterior
from ppl_vae.base.errors import InputError
from ppl_vae.data import Rows
from ppl_vae.guides.prior import Prior
from ppl_vae.inference import guide, importance, svi
from ppl_vae.inference.evidence import bridge
from ppl_vae.models import BayesianMixture
from ppl_vae.models.bayesian_mixture import BayesianMixtureOptions
from ppl_vae.models.mixture_em import best_of
from ppl_vae.models.mixture_priors import MixturePriors
from ppl_vae.program.pair import Pair

DOUBLE = torch.float64


def _log_joint(model: BayesianMixture, latents: dict[str, np.ndarray], x: torch.Tensor) -> float:
    given = {name: torch.as_tensor(value) for name, value in latents.items()}
    return float(poutine.trace(poutine.condition(model, given)).get_trace(x).log_prob_sum())


def _latents(generator: np.random.Generator, components: int, size: int) -> dict[str, np.ndarray]:
    rows = (generator.normal(size=(size, 5 * size)) for _ in range(components))
    roots = np.linalg.cholesky(np.stack([np.atleast_2d(np.corrcoef(each)) for each in rows]))
    return {
        "weights": generator.dirichlet(np.ones(components)),
        "position": np.sort(generator.normal(size=components)),
        "offset": generator.normal(size=(components, size - 1)),
        "sd": generator.gamma(2.0, 0.5, (components, size)),
        "factor": roots,
    }


def _model(components: int, size: int, covariance: str = "full") -> BayesianMixture:
    """In units of its own, its components in order along no axis."""
    centre, scale = torch.arange(size).to(DOUBLE), torch.linspace(0.5, 3.0, size, dtype=DOUBLE)
    direction = torch.nn.functional.normalize(torch.linspace(1.0, -0.5, size, dtype=DOUBLE), dim=0)
    return BayesianMixture(centre, scale, direction, BayesianMixtureOptions(components, covariance))


def _by_hand(model: BayesianMixture, value: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Means and covariances in the units of x."""
    scale, first = model.scale.numpy(), model.direction.numpy()
    beside = model.beside.numpy()
    means = model.centre.numpy() + scale * (np.outer(value["position"], first) + value["offset"] @ beside.T)
    roots = value["sd"][:, :, None] * scale[:, None] * value["factor"]
    return means, roots @ roots.transpose(0, 2, 1)


def test_joint_density_is_the_one_written_in_the_docstring() -> None:
    generator = np.random.default_rng(0)
    model, value = _model(3, 2), _latents(generator, 3, 2)
    x = generator.normal(size=(7, 2)) * 2
    means, covariances = _by_hand(model, value)
    parts = [
        weight * stats.multivariate_normal(mean, covariance).pdf(x)
        for weight, mean, covariance in zip(value["weights"], means, covariances, strict=True)
    ]
    expected = (
        np.log(np.sum(parts, 0)).sum()
        + stats.dirichlet(np.full(3, 2.0)).logpdf(value["weights"])
        + math.log(6) + stats.norm(0, 1).logpdf(value["position"]).sum()
        + stats.norm(0, 1).logpdf(value["offset"]).sum()
        + stats.lognorm(0.75, scale=0.5).logpdf(value["sd"]).sum()
        - 3 * math.log(2)  # correlations are uniform in (−1, 1)
    )  # fmt: skip
    assert _log_joint(model, value, torch.as_tensor(x)) == pytest.approx(expected, rel=1e-9)


def test_in_one_dimension_it_is_the_mixture_of_posteriordb() -> None:
    """Whose NUTS draws agree with the reference's: tests/test_posteriors.py, and the program is Stan's."""
    generator = np.random.default_rng(1)
    priors = MixturePriors(concentration=5.0, mean_sd=2.0, sd="half-normal", sd_scale=2.0)
    one = torch.ones(1, dtype=DOUBLE)
    model = BayesianMixture(0 * one, one, options=BayesianMixtureOptions(2), priors=priors)
    program = posterior("low_dim_gauss_mix-low_dim_gauss_mix").program(True)
    y = torch.as_tensor(generator.normal(size=20) * 2)
    for _ in range(3):
        value = _latents(generator, 2, 1)
        theirs = {"mu": value["position"], "sigma": value["sd"][:, 0], "theta": value["weights"][0]}
        given = {name: torch.as_tensor(each) for name, each in theirs.items()}
        log_density = poutine.trace(poutine.condition(program, given)).get_trace(y).log_prob_sum()
        assert _log_joint(model, value, y[:, None]) == pytest.approx(float(log_density), rel=1e-9)


def _exact_log_evidence(x: np.ndarray, priors: MixturePriors) -> float:
    """Of two exchangeable components: a sum over all assignments of rows, with one integral for each group.

    Given its standard deviation a group is jointly normal, and the weights leave a Dirichlet-multinomial.
    """
    log_sd = np.linspace(-6, 5, 2001)
    prior = stats.norm(math.log(priors.sd_scale), priors.sd_spread).pdf(log_sd)

    def of_group(rows: np.ndarray) -> float:
        n, noise = len(rows), np.exp(2 * log_sd)
        whole = noise + n * priors.mean_sd**2  # the covariance is noise I + mean_sd² 11ᵀ
        squares = (rows @ rows - priors.mean_sd**2 * rows.sum() ** 2 / whole) / noise
        log_det = (n - 1) * np.log(noise) + np.log(whole) if n else 0.0
        density = prior * np.exp(-0.5 * (squares + log_det + n * math.log(2 * math.pi)))
        return float(np.trapezoid(density, log_sd))

    a, n, total = priors.concentration, len(x), 0.0
    for labels in itertools.product((False, True), repeat=n):
        groups = [x[np.array(labels) == k] for k in (False, True)]
        counts = sum(special.gammaln(len(group) + a) - special.gammaln(a) for group in groups)
        share = math.exp(counts + special.gammaln(2 * a) - special.gammaln(n + 2 * a))
        total += share * of_group(groups[0]) * of_group(groups[1])
    return math.log(total)


def test_evidence_of_components_in_order_is_that_of_exchangeable_ones(oracles: ModuleType) -> None:
    x = np.array([-1.6, -1.2, 0.3, 1.1, 1.4])
    one = torch.ones(1, dtype=DOUBLE)
    model = BayesianMixture(0 * one, one, options=BayesianMixtureOptions(2))
    expected = _exact_log_evidence(x, model.priors)
    data = torch.as_tensor(x[:, None])
    simple = importance.log_evidence(Pair(model, Prior(model)), data, num_samples=40_000, progress=False)
    pair = Pair(model, BayesianMixture.guides["full-rank"](model, data))
    svi.fit(pair, data, num_steps=100, lr=0.05, num_particles=8, progress=False)
    # Every fiftieth draw of the prior, resampled by its weight, is nearly independent, of the posterior.
    drawn = guide.draws(Pair(model, Prior(model)), data, num_draws=50_000, seed=1).resampled(seed=2)
    bridged = bridge.log_evidence(pair, drawn.isel({"draw": slice(0, None, 50)}), data, progress=False)
    limit = oracles.z_limit(2)
    for found in (simple, bridged):
        assert found.total_std_error < 0.1
        assert abs(found.total - expected) < limit * found.total_std_error, found.method


def test_identifiable_functions_are_the_components_in_the_units_of_the_data() -> None:
    generator = np.random.default_rng(2)
    model = _model(2, 3)
    values = [_latents(generator, 2, 3) for _ in range(4)]
    dims = {name: ("chain", "draw", *each) for name, each in model._dims().items()}
    draws = xr.Dataset({name: (dims[name], np.stack([v[name] for v in values])[None]) for name in dims})
    found = model.identifiable(draws)
    x = torch.as_tensor(generator.normal(size=(5, 3)))
    shares = []
    for at, value in enumerate(values):
        means, covariances = _by_hand(model, value)
        one = found.isel(chain=0, draw=at)
        np.testing.assert_allclose(one["weight"], value["weights"])
        np.testing.assert_allclose(one["mean"].transpose("component", "feature"), means)
        sds = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
        np.testing.assert_allclose(one["sd"].transpose("component", "feature"), sds)
        expected = covariances[1, 0, 2] / (sds[1, 0] * sds[1, 2])
        assert one["correlation"].sel(component=2, pair="x1 × x3").item() == pytest.approx(expected)
        parts = zip(value["weights"], means, covariances, strict=True)
        joint = np.stack([w * stats.multivariate_normal(m, c).pdf(x) for w, m, c in parts], 1)
        shares.append(joint / joint.sum(1, keepdims=True))
    np.testing.assert_allclose(model.responsibilities(draws, x), np.mean(shares, 0), rtol=1e-9)


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_guides_and_chains_begin_at_the_best_of_em(covariance: str, features: object) -> None:
    values = features("iris")[:, :3]
    rows = Rows("iris", values * 3 + 1, ("a", "b", "c"), "real")
    model = BayesianMixture.from_data(rows, num_components=2, covariance=covariance)
    (x,) = rows.tensors(DOUBLE)
    found = model.starting_latents(x, seed=0)
    assert (found["position"].diff() > 0).all()
    run, _ = best_of(torch.as_tensor(values), 2, covariance, num_starts=5, bound=1e-3, seed=0)
    trace = poutine.trace(poutine.condition(model, found)).get_trace(x)
    trace.compute_log_prob()
    log_likelihood = float(trace.nodes["x"]["log_prob_sum"]) + len(x) * float(model.scale.log().sum())
    assert log_likelihood == pytest.approx(float(run.log_likelihood[-1]), abs=1e-6)
    normal = BayesianMixture.guides["mean-field"](model, x)
    normal(x)
    torch.testing.assert_close(normal.median(x)["sd"], found["sd"])


def test_what_is_out_of_range_is_refused() -> None:
    rows = Rows("made", np.arange(12.0).reshape(4, 3) ** 2, ("a", "b", "c"), "real")
    for options, words in (
        ({"num_components": 0}, "num_components is 0"),
        ({"num_components": 5}, "it is at most the number of rows, 4"),
        ({"covariance": "tied"}, "it is diagonal or full"),
    ):
        with pytest.raises(InputError, match=words):
            BayesianMixture.from_data(rows, **options)
    with pytest.raises(InputError, match="mean_sd is -1"):
        MixturePriors(mean_sd=-1.0)
    with pytest.raises(InputError, match="log-normal or half-normal"):
        MixturePriors(sd="gamma")
