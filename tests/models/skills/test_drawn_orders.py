"""Orders with draws: against a grid of which the margin is a whole number of steps, and what two sides do."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from ppl_vae.models.skills.drawn_orders import log_drawn_orders
from ppl_vae.models.skills.links import duel_log_prob
from ppl_vae.models.skills.orders import log_orders
from ppl_vae.models.skills.ranking import Ranking, truncated_moments


def _double(values: object) -> Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float64)


def _by_grid(u: list[float], c: list[float], margin: float, drawn: list[bool]) -> float:
    step = margin / 400
    x = np.arange(-15, 15 + step / 2, step)
    f = stats.norm.pdf(x, u[-1], c[-1])
    for k in reversed(range(len(u) - 1)):
        upto = integrate.cumulative_simpson(f, x=x, initial=0)
        higher = np.concatenate([upto[400:], np.full(400, upto[-1])])
        lower = np.concatenate([np.zeros(400), upto[:-400]])
        f = stats.norm.pdf(x, u[k], c[k]) * (higher - lower if drawn[k] else lower)
    return math.log(integrate.simpson(f, x=x))


@pytest.mark.parametrize(
    ("u", "c", "margin", "drawn"),
    [
        ([0.0, 0.5, -0.3], [1.0, 1.2, 0.8], 0.4, [True, True]),
        ([0.0, 0.5, -0.3, 2.0], [1.0, 1.2, 0.8, 1.0], 0.8, [True, False, True]),
        ([3.0, -3.0, 1.0, 0.0, 0.0], [1.0] * 5, 0.4, [False, True, True, True]),
        ([-2.0, 3.0, -3.0, 1.0], [0.7, 1.0, 1.3, 1.0], 1.6, [False, True, False]),
    ],
    ids=str,
)
def test_log_p_is_that_of_a_grid(u: list[float], c: list[float], margin: float, drawn: list[bool]) -> None:
    found = log_drawn_orders(_double([u]), _double([c]), _double([margin]), torch.tensor([drawn]))
    # Simpson's error is of the fourth power of a step of 0.004 at most.
    assert float(found) == pytest.approx(_by_grid(u, c, margin, drawn), abs=1e-8)


@pytest.mark.parametrize("margin", [1e-6, 0.1, 2.0, 5.0])
def test_of_two_sides_it_is_the_draw_of_a_duel(margin: float) -> None:
    ahead = _double([-8.0, -5.0, 0.0, 2.0, 4.0, 8.0])
    u, c = torch.stack([ahead, 0 * ahead], -1), _double([[1.0, 0.8]]).expand(6, 2)
    drawn = torch.ones(6, 1, dtype=torch.bool)
    found = log_drawn_orders(u, c, torch.full_like(ahead, margin), drawn)
    wanted = duel_log_prob(ahead, torch.full_like(ahead, 0.5), 1.64**0.5, margin, "probit")
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9 + 1e-15 / margin)


def test_without_draws_it_is_an_order_and_far_off_it_is_refused() -> None:
    generator = np.random.default_rng(0)
    u, c = _double(generator.normal(0, 3, (40, 6))), _double(generator.uniform(0.9, 1.1, (40, 6)))
    margin = _double([0.3])
    found = log_drawn_orders(u, c, margin.expand(40), torch.zeros(40, 5, dtype=torch.bool))
    wanted, answered = log_orders(u + margin * torch.arange(6), c, 14), found.isfinite()
    assert answered[wanted > -60].all()
    torch.testing.assert_close(found[answered], wanted[answered], rtol=0, atol=1e-7)
    far = _double([[-30.0, 0.0, 30.0]]).requires_grad_()
    log_p = log_drawn_orders(far, torch.ones(1, 3).double(), margin, torch.tensor([[True, False]]))
    (gradient,) = torch.autograd.grad(log_p.sum(), far)
    assert float(log_p.detach()) == -math.inf
    assert gradient.isfinite().all()


def test_derivatives_are_those_of_differences() -> None:
    generator = np.random.default_rng(1)
    u, c = _double(generator.normal(0, 1, (3, 4))), _double(generator.uniform(0.7, 1.3, (3, 4)))
    margin, drawn = _double([0.3, 0.4, 0.5]), torch.tensor([[1, 0, 1], [0, 1, 1], [1, 1, 0]]).bool()
    inputs = [part.requires_grad_() for part in (u, c, margin)]
    assert torch.autograd.gradcheck(lambda *given: log_drawn_orders(*given, drawn), inputs)


def test_rankings_with_draws_have_moments_and_do_not_mind_what_is_missing() -> None:
    u, places = _double([[0.2, -0.1, 0.5, math.nan]]), _double([[1, 0, 1, math.nan]])
    ranking = Ranking(u[:, :3], 1.2, 0.6, sides=[3], ties="draw")
    log_p = ranking.log_prob(places[:, :3])
    order = _double([[-0.1, 0.2, 0.5]])
    wanted = log_drawn_orders(order, 0 * order + 1.2, _double([0.6]), torch.tensor([[False, True]]))
    torch.testing.assert_close(log_p, wanted, rtol=0, atol=1e-12)
    padded = Ranking(u, 1.2, 0.6, ties="draw").log_prob(places)
    torch.testing.assert_close(padded, wanted, rtol=0, atol=1e-8)
    log_z, mean, variance = truncated_moments(u, 0 * u + 1.44, places, margin=0.6, ties="draw")
    torch.testing.assert_close(log_z, wanted, rtol=0, atol=1e-9)
    # Simulated: those whose order agrees.
    torch.manual_seed(0)
    p = u[0, :3] + 1.2 * torch.randn(400_000, 3).double()
    kept = p[(p[:, 1] - p[:, 0] > 0.6) & ((p[:, 0] - p[:, 2]).abs() <= 0.6)]
    error = kept.std(0) / len(kept) ** 0.5
    assert float(((kept.mean(0) - mean[0, :3]).abs() / error).max()) < 5.5
    spread = (kept.var(0) - variance[0, :3]).abs() / (kept.var(0) * (2 / len(kept)) ** 0.5)
    assert float(spread.max()) < 6.5  # of nearly normal ones
