"""Pathfinder: closed forms of its Gaussians, exact evidence, quadrature, counts, and what it refuses."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, constraints, kl_divergence

from benchmarks.pathfinder import distance
from ppl_vae.base.errors import InputError
from ppl_vae.engine.density import Density, density
from ppl_vae.guides import Prior
from ppl_vae.inference import nuts, pathfinder
from ppl_vae.inference.samplers import path_search
from ppl_vae.inference.samplers.climb import climb
from ppl_vae.inference.samplers.inverse_hessians import InverseHessian
from ppl_vae.program.pair import Pair

DOUBLE = {"dtype": torch.float64}
QUIET = {"progress": False}
Y = torch.tensor([-0.6, 0.3, 0.1, -0.4, 0.5], **DOUBLE)


# A linear regression that nobody standardised ---------------------------------------------------------------

SCALES = torch.tensor([1e-2, 1e-1, 1.0, 1e2, 1e3], **DOUBLE)
WIDE = 30 * SCALES


def _regression(x: Tensor, y: Tensor) -> None:
    beta = pyro.sample("beta", dist.Normal(torch.zeros_like(WIDE), WIDE).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal((x * beta).sum(-1), 1.0), obs=y)


@pytest.fixture(scope="module")
def regression() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(5, 5, generator=generator, **DOUBLE)
    x = torch.randn(40, 5, generator=generator, **DOUBLE) @ mixed / SCALES
    beta = SCALES * torch.randn(5, generator=generator, **DOUBLE)
    return x, x @ beta + torch.randn(40, generator=generator, **DOUBLE)


def _exact(x: Tensor, y: Tensor) -> tuple[MultivariateNormal, float]:
    """The posterior of β, and log p(y)."""
    precision = x.T @ x + torch.diag(WIDE**-2)
    posterior = MultivariateNormal(torch.linalg.solve(precision, x.T @ y), precision_matrix=precision)
    marginal = (x * WIDE) @ (x * WIDE).T + torch.eye(len(y), **DOUBLE)
    return posterior, float(MultivariateNormal(torch.zeros_like(y), marginal).log_prob(y))


@pytest.fixture(scope="module")
def found(regression: tuple[Tensor, Tensor]) -> pathfinder.Paths:
    return pathfinder.paths(_regression, *regression, history=20, num_draws=400, **QUIET)


def test_the_elbo_is_the_exact_evidence_less_the_divergence(
    found: pathfinder.Paths, regression: tuple[Tensor, Tensor], oracles: Any
) -> None:
    posterior, evidence = _exact(*regression)
    for path in found.each:
        own = MultivariateNormal(path.normal.mean, path.normal.covariance_matrix)
        expected = evidence - float(kl_divergence(own, posterior))
        # On a quadratic the inverse Hessian becomes exact, and the ELBO's error vanishes with the divergence.
        assert abs(path.elbo - expected) < oracles.z_limit(4) * path.elbo_error + 1e-6
    own = found.best.normal
    assert evidence - found.best.elbo < 0.05
    error = (own.mean - posterior.mean) / posterior.variance.sqrt()
    assert float(error.abs().max()) < 0.1
    ratio = (own.variance / posterior.variance).sqrt()
    assert float(ratio.min()) > 0.95
    assert float(ratio.max()) < 1.05


def test_its_gaussians_are_those_of_their_dense_matrices(found: pathfinder.Paths) -> None:
    normal, draws = found.best.normal, found.best.draws
    dense = MultivariateNormal(normal.mean, normal.covariance_matrix)
    assert torch.allclose(normal.log_prob(draws), dense.log_prob(draws), rtol=1e-6, atol=1e-6)
    assert torch.allclose(normal.variance, normal.covariance_matrix.diagonal())
    root = torch.diag(normal.variance.rsqrt())
    whole = root @ normal.covariance_matrix @ normal.precision_matrix @ torch.linalg.inv(root)
    assert torch.allclose(whole, torch.eye(5, **DOUBLE), atol=1e-6)
    factor = normal.place(torch.eye(5, **DOUBLE)) - normal.mean
    assert torch.allclose(root @ factor.T @ factor @ root, root @ normal.covariance_matrix @ root)


def test_the_inverse_hessian_is_that_of_the_bfgs_recursion() -> None:
    """H ← (I − ρ s yᵀ) H (I − ρ y sᵀ) + ρ s sᵀ from the diagonal, and that, by the dense update."""
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(9, 9, generator=generator, **DOUBLE)
    curvature = root @ root.T
    learnt, pairs, diagonal = InverseHessian(9, 3, root), [], torch.ones(9, **DOUBLE)
    for _ in range(6):
        step = torch.randn(9, generator=generator, **DOUBLE)
        change = curvature @ step
        assert learnt.update(step, change)
        assert not learnt.update(step, -change)  # which no maximum is along
        pairs.append((step, change))
        scaled = torch.diag((diagonal * change) @ change / (step @ change) / diagonal)
        along = scaled @ step
        dense = (
            scaled
            - torch.outer(along, along) / (step @ along)
            + torch.outer(change, change) / (step @ change)
        )
        diagonal = 1 / dense.diagonal()
    expected = torch.diag(diagonal)
    for step, change in pairs[-3:]:
        rho = 1 / (step @ change)
        left = torch.eye(9, **DOUBLE) - rho * torch.outer(step, change)
        expected = left @ expected @ left.T + rho * torch.outer(step, step)
    slope = torch.randn(9, generator=generator, **DOUBLE)
    normal = learnt.normal(torch.ones(9, **DOUBLE), slope)
    assert torch.allclose(normal.covariance_matrix, expected)
    assert torch.allclose(normal.covariance_matrix @ pairs[-1][1], pairs[-1][0])
    assert torch.allclose(normal.mean, 1 + expected @ slope)


def test_steps_out_of_the_support_are_taken_back() -> None:
    """log(w − x) + 3 log(w + x) on (−w, w), whose mode is w/2; first steps have length 1."""
    width, places = 0.01, []

    def slope(at: Tensor) -> tuple[float, Tensor]:
        value = (width - at).log() + 3 * (width + at).log()  # NaN outside
        return float(value), 3 / (width + at) - 1 / (width - at)

    start = torch.tensor([-0.009], **DOUBLE)
    climb(slope, start, lambda at, _: places.append(float(at)), history=5, max_iterations=100)
    assert places[0] == -0.009
    assert places[-1] == pytest.approx(width / 2, rel=1e-6)


# Importance resampling -------------------------------------------------------------------------------------


def _counts(y: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(y.new_zeros(()), 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Poisson(z.exp()), obs=y)


COUNTS = torch.tensor([0.0, 2.0, 1.0], **DOUBLE)


def _quadrature() -> tuple[float, float, float]:
    """log p(y), and mean and sd of z."""
    grid = torch.linspace(-12, 8, 20_001, **DOUBLE)
    log_p = dist.Normal(0.0, 1.0).log_prob(grid) + dist.Poisson(grid.exp()[:, None]).log_prob(COUNTS).sum(1)
    log_p += math.log(float(grid[1] - grid[0]))
    weights = log_p.softmax(0)
    mean = float(weights @ grid)
    return float(log_p.logsumexp(0)), mean, float(weights @ (grid - mean) ** 2) ** 0.5


def test_resampled_draws_have_the_posteriors_moments(oracles: Any) -> None:
    _, mean, sd = _quadrature()
    drawn = pathfinder.sample(_counts, COUNTS, **QUIET)
    values, size = drawn.draws["z"].to_numpy().ravel(), float(drawn.effective_size)
    assert (drawn.method, drawn.dependence, values.size) == ("pathfinder", "independent", 1000)
    assert 200 < size <= 1000
    assert abs(values.mean() - mean) < oracles.z_limit(2) * sd / size**0.5
    fourth = ((values - mean) ** 4).mean()
    assert abs(((values - mean) ** 2).mean() - sd**2) < oracles.z_limit(2) * ((fourth - sd**4) / size) ** 0.5
    assert drawn.stats.attrs["pareto_k"] < 0.7
    assert not drawn.stats.attrs["failed"]


def test_weights_are_those_of_the_evidence(oracles: Any) -> None:
    evidence, mean, _ = _quadrature()
    drawn = pathfinder.sample(_counts, COUNTS, resample=False, num_paths=2, **QUIET)
    weights = np.exp(drawn.log_weights.to_numpy().ravel() - evidence)
    assert abs(weights.mean() - 1) < oracles.z_limit(1) * weights.std() / len(weights) ** 0.5
    same = drawn.stats["lp"] - drawn.stats["log_q"]
    assert np.allclose(drawn.log_weights, same)
    assert drawn.effective_size is None
    assert {*np.unique(drawn.stats["path"])} == {0, 1}
    assert abs(float(drawn.resampled().draws["z"].mean()) - mean) < 0.2  # it can be done later


def _two_modes(y: Tensor) -> None:
    """A mass of .8 around −4, and of .2 around 4."""
    z = pyro.sample("z", dist.ImproperUniform(constraints.real, (), ()))
    parts = [
        math.log(0.8) + dist.Normal(-4.0, 1.0).log_prob(z),
        math.log(0.2) + dist.Normal(4.0, 0.5).log_prob(z),
    ]
    pyro.factor("modes", torch.logaddexp(*parts))
    pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


def test_modes_weigh_what_they_hold_however_many_paths_came_there(oracles: Any) -> None:
    start = {"z": torch.tensor([-5.0, 3.0, 4.6, 5.0])}
    y = torch.zeros((), **DOUBLE)
    found = pathfinder.paths(_two_modes, y, start=start, **QUIET)
    assert [path.normal.mean.sign().item() for path in found.each] == [-1, 1, 1, 1]
    drawn = pathfinder.sample(_two_modes, y, start=start, **QUIET)
    below = float((drawn.draws["z"] < 0).mean())
    assert abs(below - 0.8) < oracles.z_limit(1) * (0.16 / float(drawn.effective_size)) ** 0.5


# Counts, seeds and chunks ----------------------------------------------------------------------------------


def test_evaluations_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, value = [0], Density.value

    def count(self: Density, position: Tensor) -> Tensor:
        calls[0] += 1
        return value(self, position)

    monkeypatch.setattr(Density, "value", count)
    drawn = pathfinder.sample(_counts, COUNTS, compile="off", num_draws=50, num_paths=2, **QUIET)
    told = drawn.stats.attrs
    assert calls[0] == sum(told["gradient_evaluations"]) + sum(told["density_evaluations"])
    # Ten draws of every Gaussian, and those of the chosen one.
    assert told["density_evaluations"] == [10 * steps + 50 for steps in told["iterations"]]


def test_numbers_hang_on_the_seed_and_the_path_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"num_draws": 50, **QUIET}
    first = pathfinder.paths(_counts, COUNTS, num_paths=3, seed=5, **options)
    again = pathfinder.paths(_counts, COUNTS, num_paths=3, seed=5, **options)
    assert torch.equal(first.draws, again.draws)
    assert torch.equal(first.log_p, again.log_p)
    monkeypatch.setattr(path_search, "BATCH", 7)
    fewer = pathfinder.paths(_counts, COUNTS, num_paths=2, seed=5, **options)
    assert torch.allclose(first.draws[:100], fewer.draws)
    assert torch.allclose(first.log_p[:100], fewer.log_p)
    other = pathfinder.paths(_counts, COUNTS, num_paths=2, seed=6, **options)
    assert not torch.allclose(other.draws, fewer.draws)


# Discrete latents, funnels and what is refused -------------------------------------------------------------


def _labels(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(2), 2.0).to_event(1))
    with pyro.plate("data", len(y)):
        label = pyro.sample("label", dist.Bernoulli(y.new_tensor(0.3)), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(torch.where(label > 0, mu[1], mu[0]), 1.0), obs=y)


def _summed(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(2), 2.0).to_event(1))
    share = dist.Categorical(probs=y.new_tensor([0.7, 0.3]))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.MixtureSameFamily(share, dist.Normal(mu, 1.0)), obs=y)


def test_marked_labels_are_summed_out() -> None:
    found = pathfinder.paths(_labels, Y, num_paths=1, num_draws=20, **QUIET)
    by_hand = density(Pair(_summed, Prior(_summed)), Y)
    expected = torch.stack([by_hand.value(position) for position in found.draws])
    assert torch.allclose(found.log_p, expected)


def test_labels_that_are_not_marked_are_refused() -> None:
    def model(y: Tensor) -> None:
        label = pyro.sample("label", dist.Bernoulli(0.3))
        pyro.sample("y", dist.Normal(label, 1.0), obs=y)

    with pytest.raises(InputError, match=r"needs continuous latents.* site label is discrete"):
        pathfinder.sample(model, torch.zeros(()), **QUIET)


def _slope(y: Tensor) -> None:
    z = pyro.sample("z", dist.ImproperUniform(constraints.real, (), ()))
    pyro.factor("slope", z)
    pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


def _perfect(y: Tensor) -> None:
    """A flat scale of data that fit without error: log p → ∞ as it goes to 0."""
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 1.0))
    sigma = pyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    pyro.sample("ridge", dist.Normal(mu, 1e-3), obs=y.new_zeros(()))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(torch.zeros_like(y), sigma), obs=y)


def _half(y: Tensor) -> None:
    """Proper along one latent only."""
    pyro.sample("a", dist.Normal(y.new_zeros(3), 2.0).to_event(1))
    _slope(y)


@pytest.mark.parametrize("model", [_slope, _half])
def test_an_improper_posterior_is_refused(model: Any) -> None:
    with pytest.raises(InputError, match="no path came to a point with finite ELBO: paths 0, 1"):
        pathfinder.sample(model, torch.zeros((), **DOUBLE), num_paths=2, num_draws=20, **QUIET)


def test_one_whose_elbo_falls_before_it_rises_is_told_by_its_weights() -> None:
    drawn = pathfinder.sample(_perfect, torch.zeros(4, **DOUBLE), **QUIET)
    assert drawn.stats.attrs["pareto_k"] > 0.7


def test_options_out_of_range_are_refused() -> None:
    for option, value in (("num_paths", 0), ("history", 0), ("draws_per_elbo", 1), ("compile", "perhaps")):
        with pytest.raises(InputError):
            pathfinder.sample(_counts, COUNTS, **{option: value}, **QUIET)


def _funnel(y: Tensor) -> None:
    """Neal's."""
    v = pyro.sample("v", dist.Normal(y.new_zeros(()), 3.0))
    pyro.sample("x", dist.Normal(y.new_zeros(9), (v / 2).exp()).to_event(1))
    pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


