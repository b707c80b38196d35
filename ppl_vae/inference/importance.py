"""log p(x) by importance sampling from the guide.

With z_s ~ q and w_s = p(x, z_s)/q(z_s), the mean weight is an unbiased estimate of p(x) and its log a
consistent estimate, and in expectation a lower bound, of log p(x) (Burda, Grosse and Salakhutdinov
2016, section 3). Weights belong to units: summed over a plate of data before they are averaged, they
would be useless.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ppl_vae.errors import InputError
from ppl_vae.evidence import Evidence
from ppl_vae.guides import Prior
from ppl_vae.inference.elbo import unit_chunks
from ppl_vae.inference.graph import Compile, check_compile
from ppl_vae.inference.pareto import pareto_k, tail_length
from ppl_vae.inference.sites import Layout
from ppl_vae.inference.terms import has_log_density, layout
from ppl_vae.inference.weights import LogWeights, engine_for
from ppl_vae.program import Pair
from ppl_vae.progress import progress_bar
from ppl_vae.rng import seeded

__all__ = ["log_evidence"]


@torch.no_grad()
def log_evidence(
    pair: Pair,
    *data: Any,
    num_samples: int = 1000,
    defensive: float = 0.0,
    index: Tensor | None = None,
    compile: Compile = "auto",
    seed: int = 0,
    progress: bool = True,
) -> Evidence:
    """Estimate log p(x) of every unit.

    Memory is bounded: samples and units are taken in chunks, and only sums and the largest
    ~3√S log weights of a unit are kept.

    Args:
        pair: model and guide; nothing is trained. ``Pair(model, Prior(model))`` is simple Monte Carlo.
        data: the programs' data.
        num_samples: S, draws a unit, at least 2.
        defensive: fraction α of the draws to take from the prior. The proposal is then the mixture
            (1 − α) q + α p(z), whose weights are bounded by p(x | z)/α (Owen and Zhou 2000).
        index: the units to estimate (all by default).
        compile: whether to compile the weights; "auto" does where the work is large. False runs stock
            Pyro. The numbers are the same to rounding.
        seed: of the draws.
        progress: whether to show a progress bar on a terminal.

    Raises:
        InputError: for fewer than 2 samples, α outside [0, 1), or α > 0 with a guide whose density at
            a given z is not available.
    """
    if num_samples < 2:
        raise InputError(f"num_samples is {num_samples}; importance sampling needs at least 2")
    if not 0 <= defensive < 1:
        raise InputError(f"defensive is {defensive}; it is the fraction of draws from the prior, in [0, 1)")
    start = time.perf_counter()
    shape = layout(pair, *data)
    if defensive and not has_log_density(pair, *data):
        raise InputError(
            "a defensive mixture needs log q at a given z, which this guide's hidden randomness denies"
        )
    check_compile(compile)
    units = shape.num_units if index is None else len(index)
    engine = engine_for(compile, num_samples, units, shape.event_size)
    with seeded(seed), progress_bar("log p(x)", num_samples * units, show=progress) as advance:
        chunks = unit_chunks(shape, min(num_samples, 1000), index, CHUNK)
        strata = _strata(pair, data, shape, chunks[0], num_samples, defensive, engine)
        sums = [_sums(strata, chunk, num_samples, advance) for chunk in chunks]
    columns = {name: torch.cat([getattr(s, name)() for s in sums]).numpy() for name in _COLUMNS}
    return Evidence(
        **columns,
        method="is",
        unit="datum" if shape.unit_plate else "dataset",
        kind="estimate",
        num_samples=num_samples,
        proposal=_proposal_name(pair, defensive),
        seconds=time.perf_counter() - start,
        compile_seconds=sum(stratum.weights.compile_seconds for stratum in strata),
    )


# Numbers in the largest site of one chunk: small enough to stay in the processor's cache.
CHUNK = 2**20
_COLUMNS = ("log_evidence", "std_error", "bias", "ess", "pareto_k", "elbo")


@dataclass
class _Sums:
    """Running sums over the samples of some units, each of shape (units,), in float64 logs.

    Samples come in strata of fixed sizes (guide and prior); the variance is the sum over strata.
    """

    num_samples: int
    log_weight: Tensor
    log_square: Tensor
    sum_log: Tensor
    largest: Tensor
    log_variance: Tensor

    def log_evidence(self) -> Tensor:
        return self.log_weight - math.log(self.num_samples)

    def std_error(self) -> Tensor:
        return (0.5 * self.log_variance - self.log_weight).exp()

    def bias(self) -> Tensor:
        return -0.5 * self.std_error() ** 2

    def ess(self) -> Tensor:
        return (2 * self.log_weight - self.log_square).exp()

    def pareto_k(self) -> Tensor:
        return pareto_k(self.largest)

    def elbo(self) -> Tensor:
        return self.sum_log / self.num_samples


@dataclass(frozen=True)
class _Stratum:
    """Draws of one proposal: how many in all, and the weights of a chunk of them."""

    size: int
    weights: LogWeights


def _strata(
    pair: Pair,
    data: tuple[Any, ...],
    shape: Layout,
    chunk: Tensor | None,
    num_samples: int,
    defensive: float,
    engine: str,
) -> list[_Stratum]:
    """Draws from the guide and, for a defensive mixture, from the prior."""
    from_prior = round(defensive * num_samples)
    if defensive:
        from_prior = min(max(from_prior, 2), num_samples - 2)
    units = shape.num_units if chunk is None else len(chunk)
    most = shape.particles_per_chunk(units, CHUNK)
    found = []
    for size, proposal in ((num_samples - from_prior, None), (from_prior, Prior(pair.model))):
        if size:
            # Chunks of equal size; the surplus of the last one is dropped.
            particles = math.ceil(size / math.ceil(size / most))
            weights = LogWeights(
                pair, data, shape, particles, chunk, from_prior / num_samples, proposal, engine
            )
            found.append(_Stratum(size, weights))
    return found


def _sums(
    strata: list[_Stratum], index: Tensor | None, num_samples: int, advance: Callable[[int, str], None]
) -> _Sums:
    """All samples of one chunk of units."""
    keep = tail_length(num_samples) + 1
    total: _Sums | None = None
    for stratum in strata:
        sums: _Sums | None = None
        done = 0
        while done < stratum.size:
            log_w = stratum.weights(index)[: stratum.size - done]
            sums = _empty(log_w.shape[1], num_samples) if sums is None else sums
            _add(sums, log_w, keep)
            done += len(log_w)
            advance(log_w.numel(), "")
        assert sums is not None
        sums.log_variance = _log_variance_of_sum(sums, stratum.size)
        total = sums if total is None else _merge(total, sums, keep)
    assert total is not None
    return total


def _empty(units: int, num_samples: int) -> _Sums:
    nothing = torch.full((units,), -torch.inf, dtype=torch.float64)
    zero = torch.zeros(units, dtype=torch.float64)
    return _Sums(num_samples, nothing, nothing, zero, nothing[None][:0], nothing)


def _add(sums: _Sums, log_w: Tensor, keep: int) -> None:
    log_w = log_w.cpu()
    sums.log_weight = torch.logaddexp(sums.log_weight, log_w.logsumexp(0))
    sums.log_square = torch.logaddexp(sums.log_square, (2 * log_w).logsumexp(0))
    sums.sum_log = sums.sum_log + log_w.sum(0)
    sums.largest = _largest(torch.cat([sums.largest, log_w]), keep)


def _merge(a: _Sums, b: _Sums, keep: int) -> _Sums:
    return _Sums(
        a.num_samples,
        torch.logaddexp(a.log_weight, b.log_weight),
        torch.logaddexp(a.log_square, b.log_square),
        a.sum_log + b.sum_log,
        _largest(torch.cat([a.largest, b.largest]), keep),
        torch.logaddexp(a.log_variance, b.log_variance),
    )


def _largest(log_w: Tensor, keep: int) -> Tensor:
    return log_w if len(log_w) <= keep else log_w.topk(keep, dim=0).values


def _log_variance_of_sum(sums: _Sums, stratum: int) -> Tensor:
    """log Var(Σ w) = log[n/(n − 1) (Σ w² − (Σ w)²/n)], without leaving the log scale."""
    log_mean_square = sums.log_square - math.log(stratum)
    excess = 1 - (2 * (sums.log_weight - math.log(stratum)) - log_mean_square).exp()
    return sums.log_square + excess.clamp_min(0).log() + math.log(stratum / (stratum - 1))


def _proposal_name(pair: Pair, defensive: float) -> str:
    name = "prior" if isinstance(pair.guide, Prior) else "guide"
    return f"{1 - defensive:g} {name} + {defensive:g} prior" if defensive else name
