"""Places of many sides: against enumeration, fine grids, SciPy's orthants and published figures."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, special, stats
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.engine.graph import trace
from ppl_vae.models.skills.links import duel_log_prob
from ppl_vae.models.skills.orders import isotonic_means, log_orders, num_panels, order_moments
from ppl_vae.models.skills.ranking import Ranking, truncated_moments

NAN = math.nan


def _double(values: object) -> Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float64)


def _drawn(sides: int, spread: float, games: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Locations and scales of some games."""
    generator = np.random.default_rng(seed + 100 * sides)
    shape = (games, sides)
    return _double(generator.normal(0, spread, shape)), _double(generator.uniform(0.8, 1.3, shape))


def _strict(sides: int) -> Tensor:
    """Places of every order, shape (K!, K)."""
    return _double(list(itertools.permutations(range(sides))))


def _weak(sides: int) -> Tensor:
    """Places of every order with ties."""
    every = itertools.product(range(sides), repeat=sides)
    return _double([places for places in every if set(places) == set(range(max(places) + 1))])


def _fine_grid(location: np.ndarray, scale: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """log P(p_1 > … > p_K), means and sds given it, by Simpson's rule on 80,000 points; P may be 1e-250."""
    edge = 9 * scale.max()
    x = np.linspace(location.min() - edge, location.max() + edge, 80_001)
    density = stats.norm.pdf(x, location[:, None], scale[:, None])

    def upto(f: np.ndarray) -> np.ndarray:
        return integrate.cumulative_simpson(f, x=x, initial=0)

    below, above = [np.ones_like(x)], [np.ones_like(x)]
    for f in density[:0:-1]:
        below.insert(0, upto(f * below[0]))
    for f in density[:-1]:
        above.append(upto((f * above[-1])[::-1])[::-1] * 1.0)
    weight = density * np.array(below) * np.array(above)
    total = weight.sum(1)
    mean = (weight * x).sum(1) / total
    sd = np.sqrt((weight * (x - mean[:, None]) ** 2).sum(1) / total)
    return math.log(integrate.simpson(density[0] * below[0], x=x)), mean, sd


# What is computed: P and moments of an order -----------------------------------------------------------


@pytest.mark.parametrize("sides", [3, 4, 5, 6, 7, 8])
def test_all_orders_sum_to_one(sides: int) -> None:
    u, c = _drawn(sides, 1.5)
    places = _strict(sides)
    shape = places.shape
    chances = [
        Ranking(u.expand_as(part), c.expand_as(part), ties="none", sides=[sides] * len(part))
        .log_prob(part)
        .exp()
        for part in places.split(8192)
    ]
    assert float(torch.cat(chances).sum()) == pytest.approx(1, abs=1e-8)
    assert torch.cat(chances).shape == shape[:1]


@pytest.mark.parametrize(("sides", "error"), [(3, 1e-9), (5, 1e-6)])
def test_an_order_is_an_orthant_of_a_normal(sides: int, error: float) -> None:
    u, c = (part[0].numpy() for part in _drawn(sides, 0.7, seed=3))
    differences = np.eye(sides)[1:] - np.eye(sides)[:-1]
    covariance = differences @ np.diag(c**2) @ differences.T
    normal = stats.multivariate_normal(
        differences @ u, covariance, maxpts=2_000_000, abseps=error / 30, releps=0
    )
    wanted = normal.cdf(np.zeros(sides - 1))
    found = log_orders(_double(u[None]), _double(c[None]), num_panels(sides, 1.7)).exp()
    assert float(found) == pytest.approx(wanted, abs=error)


@pytest.mark.parametrize(
    "location",
    [
        [0.3, -0.2, 1.0, 0.4],
        [4.0, 4.0, -7.0, -7.0, -1.0],  # the right order, and two pairs that are pressed
        [-6.0, 0.0, 6.0],  # the wrong one: log P is −40
        [-14.0, 3.0, 14.0],
        [-3.0, 9.0, -8.0, 2.0, 12.0, 5.0, 0.0, 7.0],
        list(np.linspace(-6, 6, 12)),
    ],
    ids=len,
)
def test_far_orders_are_those_of_a_fine_grid(location: list[float]) -> None:
    u, c = np.array(location), np.linspace(0.8, 1.2, len(location))
    log_p, mean, sd = _fine_grid(u, c)
    found, means, variances = order_moments(_double(u[None]), _double(c[None]), num_panels(len(u), 1.5))
    # The grid's steps are 4e-4 of an sd: of its fourth power times that of the slopes, up to 100.
    np.testing.assert_allclose(found, log_p, rtol=1e-12, atol=1e-7)
    np.testing.assert_allclose(means[0], mean, rtol=0, atol=1e-7)
    np.testing.assert_allclose(variances[0].sqrt(), sd, rtol=0, atol=1e-7)


def test_a_margin_in_the_far_tail_is_right() -> None:
    u, c, margin = np.array([-7.0, 1.0, 2.0, 7.0]), np.array([1.0, 0.9, 1.1, 1.0]), 1.7
    log_p, *_ = _fine_grid(u + margin * np.arange(4), c)
    assert log_p < -90
    ranking = Ranking(_double(u[None]), _double(c), margin, sides=[4])
    assert float(ranking.log_prob(_double([[0, 1, 2, 3]]))) == pytest.approx(log_p, abs=1e-7)


def test_a_game_of_five_equals_has_the_published_moments() -> None:
    # Skills N(0, 2²), performances with sd 1 beyond them: those of the skills follow.
    log_z, mean, variance = truncated_moments(
        torch.zeros(1, 5).double(), torch.full((1, 5), 5.0).double(), _double([[0, 1, 2, 3, 4]])
    )
    assert float(log_z) == pytest.approx(-math.log(120), abs=1e-10)
    np.testing.assert_allclose(0.8 * mean[0], [2.0804, 0.8855, 0, -0.8855, -2.0804], atol=6e-5)
    sd = (4 - 0.8 * 4 + 0.8**2 * variance[0]).sqrt()
    np.testing.assert_allclose(sd, [1.4940, 1.3405, 1.3107, 1.3405, 1.4940], atol=6e-5)


@pytest.mark.parametrize("sides", [20, 60])
def test_many_equal_sides_are_one_order_of_many(sides: int) -> None:
    u = torch.zeros(1, sides).double()
    log_z, mean, _ = order_moments(u, u + 1)
    assert float(log_z) == pytest.approx(-math.lgamma(sides + 1), abs=1e-8)
    # The largest of n: the integral of x n φ Φ^(n − 1).
    top = integrate.quad(lambda x: x * sides * stats.norm.pdf(x) * stats.norm.cdf(x) ** (sides - 1), -8, 9)[0]
    assert float(mean[0, 0]) == pytest.approx(top, abs=1e-7)


def test_scales_that_differ_take_more_panels_or_are_refused() -> None:
    u, c = np.array([1.0, 3.0, -4.0, 2.0, 9.0]), np.array([1.0, 5.0, 0.8, 8.0, 1.3])
    log_p, mean, sd = _fine_grid(u, c)
    inputs = _double(u[None]), _double(c[None])
    found, means, variances = order_moments(*inputs, num_panels(5, 10.0))
    np.testing.assert_allclose(found, log_p, rtol=0, atol=1e-9)
    np.testing.assert_allclose(means[0], mean, rtol=0, atol=1e-8)
    np.testing.assert_allclose(variances[0].sqrt(), sd, rtol=0, atol=1e-8)
    assert float(log_orders(*inputs)) == -math.inf


def test_two_sides_are_a_duel() -> None:
    u, c = _drawn(2, 3.0, games=4)
    joint = c.square().sum(-1).sqrt()
    log_p = torch.special.log_ndtr((u[:, 0] - u[:, 1] - 0.4) / joint)
    steps = _double([0.0, 0.4])
    torch.testing.assert_close(log_orders(u + steps, c, 12), log_p, rtol=0, atol=1e-10)
    places = _double([[0, 1], [1, 0], [0, 0], [0, 1]])
    found = Ranking(u, c, 0.4, sides=[2] * 4, ties="draw").log_prob(places)
    outcome = _double([1, 0, 0.5, 1])
    torch.testing.assert_close(found, duel_log_prob(u[:, 0] - u[:, 1], outcome, joint, 0.4, "probit"))
    free = Ranking(u, c, sides=[2] * 4).log_prob(places)
    assert float(free[2]) == 0
    gumbel = Ranking(u, 1.5, 0.4, sides=[2] * 4, link="gumbel", ties="draw").log_prob(places)
    torch.testing.assert_close(gumbel, duel_log_prob(u[:, 0] - u[:, 1], outcome, 1.5, 0.4, "logistic"))


def test_isotonic_means_are_scipys() -> None:
    u, c = _drawn(9, 1.0, games=20)
    wanted = [
        optimize.isotonic_regression(y, weights=w, increasing=False).x
        for y, w in zip(u.numpy(), c.pow(-2).numpy(), strict=True)
    ]
    np.testing.assert_allclose(isotonic_means(u, c.pow(-2)), wanted, atol=1e-12)


# What it is used as: a likelihood of places -------------------------------------------------------------


@pytest.mark.parametrize("link", ["probit", "gumbel"])
@pytest.mark.parametrize("sides", [3, 4])
def test_shared_places_are_sums_over_the_orders_that_they_leave_open(link: str, sides: int) -> None:
    u, c = _drawn(sides, 1.5, seed=5)
    c = c if link == "probit" else c[:, :1]
    strict, weak = _strict(sides), _weak(sides)
    orders = Ranking(u.expand_as(strict), c, link=link).log_prob(strict)
    found = Ranking(u.expand_as(weak), c, link=link).log_prob(weak)
    ahead = weak[:, None, :, None] < weak[:, None, None, :]
    allowed = (~ahead | (strict[:, :, None] < strict[:, None, :])).all(-1).all(-1)
    wanted = torch.where(allowed, orders, -math.inf).logsumexp(-1)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


def test_one_winner_is_an_integral_of_products() -> None:
    sides = 6
    u, c = _drawn(sides, 2.0, seed=1)
    places = 1 - torch.eye(sides).double()
    log_p = Ranking(u.expand(sides, sides), c, ties="last", panels=num_panels(sides, 1.7)).log_prob(places)
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-9)
    for winner, found in enumerate(log_p.exp()):
        others = [k for k in range(sides) if k != winner]

        def chance(x: float, winner: int = winner, others: list[int] = others) -> float:
            own = stats.norm.pdf(x, u[0, winner], c[0, winner])
            return float(own * special.ndtr((x - u[0, others].numpy()) / c[0, others].numpy()).prod())

        assert float(found) == pytest.approx(integrate.quad(chance, -12, 12, limit=200)[0], abs=1e-8)


