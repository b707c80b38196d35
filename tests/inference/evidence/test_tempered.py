"""The path's densities against formulas written out by hand, one chain and one unit at a time."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoLowRankMultivariateNormal, AutoMultivariateNormal, AutoNormal
from scipy import stats
from torch import Tensor
from torch.distributions import StickBreakingTransform

from ppl_vae.base.errors import InputError
from ppl_vae.guides import Prior
from ppl_vae.inference.evidence.tempered import TemperedPath
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem
from ppl_vae.program.terms import layout

D = torch.float64
ZERO, ONE = torch.zeros((), dtype=D), torch.ones((), dtype=D)


@dataclass(frozen=True)
class Case:
    """A pair, and log q(u), log p(x, u) of one unit at its unconstrained numbers u, by formula."""

    model: Callable[..., Any]
    guide: Any
    data: tuple[Tensor, ...]
    by_hand: Callable[[Tensor, int], tuple[Tensor, Tensor]]
    start: str = "guide"
    vectorized: bool = True
    index: Tensor | None = None


# Local latents: a vector, a simplex, and a positive number in a further plate -------------------------


def _local_model(x: Tensor) -> None:
    with pyro.plate("data", len(x), dim=-2) as i:
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=D), 1.0).to_event(1))
        w = pyro.sample("w", dist.Dirichlet(torch.tensor([1.5, 1.0, 2.0], dtype=D)))
        with pyro.plate("part", 3, dim=-1):
            s = pyro.sample("s", dist.HalfNormal(2 * ONE))
            mean = z.sum(-1) + w[..., 0] - 2 * w[..., 2]
            pyro.sample("x", dist.Normal(mean, s), obs=x[i])


def _local_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x), dim=-2) as i:
        loc = torch.stack([x[i].mean(-1), 0.5 * x[i].sum(-1)], dim=-1).unsqueeze(-2)
        pyro.sample("z", dist.Normal(loc, 0.7).to_event(1))
        pyro.sample("w", dist.Dirichlet(torch.tensor([2.0, 3.0, 4.0], dtype=D)))
        with pyro.plate("part", 3, dim=-1):
            pyro.sample("s", dist.LogNormal(0.2 * ONE, 0.6))


def _first_shares(u: Tensor) -> Tensor:
    return StickBreakingTransform()(u)[:-1]


def _stick(u: Tensor) -> tuple[Tensor, Tensor]:
    """A point of the simplex and log |dw/du| over its first coordinates, by automatic differentiation."""
    jacobian = torch.autograd.functional.jacobian(_first_shares, u, create_graph=True)
    return StickBreakingTransform()(u), torch.linalg.slogdet(jacobian).logabsdet


def _local_by_hand(x: Tensor, prior: bool) -> Callable[[Tensor, int], tuple[Tensor, Tensor]]:
    def by_hand(u: Tensor, unit: int) -> tuple[Tensor, Tensor]:
        z, (w, log_dw), s = u[:2], _stick(u[2:4]), u[4:].exp()
        jacobian = log_dw + u[4:].sum()
        row = x[unit]
        log_prior = dist.Normal(ZERO, 1.0).log_prob(z).sum() + dist.HalfNormal(2 * ONE).log_prob(s).sum()
        log_prior = log_prior + dist.Dirichlet(torch.tensor([1.5, 1.0, 2.0], dtype=D)).log_prob(w)
        log_p = log_prior + dist.Normal(z.sum() + w[0] - 2 * w[2], s).log_prob(row).sum()
        loc = torch.stack([row.mean(), 0.5 * row.sum()])
        log_q = dist.Normal(loc, 0.7).log_prob(z).sum() + dist.LogNormal(0.2 * ONE, 0.6).log_prob(s).sum()
        log_q = log_q + dist.Dirichlet(torch.tensor([2.0, 3.0, 4.0], dtype=D)).log_prob(w)
        return (log_prior if prior else log_q) + jacobian, log_p + jacobian

    return by_hand


# A latent in a plate outside the units' ----------------------------------------------------------------


def _outside_model(x: Tensor) -> None:
    with pyro.plate("data", len(x), dim=-1) as i:
        a = pyro.sample("a", dist.Normal(ZERO, 2.0))
        with pyro.plate("copy", 2, dim=-2):
            b = pyro.sample("b", dist.Normal(a, torch.tensor([[0.5], [1.5]], dtype=D)))
        pyro.sample("x", dist.Normal(b.sum(-2, keepdim=True), 0.8), obs=x[i])


def _outside_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x), dim=-1) as i:
        pyro.sample("a", dist.Normal(0.1 * x[i], 1.0))
        with pyro.plate("copy", 2, dim=-2):
            pyro.sample("b", dist.Normal(0.3 * x[i], torch.tensor([[0.9], [0.4]], dtype=D)))


def _outside_by_hand(x: Tensor) -> Callable[[Tensor, int], tuple[Tensor, Tensor]]:
    def by_hand(u: Tensor, unit: int) -> tuple[Tensor, Tensor]:
        a, b, row = u[0], u[1:], x[unit]
        log_p = dist.Normal(ZERO, 2.0).log_prob(a) + dist.Normal(b.sum(), 0.8).log_prob(row)
        log_p = log_p + dist.Normal(a, torch.tensor([0.5, 1.5], dtype=D)).log_prob(b).sum()
        log_q = dist.Normal(0.1 * row, 1.0).log_prob(a)
        return log_q + dist.Normal(0.3 * row, torch.tensor([0.9, 0.4], dtype=D)).log_prob(b).sum(), log_p

    return by_hand


# Global latents of all supports ------------------------------------------------------------------------


def _global_model(x: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(torch.zeros(2, dtype=D), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(ONE))
    rate = pyro.sample("rate", dist.Gamma(2 * ONE, 1.0))
    share = pyro.sample("share", dist.Dirichlet(torch.ones(3, dtype=D)))
    middle = mean[..., 0] * share[..., 0] + mean[..., 1] * share[..., 1]
    with pyro.plate("data", len(x)) as i:
        pyro.sample("x", dist.Normal(middle * rate, scale), obs=x[i])


def _wide(x: Tensor, guide: type) -> Any:
    """A Gaussian guide in unconstrained space with nothing at its default."""
    made = guide(_global_model)
    Pair(_global_model, made).initialise(x)
    with torch.no_grad():
        for leaf in made.parameters():
            leaf.add_(0.3 * torch.randn_like(leaf))
    return made.double()


def _global_by_hand(x: Tensor, guide: Any) -> Callable[[Tensor, int], tuple[Tensor, Tensor]]:
    def by_hand(u: Tensor, unit: int) -> tuple[Tensor, Tensor]:
        mean, scale, rate, (share, log_dw) = u[:2], u[2].exp(), u[3].exp(), _stick(u[4:])
        middle = (mean * share[:2]).sum()
        log_p = dist.Normal(ZERO, 1.0).log_prob(mean).sum() + dist.HalfNormal(ONE).log_prob(scale)
        log_p = log_p + dist.Gamma(2 * ONE, 1.0).log_prob(rate) + math.log(2)  # Dirichlet(1, 1, 1) is 2
        log_p = log_p + dist.Normal(middle * rate, scale).log_prob(x).sum() + u[2] + u[3] + log_dw
        if isinstance(guide, AutoNormal):
            names = ("mean", "scale", "rate", "share")
            loc = torch.cat([getattr(guide.locs, name).reshape(-1) for name in names])
            spread = torch.cat([getattr(guide.scales, name).reshape(-1) for name in names])
            return dist.Normal(loc, spread).log_prob(u).sum(), log_p
        return guide.get_posterior().log_prob(u), log_p

    return by_hand


# A support that depends on another latent, and a program that cannot be run under a plate ---------------


def _moving_model(x: Tensor) -> None:
    top = pyro.sample("top", dist.Gamma(3 * ONE, 1.0))
    z = pyro.sample("z", dist.Uniform(ZERO, top))
    with pyro.plate("data", len(x)) as i:
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[i])


def _moving_by_hand(x: Tensor) -> Callable[[Tensor, int], tuple[Tensor, Tensor]]:
    def by_hand(u: Tensor, unit: int) -> tuple[Tensor, Tensor]:
        top, part = u[0].exp(), u[1].sigmoid()
        # z = top σ(u): the density 1/top and the Jacobian's factor top cancel.
        log_q = dist.Gamma(3 * ONE, 1.0).log_prob(top) + u[0] + part.log() + (1 - part).log()
        return log_q, log_q + dist.Normal(top * part, 1.0).log_prob(x).sum()

    return by_hand


def _stubborn_model(x: Tensor) -> None:
    theta = pyro.sample("theta", dist.LogNormal(torch.zeros(3, dtype=D), 1.0).to_event(1))
    assert theta.shape == (3,)
    with pyro.plate("data", len(x)) as i:
        pyro.sample("x", dist.Normal(theta[0] - theta[1] * theta[2], 0.6), obs=x[i])


def _stubborn_guide(x: Tensor) -> None:
    pyro.sample("theta", dist.LogNormal(torch.tensor([0.1, 0.2, 0.3], dtype=D), 0.5).to_event(1))


def _stubborn_by_hand(x: Tensor) -> Callable[[Tensor, int], tuple[Tensor, Tensor]]:
    def by_hand(u: Tensor, unit: int) -> tuple[Tensor, Tensor]:
        theta = u.exp()
        log_p = dist.Normal(ZERO, 1.0).log_prob(u).sum()
        log_p = log_p + dist.Normal(theta[0] - theta[1] * theta[2], 0.6).log_prob(x).sum()
        return dist.Normal(torch.tensor([0.1, 0.2, 0.3], dtype=D), 0.5).log_prob(u).sum(), log_p

    return by_hand


def _case(name: str) -> Case:
    rng = np.random.default_rng(1)
    table = torch.as_tensor(rng.normal(size=(5, 3)))
    row = torch.as_tensor(rng.normal(size=6))
    index = torch.tensor([4, 1, 2])
    autoguides = {
        "auto-normal": AutoNormal,
        "auto-full": AutoMultivariateNormal,
        "auto-low-rank": AutoLowRankMultivariateNormal,
    }
    if name in autoguides:
        guide = _wide(row, autoguides[name])
        return Case(_global_model, guide, (row,), _global_by_hand(row, guide))
    return {
        "local": Case(_local_model, _local_guide, (table,), _local_by_hand(table, False)),
        "local-index": Case(
            _local_model, _local_guide, (table,), _local_by_hand(table[index], False), index=index
        ),
        "local-prior": Case(_local_model, _local_guide, (table,), _local_by_hand(table, True), "prior"),
        "outside": Case(_outside_model, _outside_guide, (row,), _outside_by_hand(row)),
        "moving": Case(_moving_model, Prior(_moving_model), (row,), _moving_by_hand(row), "prior"),
        "stubborn": Case(
            _stubborn_model, _stubborn_guide, (row,), _stubborn_by_hand(row), vectorized=False
        ),
    }[name]  # fmt: skip


CASES = [
    "local", "local-index", "local-prior", "outside", "auto-normal", "auto-full", "auto-low-rank", "moving",
    "stubborn",
]  # fmt: skip


def _path(case: Case, chains: int = 4, engine: str = "pyro") -> TemperedPath:
    pair = Pair(case.model, case.guide)
    shape = layout(pair, *case.data)
    assert shape.vectorized == case.vectorized
    return TemperedPath(Problem.of(pair, *case.data).rows(case.index), chains, case.start, engine)


@pytest.mark.parametrize("name", CASES)
def test_densities_and_gradients_are_those_of_the_formulas(name: str) -> None:
    case = _case(name)
    path = _path(case)
    position = path.draw() + 0.1 * torch.randn(4 * path.units, path.dim, dtype=D)
    difference = path.state(position, 0.0).more[0]
    for beta in (0.0, 0.3, 1.0):
        state = path.state(position, beta)
        for row, u in enumerate(position):
            at = u.clone().requires_grad_(True)
            log_q, log_p = case.by_hand(at, row % path.units)
            expected = (1 - beta) * log_q + beta * log_p
            (gradient,) = torch.autograd.grad(expected, at)
            # Rounding in float64.
            torch.testing.assert_close(state.log_density[row], expected.detach(), rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(state.gradient[row], gradient, rtol=1e-7, atol=1e-7)
            torch.testing.assert_close(
                difference[row], (log_p - log_q).detach(), rtol=1e-9, atol=1e-9
            )  # fmt: skip


@pytest.mark.parametrize("name", ["local", "auto-full", "moving", "stubborn"])
def test_gradients_are_finite_differences(name: str) -> None:
    path = _path(_case(name), chains=2)
    position, step = path.draw(), 1e-5
    found = path.state(position, 0.4).gradient
    for k in range(path.dim):
        move = torch.zeros(path.dim, dtype=D)
        move[k] = step
        up, down = (path.state(position + sign * move, 0.4).log_density for sign in (1, -1))
        slope = (up - down) / (2 * step)
        # Truncation O(h²) and rounding 1e-16 / h.
        torch.testing.assert_close(found[:, k], slope, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", ["pyro", "traced"])
def test_a_leapfrog_step_is_the_leapfrog_of_the_formula(engine: str) -> None:
    """Under β = 0.3 and a metric: u' = u + ε L p, with L and its transpose in their places."""
    case = _case("local-index")
    path = _path(case, engine=engine)
    assert path.engine == engine
    position, size, beta = path.draw(), 0.05, 0.3
    momentum = torch.randn_like(position)
    factor = torch.linalg.cholesky(0.2 * torch.ones(7, 7, dtype=D) + torch.eye(7, dtype=D))
    state = path.state(position, beta)
    steps = position.new_full((len(position), 1), size)
    moved = path.leapfrog(beta, factor)(position, momentum, state.gradient, steps, torch.ones(7, dtype=D))
    for row in range(len(position)):

        def tempered(u: Tensor, unit: int = row % path.units) -> Tensor:
            log_q, log_p = case.by_hand(u, unit)
            return (1 - beta) * log_q + beta * log_p

        def slope(u: Tensor) -> Tensor:
            at = u.clone().requires_grad_(True)
            return torch.autograd.grad(tempered(at), at)[0]

        p = momentum[row] + 0.5 * size * factor.T @ slope(position[row])
        u = position[row] + size * factor @ p
        p = p + 0.5 * size * factor.T @ slope(u)
        for found, expected in zip(moved, (u, p, tempered(u), slope(u)), strict=False):
            torch.testing.assert_close(found[row], expected, rtol=1e-7, atol=1e-7)


