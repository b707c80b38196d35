"""What a method works on, and the one primitive of all inference here: log p(x, z) and log q(z).

ELBO, importance weights, evidence and their kin are short functions of the two matrices of `Problem.terms`,
per particle and per unit. A *unit* is the independent piece over which log p(x) factorises: an entry of the
outermost plate that contains every latent and observed site of model and guide, else the whole data set.
"""

import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.base.clock import check_time
from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import seeded
from ppl_vae.program.given_latents import guide_values
from ppl_vae.program.layout import (
    Layout,
    Narrow,
    Substitute,
    canonical_value,
    enumerated,
    log_prob_per_unit,
    log_q_per_unit,
    particle_plate,
    site_value,
    sizes,
)
from ppl_vae.program.pair import Pair, Program
from ppl_vae.program.probe import (
    PROBE_SIZE,
    check_data,
    in_pyros_words,
    known_layout,
    look,
    remember,
)
from ppl_vae.program.read_layout import read_layout

__all__ = ["Problem", "Terms", "check_index"]

# What PyTorch and Pyro raise where a program does not run under a plate of particles, or enumerated.
_MISFIT = (RuntimeError, ValueError, IndexError, AssertionError, NotImplementedError)


@dataclass(frozen=True, eq=False)
class Terms:
    """log p(x, z) and log q(z), each of shape (particles, units), and the draws z themselves."""

    log_p: Tensor
    log_q: Tensor
    draws: Mapping[str, Tensor]

    @property
    def log_weights(self) -> Tensor:
        """log p(x, z) − log q(z), shape (particles, units)."""
        return self.log_p - self.log_q