def test_a_funnel_is_told_by_its_weights() -> None:
    drawn = pathfinder.sample(_funnel, torch.zeros((), **DOUBLE), **QUIET)
    assert drawn.stats.attrs["pareto_k"] > 0.7
    assert float(drawn.effective_size) < 500


# Starts of chains ------------------------------------------------------------------------------------------


def test_chains_start_at_draws_of_their_own(
    found: pathfinder.Paths, regression: tuple[Tensor, Tensor]
) -> None:
    posterior, _ = _exact(*regression)
    starts = found.starts(50, seed=0)
    assert len(torch.unique(starts, dim=0)) == 50
    away = (starts - posterior.mean) / posterior.variance.sqrt()
    assert float(away.abs().max()) < 6
    short = {"num_draws": 4, "warmup": 1, "max_tree_depth": 1, "chains": 3, **QUIET}
    drawn = nuts.sample(_regression, *regression, start="pathfinder", **short)
    at = (drawn.draws["beta"][:, 0].to_numpy() - posterior.mean.numpy()) / posterior.variance.sqrt().numpy()
    assert np.abs(at).max() < 8  # from [−2, 2] it is hundreds of sds away
    with pytest.raises(InputError, match="start='prior' is not known"):
        nuts.sample(_regression, *regression, start="prior", **short)  # type: ignore[arg-type]


def test_the_studys_distance_is_a_shift_in_sds() -> None:
    """Of two parameters: one of sd 2 moved by 3, one left; whatever the draws' order."""
    draws = np.random.default_rng(0).normal(size=(2, 500))
    theirs = {"a": 2 * draws / draws.std(), "b": draws}
    ours = {"a": theirs["a"][:, ::-1] + 3, "b": draws}
    assert distance(ours, theirs) == pytest.approx((3 / 2 + 0) / 2)
