"""The geometric path from a starting program to the posterior, for many chains of many units at once.

log f_β(u) = (1 − β) log q(u) + β log p(x, u) in unconstrained space: at β = 0 the start (the guide or the
prior), at β = 1 the posterior up to its evidence. Units are independent, so chains × units are the rows of
one batch, and one leapfrog step of all of them is one graph.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to

from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import keep_generator, seeded
from ppl_vae.engine.compiler import compile_graph, fall_back
from ppl_vae.engine.graph import Outputs, Untraceable, check_graph, trace
from ppl_vae.engine.leapfrog import Leapfrog
from ppl_vae.guides.prior import Prior
from ppl_vae.inference.samplers.hmc import ChainState
from ppl_vae.program.constrain import Constrain
from ppl_vae.program.given_latents import guide_values
from ppl_vae.program.layout import (
    Substitute,
    canonical_value,
    enumerated,
    log_prob_per_unit,
    log_q_per_unit,
    particle_plate,
    plates_of,
    reduce_to_units,
    sample_sites,
    site_value,
)
from ppl_vae.program.pair import Program
from ppl_vae.program.problem import Problem

__all__ = ["NOTHING", "TemperedPath"]

# log p where it is zero.
NOTHING = -1e10


class TemperedPath:
    """The path's densities and leapfrog steps, for K chains of each unit of a chunk.

    Rows are chains × units, chain by chain. Chunks may be shorter than the first one; they are filled up.

    Args:
        problem: a pair with the first chunk of its units, or with all of them.
        num_chains: K.
        start: "guide" or "prior".
        engine: "pyro", "traced" or "compiled".

    Attributes:
        units: number of units in a chunk, the filled-up ones included.
        dim: unconstrained numbers a unit.
        device: where they are.
        engine: what it became: stock Pyro, said once, where tracing is not possible.
        compile_seconds: what compiling took.

    Raises:
        InputError: if a latent site is discrete, all of them are summed out, or the start is a point.
    """

    def __init__(self, problem: Problem, num_chains: int, start: str, engine: str) -> None:
        self.index = None if problem.index is None else problem.index.clone()
        self.problem = problem.rows(self.index)
        self.pair, self.data, self.layout = problem.pair, problem.data, problem.layout
        if not self.layout.latents:
            raise InputError(
                f"there is nothing to anneal: {', '.join(self.layout.summed)} is summed out, and that sum is "
                "log p(x); importance sampling gives it"
            )
        self.num_chains, self.units = num_chains, problem.num_units
        self.start: Program = Prior(self.pair.model) if start == "prior" else self.pair.guide
        self._shapes: dict[str, torch.Size] = {}
        self._dtype: torch.dtype | None = None
        with seeded(0):
            example = self.draw()
        self.dim, self.device = example.shape[1], example.device
        self._refuse_points(example)
        # A guide in float32 of a model in float64: the path is walked in the wider of them.
        self._dtype = torch.promote_types(example.dtype, self._both(example)[1].dtype)
        example = example.to(self._dtype)
        self.engine, self.compile_seconds = "pyro", 0.0
        self._step: Callable[..., Outputs] = self._leapfrog
        if engine != "pyro":
            try:
                with keep_generator():
                    self._step = self._traced(example, engine == "compiled")
                self.engine = engine
            except Untraceable as reason:
                fall_back("annealing", reason)

    def _refuse_points(self, example: Tensor) -> None:
        chains = example.reshape(self.num_chains, self.units, -1)
        sizes = [shape.numel() for shape in self._shapes.values()]
        for name, part in zip(self._shapes, chains.split(sizes, dim=-1), strict=True):
            if self.num_chains > 1 and bool((part == part[0]).all()):
                raise InputError(
                    f"annealing starts from a density, but the guide puts site {name} at one point; start "
                    "from the prior"
                )

    def choose(self, index: Tensor | None) -> int:
        """Take another chunk of units; returns how many they are."""
        if self.index is None or index is None:
            return self.units
        self.index.copy_(torch.cat([index, index[:1].expand(self.units - len(index))]))
        return len(index)

    @torch.no_grad()
    def draw(self) -> Tensor:
        """Positions (rows, dim) drawn from the start."""
        proposal = self.start if isinstance(self.start, Prior) else None
        parts = []
        for size in [self.num_chains] if self.layout.vectorized else [1] * self.num_chains:
            model_trace, _ = self.problem.traces(size, proposal=proposal)
            parts.append(self._flat(model_trace))
        return torch.cat(parts).flatten(0, 1).to(self._dtype)

    @torch.no_grad()
    def place(self, latents: dict[str, Tensor]) -> Tensor:
        """Positions (rows, dim) with all chains of a unit at given latents, each (1, *plates, *event)."""
        given = self.problem.chosen
        for name, value in latents.items():
            at = self._unit_axis(name)
            if self.index is not None and at is not None:
                value = value.index_select(at, self.index)
            given[name] = site_value(name, value, self.layout)
        with self.pair.scope(), Substitute(given), particle_plate(self.layout, 1):
            trace = poutine.trace(self.pair.model).get_trace(*self.data)
        return self._flat(trace).expand(self.num_chains, -1, -1).flatten(0, 1).to(self._dtype)

    def _flat(self, trace: poutine.Trace) -> Tensor:
        values = self._unconstrained(trace)
        self._shapes = {name: value.shape[2:] for name, value in values.items()}
        return torch.cat([value.reshape(*value.shape[:2], -1) for value in values.values()], dim=-1)

    def state(self, position: Tensor, beta: float) -> ChainState:
        """The chains' state at positions (rows, dim), under temperature β."""
        with pyro.validation_enabled(False):
            log_q, log_p, slope_q, slope_p = self._both(position)
        difference, slope = log_p - log_q, slope_p - slope_q
        return ChainState(position, log_q + beta * difference, slope_q + beta * slope, (difference, slope))

    def leapfrog(self, beta: float, factor: Tensor) -> Leapfrog:
        """One leapfrog step under temperature β, for momenta of unit mass.

        Args:
            beta: β.
            factor: L, lower triangular (dim, dim), in whose coordinates u = L v momenta have unit mass: the
                Cholesky factor of the covariance that chains are expected to have. The step that is returned
                takes no other mass.
        """
        held = self._inputs()
        at = factor.new_tensor(beta)

        def step(
            position: Tensor, momentum: Tensor, gradient: Tensor, step_size: Tensor, _: Tensor
        ) -> Outputs:
            with pyro.validation_enabled(False):
                return self._step(position, momentum, gradient, step_size, factor, at, *held)

        return step

    def _leapfrog(
        self,
        position: Tensor,
        momentum: Tensor,
        gradient: Tensor,
        step_size: Tensor,
        factor: Tensor,
        beta: Tensor,
        *_: Tensor,
    ) -> Outputs:
        half = 0.5 * step_size
        momentum = torch.addcmul(momentum, gradient @ factor, half)
        position = torch.addcmul(position, momentum @ factor.T, step_size)
        log_q, log_p, slope_q, slope_p = self._both(position)
        difference, slope = log_p - log_q, slope_p - slope_q
        gradient = slope_q + beta * slope
        momentum = torch.addcmul(momentum, gradient @ factor, half)
        return position, momentum, log_q + beta * difference, gradient, difference, slope

    def _both(self, position: Tensor) -> Outputs:
        """log q and log p of every row, log|dz/du| included in both, and their gradients."""
        with torch.enable_grad():
            point = position.detach().requires_grad_(True)
            chains = point.reshape(self.num_chains, self.units, -1)
            if self.layout.vectorized:
                log_q, log_p = self._densities(chains)
            else:
                parts = [self._densities(chain[None]) for chain in chains]
                log_q, log_p = (torch.cat(part) for part in zip(*parts, strict=True))
            (slope_q,) = torch.autograd.grad(log_q.sum(), point, retain_graph=True, materialize_grads=True)
            (slope_p,) = torch.autograd.grad(log_p.sum(), point, materialize_grads=True)
        # Where p is zero, log p is finite and hopeless, so that f_0 is q there and nothing is NaN. An
        # infinite density is as wrong as none.
        log_p = log_p.detach().flatten().nan_to_num(nan=NOTHING, posinf=NOTHING, neginf=NOTHING)
        slope_p = slope_p.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        return log_q.detach().flatten(), log_p, slope_q, slope_p

    def _densities(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """log q and log p, each (chains, units), at positions (chains, units, dim)."""
        layout, chains = self.layout, len(position)
        constrain = Constrain(self._unflatten(position), lambda values: reduce_to_units(values, layout))
        chosen = self.problem.chosen
        with self.pair.scope():
            with enumerated(layout), Substitute(chosen), particle_plate(layout, chains), constrain:
                model_trace = poutine.trace(self.pair.model).get_trace(*self.data)
            nodes = model_trace.nodes
            latents = {name: canonical_value(name, nodes[name], layout) for name in layout.latents}
            given = chosen | guide_values(self.start, latents, layout)
            with Substitute(given), particle_plate(layout, chains):
                start_trace = poutine.trace(self.start).get_trace(*self.data)
        log_q = log_q_per_unit(start_trace, layout, chains) + constrain.log_jacobian
        log_p = log_prob_per_unit(model_trace, layout, chains) + constrain.log_jacobian
        return log_q, log_p

    def _unconstrained(self, trace: poutine.Trace) -> dict[str, Tensor]:
        """The latents of a model's trace in unconstrained space, each (chains, units, …)."""
        found = {}
        for name, site in sample_sites(trace):
            if site["is_observed"] or name in self.layout.summed:
                continue
            if site["fn"].support.is_discrete:
                raise InputError(
                    f"site {name} is discrete; annealing moves along gradients and needs real numbers"
                )
            value = biject_to(site["fn"].support).inv(site["value"])
            event = value.shape[site["value"].dim() - site["fn"].event_dim :]
            plates = tuple(frame.size for frame in plates_of(site))
            value = value.reshape(-1, *plates, *event)
            at = self._unit_axis(name)
            found[name] = value.unsqueeze(1) if at is None else value.movedim(at, 1)
        return found

    def _unflatten(self, position: Tensor) -> dict[str, Tensor]:
        """Positions (chains, units, dim) as the model's sample statements would give them."""
        sizes = [shape.numel() for shape in self._shapes.values()]
        found = {}
        for (name, shape), part in zip(self._shapes.items(), position.split(sizes, dim=-1), strict=True):
            value = part.reshape(*part.shape[:2], *shape)
            at = self._unit_axis(name)
            value = value.squeeze(1) if at is None else value.movedim(1, at)
            found[name] = site_value(name, value, self.layout)
        return found

    def _unit_axis(self, name: str) -> int | None:
        """Where the units are among the axes (chains, *plates, …) of a latent."""
        unit = self.layout.unit_plate
        return None if unit is None else 1 + self.layout.latents[name].index(unit)

    def _inputs(self) -> list[Tensor]:
        held = [*self.pair.parameters().values(), *self.pair.buffers().values()]
        return [t.detach() for t in (*held, self.index, *self.data) if isinstance(t, Tensor)]

    def _traced(self, position: Tensor, compiled: bool) -> Callable[..., Outputs]:
        begin = time.perf_counter()
        if not self.layout.vectorized:
            raise Untraceable("the programs cannot be run under a plate of particles")
        rows = len(position)
        state = [position, torch.randn_like(position), torch.randn_like(position)]
        identity = torch.eye(self.dim, dtype=position.dtype, device=position.device)
        tuning = [position.new_full((rows, 1), 0.1), identity, position.new_tensor(0.4)]
        held = [*self.pair.parameters().values(), *self.pair.buffers().values()]
        inputs = [*state, *tuning, *(t for t in (*held, self.index, *self.data) if isinstance(t, Tensor))]
        with pyro.validation_enabled(False):
            graph = trace(self._leapfrog, *inputs)
            if graph.noise:
                raise Untraceable("the programs draw random numbers beside their latents")
            vary: list[tuple[Tensor, Callable[[Tensor], Tensor]]]
            vary = [(state[0], torch.randn_like), (tuning[2], torch.rand_like)]
            if self.index is not None:
                others = self.layout.num_units
                vary.append((self.index, lambda index: torch.randint(0, others, index.shape)))
            detached = [tensor.detach() for tensor in inputs]
            check_graph(graph, self._leapfrog, *detached, vary=vary, points=2)
        if not compiled:
            return graph
        runner = compile_graph(graph, *detached)
        check_graph(graph, graph, *detached, vary=vary, points=1, run=runner, tolerance=1e-4)
        self.compile_seconds = time.perf_counter() - begin
        return runner
