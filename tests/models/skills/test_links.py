"""How games of two sides end: against quadrature, closed forms and finite differences."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import integrate, special

from ppl_vae.base.errors import InputError
from ppl_vae.engine.graph import trace
from ppl_vae.models.skills.links import LINKS, Duel, duel_log_prob, log_normal_cdf, log_normal_cdf_of_many

FAR = [0.0, 1e-9, 0.3, 1.0, 2.7, 8.0, 20.0, 37.0, 60.0, 200.0, 1000.0]
MARGINS = [1e-8, 1e-3, 0.2, 0.99, 1.01, 3.0, 12.0, 50.0]


def _draw_by_quadrature(x: float, e: float) -> float:
    """log[Φ(e − x) − Φ(−e − x)] from φ(x + t) / its maximum over |t| ≤ e, by adaptive quadrature."""
    top = max(-e, min(e, -x))
    width = min(1.0, 1 / max(abs(x + top), 1e-12))
    # Beyond forty widths it is below e^−40 of the maximum.
    ends = sorted({max(-e, min(e, top + k * width)) for k in (-40, -12, -4, -1, 0, 1, 4, 12, 40)})
    parts = [
        integrate.quad(lambda t: math.exp(-(t - top) * (t + top + 2 * x) / 2), low, high, epsabs=1e-15)[0]
        for low, high in itertools.pairwise(ends)
    ]
    return math.log(sum(parts)) - (x + top) ** 2 / 2 - 0.5 * math.log(2 * math.pi)


@pytest.mark.parametrize("margin", MARGINS)
def test_a_draw_far_from_even_is_right(margin: float) -> None:
    x = torch.tensor(FAR, dtype=torch.float64)
    found = duel_log_prob(2 * x, torch.full_like(x, 0.5), 2.0, 2 * margin, "probit")
    wanted = [_draw_by_quadrature(at, margin) for at in FAR]
    np.testing.assert_allclose(found, wanted, rtol=1e-14, atol=1e-9)
    torch.testing.assert_close(duel_log_prob(-x, torch.full_like(x, 0.5), 1.0, margin, "probit"), found)


def test_a_win_is_a_normal_distribution_function() -> None:
    d = torch.linspace(-400, 40, 221, dtype=torch.float64)
    one = torch.ones_like(d)
    # Where Φ is near 1, of φ's relative rounding: x² of x's own.
    np.testing.assert_allclose(
        duel_log_prob(d, one, 2.0, 0.3, "probit"),
        special.log_ndtr((d.numpy() - 0.3) / 2),
        rtol=20**2 * 2e-16,
        atol=0,
    )
    assert torch.equal(
        duel_log_prob(d, one, 2.0, 0.3, "probit"), duel_log_prob(-d, 0 * one, 2.0, 0.3, "probit")
    )


def test_derivatives_of_log_normal_cdf_are_right_in_the_far_tail() -> None:
    # −m (m + x) of Mills's ratio is 1 − 1/x² + 6/x⁴ − … there, which its own formula cannot say.
    x = torch.tensor([-1e4, -300.0, -50.0], dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(log_normal_cdf(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    at = x.detach()
    torch.testing.assert_close(first.detach(), -at - 1 / at + 2 / at**3 - 10 / at**5, rtol=1e-9, atol=0)
    # It is a difference of numbers x² times as large.
    torch.testing.assert_close(second, -1 + 1 / at**2 - 6 / at**4 + 50 / at**6, rtol=0, atol=1e8 * 1e-15)


@pytest.mark.parametrize("lowest", [-29.9, -60.0])
def test_log_normal_cdf_of_many_is_that_of_few(lowest: float) -> None:
    x = torch.linspace(lowest, 12, 501, dtype=torch.float64, requires_grad=True)
    found, few = log_normal_cdf_of_many(x), log_normal_cdf(x)
    # In the tail of x²/2, of an x that is rounded twice on the way, as SciPy's is.
    np.testing.assert_allclose(
        found.detach(), special.log_ndtr(x.detach().numpy()), rtol=8 * 2.3e-16, atol=2.3e-16
    )
    (plain,) = torch.autograd.grad(log_normal_cdf_of_many(x).sum(), x)
    slope, wanted = (torch.autograd.grad(f.sum(), x, create_graph=True)[0] for f in (found, few))
    # exp(−x²/2) has as many times the rounding of x.
    for each in (plain, slope.detach()):
        torch.testing.assert_close(each, wanted.detach(), rtol=60**2 * 4e-16, atol=0)
    second, wanted = (torch.autograd.grad(f.sum(), x)[0] for f in (slope, wanted))
    torch.testing.assert_close(second, wanted, rtol=0, atol=60**2 * 4e-16)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("margin", [1e-6, 0.4, 5.0])
def test_outcomes_sum_to_one(link: str, margin: float) -> None:
    d = torch.linspace(-30, 30, 301, dtype=torch.float64)
    every = Duel(d, 1.3, margin, link).probabilities.sum(-1)
    torch.testing.assert_close(every, torch.ones_like(d), rtol=0, atol=1e-14)
    none = Duel(d, 1.3, 0.0, link).probabilities
    assert not none[:, 1].any()
    torch.testing.assert_close(none.sum(-1), torch.ones_like(d), rtol=0, atol=1e-14)


def test_the_other_links_are_their_closed_forms() -> None:
    d, e = torch.linspace(-8, 8, 33, dtype=torch.float64), 0.6
    win, draw, loss = Duel(d, 2.0, 2 * e, "logistic").probabilities.unbind(-1)
    torch.testing.assert_close(win, torch.sigmoid(d / 2 - e))
    torch.testing.assert_close(draw, win * loss * math.expm1(2 * e))
    win, draw, loss = Duel(d, 2.0, 2 * e, "davidson").probabilities.unbind(-1)
    torch.testing.assert_close(draw, math.expm1(e) * (win * loss).sqrt())
    torch.testing.assert_close(win, loss * (d / 2).exp())
    even = [Duel(0 * d[:1], 2.0, 2 * e, link).probabilities for link in ("logistic", "davidson")]
    torch.testing.assert_close(*even)


@pytest.mark.parametrize("link", LINKS)
def test_far_tails_of_the_other_links_are_straight_lines(link: str) -> None:
    d = torch.tensor([-900.0, -800.0], dtype=torch.float64)
    slope = {"probit": None, "logistic": (1.0, 1.0), "davidson": (1.0, 0.5)}[link]
    if slope is not None:
        for outcome, wanted in zip((1.0, 0.5), slope, strict=True):
            low, high = duel_log_prob(d, torch.full_like(d, outcome), 1.0, 0.7, link)
            assert float(high - low) == pytest.approx(100 * wanted, rel=1e-12)


def _derivatives(f: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor) -> tuple[torch.Tensor, ...]:
    x = at.clone().requires_grad_()
    value = f(x)
    (first,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    return value.detach(), first.detach(), second


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("outcome", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("margin", [0.05, 0.9, 1.1, 7.0])
def test_both_derivatives_are_those_of_central_differences(link: str, outcome: float, margin: float) -> None:
    d = torch.tensor([-40.0, -6.0, -1.2, -1e-3, 0.0, 0.5, 3.0, 25.0], dtype=torch.float64)

    def of_difference(x: torch.Tensor) -> torch.Tensor:
        return duel_log_prob(x, torch.full_like(x, outcome), 1.1, margin, link)

    def of_margin(e: torch.Tensor) -> torch.Tensor:
        return duel_log_prob(d, torch.full_like(d, outcome), 1.1, e, link)

    for f, at in ((of_difference, d), (of_margin, torch.full_like(d, margin))):
        _, first, second = _derivatives(f, at)
        step = 1e-4
        slope = (f(at + step) - f(at - step)) / (2 * step)
        # Errors of the difference: a third derivative (of at most 2 / ε³), and rounding of the values.
        error = step**2 / margin**3 + 1e-15 * (1 + float(f(at).abs().max())) / step
        torch.testing.assert_close(first, slope, rtol=0, atol=error)
        bend = (_derivatives(f, at + step)[1] - _derivatives(f, at - step)[1]) / (2 * step)
        torch.testing.assert_close(second, bend, rtol=0, atol=step**2 * 30 / margin**4 + 1e-14 * 40 / step)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("margin", [0.0, 1e-12, 40.0])
def test_gradients_are_finite_at_the_ends(link: str, margin: float) -> None:
    d = torch.tensor([-1e4, -40.0, 0.0, 40.0, 1e4], dtype=torch.float64)
    for outcome in (1.0, 0.0, *([0.5] if margin else [])):
        e, c = torch.full_like(d, margin).requires_grad_(), torch.full_like(d, 1.5).requires_grad_()
        x = d.clone().requires_grad_()
        value = duel_log_prob(x, torch.full_like(d, outcome), c, e, link)
        found = torch.autograd.grad(value.sum(), (x, c, e), create_graph=True)
        assert all(bool(part.isfinite().all()) for part in (value, *found))
        assert bool(torch.autograd.grad(found[0].sum(), x)[0].isfinite().all())


@pytest.mark.parametrize("link", LINKS)
def test_draws_are_as_frequent_as_they_are_likely(link: str) -> None:
    torch.manual_seed(3)
    duel = Duel(torch.tensor([-1.0, 0.0, 2.5], dtype=torch.float64), 1.4, 0.5, link).expand(
        torch.Size([2, 3])
    )
    drawn, count = duel.sample(torch.Size([20_000])), 20_000
    assert drawn.shape == (count, 2, 3)
    for place, outcome in enumerate((1.0, 0.5, 0.0)):
        chance = duel.probabilities[..., place]
        error = (chance * (1 - chance) / count).sqrt()
        # Eighteen comparisons a link: one in 10⁶ runs is farther.
        assert ((drawn == outcome).double().mean(0) - chance).abs().div(error).max() < 5.5


@pytest.mark.parametrize("link", LINKS)
def test_it_is_traced_with_its_gradient(link: str) -> None:
    outcome = torch.tensor([1.0, 0.5, 0.0, 0.5], dtype=torch.float64)

    def function(d: torch.Tensor, e: torch.Tensor) -> tuple[torch.Tensor, ...]:
        d, e = d.requires_grad_(), e.requires_grad_()
        value = Duel(d, 1.2, e, link).log_prob(outcome)
        return value, *torch.autograd.grad(value.sum(), (d, e))

    graph = trace(function, torch.zeros(4).double(), torch.tensor(0.3).double())
    inputs = (torch.tensor([-50.0, 40.0, 0.2, 0.0]).double(), torch.tensor(0.8).double())
    for found, wanted in zip(graph(*inputs), function(*inputs), strict=True):
        # Derivatives in the tail are exponentials of numbers of size x²/2, here up to 870.
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


def test_a_link_that_is_not_known_is_refused() -> None:
    with pytest.raises(InputError, match="link 'cauchit' is not known; it is probit, logistic or davidson"):
        Duel(torch.zeros(1), link="cauchit")


def test_single_precision_stays_single() -> None:
    d = torch.tensor([-3.0, 0.1], dtype=torch.float32)
    for link in LINKS:
        value = duel_log_prob(d, torch.tensor([0.5, 1.0]), 1.2, 0.3, link)
        assert value.dtype == torch.float32
        exact = duel_log_prob(d.double(), torch.tensor([0.5, 1.0]), 1.2, 0.3, link)
        torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-6)
