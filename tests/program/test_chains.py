"""Chains of Gaussian states against dense matrices, a filter written out by hand, and a Gaussian process."""

import math
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch import Tensor
from torch.distributions import biject_to

from ppl_vae.base.errors import InputError
from ppl_vae.engine.density import density
from ppl_vae.engine.graph import trace
from ppl_vae.inference import elbo, importance, natural, nuts
from ppl_vae.program.chain_prior import ChainPrior
from ppl_vae.program.chains import Chains
from ppl_vae.program.pair import Pair

FEW, MANY = (3, 2, 1, 1), (12, 12, 10, 3, 1)  # chains' lengths: by rounds, and by doubling


def _chains(lengths: Sequence[int] = FEW, seed: int = 0, walk: bool = False) -> Chains:
    sizes = [sum(length > r for length in lengths) for r in range(max(lengths))]
    generator = torch.Generator().manual_seed(seed)
    count = sum(sizes)
    mean = torch.randn(count, generator=generator, dtype=torch.float64)
    variance = 0.2 + torch.rand(count, generator=generator, dtype=torch.float64)
    transition = torch.ones(count, dtype=torch.float64)
    if not walk:
        transition = 1.5 * torch.rand(count, generator=generator, dtype=torch.float64) - 0.3
    return Chains(mean, variance, transition, (0, *np.cumsum(sizes).tolist()))


def _factor(chains: Chains) -> Tensor:
    """B with B (x − μ) = innovations, from the definition row by row."""
    matrix = torch.eye(chains.num_states, dtype=torch.float64)
    for r in range(1, len(chains.rounds) - 1):
        for row in range(chains.rounds[r], chains.rounds[r + 1]):
            before = chains.rounds[r - 1] + row - chains.rounds[r]
            matrix[row, before] = -chains.transition[row]
    return matrix


def _precision(chains: Chains) -> Tensor:
    matrix = _factor(chains)
    return matrix.T @ torch.diag(1 / chains.variance) @ matrix


