"""Traced graphs against the programs they were traced from, operation by operation and uncompiled."""

from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from ppl_vae.base.seeds import seeded
from ppl_vae.engine.graph import Noise, trace, vmap_graph

DOUBLE = {"dtype": torch.float64}
# Of few float64 operations; the programs here have values of order ten.
ROUNDING = 1e-12


pytestmark = pytest.mark.usefixtures("unchecked")


# Noise -------------------------------------------------------------------------------------------

LOC, SCALE = (
    torch.linspace(-2, 2, 12, **DOUBLE).reshape(4, 3),
    torch.linspace(0.5, 3, 12, **DOUBLE).view(4, 3),
)
REPARAMETERISED = {
    "Normal": (lambda: dist.Normal(LOC, SCALE), ["normal_"]),
    "Uniform": (lambda: dist.Uniform(LOC, LOC + SCALE), ["uniform_"]),
    "Laplace": (lambda: dist.Laplace(LOC, SCALE), ["uniform_"]),
    "Exponential": (lambda: dist.Exponential(SCALE), ["exponential_"]),
    "LogNormal": (lambda: dist.LogNormal(LOC, SCALE), ["normal_"]),
    "HalfCauchy": (lambda: dist.HalfCauchy(SCALE), ["cauchy_"]),
    "Gumbel": (lambda: dist.Gumbel(LOC, SCALE), ["uniform_"]),
    "Logistic": (lambda: dist.Logistic(LOC, SCALE), ["uniform_"]),
    "Weibull": (lambda: dist.Weibull(SCALE, SCALE), ["exponential_"]),
    "MultivariateNormal": (lambda: dist.MultivariateNormal(LOC, torch.eye(3, **DOUBLE)), ["normal_"]),
    "LowRank": (
        lambda: dist.LowRankMultivariateNormal(LOC, LOC[:, :, None], SCALE),
        ["normal_", "normal_"],
    ),
    "Delta": (lambda: dist.Delta(LOC), []),
}


def _operation(noise: Noise) -> str:
    return getattr(noise.operator, "_opname", noise.operator.__name__)


@pytest.mark.parametrize("name", REPARAMETERISED)
def test_lifted_noise_draws_the_programs_own_numbers(name: str) -> None:
    make, operators = REPARAMETERISED[name]

    def program(*_: Tensor) -> tuple[Tensor, ...]:
        first, second = make().rsample(), make().rsample()
        return first, second, make().log_prob(first)

    graph = trace(program, LOC, SCALE)
    assert [_operation(noise) for noise in graph.noise] == 2 * operators
    for seed in (0, 1):
        with seeded(seed):
            expected = program()
        with seeded(seed):
            found = graph(LOC, SCALE)
        # Bit for bit.
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def _many_kinds(x: Tensor) -> tuple[Tensor, ...]:
    a = pyro.sample("a", dist.Normal(x.mean(), 1.0))
    with pyro.plate("rows", len(x), subsample_size=5) as i:
        b = pyro.sample("b", dist.Laplace(a.expand(5), 1.0))
        c = pyro.sample("c", dist.Exponential(1 + b**2))
    d = torch.randn_like(x) + torch.rand(len(x), dtype=x.dtype) + torch.randn(1, dtype=x.dtype)
    return a, i.double(), b, c, d, x[i]


