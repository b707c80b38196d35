"""The gap between the ELBO and log p(x), taken apart.

log p(x) − ELBO = [log p(x) − ELBO of the best guide of the family] + [that ELBO − the guide's own]: the
*approximation gap*, which only a richer family closes, and the *amortisation gap*, which only a better
encoder closes. Source: Cremer, Li and Duvenaud, "Inference suboptimality in variational autoencoders"
(2018), section 3.
"""

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from ppl_vae.answers.evidence import Evidence
from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import seeded
from ppl_vae.diagnostics.latents.best_guides import Best, Searched, log_weight_chunks, optimise
from ppl_vae.diagnostics.latents.gap_parts import FAMILIES, Gap, Gaps
from ppl_vae.diagnostics.latents.own_answers import OwnAnswer, own_answer
from ppl_vae.engine.graph import Compile, check_compile
from ppl_vae.guides.per_datum import PerDatum, PerDatumNormal
from ppl_vae.guides.per_datum_flow import PerDatumFlow
from ppl_vae.inference.evidence import importance
from ppl_vae.inference.samplers import exact
from ppl_vae.program.abilities import ExactEvidence
from ppl_vae.program.defined import weighable
from ppl_vae.program.given_latents import has_log_density
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem, check_index

__all__ = ["Gap", "Gaps", "gaps"]

# Of the search for the best guides.
LR, PARTICLES, ROUNDS, TOLERANCE = 0.03, 8, 4, 0.01
OTHER = (
    "the guide is no Gaussian over a unit's latents with diagonal or full covariance, so that its gap has no "
    "approximation part; beside it stand the best guides of each family"
)
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

    A unit's latents are all its local sites, those of inner plates included, one after another in
    unconstrained space (`guides.LocalVector`). The best guide for each unit is searched by SVI from the
    pair's own answer; the full covariance starts from the best mean-field one, and the flow from the best
    full covariance. Where the search ends too early, the approximation gap comes out too large and the
    amortisation gap too small; it rests when a round raises the mean ELBO by no more than 0.01 nats a unit.

    The two parts are those of guides that are Gaussian with diagonal or full covariance (or a
    `PerDatumFlow`); beside any other guide stand the best ones of each family. Where even these cannot be
    had, for latents that are shared by all data or that the guide draws from a discrete distribution, the
    answer has the total gap alone. What is missing is said in ``notes``.

    Args:
        pair: model and guide; nothing of them is changed.
        data: the programs' data. Where some units are chosen, every tensor with as many rows as there are
            units is indexed by them.
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
        InputError: for an index out of range, evidence of other units, or where log p(x) is not defined
            (see `importance.log_evidence`).
    """
    if num_samples < 2:
        raise InputError(f"num_samples is {num_samples}; standard errors need at least 2")
    check_compile(compile)
    start = time.perf_counter()
    whole = Problem.of(pair, *data).rows(index)
    problem = weighable(whole)
    check_index(index, problem.layout.num_units)
    job = _Job(whole, problem, num_samples, compile, seed, progress)
    known = None if evidence is None else _matching(evidence, job.units, problem.layout.num_units)
    with seeded(seed):
        own = job.own()
        found = job.total(known, own) if isinstance(own, str) else job.apart(known, own, num_steps)
    return replace(found, seconds=time.perf_counter() - start)


@dataclass(frozen=True, eq=False)
class _Job:
    """One call of `gaps`; in ``whole`` the guide's discrete draws are not summed out."""

    whole: Problem
    problem: Problem
    num_samples: int
    compile: Compile
    seed: int
    progress: bool

    @property
    def units(self) -> np.ndarray:
        """Numbers of the units."""
        return self.problem.units.cpu().numpy()

    def own(self) -> OwnAnswer | str:
        """The guide's own answer as Gaussians, or why the gap has no parts, in a sentence."""
        layout = self.problem.layout
        if layout.unit_plate is None:
            shared = [site.name for site in layout.sites.values() if site.scope == "global"]
            return (
                "the gap is not taken apart: that is done by unit, and this pair's one unit is the data set"
                + (f" (all data share {', '.join(shared)})" if shared else "")
            )
        if self.whole.layout.discrete:
            return (
                f"the gap is not taken apart: the guide draws {', '.join(self.whole.layout.discrete)} from a "
                "discrete distribution, and the best guides are of real numbers"
            )
        try:
            self.problem.cut()
            return own_answer(self.problem)
        except InputError as error:
            return f"the gap is not taken apart: {error}"

    def total(self, known: Evidence | None, why: str) -> Gaps:
        """The gap of the pair's own guide, and nothing else."""
        pair, data = self.whole.pair, self.whole.data
        elbo, covariance = _elbos([self.whole], self.num_samples, self.seed + 15_485_863)
        if known is None:
            if isinstance(pair.model, ExactEvidence):
                known = exact.log_evidence(pair.model, *data)
            else:
                known = self._sampled(pair, *data, index=self.whole.index)
            known = _matching(known, self.units, self.problem.layout.num_units)
        result = self._result(known, "", elbo, covariance, ())
        return replace(result, notes=(why, *_notes(result, known, [])))

    def apart(self, known: Evidence | None, own: OwnAnswer, num_steps: int) -> Gaps:
        """The gap and those of the best guides of each family."""
        pair, chosen = self.problem.pair, self.problem.cut()
        family = "flow" if isinstance(pair.guide, PerDatumFlow) else own.family
        first = self.problem
        if own.family in FAMILIES:
            guide = own.as_per_datum(own.family)
            first = Problem.of(pair.cast_model(own.loc.dtype, lambda model: guide), *chosen)
        found = _search(
            pair, own, *chosen, num_steps=num_steps, compile=self.compile, seed=self.seed,
            progress=self.progress,
        )  # fmt: skip
        candidates = [first, *(Problem.of(best.pair, *chosen) for best in found)]
        elbo, covariance = _elbos(candidates, self.num_samples, self.seed + 15_485_863)
        if known is None:
            proposal = candidates[1 + int(np.argmax(elbo.mean(0)[1:]))].pair
            if isinstance(pair.model, ExactEvidence):
                known = exact.log_evidence(pair.model, *chosen)
            else:
                known = self._sampled(proposal, *chosen)
        result = self._result(known, family if family in FAMILIES else "", elbo, covariance, tuple(found))
        notes = _notes(result, known, found)
        return replace(result, notes=notes if result.family else (OTHER, *notes))

    def _sampled(self, proposal: Pair, *data: Any, index: Tensor | None = None) -> Evidence:
        return importance.log_evidence(
            proposal,
            *data,
            num_samples=max(100, self.num_samples),
            defensive=DEFENSIVE if has_log_density(proposal, *data) else 0.0,
            index=index,
            compile=self.compile,
            seed=self.seed + 32_452_843,
            progress=self.progress,
        )

    def _result(
        self, known: Evidence, family: str, elbo: np.ndarray, covariance: np.ndarray, found: tuple[Best, ...]
    ) -> Gaps:
        return Gaps(
            index=self.units,
            family=family,
            amortised=not isinstance(self.problem.pair.guide, PerDatum | AutoGuide),
            log_evidence=known.log_evidence,
            evidence_std_error=known.std_error,
            evidence_bias=known.bias,
            evidence_method=known.method,
            elbo=elbo,
            elbo_covariance=covariance,
            rested=tuple(best.rested for best in found),
            num_samples=self.num_samples,
        )


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

    def best(guide: Searched, offset: int) -> Best:
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
        vector=normal.vector,
    ).to(normal.raw.device)  # fmt: skip
    full.raw[:, : normal.raw.shape[1]] = normal.raw
    return full