def test_one_loser_is_one_winner_from_the_other_end() -> None:
    u, c = _drawn(9, 1.0, seed=2)
    lost = torch.eye(9).double()
    log_p = Ranking(u.expand(9, 9), c, 0.3, panels=num_panels(9, 1.7)).log_prob(lost)
    won = Ranking(-u.expand(9, 9), c, 0.3, panels=num_panels(9, 1.7)).log_prob(1 - lost)
    torch.testing.assert_close(log_p, won, rtol=0, atol=1e-12)
    padded = torch.cat([lost, torch.full((9, 1), NAN)], 1)
    wide = torch.cat([u, u[:, :1]], 1).expand(9, 10), torch.cat([c, c[:, :1]], 1)
    found = Ranking(*wide, 0.3, panels=num_panels(9, 1.7)).log_prob(padded)
    torch.testing.assert_close(found, won, rtol=0, atol=1e-9)


def test_permutations_of_sides_and_games_change_nothing() -> None:
    torch.manual_seed(2)
    games, sides, number = 9, 5, [2, 5, 3, 5, 4, 5, 2, 3, 5]
    u, c = _drawn(sides, 1.0, games=games)
    places = Ranking(u, c, sides=number).sample()
    places[3], places[5] = _double([0, 1, 1, 2, 3]), _double([2, 1, 0, 2, 1])
    found = Ranking(u, c, 0.2, sides=number).log_prob(places)
    order = torch.randperm(games)
    moved = Ranking(u[order], c[order], 0.2, sides=[number[k] for k in order]).log_prob(places[order])
    torch.testing.assert_close(moved, found[order], rtol=0, atol=1e-12)
    swapped = torch.randperm(sides)  # missing sides now stand anywhere
    found_moved = Ranking(u[:, swapped], c[:, swapped], 0.2).log_prob(places[:, swapped])
    torch.testing.assert_close(found_moved, found, rtol=0, atol=1e-9)