@dataclass(frozen=True, eq=False)
class Problem:
    """A pair with its data: all of them, or some of their units.

    Attributes:
        pair: model and guide.
        data: the programs' full data.
        layout: what the pair's programs look like on these data.
        index: the units meant, shape (units,); None for all of them.
    """

    pair: Pair
    data: tuple[Any, ...]
    layout: Layout
    index: Tensor | None = None

    @classmethod
    def of(cls, pair: Pair, *data: Any) -> Self:
        """Run model and guide once and read off their sites and plates, which the pair remembers.

        Raises:
            InputError: if the model observes nothing or has no latent sites, the guide's latent sites are not
                the model's, two matching sites have different shapes, a site's density does not fit its
                plates, or Pyro finds a value outside a distribution's support.
            Exception: whatever the programs themselves raise, with a note that names the program.
        """
        if (known := known_layout(pair, data)) is not None:
            return cls(pair, data, known)
        check_data(pair.model, *data)
        with in_pyros_words():
            pair.initialise(*data)
        found = cls(pair, data, read_layout(look(pair, *data)))
        if found.layout.vectorized and not _vectorizes(found):
            found = replace(found, layout=replace(found.layout, vectorized=False))
        if found.layout.summed:
            _check_summed(found)
        remember(pair, data, found.layout)
        return found

    def rows(self, index: Tensor | None) -> Self:
        """Some of the units, or all; the programs keep their full data, and index them."""
        return replace(self, index=index)

    def cut(self) -> tuple[Any, ...]:
        """The data of these units as if there were no others: tensors with a row for each unit are cut.

        For what runs on whole data sets only, as NUTS does; else `rows` copies nothing.

        Raises:
            InputError: if no tensor has a row for each unit.
        """
        if self.index is None:
            return self.data
        size = self.layout.num_units
        by_unit = [isinstance(each, Tensor) and each.dim() > 0 and len(each) == size for each in self.data]
        if not any(by_unit):
            raise InputError(
                "some of the units were asked for, and no data tensor has them as its first dimension, here "
                f"{size}"
            )
        return tuple(
            each[self.index] if rows else each for each, rows in zip(self.data, by_unit, strict=True)
        )

    @property
    def num_units(self) -> int:
        """How many units are meant."""
        return self.layout.num_units if self.index is None else len(self.index)

    @property
    def units(self) -> Tensor:
        """Their numbers, shape (units,)."""
        return torch.arange(self.layout.num_units) if self.index is None else self.index

    @property
    def chosen(self) -> dict[str, Tensor]:
        """What `Substitute` is to give the programs' plates, for these units alone.

        Raises:
            InputError: if the programs do not index their data by a plate of units.
        """
        if self.index is None:
            return {}
        if self.layout.unit_plate is None or not self.layout.can_index:
            raise InputError(
                "part of the data was asked for, but the model has no plate of units that it indexes"
            )
        return {self.layout.unit_plate: self.index}

    def chunks(self, num_particles: int, budget: int = 2**22) -> list[Self]:
        """The problem in pieces of its units, each of bounded memory; itself where all fit at once.

        Args:
            num_particles: draws a unit.
            budget: numbers in the largest site of a piece.

        Raises:
            InputError: for an index that names no unit, or one of them twice.
        """
        check_index(self.index, self.layout.num_units)
        size = max(1, budget // (num_particles * self.layout.event_size))
        if self.index is None and (not self.layout.can_index or self.layout.num_units <= size):
            return [self]
        return [self.rows(part) for part in self.units.split(size)]

    def blocks(self, total: int, budget: int = 2**22) -> list[int]:
        """Sizes of blocks of so many particles, each of bounded memory; of one where no more go together."""
        most = self.layout.particles_per_chunk(self.num_units, budget) if self.layout.vectorized else 1
        return sizes(total, most)

    def terms(
        self,
        num_particles: int = 1,
        *,
        latents: Mapping[str, Tensor] | None = None,
        proposal: Program | None = None,
        learning: bool = False,
    ) -> Terms:
        """log p(x, z) and log q(z) for draws z of the guide, or for given z.

        Args:
            num_particles: number of draws K.
            latents: values z by site, each of shape (K, *plates, *event), to be used instead of draws.
            proposal: another guide than the pair's to draw from and to evaluate, such as the prior.
            learning: whether this is a step of a fit, with modules in their own modes.

        Returns:
            Two matrices of shape (K, units), not multiplied by any subsampling scale.

        Raises:
            InputError: if ``latents`` are given to a guide whose density at a given z is not available.
        """
        if self.layout.vectorized or num_particles == 1:
            return self._terms(num_particles, latents, proposal, learning)
        parts = []
        for p in range(num_particles):
            own = None if latents is None else {name: value[p : p + 1] for name, value in latents.items()}
            parts.append(self._terms(1, own, proposal, learning))
        return Terms(
            torch.cat([part.log_p for part in parts]),
            torch.cat([part.log_q for part in parts]),
            {name: torch.cat([part.draws[name] for part in parts]) for name in self.layout.latents},
        )

    def _terms(
        self, size: int, latents: Mapping[str, Tensor] | None, proposal: Program | None, learning: bool
    ) -> Terms:
        model, guide = self.traces(size, latents=latents, proposal=proposal, learning=learning)
        layout = self.layout
        log_p, log_q = log_prob_per_unit(model, layout, size), log_q_per_unit(guide, layout, size)
        if log_q.shape != log_p.shape:  # a guide that draws nothing says so once for all units
            log_q = log_q.expand_as(log_p)
        draws = {name: canonical_value(name, model.nodes[name], layout) for name in layout.latents}
        # What a trace holds of large data would else wait for the garbage collector: traces are in cycles.
        model.nodes.clear()
        guide.nodes.clear()
        return Terms(log_p, log_q, draws)

    def traces(
        self,
        num_particles: int = 1,
        *,
        latents: Mapping[str, Tensor] | None = None,
        proposal: Program | None = None,
        learning: bool = False,
    ) -> tuple[poutine.Trace, poutine.Trace]:
        """Traces of the model and of the guide under one plate of particles; see `terms`."""
        check_time()
        layout, guide = self.layout, self.pair.guide if proposal is None else proposal
        given = self.chosen
        if latents is not None:
            given |= guide_values(guide, latents, layout)
        with self.pair.learning() if learning else self.pair.scope():
            with Substitute(given), particle_plate(layout, num_particles):
                guide_trace = poutine.trace(guide).get_trace(*self.data)
            for name in layout.summed:
                if name in guide_trace.nodes:
                    guide_trace.remove_node(name)
            # A guide that draws nothing opens no plate, whose indices the model would take over.
            with Substitute(self.chosen), enumerated(layout), particle_plate(layout, num_particles):
                model = poutine.replay(self.pair.model, trace=guide_trace)
                model_trace = poutine.trace(model).get_trace(*self.data)
        return model_trace, guide_trace


def check_index(index: Tensor | None, num_units: int) -> None:
    """Refuse what does not name units.

    Raises:
        InputError: saying what is accepted.
    """
    if index is None:
        return
    if index.dim() != 1 or not len(index) or index.is_floating_point() or index.dtype == torch.bool:
        raise InputError("index takes the numbers of the units: integers of shape (units,), at least one")
    if int(index.min()) < 0 or int(index.max()) >= num_units:
        raise InputError(
            f"index reaches from {int(index.min())} to {int(index.max())}; there are units 0 to "
            f"{num_units - 1}"
        )
    if len(index.unique()) < len(index):
        raise InputError("index names a unit twice")


def _few(found: Problem) -> Problem:
    """A few units, to try what the programs take."""
    few = torch.arange(min(found.layout.num_units, PROBE_SIZE))
    return found.rows(few if found.layout.can_index else None)


def _vectorizes(found: Problem, num_particles: int = 3) -> bool:
    """Whether both programs give the same densities under a particle plate as one by one.

    A program that indexes a global latent as ``theta[i]`` instead of ``theta[..., i]`` runs under a
    plate of particles but computes something else; nothing in Pyro would say so.
    """
    layout, few = found.layout, _few(found)
    alone = replace(layout, vectorized=False)
    with seeded(0), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with nullcontext() if layout.summed else Narrow(layout.depth):
                together = few.terms(num_particles)
            for p in range(num_particles):
                given = few.chosen | {
                    name: site_value(name, value[p : p + 1], alone) for name, value in together.draws.items()
                }
                with few.pair.scope(), enumerated(alone), Substitute(given):
                    trace = poutine.trace(few.pair.model).get_trace(*few.data)
                log_p = log_prob_per_unit(trace, alone, 1)[0]
                tolerance = 1e-3 * (1.0 + log_p.abs())
                # Densities that are no numbers, as beyond a support, tell nothing.
                differ = (log_p - together.log_p[p]).abs() > tolerance
                if log_p.shape != together.log_p[p].shape or bool(differ.any()):
                    return False
        except _MISFIT:
            return False
    return True


def _check_summed(found: Problem) -> None:
    """Refuse discrete latents that cannot be summed out.

    Raises:
        InputError: naming them.
    """
    names = ", ".join(found.layout.summed)
    if scaled := (*found.layout.tempered, *found.layout.weighted):
        raise InputError(
            f"the discrete site {names} cannot be summed out of a model that scales site {scaled[0]} itself "
            "(poutine.scale)"
        )
    with seeded(0), torch.no_grad():
        try:
            _few(found).terms()
        except InputError:
            raise
        except _MISFIT as error:
            raise InputError(
                f"the discrete site {names} cannot be enumerated: the model does not run with all its values "
                f"side by side ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
            ) from error
