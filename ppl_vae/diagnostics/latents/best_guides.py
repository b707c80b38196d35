"""The best member of a family of guides for each datum by itself, the model held."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, TypedDict, Unpack

import torch
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Size, Tensor
from torch.distributions import constraints

from ppl_vae.base.seeds import derived, seeded
from ppl_vae.engine.graph import Compile
from ppl_vae.guides.normal import raw_normal
from ppl_vae.guides.per_datum import PerDatumNormal
from ppl_vae.guides.per_datum_flow import PerDatumFlow, raw_flow
from ppl_vae.inference.evidence.unit_noise import UnitNoise
from ppl_vae.inference.fitting import svi
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem

__all__ = ["Best", "Searched", "log_weight_chunks", "optimise"]

Searched = PerDatumNormal | PerDatumFlow

# Draws a unit that decide whether a round of optimisation has helped it.
JUDGED = 1024
# Numbers in the largest site of one chunk of draws.
CHUNK = 2**20

_ONE = Size()


@dataclass(frozen=True, eq=False)
class Best:
    """The best guides of one family that were found, and whether the search had come to rest.

    Attributes:
        pair: a copy of the model, held, with the per-datum guide.
        rested: whether the last round raised the mean ELBO by no more than the tolerance.
        reason: the last round's numbers in words.
    """

    pair: Pair
    rested: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """The options of the search for the best guides.

    Attributes:
        num_steps, num_particles: of a round.
        max_rounds: after which the search ends, at rest or not.
        tolerance: in nats a unit.
        lr: the first round's learning rate.
        compile: as in `svi.fit`.
    """

    num_steps: int
    num_particles: int
    max_rounds: int
    tolerance: float
    lr: float
    compile: Compile = "auto"


class SearchKeywords(TypedDict):
    """The fields of `SearchOptions` as keywords; a test holds the two equal."""

    num_steps: int
    num_particles: int
    max_rounds: int
    tolerance: float
    lr: float
    compile: Compile


def optimise(
    pair: Pair,
    guide: Searched,
    *data: Any,
    seed: int,
    progress: bool,
    **search: Unpack[SearchKeywords],
) -> Best:
    """Raise every unit's ELBO in rounds of SVI from the guide's present parameters, in place.

    Gradients go through the draws alone, and iterates are averaged over half a round. Once a round
    ends at rest, the next one has half its learning rate. A unit keeps what the round gave it only if
    its ELBO rose, on draws of its own; the search rests when the mean over units rose by no more than
    the tolerance.

    Args:
        pair: the model, in a pair of any guide; it is copied and not changed.
        guide: parameters for every datum.
        data: the programs' data.
        seed, progress: as in `svi.fit`.
        search: the fields of `SearchOptions`.
    """
    asked = SearchOptions(**search)
    lr, num_steps, tolerance = asked.lr, asked.num_steps, asked.tolerance
    dtype = guide.raw.dtype
    held = pair.cast_model(dtype, lambda model: guide)
    fitted = held.cast_model(dtype, lambda model: _PathGradient(guide))
    problem = Problem.of(held, *data)
    before = _judged(problem, seed)
    rested, reason = False, ""
    for number in range(asked.max_rounds):
        kept = [leaf.detach().clone() for leaf in guide.parameters()]
        fit = svi.fit(
            fitted, *data, num_steps=num_steps, num_particles=asked.num_particles, lr=lr,
            train="guide", average=0.5, compile=asked.compile, seed=seed + number, progress=progress,
        )  # fmt: skip
        after = _judged(problem, seed)
        # Far from the optimum, smaller steps would never arrive; near it, they lower the noise.
        lr = lr if fit.converged is False else 0.5 * lr
        better = _risen(before, after, tolerance)
        _keep_where(~better, list(guide.parameters()), kept)
        rise = torch.where(better, after - before, 0.0).mean(1)
        error = float(rise.std()) / len(rise) ** 0.5
        before = torch.where(better, after, before)
        rested = float(rise.mean()) <= tolerance
        reason = (
            f"the ELBO rose by {float(rise.mean()):.2g} ± {error:.1g} nats a unit in round {number + 1} "
            f"of {num_steps} steps (tolerance {tolerance:g})"
        )
        if rested:
            break
    return Best(held, rested, reason)


def _risen(before: Tensor, after: Tensor, tolerance: float) -> Tensor:
    """Which units' ELBO rose: beyond two standard errors or the tolerance, or at all where the mean did.

    Taking every apparent rise would let noise choose where there is nothing left to gain; asking all for
    two standard errors would hold bad starts, whose errors are vast.
    """
    rise = after - before
    error = 2 / len(rise) ** 0.5
    together = rise.mean(1)
    if together.mean() > error * together.std():
        return rise.mean(0) > 0
    return rise.mean(0) > (error * rise.std(0)).clamp_max(tolerance)


def _keep_where(worse: Tensor, leaves: list[Tensor], kept: list[Tensor]) -> None:
    """Put the former parameters of some units back."""
    with torch.no_grad():
        for leaf, old in zip(leaves, kept, strict=True):
            leaf[worse] = old[worse]


@torch.no_grad()
def _judged(problem: Problem, seed: int) -> Tensor:
    """Log weights of the same noise at every call, shape (draws, units)."""
    chunks = log_weight_chunks([problem], num_samples=JUDGED, seed=seed + 104_729)
    return torch.cat([chunk[0] for chunk in chunks], dim=1)


@torch.no_grad()
def log_weight_chunks(problems: list[Problem], num_samples: int, seed: int) -> Iterator[Tensor]:
    """log p(x, z) − log q(z) of several guides with the same noise, a chunk of units at a time.

    Args:
        problems: guides for the same units, of some data or of all of them.
        num_samples: draws a unit.
        seed: of the draws.

    Yields:
        Shape (problems, num_samples, units of the chunk), in float64.
    """
    event = max(each.layout.event_size for each in problems)
    size = max(1, CHUNK // (min(num_samples, 128) * event))
    units = torch.arange(problems[0].num_units)
    together = all(each.layout.can_index for each in problems)
    for at in units.split(size) if together else [None]:
        most = max(1, CHUNK // (event * (size if at is not None else len(units))))
        blocks = [(done, min(most, num_samples - done)) for done in range(0, num_samples, most)]
        found = []
        for each in problems:
            drawn = [_log_weights(each, at, first, block, seed) for first, block in blocks]
            found.append(torch.cat(drawn).double().cpu())
        yield torch.stack(found)


def _log_weights(problem: Problem, at: Tensor | None, first: int, num_samples: int, seed: int) -> Tensor:
    """log p(x, z) − log q(z) of some of the units, given by their places among them: (draws, units).

    The noise of a unit's draw, whose number counts from ``first``, is the same in every chunk.
    """
    asked = problem.units if at is None else problem.units[at]
    whole = at is None and problem.index is None
    run = problem.rows(None if whole or not problem.layout.can_index else asked)
    # What no counter gives, such as draws by rejection, is drawn anew for every chunk.
    rest = seeded(derived(seed, int(asked[0]), first))
    with rest, UnitNoise(problem.layout, seed, first, num_samples, run.index):
        found = run.terms(num_samples).log_weights
    return found if whole or run.index is not None else found[:, asked]


class _PathGradient(PyroModule):  # type: ignore[misc]
    """A per-datum guide whose parameters act on the ELBO through its draws alone.

    The gradient of log q at a given z has mean zero and is left out: near the optimum it is most of the
    noise (Roeder, Wu and Duvenaud, "Sticking the landing", 2017, section 3).
    """

    def __init__(self, guide: Searched) -> None:
        super().__init__("path")
        self.guide = guide

    def forward(self, *data: Any) -> Any:
        """The Pyro program."""
        guide: Searched = self.guide
        return guide.vector.program(
            lambda index: _PathOnly(guide.at(index), _held_at(guide, index)), guide.vector.rows(*data)
        )


def _held_at(guide: Searched, index: Tensor) -> TorchDistribution:
    """`at`, with the parameters as constants."""
    raw = guide.raw.detach()[index]
    if isinstance(guide, PerDatumNormal):
        return raw_normal(raw, guide.latent_dim, guide.covariance, guide.floor)
    inner, skew, tail = (part.detach()[index] for part in (guide.inner, guide.skew, guide.tail))
    return raw_flow(raw, inner, skew, tail, guide.floor)


class _PathOnly(TorchDistribution):  # type: ignore[misc]
    """Draws of one distribution whose density is another's: the same, with its parameters held."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, live: TorchDistribution, held: TorchDistribution) -> None:
        self.live, self.held = live, held
        super().__init__(live.batch_shape, live.event_shape, validate_args=False)

    def rsample(self, sample_shape: Size = _ONE) -> Tensor:
        return self.live.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.held.log_prob(value)

    def expand(self, batch_shape: Size, _instance: Any = None) -> "_PathOnly":
        return _PathOnly(self.live.expand(batch_shape), self.held.expand(batch_shape))
