"""The log density of a model and its gradient, through stock Pyro, a traced graph, or a compiled one."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ppl_vae.inference.compiler import Compiled, compile_graph, fall_back
from ppl_vae.inference.graph import Compile, Graph, Outputs, Untraceable, check, over, trace
from ppl_vae.inference.hmc import Leapfrog, leapfrog_of
from ppl_vae.inference.objectives import Density

__all__ = ["Gradient", "engine_for", "gradient", "leapfrog"]

# Fewer iterations, of all chains together, are over before a graph is compiled.
COMPILED = 2000


def engine_for(compile: Compile, iterations: int) -> str:
    """How so many iterations run: "pyro", "traced" or "compiled"; a fixed function of its arguments."""
    if compile == "auto":
        return "traced" if iterations < COMPILED else "compiled"
    return "compiled" if compile else "pyro"


@dataclass(frozen=True, eq=False)
class Gradient:
    """log p(x, z) + log |dz/du| and its gradient, at an unconstrained position or many.

    Attributes:
        density: the function.
        engine: "pyro", "traced" or "compiled".
        seconds: what compiling took.
        run: from a position of shape (dim,), or positions (chains, dim), to the value and the gradient.
        compiled: the compiled graph, whose inputs are the position and the density's tensors.
        batched: the graph of many chains, if it is one.
    """

    density: Density
    engine: str
    seconds: float
    run: Callable[[Tensor], Outputs]
    compiled: Compiled | None = None
    batched: Graph | None = None

    def __call__(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """The log density, of shape () or (chains,), and its gradient, of the position's shape."""
        value, slope = self.run(position)
        return value, slope


def gradient(density: Density, engine: str, *, chains: int | None = None) -> Gradient:
    """The gradient of a density, run as asked, or through stock Pyro (said once) where that is impossible.

    Args:
        density: of a model.
        engine: "pyro", "traced" or "compiled".
        chains: evaluate so many positions at once, in one graph; stock Pyro takes them one by one.
    """
    if engine != "pyro":
        try:
            return _graph(density, engine, chains)
        except Untraceable as reason:
            fall_back("this density", reason)
    if chains is None:
        return Gradient(density, "pyro", 0.0, density.value_and_gradient)

    def one_by_one(positions: Tensor) -> Outputs:
        values, gradients = zip(*(density.value_and_gradient(p) for p in positions), strict=True)
        return torch.stack(values), torch.stack(gradients)

    return Gradient(density, "pyro", 0.0, one_by_one)


def leapfrog(slope: Gradient, chains: int, *, compiled: bool) -> Leapfrog:
    """One leapfrog step of many chains under a density, as one graph where its gradient is one.

    Args:
        slope: the gradient of so many chains.
        chains: their number.
        compiled: whether to compile the step.
    """
    if slope.batched is None:
        return leapfrog_of(slope)
    held = [t.contiguous() for t in (*slope.density.tensors, *slope.batched.constants)]
    module = slope.batched.module

    def step(*given: Tensor) -> Outputs:
        return tuple(leapfrog_of(lambda at: tuple(module(at, *given[5:])))(*given[:5]))

    dim = slope.density.dim
    like = next((tensor for tensor in held if tensor.is_floating_point()), torch.zeros(()))
    state = [torch.randn(chains, dim).to(like) for _ in range(3)]
    inputs = [*state, torch.full((chains, 1), 0.1).to(like), torch.ones(dim).to(like), *held]
    with torch.no_grad():
        graph = trace(step, *inputs)
    if not compiled:
        return lambda *given: graph(*given, *held)
    runner = compile_graph(graph, *inputs)
    check(graph, graph, *inputs, run=runner, tolerance=1e-6, points=1, vary=[(state[0], torch.randn_like)])
    return lambda *given: runner.run([*given, *held, *runner.graph.constants])


def traced(density: Density) -> tuple[Graph, Tensor]:
    """The checked graph of a density's value and gradient, and the position it was traced at."""
    held = density.tensors
    like = next((t for t in held if t.is_floating_point()), torch.zeros(()))
    position = torch.zeros(density.dim, dtype=like.dtype, device=like.device)

    def function(position: Tensor, *_: Any) -> Outputs:
        return density.value_and_gradient(position)

    graph = trace(function, position, *held)
    if graph.noise:
        raise Untraceable("the model draws random numbers beside its latents")
    check(graph, function, position, *held, vary=[(position, torch.randn_like)])
    return graph, position


def _graph(density: Density, engine: str, chains: int | None) -> Gradient:
    start = time.perf_counter()
    graph, position = traced(density)
    held = density.tensors
    if chains is not None:
        positions = position.expand(chains, -1).contiguous()
        graph = over(graph, [True, *(False for _ in held)], [positions, *held], noise=False)
        position = positions
    runner: Graph | Compiled = graph
    compiled = None
    if engine == "compiled":
        runner = compiled = compile_graph(graph, position, *held)
        check(graph, graph, position, *held, run=compiled, tolerance=1e-6,
              vary=[(position, torch.randn_like)])  # fmt: skip

    def run(at: Tensor) -> Outputs:
        return runner(at.contiguous(), *held)

    seconds = time.perf_counter() - start
    return Gradient(density, engine, seconds, run, compiled, None if chains is None else graph)
