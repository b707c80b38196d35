"""The best member of a family of guides for each datum by itself, the model held."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, TypedDict, Unpack

import pyro
import torch
from pyro.distributions import Independent, MultivariateNormal, Normal, TorchDistribution
from pyro.nn import PyroModule
from torch import Size, Tensor
from torch.distributions import constraints

from ppl_vae.errors import InputError
from ppl_vae.guides import PerDatumFlow, PerDatumNormal
from ppl_vae.guides.normal import COVARIANCES, VARIANCE_FLOOR, raw_normal
from ppl_vae.guides.per_datum_flow import raw_flow
from ppl_vae.inference import svi
from ppl_vae.inference.graph import Compile
from ppl_vae.inference.sites import Layout
from ppl_vae.inference.terms import layout, particle_traces, terms
from ppl_vae.program import Pair
from ppl_vae.rng import seeded

__all__ = ["Best", "OwnAnswer", "PerDatum", "log_weight_chunks", "optimise", "own_answer"]

PerDatum = PerDatumNormal | PerDatumFlow

# Draws a unit that decide whether a round of optimisation has helped it.
JUDGED = 1024
# Numbers in the largest site of one chunk of draws.
CHUNK = 2**20

_ONE = Size()


@dataclass(frozen=True, eq=False)
class OwnAnswer:
    """What a pair's own guide answers for some units: N(μ_n, L_n L_nᵀ).

    Attributes:
        loc: μ, shape (units, q).
        scale_tril: L, shape (units, q, q).
        family: "diagonal" or "full".
        floor: the guide's lower bound on its variances.
        site, plate: of the latent.
    """

    loc: Tensor
    scale_tril: Tensor
    family: str
    floor: float
    site: str
    plate: str

    @torch.no_grad()
    def as_per_datum(self, family: str) -> PerDatumNormal:
        """The same Gaussians as free parameters; as "diagonal", their best mean-field approximation.

        That one has the same means and the inverse diagonal of the precision as its variances (Bishop
        2006, section 10.1.2).
        """
        units, q = self.loc.shape
        guide = PerDatumNormal(
            units, q, covariance=family, floor=self.floor, dtype=self.loc.dtype, site=self.site,
            plate=self.plate,
        ).to(self.loc.device)  # fmt: skip
        scale = self.scale_tril.double()
        if family == "diagonal" and self.family == "full":
            precision = torch.cholesky_inverse(scale)
            scale = torch.diag_embed(precision.diagonal(dim1=-2, dim2=-1).rsqrt())
        variances = scale.diagonal(dim1=-2, dim2=-1).square()
        parts = [self.loc, _softplus_inverse(variances - self.floor)]
        if family == "full":
            rows, columns = torch.tril_indices(q, q, offset=-1, device=scale.device)
            parts.append(scale[:, rows, columns])
        guide.raw.copy_(torch.cat([part.to(self.loc.dtype) for part in parts], dim=1))
        return guide


@torch.no_grad()
def own_answer(pair: Pair, *data: Any, shape: Layout, index: Tensor | None) -> OwnAnswer:
    """Read off what a pair's own guide answers for some units.

    Raises:
        InputError: for a guide of another family than the Gaussians with diagonal or full covariance, or
            a model whose latents are not one vector a unit.
    """
    family = getattr(pair.guide, "covariance", None)
    if family not in COVARIANCES:
        name = getattr(pair.guide, "__name__", type(pair.guide).__name__)
        raise InputError(
            f"the gap cannot be taken apart for the guide {name}; it can for Gaussian guides that say "
            "their covariance, diagonal or full (AmortisedNormal, LinearNormal, PerDatumNormal)"
        )
    _check_layout(shape)
    (site,) = shape.latents
    _, trace = particle_traces(pair, *data, layout=shape, index=index)
    fn = trace.nodes[site]["fn"]
    if isinstance(fn, Independent) and isinstance(fn.base_dist, Normal):
        loc, scale_tril = fn.base_dist.loc, torch.diag_embed(fn.base_dist.scale)
    elif isinstance(fn, MultivariateNormal):
        loc, scale_tril = fn.loc, fn.scale_tril
    else:
        raise InputError(
            f"the gap cannot be taken apart for a guide that draws {site} from {type(fn).__name__}; it "
            "can for Normal(…).to_event(1) and MultivariateNormal"
        )
    q = loc.shape[-1]
    loc, scale_tril = loc.reshape(-1, q), scale_tril.reshape(-1, q, q)
    smallest = float(scale_tril.diagonal(dim1=-2, dim2=-1).min()) ** 2
    floor = float(getattr(pair.guide, "floor", min(VARIANCE_FLOOR, 0.5 * smallest)))
    return OwnAnswer(loc, scale_tril, family, floor, site, str(shape.unit_plate))


def _check_layout(shape: Layout) -> None:
    if shape.unit_plate is None:
        raise InputError(
            "the gap is taken apart by unit, and this pair's one unit is the data set: a model with "
            "latents of every datum (VAE, PPCA) is accepted"
        )
    (plates, *others), (event_dim, *_) = shape.latents.values(), shape.event_dims.values()
    if others or plates != (shape.unit_plate,) or event_dim != 1 or shape.dims[shape.unit_plate] != -1:
        raise InputError(
            "the gap is taken apart for models with one latent site, a vector for every unit "
            f"(Normal(…).to_event(1) in one plate); this one has {', '.join(shape.latents)}"
        )


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
class Search:
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
    """The fields of `Search` as keywords; a test holds the two equal."""

    num_steps: int
    num_particles: int
    max_rounds: int
    tolerance: float
    lr: float
    compile: Compile


def optimise(
    pair: Pair,
    guide: PerDatum,
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
        search: the fields of `Search`.
    """
    asked = Search(**search)
    lr, num_steps, tolerance = asked.lr, asked.num_steps, asked.tolerance
    dtype = guide.raw.dtype
    held = pair.cast_model(dtype, lambda model: guide)
    fitted = held.cast_model(dtype, lambda model: _PathGradient(guide))
    shape = layout(held, *data)
    before = _judged(held, *data, shape=shape, seed=seed)
    rested, reason = False, ""
    for number in range(asked.max_rounds):
        kept = [leaf.detach().clone() for leaf in guide.parameters()]
        fit = svi.fit(
            fitted, *data, num_steps=num_steps, num_particles=asked.num_particles, lr=lr,
            train="guide", average=0.5, compile=asked.compile, seed=seed + number, progress=progress,
        )  # fmt: skip
        after = _judged(held, *data, shape=shape, seed=seed)
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
def _judged(pair: Pair, *data: Any, shape: Layout, seed: int) -> Tensor:
    """Log weights of the same noise at every call, shape (draws, units)."""
    chunks = log_weight_chunks([pair], *data, shapes=[shape], num_samples=JUDGED, seed=seed + 104_729)
    return torch.cat([chunk[0] for chunk in chunks], dim=1)


