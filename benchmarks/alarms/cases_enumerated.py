"""Mixtures whose components the program leaves to enumeration; the truth is the posterior of the same model
with the components summed out by hand, on a grid or in closed form."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import config_enumerate
from torch import Tensor

from benchmarks.alarms.cases_modes import on_a_grid
from benchmarks.alarms.problems import Problem
from ppl_vae.program.pair import Program

__all__ = ["PROBLEMS"]

DRAWS = 10_000
DOUBLE = torch.float64
ONE = ("full-rank", "almost", "narrow", "wide", "AutoDelta")
TWO = ("full-rank", "almost", "mean-field", "narrow", "wide", "shifted", "AutoDelta")


def _lines(*ends: tuple[float, float], cells: int) -> tuple[Tensor, Tensor]:
    """A grid of points (cells, d) and its widths (d,)."""
    axes = [torch.linspace(low, high, cells, dtype=DOUBLE) for low, high in ends]
    points = torch.cartesian_prod(*axes).reshape(-1, len(axes))
    return points, torch.stack([axis[1] - axis[0] for axis in axes])


def _problem(
    name: str, plain: Program, enumerated: Program, x: Tensor, grid: tuple[Tensor, Tensor],
    log_density: Callable[[Tensor], Tensor], sites: Callable[[Tensor], dict[str, Tensor]],
    guides: tuple[str, ...],
) -> Problem:  # fmt: skip
    """`log_density` of points (cells, d), up to a constant; `sites` takes them apart."""
    points, width = grid
    drawn = on_a_grid(log_density(points), points, width, DRAWS, seed=41)
    return Problem(
        name, "enumerated", plain, (x,), sites(drawn), guides,
        asked=lambda: (config_enumerate(enumerated, "parallel"), (x,)),
    )  # fmt: skip


def _two_known(enumerate_: bool) -> Program:
    """Two known components, their share unknown."""

    def model(x: Tensor) -> None:
        share = pyro.sample("share", dist.Beta(x.new_tensor(2.0), 2.0))
        with pyro.plate("data", len(x)):
            if enumerate_:
                z = pyro.sample("z", dist.Bernoulli(share))
                pyro.sample("x", dist.Normal(3 * z, 1.0), obs=x)
            else:
                # Of the share's shape, or the mixture would not know its batch.
                parts = dist.Normal(x.new_tensor([0.0, 3.0]) + 0 * share[..., None], 1.0)
                which = dist.Categorical(probs=torch.stack([1 - share, share], -1))
                pyro.sample("x", dist.MixtureSameFamily(which, parts), obs=x)

    return model


X_TWO = torch.tensor([-0.6, 0.4, 1.1, 2.2, 2.7, 3.5, 3.1, 4.0, 1.6, -1.2, 2.9, 3.8], dtype=DOUBLE)


def _mix(log_share: Tensor, log_rest: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """Summed over data, of shapes (cells, 1) and (cells, n)."""
    return torch.logaddexp(log_share + inside, log_rest + outside).sum(-1)


def _normal(x: Tensor, loc: Tensor | float, scale: Tensor | float = 1.0) -> Tensor:
    found: Tensor = dist.Normal(torch.as_tensor(loc, dtype=DOUBLE), scale).log_prob(x)
    return found


def _share() -> Problem:
    def log_density(p: Tensor) -> Tensor:
        mixed = _mix(p.log(), (-p).log1p(), _normal(X_TWO, 3.0), _normal(X_TWO, 0.0))
        return (p * (1 - p)).log()[:, 0] + mixed

    grid = _lines((1e-4, 1 - 1e-4), cells=5001)
    return _problem("share_of_two", _two_known(False), _two_known(True), X_TWO, grid, log_density,
                    lambda v: {"share": v[:, 0].clamp(1e-6, 1 - 1e-6)}, ONE)  # fmt: skip


def _locations(enumerate_: bool) -> Program:
    """Two locations far apart, told apart by their priors."""

    def model(x: Tensor) -> None:
        low = pyro.sample("low", dist.Normal(x.new_tensor(-2.0), 1.0))
        high = pyro.sample("high", dist.Normal(x.new_tensor(3.0), 1.0))
        with pyro.plate("data", len(x)):
            if enumerate_:
                z = pyro.sample("z", dist.Categorical(probs=x.new_tensor([0.4, 0.6])))
                pyro.sample("x", dist.Normal(torch.where(z == 0, low, high), 1.0), obs=x)
            else:
                which = dist.Categorical(probs=x.new_tensor([0.4, 0.6]))
                parts = dist.Normal(torch.stack([low, high], -1), 1.0)
                pyro.sample("x", dist.MixtureSameFamily(which, parts), obs=x)

    return model


def _two_locations() -> Problem:
    x = torch.tensor([-2.4, -1.1, -2.0, 3.4, 2.6, 3.0, 4.1, 2.2, 0.4], dtype=DOUBLE)

    def log_density(v: Tensor) -> Tensor:
        low, high = v[:, :1], v[:, 1:]
        shares = torch.tensor([0.4, 0.6], dtype=DOUBLE).log()
        prior = _normal(low, -2.0) + _normal(high, 3.0)
        return prior[:, 0] + _mix(shares[0], shares[1], _normal(x, low), _normal(x, high))

    grid = _lines((-6, 4), (-2, 7), cells=400)
    return _problem("two_locations", _locations(False), _locations(True), x, grid, log_density,
                    lambda v: {"low": v[:, 0], "high": v[:, 1]}, TWO)  # fmt: skip


def _zeros(enumerate_: bool) -> Program:
    """Counts with more zeros than a Poisson has."""

    def model(x: Tensor) -> None:
        gate = pyro.sample("gate", dist.Beta(x.new_tensor(2.0), 2.0))
        rate = pyro.sample("rate", dist.Gamma(x.new_tensor(3.0), 1.0))
        with pyro.plate("data", len(x)):
            if enumerate_:
                absent = pyro.sample("absent", dist.Bernoulli(gate))
                pyro.sample("x", dist.Poisson(torch.where(absent == 1, 1e-9 * rate, rate)), obs=x)
            else:
                pyro.sample("x", dist.ZeroInflatedPoisson(rate, gate=gate), obs=x)

    return model


def _inflated() -> Problem:
    x = torch.tensor([0.0, 0, 0, 3, 2, 0, 5, 1, 0, 4, 2, 0, 3, 0], dtype=DOUBLE)

    def log_density(v: Tensor) -> Tensor:
        gate, rate = v[:, :1], v[:, 1:]
        prior = dist.Beta(2.0, 2.0).log_prob(gate) + dist.Gamma(3.0, 1.0).log_prob(rate)
        absent = torch.where(x == 0, 0.0, -torch.inf).double()
        return prior[:, 0] + _mix(gate.log(), (-gate).log1p(), absent, dist.Poisson(rate).log_prob(x))

    grid = _lines((1e-3, 1 - 1e-3), (0.02, 9), cells=400)
    return _problem("zero_inflated", _zeros(False), _zeros(True), x, grid, log_density,
                    lambda v: {"gate": v[:, 0].clamp(1e-6, 1 - 1e-6), "rate": v[:, 1].clamp(1e-6)},
                    TWO)  # fmt: skip


def _outliers(enumerate_: bool) -> Program:
    """A mean, its noise known, and data some of which are outliers."""

    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 5.0))
        with pyro.plate("data", len(x)):
            if enumerate_:
                wild = pyro.sample("wild", dist.Bernoulli(x.new_tensor(0.15)))
                pyro.sample("x", dist.Normal(mu, torch.where(wild == 1, 6.0, 0.7).to(x)), obs=x)
            else:
                which = dist.Categorical(probs=x.new_tensor([0.85, 0.15]))
                parts = dist.Normal(mu[..., None], x.new_tensor([0.7, 6.0]))
                pyro.sample("x", dist.MixtureSameFamily(which, parts), obs=x)

    return model


def _robust() -> Problem:
    x = torch.tensor([1.2, 0.8, 1.9, 9.5, 1.1, 0.3, -7.0, 1.6], dtype=DOUBLE)

    def log_density(v: Tensor) -> Tensor:
        shares = torch.tensor([0.15, 0.85], dtype=DOUBLE).log()
        mixed = _mix(shares[0], shares[1], _normal(x, v, 6.0), _normal(x, v, 0.7))
        return _normal(v, 0.0, 5.0)[:, 0] + mixed

    grid = _lines((-4, 6), cells=8001)
    return _problem("outliers", _outliers(False), _outliers(True), x, grid, log_density,
                    lambda v: {"mu": v[:, 0]}, ONE)  # fmt: skip


def _spread(enumerate_: bool) -> Program:
    """Locations and a common scale of three known shares."""

    def model(x: Tensor) -> None:
        centre = pyro.sample("centre", dist.Normal(x.new_zeros(()), 3.0))
        scale = pyro.sample("scale", dist.LogNormal(x.new_zeros(()), 0.5))
        offsets = x.new_tensor([-4.0, 0.0, 4.0])
        probs = x.new_tensor([0.3, 0.4, 0.3])
        with pyro.plate("data", len(x)):
            if enumerate_:
                z = pyro.sample("z", dist.Categorical(probs=probs))
                pyro.sample("x", dist.Normal(centre + offsets[z], scale), obs=x)
            else:
                parts = dist.Normal(centre[..., None] + offsets, scale[..., None])
                pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(probs=probs), parts), obs=x)

    return model


def _three() -> Problem:
    x = torch.tensor([-3.1, -4.2, 0.9, 0.2, 1.5, 4.4, 5.2, 4.9, 0.4, -3.6], dtype=DOUBLE)
    offsets = torch.tensor([-4.0, 0.0, 4.0], dtype=DOUBLE)
    log_probs = torch.tensor([0.3, 0.4, 0.3], dtype=DOUBLE).log()

    def log_density(v: Tensor) -> Tensor:
        centre, scale = v[:, :1, None], v[:, 1:, None]
        prior = _normal(v[:, 0], 0.0, 3.0) + dist.LogNormal(0.0, 0.5).log_prob(v[:, 1])
        parts = _normal(x[:, None], centre + offsets, scale) + log_probs
        return prior + parts.logsumexp(-1).sum(-1)

    grid = _lines((-3, 4), (0.2, 3), cells=300)
    return _problem("three_offsets", _spread(False), _spread(True), x, grid, log_density,
                    lambda v: {"centre": v[:, 0], "scale": v[:, 1]}, TWO)  # fmt: skip


def _hidden_chain() -> Problem:
    """The mixture of two known components as a program that draws its components without enumeration:
    nothing can be said of it, and the sentence names the way out."""
    found = _share()

    return replace(
        found, name="not_enumerated", asked=lambda: (_two_known(True), found.data), refusal="required",
        guides=("full-rank", "narrow"),
    )  # fmt: skip


PROBLEMS: Mapping[str, Callable[[], Problem]] = {
    "share_of_two": _share,
    "two_locations": _two_locations,
    "zero_inflated": _inflated,
    "outliers": _robust,
    "three_offsets": _three,
    "not_enumerated": _hidden_chain,
}