def test_draws_have_the_distribution_of_the_start(oracles: ModuleType) -> None:
    """By Kolmogorov and Smirnov: normals, log-normals, and the Beta marginal of the simplex."""
    case = _case("local")
    path = _path(case, chains=2000)
    u = path.draw().reshape(2000, 5, 7).numpy()
    x = case.data[0].numpy()
    chances = []
    for n in range(5):
        chances.append(stats.kstest(u[:, n, 0], stats.norm(x[n].mean(), 0.7).cdf).pvalue)
        chances.append(stats.kstest(u[:, n, 1], stats.norm(0.5 * x[n].sum(), 0.7).cdf).pvalue)
        chances += [stats.kstest(u[:, n, k], stats.norm(0.2, 0.6).cdf).pvalue for k in (4, 5, 6)]
        first = 1 / (1 + 2 * np.exp(-u[:, n, 2]))
        chances.append(stats.kstest(first, stats.beta(2, 7).cdf).pvalue)
    assert min(chances) > oracles.LEVEL / len(chances)
    stubborn = _path(_case("stubborn"), chains=500).draw().numpy()
    for k, loc in enumerate((0.1, 0.2, 0.3)):
        assert stats.kstest(stubborn[:, k], stats.norm(loc, 0.5).cdf).pvalue > oracles.LEVEL


