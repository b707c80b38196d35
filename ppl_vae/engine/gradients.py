"""The log density of a model and its gradient, through stock Pyro, a traced graph, or a compiled one."""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ppl_vae.base.watch import watched
from ppl_vae.engine.choice import engine_for
from ppl_vae.engine.compiler import Compiled, TooSlow, begin_compiling, compile_graph, fall_back
from ppl_vae.engine.density import Density
from ppl_vae.engine.graph import Compile, Graph, Outputs, Untraceable, check_graph, trace, vmap_graph
from ppl_vae.engine.leapfrog import Leapfrog, leapfrog_of
from ppl_vae.engine.torch_internals import operator_name

__all__ = ["Gradient", "begin", "engine_of_chains", "gradient", "leapfrog", "side_by_side"]

# Raised where a factorisation fails; PyTorch's annotations hide it.
LinAlgError: type[RuntimeError] = getattr(torch.linalg, "LinAlgError", RuntimeError)
# Fewer iterations, of all chains together, are over before a graph is compiled.
COMPILED = 2000
# Graphs of more operations are long: checked at fewer points, and what they wait for is told.
LONG = 1500
# Seconds an operation: to compile it, in a graph of so many (of more, g++ takes more than in proportion), and
# to run it uncompiled, for all chains at once. Gradients an iteration.
TO_COMPILE, MANY, TO_RUN, GRADIENTS = 0.03, 4000, 1e-5, 10


def engine_of_chains(compile: Compile, iterations: int) -> str:
    """How the gradients of so many iterations run, of all chains together; see `engine_for`."""
    return engine_for(compile, iterations, compiled=COMPILED)