def test_particles_and_margins_of_their_own_are_computed_one_by_one() -> None:
    u = _double(np.random.default_rng(8).normal(0, 1, (3, 4, 5)))
    margin, number = _double([0.1, 0.5, 0.9])[:, None], [3, 5, 5, 2]
    torch.manual_seed(0)
    ranking = Ranking(u, 1.1, margin, sides=number)
    places = Ranking(u[0], 1.1, sides=number).sample()
    together = ranking.log_prob(places)
    assert together.shape == (3, 4)
    for s in range(3):
        alone = Ranking(u[s], 1.1, float(margin[s]), sides=number).log_prob(places)
        torch.testing.assert_close(together[s], alone, rtol=0, atol=1e-12)
    drawn = ranking.expand(torch.Size([2, 3, 4])).sample()
    assert drawn.shape == (2, 3, 4, 5)
    assert torch.equal(drawn.isnan(), places.isnan().expand_as(drawn))


@pytest.mark.parametrize("link", ["probit", "gumbel"])
def test_draws_agree_with_their_probabilities(link: str) -> None:
    torch.manual_seed(11)
    u, count, strict = _double([0.7, -0.4, 0.1, 0.0]), 40_000, _strict(4)
    c = _double([1.0, 1.5, 0.7, 1.1]) if link == "probit" else 0.8
    drawn = Ranking(u.expand(count, 4), c, link=link).sample()
    key = _double([1, 4, 16, 64])
    counts = ((drawn @ key)[:, None] == strict @ key).sum(0)
    chances = Ranking(u.expand_as(strict), c, link=link).log_prob(strict).exp()
    statistic = ((counts - count * chances).square() / (count * chances)).sum()
    assert int(counts.sum()) == count
    assert float(statistic) < stats.chi2(23).isf(1e-7)