@pytest.mark.parametrize("indexed", [False, True])
def test_placed_latents_are_in_their_own_rows(indexed: bool) -> None:
    """Chain by chain; a last chunk of one unit is filled up with it."""
    case = _case("local-index" if indexed else "local")
    path = _path(case, chains=3)
    rng = np.random.default_rng(2)
    z = torch.as_tensor(rng.normal(size=(1, 5, 2)))
    w = torch.as_tensor(rng.dirichlet(np.ones(3), size=(1, 5)))
    s = torch.as_tensor(rng.gamma(2.0, size=(1, 5, 3)))
    chunks = [None] if not indexed else [case.index, torch.tensor([3])]
    for chunk in chunks:
        count = path.choose(chunk)
        assert count == (5 if chunk is None else len(chunk))
        units = list(range(5)) if chunk is None else [*chunk.tolist(), *[int(chunk[0])] * (3 - count)]
        constrain = path.place({"z": z, "w": w, "s": s}).reshape(3, len(units), 7)
        for chain in constrain:
            for at, unit in zip(chain, units, strict=True):
                torch.testing.assert_close(at[:2], z[0, unit])
                torch.testing.assert_close(StickBreakingTransform()(at[2:4]), w[0, unit])
                torch.testing.assert_close(at[4:].exp(), s[0, unit])