def pays(size: int, iterations: int) -> bool:
    """Whether compiling a graph is over before its iterations would be, run operation by operation.

    Of short graphs `engine_of_chains` has said so. A fixed function of its arguments: the chains of a seed
    do not depend on the moment.

    Args:
        size: operations of the graph.
        iterations: of one chain.
    """
    compiling = TO_COMPILE * size * max(1.0, size / MANY)
    return size <= LONG or compiling < TO_RUN * size * GRADIENTS * iterations


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
        chains: how many positions it takes at once; None for one, without a leading dimension.
        late: whether it was to be compiled, and a deadline left no time for it.
        traced: the graph of one position, where the program could be traced.
    """

    density: Density
    engine: str
    seconds: float
    run: Callable[[Tensor], Outputs]
    compiled: Compiled | None = None
    batched: Graph | None = None
    chains: int | None = None
    late: bool = False
    traced: Graph | None = None

    def __call__(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """The log density, of shape () or (chains,), and its gradient, of the position's shape."""
        value, slope = self.run(position)
        return value, slope

    def of_each(self, positions: Tensor, which: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """Log densities (chains,) and gradients of positions (chains, dim), however they are run.

        Where they are run one by one, only those asked for; the others get NaN. A factorisation that fails
        (a matrix that is not positive definite) makes a density that is not finite, and no error.

        Args:
            positions: one a chain.
            which: chains whose gradient is needed.
        """
        if self.batched is not None:
            return self._guarded(positions)
        values, slopes = (
            positions.new_full((len(positions),), torch.nan),
            torch.full_like(positions, torch.nan),
        )
        for k in range(len(positions)) if which is None else which:
            values[k], slopes[k] = self._one(positions[k])
        return values, slopes

    def values(self, positions: Tensor) -> Tensor:
        """The log densities of `of_each`, to the bit, without what only gradients need where it can be."""
        if self._values is not None:
            with contextlib.suppress(LinAlgError):
                return self._values(positions.contiguous())
        return self.of_each(positions)[0]

    @cached_property
    def _values(self) -> Callable[[Tensor], Tensor] | None:
        if self.batched is None or self.compiled is not None:
            return None
        run, held = self.batched.first(), self.density.tensors
        return lambda positions: run(positions, *held)

    @cached_property
    def one(self) -> "Gradient":
        """That of one position: by the graph of one where there is one, else by stock Pyro."""
        if self.chains is None:
            return self
        if self.traced is None:
            return Gradient(self.density, "pyro", 0.0, self.density.value_and_gradient)
        graph, held = self.traced, self.density.tensors
        return Gradient(self.density, "traced", 0.0, lambda at: graph(at.contiguous(), *held), traced=graph)

    def _guarded(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        try:
            return self(positions)
        except LinAlgError:  # of one chain: which one is found by asking for each alone
            slopes, values = (
                torch.full_like(positions, torch.nan),
                positions.new_full((len(positions),), torch.nan),
            )
            for k, position in enumerate(positions):
                with contextlib.suppress(LinAlgError):
                    value, slope = self(position.expand_as(positions))
                    values[k], slopes[k] = value[k], slope[k]
            return values, slopes

    def _one(self, position: Tensor) -> tuple[Tensor, Tensor]:
        try:
            if self.chains is None:
                return self(position)
            value, slope = self.density.value_and_gradient(position)
            return value, slope
        except LinAlgError:
            return position.new_tensor(torch.nan), torch.full_like(position, torch.nan)


def gradient(
    density: Density,
    engine: str,
    *,
    chains: int | None = None,
    native: bool = False,
    iterations: int | None = None,
    tell: Callable[[str], None] | None = None,
) -> Gradient:
    """The gradient of a density, run as asked, or through stock Pyro (said once) where that is impossible.

    Args:
        density: of a model.
        engine: "pyro", "traced" or "compiled".
        chains: evaluate so many positions at once, in one graph; stock Pyro takes them one by one.
        native: of one position after all where a compiled graph needs no Python, for samplers' threads.
        iterations: of one chain: too few for a long graph to be compiled; None compiles as asked.
        tell: called with what a long program is waiting for.
    """
    if engine != "pyro":
        try:
            return _graph(density, engine, chains, native, iterations, tell or (lambda text: None))
        except Untraceable as reason:
            if _runs(density):  # else its own error comes out soon
                fall_back("this density", reason)
    if chains is None:
        return Gradient(density, "pyro", 0.0, density.value_and_gradient)

    def one_by_one(positions: Tensor) -> Outputs:
        values, gradients = zip(*(density.value_and_gradient(p) for p in positions), strict=True)
        return torch.stack(values), torch.stack(gradients)

    return Gradient(density, "pyro", 0.0, one_by_one, chains=chains)


def side_by_side(slope: Gradient, chains: int) -> Gradient:
    """The gradient of so many positions at once, in one uncompiled graph, where that of one is a graph.

    Elsewhere it is the gradient of one position itself, whose `of_each` takes many one by one.
    """
    if slope.traced is None:
        return slope
    density, held = slope.density, slope.density.tensors
    try:
        graph, _ = _side_by_side(density, slope.traced, density.like.new_zeros(density.dim), chains)
    except Untraceable:
        return slope
    return Gradient(density, "traced", 0.0, lambda at: graph(at.contiguous(), *held), None, graph, chains)


def _runs(density: Density) -> bool:
    try:
        density.value(density.like.new_zeros(density.dim))
    except Exception:  # whatever the program raises
        return False
    return True


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
    check_graph(
        graph, graph, *inputs, run=runner, tolerance=1e-6, points=1, vary=[(state[0], torch.randn_like)]
    )
    return lambda *given: runner.run([*given, *held, *runner.graph.constants])


def traced(density: Density) -> tuple[Graph, Tensor]:
    """The checked graph of a density's value and gradient, and the position it was traced at."""
    held = density.tensors
    position = torch.zeros(density.dim, dtype=density.like.dtype, device=density.like.device)

    def function(position: Tensor, *_: Any) -> Outputs:
        return density.value_and_gradient(position)

    graph = trace(function, position, *held)
    if graph.noise:
        raise Untraceable("the model draws random numbers beside its latents")
    points = 1 if graph.size > LONG else 3
    check_graph(graph, function, position, *held, vary=[(position, torch.randn_like)], points=points)
    return graph, position


# Operations of linear algebra have no C interface in compiled graphs; small Cholesky factors are written out.
_PYTHON = ("linalg_", "_linalg_", "cholesky", "triangular_solve", "lu_", "geqrf", "ormqr")


def needs_python(graph: Graph) -> bool:
    """Whether a compiled graph would call an operation without a C interface."""
    names = {operator_name(node.target) for node in graph.module.graph.nodes}
    return any(name.startswith(_PYTHON) for name in names)


def begin(density: Density) -> None:
    """Begin to compile the gradient that chains in native threads will want, inside `compile_apart.ahead`.

    Nothing happens where the program cannot be traced, is long, or needs Python: it is compiled when it is
    needed, if at all.
    """
    try:
        with watched():
            if not _runs(density):
                return
            graph, position = traced(density)
        if graph.size <= LONG and not needs_python(graph):
            begin_compiling(graph, position, *density.tensors)
    except Untraceable:  # which is said when it is needed
        return


def _graph(
    density: Density,
    engine: str,
    chains: int | None,
    native: bool,
    iterations: int | None,
    tell: Callable[[str], None],
) -> Gradient:
    start = time.perf_counter()
    with watched():
        # One run of the program; tracing and checking take several hundred times as long. Processor time: a
        # busy machine makes no program long.
        worked = time.process_time()
        if _runs(density) and time.process_time() - worked > 0.02:
            tell("tracing and checking a long program")
        graph, position = traced(density)
    if engine == "compiled" and iterations is not None and not pays(graph.size, iterations):
        engine = "traced"
    late = False
    if engine == "compiled":
        if graph.size > LONG:
            tell(
                f"compiling a graph of {graph.size:,} operations; compile=False samples at once, but more "
                "slowly"
            )
        together = None if native and not needs_python(graph) else chains
        try:
            return _compiled(density, graph, position, together, start)
        except TooSlow as reason:
            tell(f"not compiled: {reason}")
            late = True
    one = graph
    if chains is not None:
        graph, position = _side_by_side(density, graph, position, chains)
    held, seconds = density.tensors, time.perf_counter() - start

    def run(at: Tensor) -> Outputs:
        return graph(at.contiguous(), *held)

    return Gradient(
        density, "traced", seconds, run, None, None if chains is None else graph, chains, late, one
    )


def _compiled(density: Density, graph: Graph, position: Tensor, chains: int | None, start: float) -> Gradient:
    """The gradient as machine code, checked.

    Raises:
        Untraceable: if it cannot be compiled, or not in time (`TooSlow`).
    """
    held, one = density.tensors, graph
    if chains is not None:
        graph, position = _side_by_side(density, graph, position, chains)
    compiled = compile_graph(graph, position, *held)
    check_graph(graph, graph, position, *held, run=compiled, tolerance=1e-6,
          vary=[(position, torch.randn_like)])  # fmt: skip

    def run(at: Tensor) -> Outputs:
        return compiled(at.contiguous(), *held)

    seconds = time.perf_counter() - start
    batched = None if chains is None else graph
    return Gradient(density, "compiled", seconds, run, compiled, batched, chains, traced=one)


def _side_by_side(density: Density, graph: Graph, position: Tensor, chains: int) -> tuple[Graph, Tensor]:
    """The graph of so many positions at once, and as many positions."""
    held = density.tensors
    positions = position.expand(chains, -1).contiguous()
    return vmap_graph(graph, [True, *(False for _ in held)], [positions, *held], noise=False), positions
