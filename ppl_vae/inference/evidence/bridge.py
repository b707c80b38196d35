"""log p(x) by bridge sampling between a posterior's draws and the guide.

With draws of both the posterior p(z | x) = p(x, z)/r and the guide q, the evidence r solves

    r = mean_q[w / (s₁ w + s₂ r)] / mean_p[1 / (s₁ w + s₂ r)],    w = p(x, z)/q(z),

whose error is the smallest of all bridges (Meng and Wong 1996, equations 4.1 and 4.3). Each side of the
bridge is bounded, so a guide may be too narrow or off centre where its importance weights would fail: it
is enough that the two overlap. What the draws of the posterior have missed stays missed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ppl_vae.answers.evidence import Evidence
from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.errors import InputError
from ppl_vae.base.progress import progress_bar
from ppl_vae.base.seeds import seeded
from ppl_vae.program.defined import about_weights, require_weights, weighable
from ppl_vae.program.given_latents import has_log_density
from ppl_vae.program.layout import Layout
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem

__all__ = ["log_evidence", "log_weights"]

TOLERANCE = 1e-10
MAX_ITERATIONS = 500
# Above it chains disagree on log w for more than chance alone would do to one unit of many.
R_HAT_LIMIT = 1.05
# Exact draws made with the same seed must not share their normal numbers with the guide's.
STREAM = 0x6272_6964


@torch.no_grad()
def log_evidence(
    pair: Pair,
    posterior: Posterior,
    *data: Any,
    num_samples: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Evidence:
    """Estimate log p(x) of every unit that the posterior has draws of.

    The guide must not have been fitted to these draws; one fitted by SVI was not, and nothing has to be
    split. The standard error is the root of the relative mean squared error of Frühwirth-Schnatter
    (2004, section 4), in which the posterior's draws count for their effective number; the bias is that
    of log r to second order, ½ (s_p² − s_q²) of the two sides' parts of the error, and may have either
    sign. ``ess`` is the overlap: how many draws' worth of the bridge's two means there are, the smaller
    of (Σf)²/Σf² over the guide's draws and over the posterior's effective draws.

    The two matrices of log weights are kept whole, as the posterior's draws are.

    Args:
        pair: model and guide; nothing is trained.
        posterior: unweighted draws from p(z | x) with the same parameters, such as ``nuts.sample``'s.
            Where they are of some units only, integer labels along the unit plate say which; as many
            draws as units are matched by position unless the labels are a permutation of the units.
        data: the programs' full data.
        num_samples: draws of the guide a unit; as many as the posterior has by default.
        seed: of the guide's draws.
        progress: whether to show a progress bar on a terminal.

    Raises:
        InputError: for fewer than 2 samples or 4 draws a chain, a guide whose density at a given z is
            not available, draws that are weighted, that miss a latent or have one in another shape, or
            whose units cannot be found in the data.
    """
    start = time.perf_counter()
    problem = weighable(Problem.of(pair, *data))
    num_samples = posterior.num_draws if num_samples is None else num_samples
    _check(problem, posterior, num_samples)
    problem = problem.rows(_index(posterior, problem.layout))
    latents = _latents(posterior, problem.layout)
    total = num_samples + posterior.num_draws
    with seeded(STREAM + seed), progress_bar("bridge", total, show=progress) as advance:
        guide_side: list[Tensor] = []
        for size in problem.blocks(num_samples):
            found = problem.terms(size)
            if not guide_side:
                latents = _like(latents, found.draws)
            guide_side.append(found.log_weights.double().cpu())
            advance(size, "")
        posterior_side = []
        for part in _weights_at(problem, latents, posterior.num_draws):
            posterior_side.append(part)
            advance(len(part), "")
    return _evidence(torch.cat(guide_side), torch.cat(posterior_side), posterior, problem, start)


@torch.no_grad()
def log_weights(pair: Pair, posterior: Posterior, *data: Any) -> np.ndarray:
    """log p(x, z) − log q(z) at a posterior's own draws, of shape (chain, draw, units), in nats.

    Where the draws are of p(z | x), their mean less log p(x) is KL(p ‖ q), which is large where the guide
    misses a part of the posterior that its own draws never see.

    Raises:
        InputError: as `log_evidence`, which takes the same draws.
    """
    problem = require_weights(Problem.of(pair, *data))
    _check(problem, posterior, 2)
    problem = problem.rows(_index(posterior, problem.layout))
    latents = _latents(posterior, problem.layout)
    with seeded(STREAM):
        latents = _like(latents, problem.terms().draws)
    found = torch.cat(list(_weights_at(problem, latents, posterior.num_draws)))
    return found.reshape(posterior.num_chains, -1, found.shape[1]).numpy()


def _weights_at(problem: Problem, latents: Mapping[str, Tensor], total: int) -> Iterator[Tensor]:
    """Log weights at given latents, block by block, each of shape (size, units) in float64."""
    done = 0
    for size in problem.blocks(total):
        given = {name: values[done : done + size] for name, values in latents.items()}
        yield problem.terms(size, latents=given).log_weights.double().cpu()
        done += size


def _evidence(
    guide_side: Tensor,
    posterior_side: Tensor,
    posterior: Posterior,
    problem: Problem,
    start: float,
) -> Evidence:
    """The estimate and its diagnostics from log weights of shapes (N_q, units) and (N_p, units)."""
    effective = torch.as_tensor(_effective(posterior_side, posterior, "bulk"))
    share = effective / (effective + len(guide_side))
    found = _bridge(guide_side, posterior_side, share)
    log_r, f, g = found.log_r, found.guide_terms, found.posterior_terms
    counts = torch.as_tensor(_effective(g, posterior, "mean"))
    from_guide = _relative_variance(f) / len(f)
    from_posterior = _relative_variance(g) / counts
    ess = torch.minimum(_kish(f) * len(f), _kish(g) * counts.clamp_max(len(g)))
    lost = ~log_r.isfinite()
    std_error = (from_guide + from_posterior).sqrt().masked_fill(lost, torch.inf)
    return Evidence(
        log_evidence=log_r.numpy(),
        method="bridge",
        unit=problem.layout.unit,
        kind="estimate",
        std_error=std_error.numpy(),
        bias=(0.5 * (from_posterior - from_guide)).masked_fill(lost, 0.0).numpy(),
        ess=ess.masked_fill(lost, 0.0).numpy(),
        elbo=guide_side.mean(0).numpy(),
        index=None if problem.index is None else problem.index.numpy(),
        num_samples=len(guide_side),
        proposal=f"guide and {posterior.method}",
        notes=(*about_weights(problem.layout), *_notes(found, posterior_side, posterior)),
        seconds=time.perf_counter() - start,
    )


@dataclass(frozen=True)
class _Bridge:
    """The fixed point by unit, and the terms of its two means, each up to a factor."""

    log_r: Tensor
    guide_terms: Tensor
    posterior_terms: Tensor
    converged: Tensor


def _bridge(guide_side: Tensor, posterior_side: Tensor, share: Tensor) -> _Bridge:
    """Meng and Wong's iteration on the log scale, in all units at once.

    With c = log r + log(s₂/s₁) the terms are s₁ w/(s₁ w + s₂ r) = σ(log w − c) over the guide's draws and
    s₂ r/(s₁ w + s₂ r) = σ(c − log w) over the posterior's.

    Args:
        guide_side: log w at the guide's draws, shape (N_q, units).
        posterior_side: log w at the posterior's draws, shape (N_p, units).
        share: s₁, the posterior's share of all effective draws, shape (units,).
    """
    offset = (1 - share).log() - share.log()
    log_r = posterior_side.median(0).values
    step = torch.zeros_like(log_r)
    for _ in range(MAX_ITERATIONS):
        c, before = log_r + offset, step
        step = _log_mean(logsigmoid(guide_side - c)) - _log_mean(logsigmoid(c - posterior_side)) + offset
        # Draws that hardly overlap would swing between two values; half of such a step ends in the middle.
        step = torch.where(step * before < 0, 0.5 * step, step)
        log_r = log_r + step
        converged = step.abs() <= TOLERANCE * (1 + log_r.abs())
        # Nothing settles where a unit's two sets of draws do not overlap at all.
        if bool((converged | ~log_r.isfinite()).all()):
            break
    c = log_r + offset
    # Scaled by the largest: far apart, all of them would underflow.
    f, g = logsigmoid(guide_side - c), logsigmoid(c - posterior_side)
    return _Bridge(log_r, (f - f.amax(0)).exp(), (g - g.amax(0)).exp(), converged)


def _notes(found: _Bridge, posterior_side: Tensor, posterior: Posterior) -> tuple[str, ...]:
    notes = []
    lost = ~found.log_r.isfinite()
    if bool(lost.any()):
        notes.append(f"guide and draws have no overlap in {int(lost.sum())} of {len(lost)} units")
    if unsettled := int((~found.converged & ~lost).sum()):
        notes.append(
            f"the iteration did not converge in {unsettled} of {len(lost)} units: guide and draws hardly "
            "overlap, and neither the estimate nor its error can be trusted there"
        )
    if posterior.dependence == "chains":
        from arviz_stats.base import array_stats

        with np.errstate(divide="ignore", invalid="ignore"):
            r_hat = array_stats.rhat(_by_chain(posterior_side, posterior))
        if unmixed := int((r_hat > R_HAT_LIMIT).sum()):
            notes.append(
                f"the chains disagree on the log weights of {unmixed} of {len(lost)} units (largest R-hat "
                f"{np.nanmax(r_hat):.2f}): run longer chains, for the error cannot see what they missed"
            )
    return tuple(notes)


def _effective(values: Tensor, posterior: Posterior, method: str) -> np.ndarray:
    """Effective number of the posterior's draws, shape (units,).

    The bulk ESS of log w is that of every monotone function of it, and so of the bridge's.
    """
    if posterior.dependence == "independent":
        return np.full(values.shape[1], float(len(values)))
    from arviz_stats.base import array_stats

    with np.errstate(divide="ignore", invalid="ignore"):
        ess = np.asarray(array_stats.ess(_by_chain(values, posterior), method=method))
    return np.where(np.isfinite(ess) & (ess > 0), ess, len(values))


def _by_chain(values: Tensor, posterior: Posterior) -> np.ndarray:
    """From (draws of all chains, units) to (units, chain, draw)."""
    return values.T.reshape(values.shape[1], posterior.num_chains, -1).numpy()


def _log_mean(values: Tensor) -> Tensor:
    return values.logsumexp(0) - math.log(len(values))


def _relative_variance(values: Tensor) -> Tensor:
    return values.var(0) / values.mean(0).square()


def _kish(values: Tensor) -> Tensor:
    """(Σf)²/Σf² as a fraction of the number of draws."""
    return values.mean(0).square() / values.square().mean(0)


def _check(problem: Problem, posterior: Posterior, num_samples: int) -> None:
    if num_samples < 2:
        raise InputError(f"num_samples is {num_samples}; bridge sampling needs at least 2")
    if posterior.log_weights is not None:
        raise InputError(
            f"the draws of {posterior.method} carry importance weights; bridge sampling needs draws from "
            "the posterior itself, such as NUTS's"
        )
    if (size := posterior.draws.sizes["draw"]) < 4:
        raise InputError(f"the posterior has {size} draws a chain; bridge sampling needs at least 4")
    if not has_log_density(problem.pair, *problem.data):
        raise InputError(
            "bridge sampling needs log q at a given z, which this guide's hidden randomness denies"
        )


def _index(posterior: Posterior, layout: Layout) -> Tensor | None:
    """Which units the posterior's draws are of; None for all of them in their order."""
    plate, units = layout.unit_plate, np.arange(layout.num_units)
    if plate is None or plate not in posterior.draws.sizes:
        return None
    size = posterior.draws.sizes[plate]
    # Without labels they are their own positions.
    labels = posterior.draws[plate].to_numpy()
    unlabelled = plate not in posterior.draws.coords
    whole = np.issubdtype(labels.dtype, np.integer)
    known = whole and bool(np.isin(labels, units).all()) and len(np.unique(labels)) == size
    if size == len(units) and (not known or np.array_equal(labels, units)):
        return None
    if unlabelled or not known:
        raise InputError(
            f"the posterior has draws of {size} units and the data has {len(units)}: label {plate} with "
            "which they are, as coords= does, counted from 0 and each once"
        )
    if not layout.can_index:
        raise InputError(
            f"the posterior has draws of {size} of {len(units)} units or in an order of its own, but the "
            "programs do not index their data by the plate's indices: give the draws of all units in order"
        )
    return torch.tensor(labels)


def _latents(posterior: Posterior, layout: Layout) -> dict[str, Tensor]:
    """The posterior's draws by site, of shape (chains × draws, *plates, *event)."""
    found = {}
    for name, plates in layout.latents.items():
        if name not in posterior.draws:
            raise InputError(f"the posterior has no draws of the latent site {name}")
        variable = posterior.draws[name]
        if missing := [plate for plate in plates if plate not in variable.dims]:
            raise InputError(f"the posterior's draws of {name} have no dimension {missing[0]}, a plate of it")
        values = variable.transpose("chain", "draw", *plates, ...).to_numpy()
        # A copy: what xarray gives may not be written to.
        found[name] = torch.tensor(values.reshape(-1, *values.shape[2:]))
    return found


def _like(latents: Mapping[str, Tensor], draws: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In the precision and on the device of the guide's own draws."""
    for name, values in latents.items():
        if values.shape[1:] != draws[name].shape[1:]:
            raise InputError(
                f"the posterior's draws of {name} have shape {tuple(values.shape[1:])}; "
                f"the guide's have {tuple(draws[name].shape[1:])}"
            )
    return {name: values.to(draws[name]) for name, values in latents.items()}