def test_a_shorter_chunk_is_evaluated_on_its_own_units() -> None:
    case = _case("local-index")
    for engine in ("pyro", "traced"):
        path = _path(case, engine=engine)
        assert path.choose(torch.tensor([3, 0])) == 2
        by_hand = _local_by_hand(case.data[0][[3, 0, 3]], False)
        position = path.draw()
        found = path.leapfrog(1.0, torch.eye(7, dtype=D))(
            position, torch.zeros_like(position), torch.zeros_like(position),
            torch.zeros(len(position), 1, dtype=D), torch.ones(7, dtype=D),
        )  # fmt: skip
        expected = torch.stack([by_hand(u, row % 3)[1] for row, u in enumerate(position)])
        torch.testing.assert_close(found[2], expected, rtol=1e-9, atol=1e-9)


def test_zero_density_is_finite_and_lets_chains_move_on() -> None:
    """log q there as before, log p hopeless, and no gradient but q's."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(ZERO, 1.0))
            pyro.sample("x", dist.Normal(0.0 * z, 1.0), obs=x[i])
            # Beyond zero the value is −∞ and the gradient is not a number.
            pyro.factor("inside", torch.where(z > 0, z.sqrt().log(), -torch.inf))

    path = _path(Case(model, Prior(model), (torch.zeros(2, dtype=D),), _local_by_hand, "prior"), chains=3)
    position = torch.tensor([[-1.0], [-2.0], [1.0], [2.0], [-0.5], [0.5]], dtype=D)
    state = path.state(position, 0.0)
    torch.testing.assert_close(state.log_density, _normal(position))
    torch.testing.assert_close(state.gradient, -position)
    for part in (*state.more, path.state(position, 0.5).gradient):
        assert part.isfinite().all()
    assert ((state.more[0] < -1e9) == (position[:, 0] < 0)).all()


def _normal(position: Tensor) -> Tensor:
    return torch.as_tensor(stats.norm.logpdf(position[:, 0].numpy()))


def test_discrete_latents_and_point_masses_are_refused() -> None:
    def discrete(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            k = pyro.sample("k", dist.Bernoulli(0.5 * ONE))
            pyro.sample("x", dist.Normal(k, 1.0), obs=x[i])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(ZERO, 1.0)), 1.0), obs=x[i])

    def point(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            pyro.sample("z", dist.Delta(0.5 * x[i]))

    data = (torch.arange(3, dtype=D),)
    with pytest.raises(InputError, match="site k is discrete"):
        _path(Case(discrete, Prior(discrete), data, _local_by_hand, "prior"))
    with pytest.raises(InputError, match="puts site z at one point"):
        _path(Case(model, point, data, _local_by_hand))
    assert _path(Case(model, point, data, _local_by_hand, "prior")).dim == 1
