"""The gap between the ELBO and log p(x), taken apart.

log p(x) − ELBO = [log p(x) − ELBO of the best guide of the family] + [that ELBO − the guide's own]: the
*approximation gap*, which only a richer family closes, and the *amortisation gap*, which only a better
encoder closes. Source: Cremer, Li and Duvenaud, "Inference suboptimality in variational autoencoders"
(2018), section 3.
"""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.diagnostics.best_guides import Best, OwnAnswer, log_weight_chunks, optimise, own_answer
from ppl_vae.diagnostics.gap_parts import FAMILIES, Gap, Gaps
from ppl_vae.errors import InputError
from ppl_vae.evidence import Evidence
from ppl_vae.guides import PerDatumFlow, PerDatumNormal
from ppl_vae.inference import exact, importance
from ppl_vae.inference.defined import weighable
from ppl_vae.inference.elbo import check_index
from ppl_vae.inference.graph import Compile, check_compile
from ppl_vae.inference.terms import layout
from ppl_vae.program import ExactEvidence, Pair
from ppl_vae.rng import seeded

__all__ = ["Gap", "Gaps", "gaps"]

# Of the search for the best guides.
LR, PARTICLES, ROUNDS, TOLERANCE = 0.03, 8, 4, 0.01
# A mixture with a little of the prior bounds the weights of a guide that is too narrow.
DEFENSIVE = 0.05


def gaps(
    pair: Pair,
    *data: Any,
    index: Tensor | None = None,
    evidence: Evidence | None = None,
    num_samples: int = 2000,
    num_steps: int = 400,
    seed: int = 0,
    compile: Compile = "auto",
    progress: bool = True,
) -> Gaps:
    """Take the gap of a fitted pair apart, with the model's parameters held.

    The best guide for each datum is searched by SVI from the pair's own answer; the full covariance
    starts from the best mean-field one, and the flow from the best full covariance. Where the search
    ends too early, the approximation gap comes out too large and the amortisation gap too small; it rests
    when a round raises the mean ELBO by no more than 0.01 nats a unit.

    Args:
        pair: a model with one latent vector for every unit, and a Gaussian guide that says its
            ``covariance``; nothing of it is changed.
        data: the programs' data: one tensor whose rows are the units.
        index: the units to look at (all by default).
        evidence: log p(x) of these units, or of all. By default it is exact where the model knows it,
            and else estimated by importance sampling from the best guide found, mixed with a little of
            the prior.
        num_samples: draws a unit for each ELBO and for the evidence, at least 2.
        num_steps: steps of SVI in one of at most four rounds a family.
        seed: of everything.
        compile: as in `svi.fit` and `importance.log_evidence`.
        progress: whether to show progress bars on a terminal.

    Raises:
        InputError: for a guide of another kind, a model without latents of every datum, an index out of
            range, or evidence of other units.
    """
    if num_samples < 2:
        raise InputError(f"num_samples is {num_samples}; standard errors need at least 2")
    check_compile(compile)
    start = time.perf_counter()
    shape = weighable(pair, *data, layout=layout(pair, *data))
    check_index(index, shape.num_units)
    with seeded(seed):
        own = own_answer(pair, *data, shape=shape, index=index)
        units = np.arange(shape.num_units) if index is None else index.cpu().numpy()
        chosen = _rows(data, index, shape.num_units)
        known = None if evidence is None else _matching(evidence, units, shape.num_units)
        own_guide = own.as_per_datum(own.family)
        found = _search(
            pair, own, *chosen, num_steps=num_steps, compile=compile, seed=seed, progress=progress
        )
    pairs = [pair.cast_model(own.loc.dtype, lambda model: own_guide), *(best.pair for best in found)]
    elbo, covariance = _elbos(pairs, *chosen, num_samples=num_samples, seed=seed + 15_485_863)
    if known is None:
        proposal = pairs[1 + int(np.argmax(elbo.mean(0)[1:]))]
        known = _evidence(pair, proposal, *chosen, num_samples=num_samples, compile=compile,
                          seed=seed + 32_452_843, progress=progress)  # fmt: skip
    result = Gaps(
        index=units,
        family=own.family,
        amortised=not isinstance(pair.guide, PerDatumNormal),
        log_evidence=known.log_evidence,
        evidence_std_error=known.std_error,
        evidence_bias=known.bias,
        evidence_method=known.method,
        elbo=elbo,
        elbo_covariance=covariance,
        rested=tuple(best.rested for best in found),
        num_samples=num_samples,
    )
    notes = _notes(result, known, found)
    return replace(result, notes=notes, seconds=time.perf_counter() - start)


