"""Statistics that learning leaves open, settled over the training data: batch normalisation."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from ppl_vae.base.seeds import derived, seeded
from ppl_vae.inference.evidence.unit_noise import UnitNoise
from ppl_vae.program.abilities import Settles
from ppl_vae.program.layout import Substitute, enumerated, particle_plate
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem

__all__ = ["Settling", "settle"]

# Numbers in the largest site of one part of the data; what networks compute in between is larger.
PART = 2**18
# Draws of the guide that few data have in all: a decoder's statistics are those of its latents.
FEWEST_DRAWS, MOST_PARTICLES = 2**12, 16


def settle(pair: Pair, *data: Any, seed: int = 0) -> None:
    """Settle every open layer of both programs over all the data, in place.

    A layer that comes after others sees what
    they do once they are settled. What comes to a decoder are draws of the guide, one to sixteen a datum.

    Args:
        pair: model and guide; their buffers are changed, and nothing else.
        data: the training data.
        seed: of the guide's draws.
    """
    Settling(Problem.of(pair, *data), seed=seed)()


class Settling:
    """Settles the open layers of a pair (`program.Settles`), as often as it is called.

    Nothing happens, and no random number is drawn, for a pair without such layers.

    Args:
        problem: an initialised pair, whose parameters may change from call to call, with the training data.
        seed: of the guide's draws: the same at every call, so that the statistics are a fixed function of the
            parameters.
        train: "guide" leaves the model's layers as they are.
        most: of more data, so many are chosen; all by default.
        part: numbers in the largest site of one part of the data, for bounded memory; the statistics do not
            depend on it.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        seed: int,
        train: Literal["both", "guide"] = "both",
        most: int | None = None,
        part: int = PART,
    ) -> None:
        self.problem, self.seed, self.part = problem, seed, part
        self.layers = problem.pair.open_layers(train)
        self.in_model = {id(module) for module in problem.pair.known.called["model"]}
        layout = problem.layout
        self.plate = layout.batch_plate if layout.batch_plate in layout.indexable else None
        size = layout.batch_plate_size
        self.index = torch.arange(size)
        if most is not None and size > most and self.plate is not None:
            generator = torch.Generator().manual_seed(derived(seed, 1))
            self.index = torch.randperm(size, generator=generator)[:most].sort().values
        draws = max(1, min(MOST_PARTICLES, FEWEST_DRAWS // max(1, len(self.index))))
        self.particles = draws if layout.vectorized else 1

    def __call__(self) -> None:
        """Settle one layer after another, each over all data."""
        for layer in self.layers:
            assert isinstance(layer, Settles)
            layer.settle(self._inputs(layer))

    @contextmanager
    def for_now(self) -> Iterator[None]:
        """Run a block with settled layers, and put their buffers back after."""
        buffers = [buffer for layer in self.layers for buffer in layer.buffers()]
        before = [buffer.clone() for buffer in buffers]
        try:
            self()
            yield
        finally:
            with torch.no_grad():
                for buffer, value in zip(buffers, before, strict=True):
                    buffer.copy_(value)

    def _inputs(self, layer: nn.Module) -> Iterator[Tensor]:
        """What the layer is called with, part by part of the data."""
        seen: list[Tensor] = []
        hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
        try:
            for units in self._parts():
                self._run(units, id(layer) in self.in_model)
                yield from seen
                seen.clear()
        finally:
            hook.remove()

    def _parts(self) -> list[Tensor | None]:
        if self.plate is None:
            return [None]
        size = max(1, self.part // (self.particles * self.problem.layout.event_size))
        return list(self.index.split(size))

    @torch.no_grad()
    def _run(self, units: Tensor | None, both: bool) -> None:
        """Run the guide, or both programs, on some data, with random numbers that belong to each datum."""
        pair, data, layout = self.problem.pair, self.problem.data, self.problem.layout
        given = {} if units is None or self.plate is None else {self.plate: units}
        by_datum = self.plate == layout.unit_plate and units is not None
        # Draws that no counter gives: anew for every datum, the same for what all data share.
        seed = derived(self.seed, 2, int(units[0]) if by_datum and units is not None else 0)
        noise = UnitNoise(layout, self.seed, 0, self.particles, units if by_datum else None)
        with pair.scope(), seeded(seed), noise, pyro.validation_enabled(False), Substitute(given):
            with particle_plate(layout, self.particles):
                guide_trace = poutine.trace(pair.guide).get_trace(*data)
            if not both:
                return
            for name in layout.summed:
                if name in guide_trace.nodes:
                    guide_trace.remove_node(name)
            with enumerated(layout), particle_plate(layout, self.particles):
                poutine.replay(pair.model, trace=guide_trace)(*data)