@torch.no_grad()
def log_weight_chunks(
    pairs: list[Pair], *data: Any, shapes: list[Layout], num_samples: int, seed: int
) -> Iterator[Tensor]:
    """log p(x, z) − log q(z) of several guides with the same noise, a chunk of units at a time.

    Yields:
        Shape (pairs, num_samples, units of the chunk), in float64.
    """
    shape = shapes[0]
    size = max(1, CHUNK // (min(num_samples, 128) * shape.event_size))
    units = torch.arange(shape.num_units)
    for number, index in enumerate(units.split(size) if shape.can_index else [None]):
        most = shape.particles_per_chunk(size if index is not None else shape.num_units, CHUNK)
        blocks = [min(most, num_samples - done) for done in range(0, num_samples, most)]
        found = []
        for pair, own in zip(pairs, shapes, strict=True):
            with seeded(seed + 7919 * number):
                drawn = [
                    terms(pair, *data, layout=own, num_particles=block, index=index).log_weights
                    for block in blocks
                ]
            found.append(torch.cat(drawn).double().cpu())
        yield torch.stack(found)


class _PathGradient(PyroModule):  # type: ignore[misc]
    """A per-datum guide whose parameters act on the ELBO through its draws alone.

    The gradient of log q at a given z has mean zero and is left out: near the optimum it is most of the
    noise (Roeder, Wu and Duvenaud, "Sticking the landing", 2017, section 3).
    """

    def __init__(self, guide: PerDatum) -> None:
        super().__init__("path")
        self.guide = guide

    def forward(self, x: Tensor) -> Tensor:
        """The Pyro program."""
        guide: PerDatum = self.guide
        with pyro.plate(guide.plate, len(x)) as i:
            return pyro.sample(guide.site, _PathOnly(guide.at(i), _held_at(guide, i)))


def _held_at(guide: PerDatum, index: Tensor) -> TorchDistribution:
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


def _softplus_inverse(values: Tensor) -> Tensor:
    values = values.clamp_min(torch.finfo(values.dtype).tiny)
    return values + (-(-values).expm1()).log()