def _search(
    pair: Pair,
    own: OwnAnswer,
    *data: Any,
    num_steps: int,
    compile: Compile,
    seed: int,
    progress: bool,
) -> list[Best]:
    """The best guide of each family, each search started where the last one ended."""

    def best(guide: PerDatumNormal | PerDatumFlow, offset: int) -> Best:
        return optimise(
            pair, guide, *data, num_steps=num_steps, max_rounds=ROUNDS, tolerance=TOLERANCE, lr=LR,
            num_particles=PARTICLES, compile=compile, seed=seed + offset, progress=progress,
        )  # fmt: skip

    diagonal = own.as_per_datum("diagonal")
    mean_field = best(diagonal, 1000)
    full = own.as_per_datum("full") if own.family == "full" else _widened(diagonal)
    full_covariance = best(full, 2000)
    return [mean_field, full_covariance, best(PerDatumFlow.from_normal(full), 3000)]


@torch.no_grad()
def _widened(normal: PerDatumNormal) -> PerDatumNormal:
    """Mean-field Gaussians as members of the family with full covariance."""
    full = PerDatumNormal(
        len(normal.raw), normal.latent_dim, covariance="full", floor=normal.floor, dtype=normal.raw.dtype,
        site=normal.site, plate=normal.plate,
    ).to(normal.raw.device)  # fmt: skip
    full.raw[:, : normal.raw.shape[1]] = normal.raw
    return full


@torch.no_grad()
def _elbos(pairs: list[Pair], *data: Any, num_samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """ELBOs of several guides from the same noise, shape (units, guides), and their covariance."""
    shapes = [layout(pair, *data) for pair in pairs]
    means, covariances = [], []
    for log_w in log_weight_chunks(pairs, *data, shapes=shapes, num_samples=num_samples, seed=seed):
        centred = log_w - log_w.mean(1, keepdim=True)
        product = torch.einsum("gsn,hsn->ngh", centred, centred)
        means.append(log_w.mean(1).T)
        covariances.append(product / (num_samples - 1) / num_samples)
    return torch.cat(means).numpy(), torch.cat(covariances).numpy()


def _evidence(
    pair: Pair, proposal: Pair, *data: Any, num_samples: int, compile: Compile, seed: int, progress: bool
) -> Evidence:
    if isinstance(pair.model, ExactEvidence):
        return exact.log_evidence(pair.model, *data)
    return importance.log_evidence(
        proposal, *data, num_samples=max(100, num_samples), defensive=DEFENSIVE, compile=compile, seed=seed,
        progress=progress,
    )  # fmt: skip


def _notes(result: Gaps, evidence: Evidence, found: list[Best]) -> tuple[str, ...]:
    notes = list(evidence.notes)
    if evidence.kind in ("lower bound", "upper bound"):
        notes.append(f"the evidence is a {evidence.kind}, and so are the gaps to it")
    if bad := int(evidence.alarming.sum()):
        notes.append(
            f"the weights behind log p(x) cannot be trusted for {bad} of {result.num_units} units: give "
            "evidence from more samples or from annealing"
        )
    for family, best in zip(FAMILIES, found, strict=True):
        if not best.rested:
            notes.append(
                f"the search for the best {FAMILIES[family]} guide did not come to rest: {best.reason}"
            )
    parts = {"approximation gap": result.approximation, result.shortfall: result.amortisation}
    for part_name, part in parts.items():
        if part.mean < -max(3 * part.mean_std_error, TOLERANCE):
            notes.append(
                f"the {part_name} is negative beyond its error ({part.mean:.3g} ± "
                f"{part.mean_std_error:.1g}): a search or the evidence has failed"
            )
    return tuple(notes)


def _rows(data: tuple[Any, ...], index: Tensor | None, num_units: int) -> tuple[Tensor, ...]:
    """The chosen units of the data."""
    if len(data) != 1 or not isinstance(data[0], Tensor) or not data[0].dim() or len(data[0]) != num_units:
        raise InputError(
            "the gap is taken apart for programs of one data tensor whose first dimension is the units, "
            f"here {num_units}"
        )
    return data if index is None else (data[0][index],)


def _matching(evidence: Evidence, units: np.ndarray, num_units: int) -> Evidence:
    """The evidence of the chosen units, picked out of a larger one where necessary.

    Raises:
        InputError: if some of them are missing.
    """
    if evidence.index is None and evidence.num_units == len(units) < num_units:
        return evidence
    place = {int(unit): at for at, unit in enumerate(evidence.units)}
    known = evidence.index is not None or evidence.num_units == num_units
    if evidence.unit != "datum" or not known or any(int(unit) not in place for unit in units):
        raise InputError(
            f"the evidence given is of {evidence.num_units} units ({evidence.unit}), and these do "
            f"not cover the {len(units)} that the gap is asked for: it takes evidence of the same units"
        )
    at = np.array([place[int(unit)] for unit in units])
    columns = ("log_evidence", "std_error", "bias", "ess", "pareto_k", "elbo", "smoothed", "acceptance")
    return replace(
        evidence,
        index=units,
        **{name: values[at] for name in columns if len(values := getattr(evidence, name))},
    )