def _sites(chains: Chains) -> Tensor:
    found = torch.rand(chains.num_states, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return torch.where(found < 0.3, 0.0, 3 * found)


every_length = pytest.mark.parametrize("lengths", [(1, 1, 1), FEW, MANY])


@every_length
def test_density_and_draws_are_those_of_the_dense_normal(lengths: Sequence[int]) -> None:
    chains = _chains(lengths)
    prior = ChainPrior(chains)
    dense = torch.distributions.MultivariateNormal(chains.mean, precision_matrix=_precision(chains))
    at = torch.randn(4, 2, chains.num_states, dtype=torch.float64)
    torch.testing.assert_close(prior.log_prob(at), dense.log_prob(at))
    torch.testing.assert_close(prior.variance, dense.variance)
    torch.testing.assert_close(chains.precision_times(at), at @ _precision(chains))
    noise = chains.whiten(at)
    torch.testing.assert_close(noise, (at - chains.mean) @ _factor(chains).T / chains.variance.sqrt())
    torch.testing.assert_close(chains.unwhiten(noise), at)
    assert prior.expand(torch.Size([4, 1])).rsample().shape == (4, 1, chains.num_states)


@every_length
def test_the_support_is_unconstrained_by_whitening(lengths: Sequence[int]) -> None:
    chains = _chains(lengths)
    transform = biject_to(ChainPrior(chains).support)
    noise = torch.randn(chains.num_states, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(transform, noise)
    volume = transform.log_abs_det_jacobian(noise, transform(noise))
    torch.testing.assert_close(volume, torch.linalg.slogdet(jacobian)[1])
    torch.testing.assert_close(transform.inv(transform(noise)), noise)
    # The prior is then standard normal.
    standard = dist.Normal(0.0, 1.0).log_prob(noise).sum()
    torch.testing.assert_close(ChainPrior(chains).log_prob(transform(noise)) + volume, standard)


@every_length
def test_smoother_is_the_dense_posterior(lengths: Sequence[int]) -> None:
    chains = _chains(lengths)
    sites = _sites(chains)
    smoother = chains.smoother(sites)
    precision = _precision(chains) + torch.diag(sites)
    covariance = torch.linalg.inv(precision)
    torch.testing.assert_close(smoother.variance, covariance.diagonal())
    rows = torch.arange(chains.num_chains, chains.num_states)
    torch.testing.assert_close(smoother.lag_covariance, covariance[rows, chains.previous])
    volume = torch.linalg.slogdet(precision)[1] - torch.linalg.slogdet(_precision(chains))[1]
    torch.testing.assert_close(smoother.log_det, volume)
    right = torch.randn(3, chains.num_states, dtype=torch.float64)
    torch.testing.assert_close(smoother.solve(right), right @ covariance)
    torch.testing.assert_close(smoother.solve(right[0]), right[0] @ covariance)
    dense = torch.distributions.MultivariateNormal(torch.zeros_like(sites), precision_matrix=precision)
    torch.testing.assert_close(smoother.log_prob(right), dense.log_prob(right))
    # What makes draws of noise is a root of the covariance.
    root = smoother.sample(torch.eye(chains.num_states, dtype=torch.float64))
    torch.testing.assert_close(root.T @ root, covariance)


def test_filter_and_smoother_of_a_random_walk_written_out_by_hand() -> None:
    start, drift, noise = 2.0, 0.3, 0.7
    observed = [0.4, -1.0, 2.2, 0.1]
    predicted, filtered = [], []
    mean, variance = 0.0, start
    for step, y in enumerate(observed):  # Kalman (1960)
        variance += drift if step else 0.0
        predicted.append((mean, variance))
        gain = variance / (variance + noise)
        mean, variance = mean + gain * (y - mean), (1 - gain) * variance
        filtered.append((mean, variance))
    smoothed = [filtered[-1]]
    for (m, v), (ahead, spread) in zip(filtered[-2::-1], predicted[:0:-1], strict=True):  # RTS (1965)
        gain = v / spread
        smoothed.insert(0, (m + gain * (smoothed[0][0] - ahead), v + gain**2 * (smoothed[0][1] - spread)))
    ones = torch.ones(4, dtype=torch.float64)
    variances = torch.tensor([start, drift, drift, drift], dtype=torch.float64)
    smoother = Chains(0 * ones, variances, ones, (0, 1, 2, 3, 4)).smoother(ones / noise)
    means = smoother.solve(torch.tensor(observed, dtype=torch.float64) / noise)
    assert torch.allclose(means, means.new_tensor([m for m, _ in smoothed]), rtol=1e-12)
    assert torch.allclose(smoother.variance, means.new_tensor([v for _, v in smoothed]), rtol=1e-12)


def test_an_ornstein_uhlenbeck_chain_is_its_gaussian_process() -> None:
    times = torch.tensor([0.0, 0.3, 1.1, 1.2, 4.0], dtype=torch.float64)
    rate, stationary = 0.8, 1.7
    phi = torch.cat([torch.zeros(1), torch.exp(-rate * times.diff())]).double()
    chains = Chains(torch.zeros(5).double(), stationary * (1 - phi**2), phi, (0, 1, 2, 3, 4, 5))
    kernel = stationary * torch.exp(-rate * (times[:, None] - times).abs())
    torch.testing.assert_close(torch.linalg.inv(_precision(chains)), kernel)
    y, noise = torch.tensor([0.5, 1.0, -0.2, 0.3, 2.0], dtype=torch.float64), 0.4
    smoother = chains.smoother(torch.full_like(y, 1 / noise))
    covariance = kernel + noise * torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(smoother.solve(y / noise), kernel @ torch.linalg.solve(covariance, y))
    evidence = torch.distributions.MultivariateNormal(torch.zeros(5).double(), covariance).log_prob(y)
    # Completing the square: −½ [y² / noise − m·b + log |P + X| − log |P| + N log 2π noise].
    found = (y**2 / noise).sum() - smoother.solve(y / noise) @ y / noise + smoother.log_det
    torch.testing.assert_close(-0.5 * (found + 5 * math.log(2 * math.pi * noise)), evidence)


@every_length
def test_gradients_are_those_of_finite_differences(lengths: Sequence[int]) -> None:
    chains = _chains(lengths)
    parts = [part.clone().requires_grad_() for part in (chains.mean, chains.variance, chains.transition)]
    sites = _sites(chains).requires_grad_()
    noise = torch.linspace(-1, 1, chains.num_states, dtype=torch.float64)

    def everything(mean: Tensor, variance: Tensor, transition: Tensor, precision: Tensor) -> Tensor:
        own = Chains(mean, variance, transition, chains.rounds)
        seen = own.smoother(precision)
        return torch.stack(
            [
                own.log_prob(noise), own.unwhiten(noise).square().sum(), seen.variance.log().sum(),
                seen.solve(noise).square().sum(), seen.sample(noise).sin().sum(), seen.log_prob(noise),
                own.expected_log_prob(noise, noise**2, noise[own.num_chains :]),
            ]
        )  # fmt: skip

    assert torch.autograd.gradcheck(everything, (*parts, sites), atol=1e-6)
    own, other = (chains.smoother(sites.detach(), plain=plain) for plain in (False, True))
    for first, second in (
        (own.variance, other.variance), (own.log_det, other.log_det), (own.solve(noise), other.solve(noise)),
        (own.sample(noise.expand(2, -1)), other.sample(noise.expand(2, -1))),
    ):  # fmt: skip
        torch.testing.assert_close(second, first, rtol=1e-12, atol=1e-12)


@every_length
def test_the_expected_log_density_is_the_dense_one(lengths: Sequence[int]) -> None:
    chains, other = _chains(lengths), _chains(lengths, seed=1).smoother(_sites(_chains(lengths)))
    mean = torch.linspace(-1, 1, chains.num_states, dtype=torch.float64)
    found = chains.expected_log_prob(mean, other.variance, other.lag_covariance)
    covariance = torch.linalg.inv(_precision(other.chains) + torch.diag(other.site_precision))
    trace = (_precision(chains) @ covariance).trace()
    torch.testing.assert_close(found, chains.log_prob(mean) - 0.5 * trace)


@pytest.mark.parametrize("rounds", [(0, 2, 5), (1, 3), (0, 3, 3), (0,), ()])
def test_rounds_that_cannot_be_are_refused(rounds: tuple[int, ...]) -> None:
    some = torch.ones(rounds[-1] if rounds else 0)
    with pytest.raises(InputError, match="offsets begin at 0 and rounds do not grow"):
        Chains(some, some, some, rounds)


def test_tensors_of_other_lengths_are_refused() -> None:
    with pytest.raises(InputError, match=r"chains of 3 states need as many means, variances and transitions"):
        Chains(torch.zeros(3), torch.ones(2), torch.ones(3), (0, 2, 3))


def _walk(lengths: Sequence[int]) -> tuple[Pair, Chains]:
    """Every state is measured with sd ½."""
    chains = _chains(lengths, walk=True)

    def model(y: Tensor) -> None:
        state = pyro.sample("skill", ChainPrior(chains))
        with pyro.plate("data", len(y)) as i:
            pyro.sample("y", dist.Normal(state[..., i], 0.5), obs=y[i])

    return Pair(model, AutoMultivariateNormal(model)), chains


def test_nuts_takes_a_chain_prior(oracles: ModuleType) -> None:
    y = torch.linspace(-1, 2, sum(FEW), dtype=torch.float64)
    pair, chains = _walk(FEW)
    smoother = chains.smoother(torch.full_like(y, 4.0))
    mean = chains.mean + smoother.solve(4 * (y - chains.mean))
    drawn = nuts.sample(pair, y, num_draws=200, warmup=100, chains=2, seed=3, progress=False)
    draws = drawn.draws["skill"].to_numpy().reshape(-1, len(y))
    # Of 400 draws NUTS has about as many that count; half as many are assumed.
    error = (smoother.variance / 200).sqrt()
    assert torch.all((torch.from_numpy(draws.mean(0)) - mean).abs() < oracles.z_limit(len(y)) * error)


@pytest.mark.parametrize("lengths", [FEW, (11, 1)])
def test_gaussian_guides_take_a_chain_prior(lengths: Sequence[int]) -> None:
    y = torch.linspace(-1, 2, sum(lengths), dtype=torch.float64)
    pair, chains = _walk(lengths)
    covariance = torch.linalg.inv(_precision(chains)) + 0.25 * torch.eye(len(y), dtype=torch.float64)
    evidence = float(torch.distributions.MultivariateNormal(chains.mean, covariance).log_prob(y))
    # A full covariance holds the posterior: every weight is p(y). Independent innovations do not.
    natural.fit(pair, y, progress=False)
    weights = importance.log_evidence(pair, y, num_samples=50, compile=False, progress=False)
    assert weights.total == pytest.approx(evidence, abs=1e-6)
    bound = elbo(Pair(pair.model, AutoNormal(pair.model)), y, num_particles=50, seed=1)
    assert bound.value < evidence


@pytest.mark.parametrize("lengths", [FEW, (11, 1)])
def test_the_density_is_traced(lengths: Sequence[int]) -> None:
    y = torch.linspace(-1, 2, sum(lengths), dtype=torch.float64)
    pair, chains = _walk(lengths)
    target = density(pair.initialise(y), y)
    position = torch.randn(target.dim, dtype=torch.float64)
    value, slope = target.value_and_gradient(position)
    with pyro.validation_enabled(False):
        graph = trace(target.value_and_gradient, position)
    for at in (position, 2 * position):
        for found, plain in zip(graph(at), target.value_and_gradient(at), strict=True):
            torch.testing.assert_close(found, plain)
    state = target.constrain(position)["skill"]
    by_hand = dist.Normal(0.0, 1.0).log_prob(position).sum() + dist.Normal(state, 0.5).log_prob(y).sum()
    torch.testing.assert_close(value, by_hand)
    torch.testing.assert_close(target.unconstrained({"skill": state}), position)
    assert slope.shape == position.shape
    torch.testing.assert_close(chains.unwhiten(position), state)
