"""log p(x) by importance sampling from the guide.

With z_s ~ q and w_s = p(x, z_s)/q(z_s), the mean weight is an unbiased estimate of p(x) and its log a
consistent estimate, and in expectation a lower bound, of log p(x) (Burda, Grosse and Salakhutdinov
2016, section 3). Weights belong to units: summed over a plate of data before they are averaged, they
would be useless.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor

from ppl_vae.answers.evidence import Evidence
from ppl_vae.base.arguments import check_real, check_whole
from ppl_vae.base.errors import InputError
from ppl_vae.base.progress import progress_bar
from ppl_vae.base.seeds import derived, seeded
from ppl_vae.engine.graph import Compile, check_compile
from ppl_vae.guides.prior import Prior
from ppl_vae.inference.evidence.partial import Partial, fingerprint
from ppl_vae.inference.evidence.running import Running, summarise
from ppl_vae.inference.evidence.tolerance import check_tolerance, samples_needed
from ppl_vae.inference.evidence.weights import CHUNK, LogWeights, block_size, engine_of_weights
from ppl_vae.program.defined import about_weights, require_weights, weighable
from ppl_vae.program.given_latents import has_log_density
from ppl_vae.program.layout import Layout
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem

__all__ = ["ImportanceKeywords", "ImportanceOptions", "log_evidence"]

# Draws a unit beyond which a tolerance is given up.
MAX_SAMPLES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class ImportanceOptions:
    """The options of importance sampling. Values out of range raise `InputError`.

    Attributes:
        num_samples: S, draws a unit, at least 2.
        defensive: fraction α of the draws to take from the prior. The proposal is then the mixture
            (1 − α) q + α p(z), whose weights are bounded by p(x | z)/α (Owen and Zhou 2000).
        tolerance: keep adding draws until the standard error of the mean over units is at most this, in
            nats; ``notes`` say why where it cannot be reached.
        max_samples: draws a unit at which that is given up.
        compile: whether to compile the weights; "auto" does where the work is large. False runs stock
            Pyro. The numbers are the same to rounding.
    """

    num_samples: int = 1000
    defensive: float = 0.0
    tolerance: float | None = None
    max_samples: int = MAX_SAMPLES
    compile: Compile = "auto"

    def __post_init__(self) -> None:
        check_whole(2, num_samples=self.num_samples)
        words = "is the fraction of draws from the prior, in [0, 1)"
        check_real(lambda v: 0 <= v < 1, words, defensive=self.defensive)
        if self.defensive and self.num_samples < 4:
            raise InputError(
                f"num_samples is {self.num_samples}; a defensive mixture needs at least 2 of each kind"
            )
        check_tolerance(self.tolerance)
        check_compile(self.compile)


class ImportanceKeywords(TypedDict, total=False):
    """The fields of `ImportanceOptions` as keywords; a test holds the two equal."""

    num_samples: int
    defensive: float
    tolerance: float | None
    max_samples: int
    compile: Compile


@torch.no_grad()
def log_evidence(
    pair: Pair,
    *data: Any,
    index: Tensor | None = None,
    improper: bool = False,
    seed: int = 0,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    **options: Unpack[ImportanceKeywords],
) -> Evidence:
    """Estimate log p(x) of every unit.

    Memory is bounded: samples and units are taken in chunks, and only sums and the largest
    ~3√S log weights of a unit are kept.

    Args:
        pair: model and guide; nothing is trained. ``Pair(model, Prior(model))`` is simple Monte Carlo.
        data: the programs' data.
        index: the units to estimate (all by default).
        improper: whether to weigh draws under flat priors too. What is estimated is then known only up to a
            constant, and its diagnostics are all that counts.
        seed: of the draws.
        checkpoint: a file that keeps finished chunks of units, for an estimate that may be interrupted; it
            goes when the estimate is finished.
        resume: go on from that file. The result is that of an unbroken run.
        progress: whether to show a progress bar on a terminal.
        options: the fields of `ImportanceOptions`.

    Raises:
        InputError: for options out of range, α > 0 with a guide whose density at
            a given z is not available, a checkpoint of another estimate, or where log p(x) is not defined: a
            guide that puts a latent at a point, flat priors, programs that take a part of their data or scale
            the densities of their latents, and discrete latents that cannot be summed out. Observed sites
            that a program scales have a weighted likelihood, whose evidence it is: ``notes`` say so.
    """
    asked = ImportanceOptions(**options)
    start = time.perf_counter()
    problem = Problem.of(pair, *data).rows(index)
    problem = require_weights(problem) if improper else weighable(problem)
    if not problem.layout.latents:  # all are summed out: there is no draw that could come from the prior
        asked = replace(asked, defensive=0.0)
    num_samples, defensive = asked.num_samples, asked.defensive
    if defensive and problem.layout.improper:
        raise InputError("a defensive mixture draws from the prior, and a flat prior has no draws")
    if defensive and not has_log_density(pair, *data):
        raise InputError(
            "a defensive mixture needs log q at a given z, which this guide's hidden randomness denies"
        )
    about = {
        "samples": num_samples, "defensive": defensive, "tolerance": asked.tolerance, "seed": seed,
        "compile": asked.compile, "problem": fingerprint(problem) if checkpoint else "",
    }  # fmt: skip
    partial = Partial(checkpoint, about, resume)
    with seeded(seed), progress_bar("log p(x)", num_samples * problem.num_units, show=progress) as advance:
        job = _Job(problem, asked, seed, partial)
        rounds, notes = 1, tuple[str, ...]()
        running = job.run(0, 1, None, advance)
        while asked.tolerance is not None:
            more, notes = samples_needed(job.summary(running), asked.tolerance, asked.max_samples)
            if not more:
                break
            extra = math.ceil(more / num_samples)
            running = job.run(rounds, extra, running, advance)
            rounds += extra
    partial.finish()
    found = job.summary(running)
    return replace(
        found,
        method="prior" if isinstance(pair.guide, Prior) else "defensive" if defensive else "is",
        index=None if index is None else index.cpu().numpy(),
        proposal=_proposal_name(pair, defensive),
        notes=(*about_weights(problem.layout), *notes),
        seconds=time.perf_counter() - start,
        compile_seconds=sum(stratum.weights.compile_seconds for stratum in job.strata),
    )


@dataclass(frozen=True)
class _Stratum:
    """Draws of one proposal: how many a round, and the weights of a block of them."""

    size: int
    weights: LogWeights


class _Job:
    """The draws of one estimate: rounds of strata, chunk by chunk of units."""

    def __init__(self, problem: Problem, asked: ImportanceOptions, seed: int, partial: Partial) -> None:
        self.layout, self.seed, self.partial = problem.layout, seed, partial
        self.num_units = problem.num_units
        chunks = problem.chunks(min(asked.num_samples, 1000), CHUNK)
        self.chunks = [chunk.index for chunk in chunks]
        engine = engine_of_weights(asked.compile, problem, asked.num_samples)
        self.strata = _strata(chunks[0], asked, engine)

    def run(
        self,
        first: int,
        rounds: int,
        before: list[Running] | None,
        advance: Callable[[int, str], None],
    ) -> list[Running]:
        """Rounds ``first`` to ``first + rounds − 1``, on top of those before: running sums by stratum."""
        name = f"{first}-{rounds}"
        kept = self.partial.get(name)
        strata = range(len(self.strata))
        if kept is None:
            done = 0
            sizes = [stratum.size * (first + rounds) for stratum in self.strata]
            found = [Running.room(size, self.num_units) for size in sizes]
            for sums, earlier in zip(found, before or (), strict=False):
                sums.curve[: len(earlier.curve), 1:] += earlier.curve[:, 1:]
        else:
            done = int(kept["done"])
            found = [Running.from_tensors(kept, str(k)) for k in strata]
        at = 0
        for number, chunk in enumerate(self.chunks):
            columns = slice(at, at := at + (self.num_units if chunk is None else len(chunk)))
            if number < done:
                advance(sum(s.size for s in self.strata) * rounds * (columns.stop - columns.start), "")
                continue
            start = None if before is None else [sums.take(columns) for sums in before]
            torch.manual_seed(derived(self.seed, first, number))
            new = self._chunk(chunk, first, rounds, start, advance)
            for k in strata:
                found[k].put(columns, new[k])
            tensors = {key: t for k in strata for key, t in found[k].tensors(str(k)).items()}
            self.partial.put(name, {**tensors, "done": torch.tensor(number + 1)})
        return found

    def _chunk(
        self,
        chunk: Tensor | None,
        first: int,
        rounds: int,
        before: list[Running] | None,
        advance: Callable[[int, str], None],
    ) -> list[Running]:
        found = []
        for number, stratum in enumerate(self.strata):
            sums = None if before is None else before[number]
            done, size = 0, stratum.size * rounds
            while done < size:
                drawn = stratum.weights(
                    chunk, seed=derived(self.seed, number), first=stratum.size * first + done
                )
                log_w = drawn[: size - done].cpu()
                sums = (Running.empty(log_w.shape[1]) if sums is None else sums).plus(log_w)
                done += len(log_w)
                advance(log_w.numel(), "")
            assert sums is not None
            found.append(sums)
        return found

    def summary(self, running: list[Running]) -> Evidence:
        """Log mean weights and their diagnostics."""
        columns, curve = summarise(running)
        return _evidence(columns, curve, sum(sums.count for sums in running), self.layout)


def _evidence(columns: Mapping[str, np.ndarray], curve: np.ndarray, samples: int, layout: Layout) -> Evidence:
    return Evidence(
        log_evidence=columns["log_evidence"],
        method="is",
        unit=layout.unit,
        kind="estimate",
        std_error=columns["std_error"],
        bias=-0.5 * columns["std_error"] ** 2,
        ess=columns["ess"],
        pareto_k=columns["pareto_k"],
        elbo=columns["elbo"],
        smoothed=columns["smoothed"],
        curve=curve,
        num_samples=samples,
    )


def _strata(chunk: Problem, asked: ImportanceOptions, engine: str) -> list[_Stratum]:
    """Draws from the guide and, for a defensive mixture, from the prior."""
    num_samples = asked.num_samples
    from_prior = round(asked.defensive * num_samples)
    if asked.defensive:
        from_prior = min(max(from_prior, 2), num_samples - 2)
    found = []
    for size, proposal in ((num_samples - from_prior, None), (from_prior, Prior(chunk.pair.model))):
        if size:
            share = from_prior / num_samples
            particles = block_size(size, chunk)
            weights = LogWeights(chunk, particles, engine, defensive=share, proposal=proposal)
            found.append(_Stratum(size, weights))
    return found


def _proposal_name(pair: Pair, defensive: float) -> str:
    name = "prior" if isinstance(pair.guide, Prior) else "guide"
    return f"{1 - defensive:g} {name} + {defensive:g} prior" if defensive else name
