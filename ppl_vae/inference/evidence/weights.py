"""Log importance weights of K draws for a chunk of units: through Pyro, or through a compiled graph."""

import math
import time
from collections.abc import Callable, Sequence

import pyro
import torch
from torch import Tensor

from ppl_vae.base.clock import check_time
from ppl_vae.base.seeds import keep_generator
from ppl_vae.engine.choice import engine_for
from ppl_vae.engine.compiler import Compiled, compile_graph, fall_back
from ppl_vae.engine.graph import Compile, Graph, Untraceable, check_graph, trace
from ppl_vae.guides.prior import Prior
from ppl_vae.inference.evidence.unit_noise import UnitNoise
from ppl_vae.program.pair import Program
from ppl_vae.program.problem import Problem

__all__ = ["CHUNK", "LogWeights", "block_size", "engine_of_weights"]

# Numbers in the largest site of one chunk: small enough to stay in the processor's cache.
CHUNK = 2**20

# Numbers in the largest site over all draws and units, below which a graph is not worth compiling.
COMPILED = 2**31


def engine_of_weights(compile: Compile, problem: Problem, num_samples: int) -> str:
    """How the weights of so many draws a unit are computed: by stock Pyro or compiled; see `engine_for`."""
    numbers = num_samples * problem.num_units * problem.layout.event_size
    return engine_for(compile, numbers, compiled=COMPILED, traced=COMPILED)


def block_size(total: int, problem: Problem) -> int:
    """How many draws of so many are evaluated together: blocks of equal size, the surplus dropped."""
    most = problem.layout.particles_per_chunk(problem.num_units, CHUNK)
    return math.ceil(total / math.ceil(total / most))


class LogWeights:
    """log p(x, z) − log[(1 − α) q(z) + α p(z)] of K draws of one proposal, for any chunk of units.

    Chunks may be shorter than the one that it was made for; they are filled up and the surplus dropped,
    so that one graph serves them all and the random numbers do not depend on how it is run.

    Args:
        problem: a pair with the first chunk of its units, or with all of them.
        num_particles: K.
        engine: "pyro", "traced" (a graph, operation by operation) or "compiled".
        defensive: α.
        proposal: what to draw from, instead of the pair's guide.

    Attributes:
        engine: what it became: stock Pyro where that is not possible; said once where it was to be compiled.
        graph: what was traced, or None.
        compile_seconds: what compiling took.
    """

    def __init__(
        self,
        problem: Problem,
        num_particles: int,
        engine: str,
        *,
        defensive: float = 0.0,
        proposal: Program | None = None,
    ) -> None:
        self.index = None if problem.index is None else problem.index.clone()
        self.problem = problem.rows(self.index)
        self.num_particles, self.defensive, self.proposal = num_particles, defensive, proposal
        self.engine, self.compile_seconds = "pyro", 0.0
        self._run: Graph | Compiled | Callable[..., tuple[Tensor, ...]] = self._weights
        self.graph: Graph | None = None
        if engine != "pyro":
            try:
                with keep_generator():
                    self._run = self.graph = self._traced()
                    if engine == "compiled":
                        self._run = self._compile(self.graph)
                self.engine = engine
            except Untraceable as reason:
                self._run, self.graph = self._weights, None
                if engine == "compiled":
                    fall_back("importance sampling", reason)

    @torch.no_grad()
    def __call__(self, index: Tensor | None = None, *, seed: int, first: int = 0) -> Tensor:
        """Log weights of K draws, of shape (K, units) in float64.

        Args:
            index: the units, at most as many as in the first chunk.
            seed: of the draws: the same for all chunks of units and of draws.
            first: number of the first draw.
        """
        check_time()
        units = None
        if self.index is not None and index is not None:
            units = len(index)
            self.index.copy_(torch.cat([index, index[:1].expand(len(self.index) - units)]))
        with UnitNoise(self.problem.layout, seed, first, self.num_particles, self.index):
            (found,) = self._run(*self._inputs())
        return found[:, :units]

    @torch.no_grad()
    def at(self, noise: Sequence[Tensor]) -> Tensor:
        """Log weights of the first chunk for given random numbers, through the traced graph."""
        assert self.graph is not None
        check_time()
        return self.graph(*self._inputs(), noise=noise)[0]

    def _inputs(self) -> list[Tensor]:
        pair, data = self.problem.pair, self.problem.data
        held = [*pair.parameters().values(), *pair.buffers().values()]
        return [t for t in (*held, self.index, *data) if isinstance(t, Tensor)]

    def _traced(self) -> Graph:
        start = time.perf_counter()
        if not self.problem.layout.vectorized:
            raise Untraceable("the programs cannot be run under a plate of particles")
        graph = trace(self._weights, *self._inputs())
        check_graph(graph, self._weights, *self._detached(), vary=self._varied(), points=2)
        self.compile_seconds = time.perf_counter() - start
        return graph

    def _compile(self, graph: Graph) -> Compiled:
        start = time.perf_counter()
        compiled = compile_graph(graph, *self._detached())
        check_graph(
            graph, graph, *self._detached(), vary=self._varied(), points=1, run=compiled, tolerance=1e-4
        )  # fmt: skip
        self.compile_seconds += time.perf_counter() - start
        return compiled

    def _detached(self) -> list[Tensor]:
        return [tensor.detach() for tensor in self._inputs()]

    def _varied(self) -> list[tuple[Tensor, Callable[[Tensor], Tensor]]]:
        if self.index is None:
            return []
        others = self.problem.layout.num_units
        return [(self.index, lambda index: torch.randint(0, others, index.shape))]

    def _weights(self, *_: Tensor) -> tuple[Tensor, ...]:
        # `Problem.of` has run both programs with Pyro's checks on; they read numbers out of tensors.
        with torch.no_grad(), pyro.validation_enabled(False):
            drawn = self.problem.terms(self.num_particles, proposal=self.proposal)
            if self.defensive == 0:
                return (drawn.log_weights.double(),)
            other = Prior(self.problem.pair.model) if self.proposal is None else None
            log_other = self.problem.terms(self.num_particles, proposal=other, latents=drawn.draws).log_q
            log_q, log_prior = drawn.log_q, log_other
            if self.proposal is not None:
                log_q, log_prior = log_other, drawn.log_q
            log_mixture = torch.logaddexp(
                log_q.double() + math.log1p(-self.defensive), log_prior.double() + math.log(self.defensive)
            )
            return (drawn.log_p.double() - log_mixture,)