@torch.no_grad()
def _elbos(candidates: list[Problem], num_samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """ELBOs of several guides from the same noise, shape (units, guides), and their covariance."""
    means, covariances = [], []
    for log_w in log_weight_chunks(candidates, num_samples, seed):
        centred = log_w - log_w.mean(1, keepdim=True)
        product = torch.einsum("gsn,hsn->ngh", centred, centred)
        means.append(log_w.mean(1).T)
        covariances.append(product / (num_samples - 1) / num_samples)
    return torch.cat(means).numpy(), torch.cat(covariances).numpy()


def _notes(result: Gaps, evidence: Evidence, found: list[Best]) -> tuple[str, ...]:
    notes = list(evidence.notes)
    if evidence.kind in ("lower bound", "upper bound"):
        notes.append(f"the evidence is a {evidence.kind}, and so are the gaps to it")
    if bad := int(evidence.alarming.sum()):
        notes.append(
            f"the weights behind log p(x) cannot be trusted for {bad} of {result.num_units} units: give "
            "evidence from more samples or from annealing"
        )
    for family, best in zip(FAMILIES, found, strict=False):
        if not best.rested:
            notes.append(
                f"the search for the best {FAMILIES[family]} guide did not come to rest: {best.reason}"
            )
    parts = {"gap": result.total}
    if result.family:
        parts = {"approximation gap": result.approximation, result.shortfall: result.amortisation}
    for part_name, part in parts.items():
        if part.mean < -max(3 * part.mean_std_error, TOLERANCE):
            notes.append(
                f"the {part_name} is negative beyond its error ({part.mean:.3g} ± "
                f"{part.mean_std_error:.1g}): a search or the evidence has failed"
            )
    return tuple(notes)


def _matching(evidence: Evidence, units: np.ndarray, num_units: int) -> Evidence:
    """The evidence of the chosen units, picked out of a larger one where necessary.

    Raises:
        InputError: if some of them are missing.
    """
    if evidence.index is None and evidence.num_units == len(units):
        if evidence.unit != "datum" and num_units == 1:
            return evidence
        if len(units) < num_units:
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