def test_within_the_margin_draws_are_ties() -> None:
    torch.manual_seed(4)
    u, count = _double([0.3, 0.0, -0.5]), 40_000
    drawn = Ranking(u.expand(count, 3), 1.0, 0.4).sample()
    strict = _strict(3)
    chances = Ranking(u.expand_as(strict), 1.0, 0.4).log_prob(strict).exp()
    seen = (drawn[:, None] == strict).all(-1).double().mean(0)
    error = (chances * (1 - chances) / count).sqrt()
    assert float(((seen - chances).abs() / error).max()) < 5.5  # of six
    assert float(seen.sum()) < 0.8


# Plackett and Luce ----------------------------------------------------------------------------------------


def test_plackett_and_luce_is_a_product_of_choices() -> None:
    u = _double([[0.2, -1.0, 0.7, 0.1]])
    w = u[0].exp()
    order = [2, 0, 3, 1]
    wanted = math.prod(float(w[k] / w[order[at:]].sum()) for at, k in enumerate(order))
    places = _double([[1, 3, 0, 2]])
    assert float(Ranking(u, link="gumbel").log_prob(places).exp()) == pytest.approx(wanted, rel=1e-12)
    first_two = float(w[2] / w.sum() * w[0] / (w.sum() - w[2]))
    found = Ranking(u, link="gumbel").log_prob(_double([[1, 2, 0, 2]])).exp()
    assert float(found) == pytest.approx(first_two, rel=1e-12)
    scaled = Ranking(2.5 * u, 2.5, link="gumbel").log_prob(places).exp()
    assert float(scaled) == pytest.approx(wanted, rel=1e-12)


def test_cyclic_rankings_are_most_likely_of_equals() -> None:
    # As choix's tests of its Plackett and Luce estimators have it.
    places = _double([[0, 1, 2], [2, 0, 1], [1, 2, 0]])
    u = torch.zeros(3).double().requires_grad_()
    log_p = Ranking(u.expand(3, 3), link="gumbel").log_prob(places).sum()
    (gradient,) = torch.autograd.grad(log_p, u, create_graph=True)
    assert float(gradient.detach().abs().max()) < 1e-15
    curvature = torch.stack([torch.autograd.grad(g, u, retain_graph=True)[0] for g in gradient])
    assert float(torch.linalg.eigvalsh(curvature)[1]) < -0.1


# Moments, and derivatives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("places", [_strict(3), _weak(3)[[0, 3, 7, 1, 4, 9]], 1 - torch.eye(5).double()])
def test_moments_over_all_outcomes_are_the_prior_moments(places: Tensor) -> None:
    sides = places.shape[1]
    u, c = _drawn(sides, 1.0, seed=6)
    u, variance = u.expand_as(places), c.square().expand_as(places)
    log_z, mean, found = truncated_moments(u, variance, places)
    chance = log_z.exp()[:, None] / log_z.exp().sum()
    if float(log_z.exp().sum()) == pytest.approx(1, abs=1e-8):
        torch.testing.assert_close((chance * mean).sum(0), u[0], rtol=0, atol=1e-8)
        torch.testing.assert_close(
            (chance * (found + mean**2)).sum(0), variance[0] + u[0] ** 2, rtol=0, atol=1e-7
        )


