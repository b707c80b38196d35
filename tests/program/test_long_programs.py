"""Programs that loop in Python: their gradients, all chains at once, and when they are compiled."""

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from ppl_vae import Pair
from ppl_vae.base.precision import default_dtype
from ppl_vae.engine import gradients
from ppl_vae.engine.density import density
from ppl_vae.engine.gradients import gradient, pays
from ppl_vae.inference import nuts

Program = Callable[[Tensor], Any]


def oscillator(y: Tensor) -> None:
    """A damped oscillator by the classical Runge-Kutta method."""
    frequency, damping = (
        pyro.sample("frequency", dist.LogNormal(0.0, 0.3)),
        pyro.sample("damping", dist.Beta(2, 5)),
    )

    def field(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return v, -(frequency**2) * x - damping * v

    x, v, step = torch.ones_like(y[0]), torch.zeros_like(y[0]), 0.3
    path = []
    for _ in range(len(y)):
        p1, q1 = field(x, v)
        p2, q2 = field(x + step / 2 * p1, v + step / 2 * q1)
        p3, q3 = field(x + step / 2 * p2, v + step / 2 * q2)
        p4, q4 = field(x + step * p3, v + step * q3)
        x, v = x + step / 6 * (p1 + 2 * p2 + 2 * p3 + p4), v + step / 6 * (q1 + 2 * q2 + 2 * q3 + q4)
        path.append(x)
    with pyro.plate("time", len(y)):
        pyro.sample("y", dist.Normal(torch.stack(path, -1), 0.1), obs=y)


def garch(y: Tensor) -> None:
    """Engle and Bollerslev's variance of one step, from the last one's."""
    base, news, kept = (pyro.sample(name, dist.Beta(2, 5)) for name in ("base", "news", "kept"))
    variance, path = base, []
    for value in y:
        path.append(variance)
        variance = base + news * value**2 + kept * variance
    with pyro.plate("time", len(y)):
        pyro.sample("y", dist.Normal(0.0, torch.stack(path, -1).sqrt()), obs=y)


def process(y: Tensor) -> None:
    """A Gaussian process: a Cholesky factor larger than those that are written out."""
    height, length = (
        pyro.sample("height", dist.LogNormal(0.0, 0.5)),
        pyro.sample("length", dist.LogNormal(0.0, 0.5)),
    )
    at = torch.arange(len(y)).to(y) / 2
    covariance = height**2 * torch.exp(-0.5 * ((at[:, None] - at) / length) ** 2) + 0.1 * torch.eye(
        len(y)
    ).to(y)
    pyro.sample("y", dist.MultivariateNormal(torch.zeros_like(y), covariance), obs=y)


LOOPS = [pytest.param(p, id=p.__name__) for p in (oscillator, garch, process)]
Y = torch.tensor([0.9, 0.7, 0.3, -0.1, -0.4, -0.6, -0.5, -0.3], dtype=torch.float64)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few dozen operations count as a long graph."""
    monkeypatch.setattr(gradients, "LONG", 20)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("program", LOOPS)
def test_all_chains_of_a_long_program_are_one_batch(program: Program) -> None:
    """As many evaluations of the program, one by one, are the oracle."""
    with default_dtype(torch.float64), pyro.validation_enabled(False):
        target = density(Pair(program, program), Y)
        together = gradient(target, "traced", chains=3)
        positions = torch.linspace(-0.7, 0.8, 3 * target.dim).reshape(3, -1)
        values, slopes = together(positions)
        expected = [target.value_and_gradient(position) for position in positions]
    assert together.batched is not None
    torch.testing.assert_close(values, torch.stack([value for value, _ in expected]))
    torch.testing.assert_close(slopes, torch.stack([slope for _, slope in expected]))


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("program", LOOPS)
def test_a_few_iterations_of_a_long_program_are_not_worth_compiling(
    program: Program, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(nuts, "engine_of_chains", lambda compile, iterations: "compiled")
    monkeypatch.setattr(gradients, "compile_graph", lambda *_: pytest.fail("compiled"))
    drawn = nuts.sample(program, Y, num_draws=5, warmup=5, chains=2, progress=False)
    assert drawn.stats.attrs["sampler"] == "batched"


@pytest.mark.parametrize(("size", "iterations", "expected"), [
    pytest.param(200, 1, True, id="short: the number of iterations has decided"),
    pytest.param(4000, 200, False, id="few iterations"),
    pytest.param(4000, 2000, True, id="many"),
    pytest.param(40_000, 2000, False, id="a compiler's work grows faster than the graph"),
])  # fmt: skip
def test_compiling_must_be_over_before_the_graph_would_be(size: int, iterations: int, expected: bool) -> None:
    assert pays(size, iterations) is expected


@pytest.mark.parametrize("program", LOOPS)
def test_what_a_long_program_waits_for_is_said(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    clock = iter(range(100))
    monkeypatch.setattr(gradients, "LONG", 20)
    # Every look at the clock is a second after the last one.
    looks = SimpleNamespace(perf_counter=lambda: next(clock), process_time=lambda: next(clock))
    monkeypatch.setattr(gradients, "time", looks)
    monkeypatch.setattr(gradients, "compile_graph", lambda *_: pytest.fail("compiled"))
    with default_dtype(torch.float64), pyro.validation_enabled(False):
        target = density(Pair(program, program), Y)
        gradient(target, "traced", tell=said.append)
        assert said == ["tracing and checking a long program"]
        with pytest.raises(pytest.fail.Exception, match="compiled"):
            gradient(target, "compiled", tell=said.append)
    assert re.fullmatch(r"compiling a graph of [\d,]+ operations; compile=False samples at once.*", said[-1])


@pytest.mark.parametrize("program", LOOPS)
def test_a_long_graph_is_checked_at_fewer_points(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    def counted(y: Tensor) -> None:
        runs.append(1)
        program(y)

    def count(length: int) -> int:
        monkeypatch.setattr(gradients, "LONG", length)
        target = density(Pair(counted, counted), Y)
        runs.clear()
        gradient(target, "traced")
        return len(runs)

    with default_dtype(torch.float64), pyro.validation_enabled(False):
        assert count(20) + 2 == count(100_000)
