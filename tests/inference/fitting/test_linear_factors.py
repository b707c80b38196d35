"""Natural gradients for chains and sparse predictors, against dense algebra and an optimiser of no part."""

import copy
import dataclasses
import math

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from scipy import integrate
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.guides.chain_normal import ChainNormal
from ppl_vae.guides.joint_normal import JointNormal
from ppl_vae.inference import elbo, natural
from ppl_vae.inference.fitting.factors import learning as factor_learning
from ppl_vae.inference.fitting.factors import quadrature
from ppl_vae.inference.fitting.factors.ascent import Bound
from ppl_vae.inference.fitting.factors.expectations import hermite_rule
from ppl_vae.inference.fitting.factors.families import InnovationFamily
from ppl_vae.program.chains import Chains
from ppl_vae.program.factors import LinearFactors
from ppl_vae.program.pair import Pair
from tests.ladder import GAPS, GUIDES, Ladder, dense_prior, dense_rows, fitted, games, player_of

STATIC = [[0.0]] * 5


def _moments(pair: Pair, data: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Mean and covariance of what the guide draws, from the guide's own log density at the latent site."""
    with pair.scope(), torch.no_grad():
        trace = poutine.trace(pair.guide).get_trace(*data)
    fn = trace.nodes["skill"]["fn"]
    if hasattr(fn, "loc"):
        size = len(fn.loc)
        hessian = torch.autograd.functional.hessian(lambda x: -fn.log_prob(x), fn.loc.detach())
        return fn.loc.detach(), torch.linalg.inv(hessian.reshape(size, size))
    # AutoGuides keep the coordinates of the chains that they first met.
    chains = pair.guide.prototype_trace.nodes["skill"]["fn"].support.chains  # type: ignore[attr-defined]
    if isinstance(pair.guide, AutoNormal):
        scale = pair.guide.scales.skill.detach()
        root = (chains.unwhiten(scale.diag()) - chains.mean).T
        return chains.unwhiten(pair.guide.locs.skill.detach()), root @ root.T
    loc, root = pair.guide.loc.detach(), (pair.guide.scale.unsqueeze(-1) * pair.guide.scale_tril).detach()  # type: ignore[attr-defined]
    unwhitened = (chains.unwhiten(root.T) - chains.mean).T.detach()
    return chains.unwhiten(loc).detach(), unwhitened @ unwhitened.T


def _dense_elbo(model: Ladder, data: tuple[Tensor, ...], mean: Tensor, covariance: Tensor) -> Tensor:
    """From the definition: trapezoidal rule for every game, and the KL of two dense normals."""
    outcome, states, weight = data
    matrix = dense_rows(model, states, weight)
    nodes = torch.linspace(-9, 9, 801, dtype=torch.float64)
    weights = torch.exp(-0.5 * nodes**2)
    sd = ((matrix @ covariance) * matrix).sum(1).sqrt()
    at = matrix @ mean + nodes[:, None] * sd
    likelihood = (weights / weights.sum()) @ model.log_likelihood(at, outcome)
    normal = torch.distributions.MultivariateNormal
    own = normal(mean, covariance)
    prior_mean, prior = dense_prior(model)
    return likelihood.sum() - torch.distributions.kl_divergence(
        own, normal(prior_mean.detach(), prior.detach())
    )


def _brute_force(model: Ladder, data: tuple[Tensor, ...], guide: str) -> tuple[float, Tensor, Tensor]:
    """The best Gaussian by L-BFGS over a mean and a dense root, block by block where chains are apart; of
    independent innovations the root is the prior's, its columns scaled."""
    mean, covariance = (part.detach() for part in dense_prior(model))
    player, prior = player_of(model), torch.linalg.cholesky(covariance)
    mask = (player == player[:, None]).double() if guide == "markov" else torch.ones_like(covariance)
    scaled = guide == "mean-field"
    root = torch.ones(len(prior)).double() if scaled else prior.reshape(-1).clone()
    leaves = [mean.clone().requires_grad_(), root.requires_grad_()]
    search = torch.optim.LBFGS(
        leaves, max_iter=600, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def root_of(leaf: Tensor) -> Tensor:
        return prior * leaf if scaled else leaf.reshape(mask.shape).tril() * mask

    def loss() -> Tensor:
        search.zero_grad()
        root = root_of(leaves[1])
        value = -_dense_elbo(model, data, leaves[0], root @ root.T)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    search.step(loss)
    root = root_of(leaves[1]).detach()
    return -float(loss().detach()), leaves[0].detach(), root @ root.T


def test_the_ability_describes_the_program() -> None:
    for link in ("score", "logistic"):
        model = Ladder(GAPS, link=link)
        data = games(model, 30, teams=2)
        assert isinstance(model, LinearFactors)
        site, chains = model.normal_prior()
        state = chains.unwhiten(torch.randn(chains.num_states, dtype=torch.float64))
        trace = poutine.trace(poutine.condition(model, {site: state})).get_trace(*data)
        design = model.rows(*data)
        predictor = torch.from_numpy(design.csr(chains.num_states) @ state.detach().numpy())
        torch.testing.assert_close(predictor, dense_rows(model, *data[1:]) @ state.detach())
        by_parts = chains.log_prob(state) + model.log_likelihood(predictor, *design.observed).sum()
        torch.testing.assert_close(by_parts, trace.log_prob_sum())


@pytest.mark.parametrize("teams", [1, 2])
@pytest.mark.parametrize("guide", GUIDES)
def test_the_optimum_is_that_of_a_dense_optimiser(guide: str, teams: int) -> None:
    model = Ladder(GAPS, link="logistic")
    data = games(model, 25, teams=teams)
    pair, found = fitted(model, guide, data)
    best, mean, covariance = _brute_force(model, data, guide)
    # L-BFGS stops with gradients of 1e-6 or so: moments to 1e-3, the ELBO to their square.
    assert found.converged, found.reason
    assert found.final.value == pytest.approx(best, abs=1e-6)
    assert found.final.value > best - 1e-9
    loc, spread = _moments(pair, data)
    assert torch.allclose(loc, mean, rtol=0, atol=1e-3)
    assert torch.allclose(spread, covariance, rtol=0, atol=1e-3)
    own = float(_dense_elbo(model, data, loc, spread).detach())
    assert own == pytest.approx(found.final.value, abs=1e-8)


@pytest.mark.parametrize("guide", GUIDES)
def test_every_iteration_raises_the_elbo_by_draws_as_well(guide: str) -> None:
    model = Ladder(GAPS, link="logistic")
    data = games(model, 40)
    pair, found = fitted(model, guide, data)
    assert np.all(np.diff(found.elbo) >= 0)
    drawn = elbo(pair, *data, num_particles=500, seed=1)
    assert abs(drawn.value - found.final.value) < 4.5 * drawn.std_error
    again = natural.quadrature_elbo(pair, *data)
    assert again.value == pytest.approx(found.final.value, abs=1e-9)


@pytest.mark.parametrize("guide", ["joint", "full-rank"])
def test_of_normal_scores_the_posterior_and_the_evidence_are_exact(guide: str) -> None:
    model = Ladder(GAPS)
    data = games(model, 30, teams=2)
    pair, found = fitted(model, guide, data)
    mean, prior = (part.detach() for part in dense_prior(model))
    matrix, noise = dense_rows(model, *data[1:]), float(model.noise.detach()) ** 2
    seen = matrix @ prior @ matrix.T + noise * torch.eye(30, dtype=torch.float64)
    evidence = torch.distributions.MultivariateNormal(matrix @ mean, seen).log_prob(data[0])
    assert found.final.value == pytest.approx(float(evidence), abs=1e-8)
    gain = torch.linalg.solve(seen, matrix @ prior).T
    loc, spread = _moments(pair, data)
    torch.testing.assert_close(loc, mean + gain @ (data[0] - matrix @ mean), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(spread, prior - gain @ matrix @ prior, rtol=1e-6, atol=1e-6)


def test_of_states_seen_one_by_one_the_chain_guide_is_the_exact_smoother() -> None:
    model = Ladder(GAPS)
    data = games(model, 30, alone=True)
    pair, found = fitted(model, "markov", data)
    mean, prior = (part.detach() for part in dense_prior(model))
    matrix, noise = dense_rows(model, *data[1:]), float(model.noise.detach()) ** 2
    seen = matrix @ prior @ matrix.T + noise * torch.eye(30, dtype=torch.float64)
    evidence = torch.distributions.MultivariateNormal(matrix @ mean, seen).log_prob(data[0])
    assert found.final.value == pytest.approx(float(evidence), abs=1e-8)
    precision = torch.linalg.inv(prior) + matrix.T @ matrix / noise
    _, spread = _moments(pair, data)
    torch.testing.assert_close(spread, torch.linalg.inv(precision), rtol=1e-6, atol=1e-6)
    # Where chains meet, the bound is less than the evidence.
    met = games(model, 30)
    _, found = fitted(model, "markov", met)
    matrix = dense_rows(model, *met[1:])
    seen = matrix @ prior @ matrix.T + noise * torch.eye(30, dtype=torch.float64)
    evidence = torch.distributions.MultivariateNormal(matrix @ mean, seen).log_prob(met[0])
    assert found.final.value < float(evidence) - 1e-3


def test_no_drift_is_the_static_fit_and_much_drift_is_separate_players() -> None:
    dated = Ladder(GAPS, drift=1e-5, link="logistic")
    data = games(dated, 40)
    player = player_of(dated)
    static = Ladder([[0.0]] * len(GAPS), link="logistic")
    merged = (data[0], player[data[1]], data[2])
    (slow, still), (whole, fixed) = (fitted(m, "markov", d) for m, d in ((dated, data), (static, merged)))
    # The walk's variance adds γ² times three units of time, of a prior variance of 1.44.
    assert still.final.value == pytest.approx(fixed.final.value, abs=1e-6)
    torch.testing.assert_close(_moments(slow, data)[0], _moments(whole, merged)[0][player], atol=1e-5, rtol=0)
    # Separate players: every state by itself, with a prior as wide as the drift.
    wide = Ladder([[0.0, 1.0]] * 3, drift=1e4, sd=1e4, link="logistic")
    own = Ladder([[0.0]] * 6, sd=1e4, link="logistic")
    data = games(wide, 40)
    (far, _), (apart, _) = (fitted(model, "markov", data) for model in (wide, own))
    (first, spread), (second, other) = (_moments(pair, data) for pair in (far, apart))
    # The games say nothing of the mean of all; of the others, the prior has 1e-8 of what they say.
    torch.testing.assert_close(first - first.mean(), second - second.mean(), atol=1e-4, rtol=0)
    torch.testing.assert_close(spread.diagonal(), other.diagonal(), atol=0, rtol=1e-4)


def test_mean_field_of_one_round_is_the_chain_guide_of_one_round() -> None:
    model = Ladder(STATIC, link="logistic")
    data = games(model, 40)
    _, chains = fitted(model, "markov", data)
    pair = Pair(model, AutoNormal(model))
    found = natural.fit(pair, *data, tolerance=1e-9, num_nodes=32, progress=False)
    assert found.final.value == pytest.approx(chains.final.value, abs=1e-8)


def test_of_normal_scores_independent_innovations_have_the_posteriors_own_precisions() -> None:
    model = Ladder(GAPS)
    data = games(model, 30, teams=2)
    pair, _ = fitted(model, "mean-field", data)
    mean, prior = (part.detach() for part in dense_prior(model))
    matrix, root = dense_rows(model, *data[1:]), torch.linalg.cholesky(prior)
    told = matrix.T @ matrix / float(model.noise.detach()) ** 2
    precision = torch.eye(len(mean)).double() + root.T @ told @ root
    scale, loc = pair.guide.scales.skill.detach(), pair.guide.locs.skill.detach()  # type: ignore[attr-defined]
    torch.testing.assert_close(scale**-2, precision.diagonal(), rtol=1e-8, atol=0)
    pull = root.T @ matrix.T @ (data[0] - matrix @ mean) / float(model.noise.detach()) ** 2
    torch.testing.assert_close(loc, torch.linalg.solve(precision, pull), rtol=1e-5, atol=1e-5)


def test_a_prior_that_moved_since_the_guide_was_made_is_met_in_the_guides_coordinates() -> None:
    generator = torch.Generator().manual_seed(0)
    model = Ladder(GAPS, link="logistic")
    data = games(model, 30)
    pair, _ = fitted(model, "mean-field", data)
    _, access, factors = quadrature.read(pair, *data)
    own = access.family(factors).own  # type: ignore[attr-defined]
    phi = torch.rand(own.num_states, generator=generator).double() * (own.transition != 0)
    moved = Chains(own.mean + 0.3, own.variance * (1 + phi), phi, own.rounds)
    family = InnovationFamily(dataclasses.replace(factors, chains=moved), own)
    root = (own.unwhiten(torch.eye(own.num_states).double()) - own.mean).T
    precision = moved.dense_precision()
    torch.testing.assert_close(family.prior, (root.T @ precision @ root).diagonal())
    spread = family.spread(torch.rand(own.num_states, generator=generator).double())
    assert spread is not None
    covariance = root @ spread.innovation.diag() @ root.T
    torch.testing.assert_close(spread.variance, covariance.diagonal())
    rows = torch.arange(own.num_chains, own.num_states)
    torch.testing.assert_close(spread.lag_covariance, covariance[rows, own.previous])
    torch.testing.assert_close(spread.log_det, -torch.logdet(covariance) - torch.logdet(precision))


@pytest.mark.parametrize("guide", GUIDES)
def test_what_was_learnt_moves_no_guide_away_from_its_optimum(guide: str) -> None:
    model = Ladder(GAPS, link="logistic")
    data = games(model, 60)
    pair = Pair(model, GUIDES[guide](model))
    found = natural.fit(pair, *data, train="both", progress=False)
    assert abs(float(model.sd.detach()) - 1.2) > 1e-3
    drawn = elbo(pair, *data, num_particles=200, seed=1)
    assert abs(drawn.value - found.final.value) < 4.5 * drawn.std_error + 1e-5


def test_the_bound_is_below_the_evidence_of_two_players_by_quadrature() -> None:
    model = Ladder([[0.0]] * 2, link="logistic")
    outcome = torch.tensor([1.0, 1, 0, 1], dtype=torch.float64)
    states = torch.tensor([[0, 1]] * 4)
    data = (outcome, states, torch.tensor([[1.0, -1.0]] * 4, dtype=torch.float64))
    sd, noise = 2**0.5 * float(model.sd.detach()), float(model.noise.detach())

    def joint(d: float) -> float:
        win = 1 / (1 + math.exp(-d / noise))
        return math.exp(-0.5 * (d / sd) ** 2) / (sd * math.sqrt(2 * math.pi)) * win**3 * (1 - win)

    evidence = math.log(integrate.quad(joint, -20, 20, epsabs=1e-13)[0])
    bounds = [fitted(model, guide, data)[1].final.value for guide in GUIDES]
    assert all(bound < evidence for bound in bounds)
    by_name = dict(zip(GUIDES, bounds, strict=True))
    assert by_name["markov"] < by_name["joint"] == pytest.approx(by_name["full-rank"], abs=1e-8)


def test_equal_rows_and_counts_are_the_same() -> None:
    model = Ladder(STATIC, link="logistic")
    data = games(model, 30)
    repeated = tuple(torch.cat([part, part, part[:10]]) for part in data)
    pair, found = fitted(model, "markov", repeated)
    loc, spread = _moments(pair, repeated)
    assert found.final.value == pytest.approx(
        float(_dense_elbo(model, repeated, loc, spread).detach()), abs=1e-8
    )
    assert quadrature.read(pair, *repeated)[2].size <= 30


def test_parameters_learnt_by_the_elbo_are_those_of_greatest_evidence() -> None:
    """Of normal scores the joint guide's ELBO is log p(x), whose maximum a plain optimiser finds as well."""
    model = Ladder([[0.0, 1.0, 0.5]] * 4)
    noise, states, weight = games(model, 120)
    matrix = dense_rows(model, states, weight)
    truth = Ladder([[0.0, 1.0, 0.5]] * 4, drift=0.9).normal_prior()[1]
    state = truth.unwhiten(torch.randn(12, generator=torch.Generator().manual_seed(1)).double()).detach()
    data = (matrix @ state + 0.5 * noise, states, weight)
    own = copy.deepcopy(model)

    def evidence(each: Ladder) -> Tensor:
        mean, prior = dense_prior(each)
        seen = matrix @ prior @ matrix.T + each.noise**2 * torch.eye(120, dtype=torch.float64)
        return torch.distributions.MultivariateNormal(matrix @ mean, seen).log_prob(data[0])

    leaves = list(own.parameters())
    search = torch.optim.LBFGS(leaves, max_iter=100, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        value = -evidence(own)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    search.step(loss)
    pair = Pair(model, JointNormal(model))
    found = natural.fit(pair, *data, tolerance=1e-6, train="both", progress=False)
    assert found.final.value == pytest.approx(float(evidence(own).detach()), abs=1e-4)
    assert found.converged, found.reason
    assert np.all(np.diff(found.elbo) >= 0)
    for name in ("drift", "sd", "noise"):
        # An ELBO within 1e-4 of its maximum leaves parameters within √(2e-4 / curvature), and 120 games have
        # a curvature of ten and more in the logarithms.
        assert getattr(model, name).item() == pytest.approx(getattr(own, name).item(), rel=0.02), name
    before = Ladder([[0.0, 1.0, 0.5]] * 4)
    held = Pair(before, JointNormal(before))
    natural.fit(held, *data, progress=False)
    assert before.drift.item() == pytest.approx(0.4)


@pytest.mark.parametrize("guide", ["markov", "joint", "mean-field"])
def test_the_envelope_gradient_is_that_of_refits(guide: str) -> None:
    model = Ladder(GAPS, link="logistic")
    data = games(model, 30)
    pair, _ = fitted(model, guide, data)
    linear, access, factors = quadrature.read(pair, *data)
    bound = Bound(access.family(factors), hermite_rule(32))
    state = bound.begin(*access.read(factors))
    leaves = list(model.parameters())
    slopes = factor_learning.envelope_gradient(linear, bound, state, leaves)
    for leaf, slope in zip(leaves, slopes, strict=True):
        ends = []
        for step in (1e-3, -1e-3):
            with torch.no_grad():
                leaf += step
            ends.append(fitted(model, guide, data)[1].final.value)
            with torch.no_grad():
                leaf -= step
        assert float(slope) == pytest.approx((ends[0] - ends[1]) / 2e-3, abs=1e-4)


def test_draws_of_the_guides_are_what_they_say() -> None:
    model = Ladder(GAPS, link="logistic")
    data = games(model, 40)
    for guide in ("markov", "joint"):
        pair, _ = fitted(model, guide, data)
        loc, spread = _moments(pair, data)
        with pair.scope(), torch.no_grad(), pyro.plate("draws", 20_000):
            torch.manual_seed(0)
            drawn = pair.guide(*data)
        assert drawn.shape == (20_000, len(loc))
        error = spread.diagonal().sqrt() / 20_000**0.5
        assert ((drawn.mean(0) - loc).abs() < 4.5 * error).all()
        # Of a sample covariance: √((s_ii s_jj + s_ij²) / n).
        limit = ((spread.diagonal()[:, None] * spread.diagonal() + spread**2) / 20_000).sqrt()
        assert ((drawn.T.cov() - spread).abs() < 4.5 * limit).all()


def test_what_a_family_cannot_hold_is_refused_in_one_sentence() -> None:
    model = Ladder([[0.0, 1.0], [0.0]])
    outcome = torch.zeros(1, dtype=torch.float64)
    twice = (outcome, torch.tensor([[0, 2]]), torch.ones(1, 2, dtype=torch.float64))
    with pytest.raises(
        InputError, match="datum 0 reads the states 0, 2, of which two are one or of the same"
    ):
        natural.fit(Pair(model, ChainNormal(model)), *twice)
    found = natural.fit(Pair(model, JointNormal(model)), *twice, progress=False)
    assert found.converged
    pair = Pair(model, JointNormal(model)).initialise(*twice)
    more = (torch.zeros(2).double(), torch.tensor([[0, 2], [0, 1]]), torch.ones(2, 2).double())
    with pytest.raises(InputError, match="was made for 1 distinct rows of data, and these have 2"):
        natural.fit(pair, *more)
    other = (outcome, torch.tensor([[0, 1]]), torch.ones(1, 2).double())
    with pytest.raises(InputError, match="made for rows of data that read other states"):
        natural.fit(pair, *other)
    with pytest.raises(InputError, match="this program is no model of Gaussian chains"):
        ChainNormal(lambda: None)