def test_moments_are_derivatives_of_log_p() -> None:
    sides = [3, 6, 2, 6]
    u, c = _drawn(6, 1.0, games=4)
    torch.manual_seed(9)
    places = Ranking(u, c, sides=sides).sample()[:, torch.randperm(6)]
    log_z, mean, variance = truncated_moments(u, c.square(), places, margin=0.3)
    at, scale = u.clone().requires_grad_(), c.clone().requires_grad_()
    log_p = Ranking(at, scale, 0.3, panels=num_panels(6, 1.7)).log_prob(places)
    by_u, by_c = torch.autograd.grad(log_p.sum(), (at, scale), create_graph=True)
    there = ~places.isnan()
    torch.testing.assert_close(log_z, log_p.detach(), rtol=0, atol=1e-9)
    torch.testing.assert_close(mean[there], (u + c**2 * by_u.detach())[there], rtol=0, atol=1e-8)
    second = c**2 * (1 + c * by_c.detach()) - (c**2 * by_u.detach()).square()
    torch.testing.assert_close(variance[there], second[there], rtol=0, atol=1e-7)
    assert mean[~there].isnan().all()
    # The curvature in the locations says the same of the variance.
    bend = [torch.autograd.grad(by_u[1, k], at, retain_graph=True)[0][1, k] for k in range(6)]
    torch.testing.assert_close(variance[1], c[1] ** 2 + c[1] ** 4 * torch.stack(bend), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shared", [0, 2, 3, 4])
def test_both_derivatives_are_those_of_differences(shared: int) -> None:
    u, c = _drawn(4, 1.5, games=2, seed=4)
    last = torch.arange(4).expand(2, 4) >= 4 - shared if shared else None
    inputs = (u.requires_grad_(), c.requires_grad_())

    def log_p(u: Tensor, c: Tensor) -> Tensor:
        return log_orders(u, c, 12, last)

    assert torch.autograd.gradcheck(log_p, inputs)
    assert shared == 4 or torch.autograd.gradgradcheck(log_p, inputs)


def test_gradients_are_finite_where_nothing_is_likely() -> None:
    u = _double(
        [[-40.0, 0.0, 40.0, 50.0], [0.0, 0.0, 0.0, 0.0], [900.0, 300.0, -300.0, NAN], [-9e4, 0, 2, 9e4]]
    )
    places = _double([[0, 1, 2, 3], [0, 1, 1, 1], [0, 1, 2, NAN], [0, 1, 2, 3]])
    at, margin = u.clone().requires_grad_(), torch.tensor(0.5).double().requires_grad_()
    log_p = Ranking(at, 1.0, margin).log_prob(places)
    by_u, by_margin = torch.autograd.grad(log_p.sum(), (at, margin))
    assert by_u.isfinite().all()
    assert by_margin.isfinite()
    assert float(log_p[2].detach()) == pytest.approx(0, abs=1e-11)
    # That of the last is refused.
    assert log_p.detach().isfinite().tolist() == [True, True, True, False]
    with pytest.raises(InputError, match="the places of game 1 are too unlikely to be computed"):
        truncated_moments(u[[0, 3]], 0 * u[[0, 3]] + 1, places[[0, 3]])


@pytest.mark.parametrize(
    ("link", "ties"), [("probit", "unordered"), ("probit", "last"), ("gumbel", "unordered")]
)
def test_it_is_traced_with_its_gradient(link: str, ties: str) -> None:
    places, number = _double([[0, 1, 2, 3], [1, 0, NAN, NAN], [2, 0, 1, 2]]), [4, 2, 4]

    def function(u: Tensor, margin: Tensor) -> tuple[Tensor, ...]:
        u, margin = u.requires_grad_(), margin.requires_grad_()
        log_p = Ranking(u, 1.2, margin, sides=number, link=link, ties=ties).log_prob(places)
        return log_p, *torch.autograd.grad(log_p.sum(), (u, margin))

    graph = trace(function, torch.zeros(2, 3, 4).double(), torch.tensor(0.1).double())
    inputs = _double(np.random.default_rng(0).normal(0, 2, (2, 3, 4))), torch.tensor(0.6).double()
    for found, wanted in zip(graph(*inputs), function(*inputs), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)


def test_what_cannot_be_computed_is_refused() -> None:
    u = torch.zeros(1, 10).double()
    with pytest.raises(InputError, match="link 'cauchit' is not known for games of many sides"):
        Ranking(u, link="cauchit")
    with pytest.raises(InputError, match="ties 'any' are not known; they are unordered, last, none or draw"):
        Ranking(u, ties="any")
    with pytest.raises(InputError, match="draws of more than two sides are those of probit performances"):
        Ranking(u[:, :3], 1.0, 0.2, link="gumbel", ties="draw").log_prob(_double([[0, 0, 1]]))
    with pytest.raises(
        InputError, match="8 sides that share a place before the last, in 40,320 possible orders"
    ):
        Ranking(u).log_prob(_double([[0] + [1] * 8 + [2]]))