def test_noise_comes_in_the_programs_own_order(agree: Any) -> None:
    x = torch.randn(12, **DOUBLE)
    graph = trace(_many_kinds, x)
    assert [_operation(noise) for noise in graph.noise] == [
        "normal_", "randperm", "uniform_", "exponential_", "normal_", "uniform_", "normal_",
    ]  # fmt: skip
    for seed in range(4):
        agree(graph, _many_kinds, x, seed=seed)
    drawn = graph.draw()
    assert [tuple(noise.shape) for noise in graph.noise] == [tuple(values.shape) for values in drawn]
    # Given noise is used, and the generator is left alone.
    state = torch.get_rng_state()
    once, again = (graph(x, noise=drawn) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert not torch.equal(graph(x)[0], once[0])


def test_noise_fills_stacks_row_by_row_as_single_draws() -> None:
    graph = trace(_many_kinds, torch.randn(12, **DOUBLE))
    for noise in graph.noise:
        stack = noise.empty(3)
        with seeded(1):
            for row in stack:
                noise.fill(row)
        with seeded(1):
            for row in stack:
                single = noise.empty()
                noise.fill(single)
                assert torch.equal(row, single)


def test_tracing_leaves_the_generator_alone() -> None:
    state = torch.get_rng_state()
    trace(_many_kinds, torch.ones(12, **DOUBLE))
    assert torch.equal(torch.get_rng_state(), state)


# Inputs ------------------------------------------------------------------------------------------


def test_everything_that_changes_between_steps_is_an_input(objective: Any, agree: Any) -> None:
    """Changed in place, it changes the graph's numbers exactly as the program's."""
    task = objective()
    graph = trace(task, *task.tensors)
    assert graph.num_inputs == 3 + 3 + 1
    agree(graph, task, *task.tensors)
    changes = {
        "parameters": (task.leaves[0], task.leaves[0].detach() + 0.3),
        "constrained parameters": (task.leaves[-1], task.leaves[-1].detach() - 0.4),
        "data": (task.data[0], task.data[0] * 1.5),
        "index": (task.index, torch.tensor([9, 1, 1, 3])),
        "N/B": (task.scale, torch.tensor(4.0, **DOUBLE)),
        "β": (task.beta, torch.tensor(0.2, **DOUBLE)),
        "a buffer": (task.pair.buffers()["model.centre"], torch.tensor([1.0, -1.0, 0.0], **DOUBLE)),
    }
    for name, (tensor, value) in changes.items():
        with seeded(0):
            before = graph(*task.tensors)[0]
        with torch.no_grad():
            tensor.copy_(value)
        with seeded(0):
            assert graph(*task.tensors)[0] != before, f"{name} is frozen in the graph"
        agree(graph, task, *task.tensors)


def test_scale_in_the_graph_replaces_the_programs_own(objective: Any) -> None:
    """With N/B = 10/4 the weighed objective is that of Pyro's own plate."""
    weighed = objective(beta=None)
    plain = replace(weighed, scale=None)
    with seeded(1):
        expected = plain()
    with seeded(1):
        found = weighed()
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(b, a, rtol=ROUNDING, atol=ROUNDING)


def test_other_tensors_than_the_inputs_are_read_by_reference(agree: Any) -> None:
    weight = torch.ones(3, **DOUBLE)
    x = torch.randn(3, **DOUBLE)

    def program(x: Tensor) -> tuple[Tensor, ...]:
        return ((weight * x + weight).sum(),)

    graph = trace(program, x)
    assert len(graph.constants) == 1
    weight.mul_(3)
    agree(graph, program, x)


# Many data sets at once ----------------------------------------------------------------------------


def test_many_data_sets_side_by_side_are_the_loop_over_them(objective: Any) -> None:
    """Simulated data get a leading dimension, and every member its own noise."""
    task = objective(index=None, scale=None, beta=None)
    graph = trace(task, *task.tensors)
    simulated = torch.randn(4, 10, 3, **DOUBLE)
    held = [leaf.detach() for leaf in task.leaves]
    together = vmap_graph(graph, [*(False for _ in held), True], [*held, simulated])
    assert [tuple(noise.shape) for noise in together.noise] == [(4, *n.shape) for n in graph.noise]
    drawn = together.draw()
    assert all(not torch.equal(noise[0], noise[1]) for noise in drawn)
    found = together(*held, simulated, noise=drawn)
    for member in range(4):
        expected = graph(*held, simulated[member], noise=[noise[member] for noise in drawn])
        for a, b in zip(expected, found, strict=True):
            torch.testing.assert_close(b[member], a, rtol=ROUNDING, atol=ROUNDING)
    # The members' draws are those of one draw after another.
    with seeded(2):
        (values, *_) = together.draw()
    with seeded(2):
        for row in values:
            one = graph.noise[0].empty()
            graph.noise[0].fill(one)
            assert torch.equal(row, one)


def test_members_can_share_their_noise(objective: Any) -> None:
    task = objective(index=None, scale=None)
    graph = trace(task, *task.tensors)
    betas = torch.tensor([0.1, 0.5, 1.0], **DOUBLE)
    inputs = [tensor.detach() for tensor in task.tensors]
    batched = [tensor is task.beta for tensor in task.tensors]
    example = [betas if lead else tensor for tensor, lead in zip(inputs, batched, strict=True)]
    together = vmap_graph(graph, batched, example, noise=False)
    assert [noise.shape for noise in together.noise] == [noise.shape for noise in graph.noise]
    drawn = graph.draw()
    (losses, *_) = together(*example, noise=drawn)
    for beta, loss in zip(betas, losses, strict=True):
        single = [beta if lead else tensor for tensor, lead in zip(inputs, batched, strict=True)]
        torch.testing.assert_close(loss, graph(*single, noise=drawn)[0], rtol=ROUNDING, atol=ROUNDING)
    # Linear in β with the same noise: a member that got another's noise would not be.
    slope = (losses[2] - losses[0]) / 0.9
    torch.testing.assert_close(losses[1], losses[0] + 0.4 * slope, rtol=1e-10, atol=1e-10)


def test_noise_is_a_record_of_what_to_draw() -> None:
    (noise,) = trace(lambda x: (x + torch.randperm(5),), torch.zeros(5)).noise
    assert isinstance(noise, Noise)
    assert not noise.in_place
    assert noise.dtype == torch.int64
    out = noise.empty(2)
    for row in out:
        noise.fill(row)
    assert out.sort(1).values.tolist() == [[0, 1, 2, 3, 4]] * 2
