"""What the commands do about log p(x): estimate it in several ways, and judge them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ppl_vae.answers.evidence import Evidence
from ppl_vae.base.errors import InputError
from ppl_vae.base.files import collected_errors, merge_json
from ppl_vae.base.progress import stage
from ppl_vae.diagnostics.comparison.agreement import Agreement, Sandwich, agreement, sandwich
from ppl_vae.engine.graph import Compile
from ppl_vae.guides.prior import Prior
from ppl_vae.inference.evidence import annealing, bounds, bridge, importance
from ppl_vae.inference.samplers import exact, nuts
from ppl_vae.program.abilities import ExactEvidence
from ppl_vae.program.layout import Layout
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem
from ppl_vae.program.terms import has_log_density
from ppl_vae.report.figures.common import write_figure
from ppl_vae.report.figures.evidence import evidence_curves
from ppl_vae.runs.evidence_results import dimensions, evidence_json, together, worst_rows
from ppl_vae.runs.jobs import check_guide, part_of, row_numbers
from ppl_vae.runs.run import METHODS, Run

__all__ = ["EvidenceFound", "EvidenceOptions", "evidence_of_run"]

# With ``--method all``, the methods are compared on the first of the rows: annealing costs a thousand times
# as much as importance sampling.
COMPARED = 100
# Draws of NUTS, a chain, for the bridge.
BRIDGE_DRAWS = 1000
# Share of the prior in a defensive mixture that is asked for by name alone.
DEFENSIVE = 0.1


@dataclass(frozen=True)
class EvidenceOptions:
    """What to estimate log p(x) by.

    Attributes:
        methods: names out of `METHODS`.
        samples: draws a unit: is, defensive, prior, iwae.
        tolerance: add draws until the standard error of the mean is at most this, in nats: is, defensive,
            ais.
        max_samples: draws a unit at which ``tolerance`` is given up: is, defensive.
        particles: K of the IWAE bound.
        chains: chains a unit: ais, bdmc.
        temperatures: steps from the start to the posterior: ais, bdmc.
        start: where ais and bdmc start: guide or prior.
        defensive: fraction of the samples drawn from the prior (default: 0, and 0.1 with --method defensive)
        compile: auto (by the size of the work), on, or off for stock Pyro.

    Raises:
        InputError: for a value out of range.
    """

    methods: tuple[str, ...] = field(default=("is",), metadata={"shell": None})
    samples: int = 1000
    tolerance: float | None = None
    max_samples: int = importance.MAX_SAMPLES
    particles: int = 50
    chains: int = 16
    temperatures: int = 1000
    start: str = "guide"
    defensive: float = 0.0
    compile: Compile = "auto"

    def __post_init__(self) -> None:
        known = (*METHODS, "all")
        if unknown := [name for name in self.methods if name not in known]:
            raise InputError(f"--method {unknown[0]!r} is not known; it is a list of {', '.join(known)}")
        for name, least in (("samples", 2), ("particles", 1), ("chains", 2), ("temperatures", 2)):
            if getattr(self, name) < least:
                raise InputError(f"--{name} is {getattr(self, name)}; it must be at least {least}")
        if self.start not in ("guide", "prior"):
            raise InputError(f"--start is {self.start!r}; it is guide or prior")
        if self.tolerance is not None and not {"all", "is", "defensive", "ais"} & {*self.methods}:
            raise InputError("--tolerance adds draws to is, defensive and ais, and none of them is asked for")


@dataclass(frozen=True, eq=False)
class EvidenceFound:
    """What was found.

    Attributes:
        values: evidence by method; bounds on simulated data are not among them.
        judged: what they say about each other.
        bracket: the width of the bounds on simulated data, if they were asked for.
        result: what ``--json`` prints.
    """

    values: Mapping[str, Evidence]
    judged: Agreement | None
    bracket: Sandwich | None
    result: dict[str, Any]


def evidence_of_run(
    run: Run,
    asked: EvidenceOptions,
    *,
    data: str | None = None,
    split: str | None = None,
    rows: slice | None = None,
    worst: int = 0,
    seed: int | None = None,
    resume: bool = False,
    progress: bool = True,
    complaints: list[InputError] | None = None,
) -> EvidenceFound:
    """log p(x) of a run's data by one method or by several, compared.

    Args:
        run: a fitted run. What is found is saved per unit in its folder.
        asked: which methods, and how.
        data: another data set or file than the run's.
        split: "train", "validation" or "test"; test where there are test rows, else train.
        rows: which rows of that part; all by default.
        worst: how many of the worst-fitted rows to show.
        seed: the run's by default.
        resume: go on from an interrupted estimate of the same.
        progress: whether to show a progress bar on a terminal.
        complaints: see `files.collected_errors`: what could not be written.

    Raises:
        InputError: for a method that does not apply, or data that the pair cannot take.
    """
    if worst < 0:
        raise InputError(f"--worst is {worst}; it is a number of rows")
    part = part_of(run, split)
    tensors = run.tensors(part) if data is None else run.other_tensors(data)
    if set(asked.methods) != {"exact"}:
        check_guide(run, tensors)
    layout = Problem.of(run.pair, *tensors).layout
    fewer = rows is None and "all" in asked.methods and layout.num_units > COMPARED
    rows = slice(0, COMPARED) if fewer else rows
    index = row_numbers(run, layout, rows, part)
    seed = run.settings.seed if seed is None else seed
    job = _Job(run, asked, tensors, layout, index, seed, resume, progress, complaints)
    if worst and job.methods == ("bdmc",):
        raise InputError("--worst needs an estimate on the data themselves, such as --method is")
    source, local = part if data is None else data, layout.unit_plate is not None
    dims = dimensions(run, layout, tensors)
    values: dict[str, Evidence] = {}
    each: dict[str, dict[str, Any]] = {}
    bracket, bounding = None, dict[str, Any]()
    left_out = []
    for method in job.methods:
        stage(f"log p(x) by {method}", show=progress)
        try:
            if method == "bdmc":
                bracket, bounding = job.bracket()
                continue
            values[method] = job.estimate(method)
        except InputError as reason:
            # Whoever asks for everything gets what there is.
            if not job.everything:
                raise
            left_out.append(f"{method} was left out: {reason}")
            continue
        each[method] = evidence_json(values[method], source, dims, layout.num_units if local else None)
        if run.folder is not None:
            # As they come: a later method may take hours, or be interrupted.
            with collected_errors(complaints):
                values[method].save(run.folder / f"evidence-{method}.nc")
                merge_json(run.folder / "evidence.json", method, each[method])
    judged = agreement(values) if values else None
    result = together(each, judged, bounding)
    if job.everything:
        result["left_out"] = left_out
        if fewer:
            result["rows_note"] = (
                f"the methods are compared on the first {COMPARED} of {layout.num_units:,} rows, since "
                f"annealing costs so much: --rows 0:{layout.num_units} takes all of them"
            )
    if worst:
        best = (judged.best if judged else None) or next(iter(values))
        result["worst"] = worst_rows(run, values[best], worst, part if data is None else None, complaints)
    if run.folder is not None:
        if len(values) > 1:
            with collected_errors(complaints):
                write_figure(run.folder / "evidence.png", evidence_curves(values))
        pictures = [
            name for name, new in (("evidence.png", len(values) > 1), ("worst.png", bool(worst))) if new
        ]
        result["pictures"] = [str(path) for name in pictures if (path := run.folder / name).exists()]
    return EvidenceFound(values, judged, bracket, result)


class _Job:
    """One question about some rows of a run, and the ways of answering it."""

    def __init__(
        self,
        run: Run,
        asked: EvidenceOptions,
        data: tuple[Tensor, ...],
        layout: Layout,
        index: Tensor | None,
        seed: int,
        resume: bool,
        progress: bool,
        complaints: list[InputError] | None,
    ) -> None:
        self.run, self.asked, self.data, self.layout, self.index = run, asked, data, layout, index
        self.seed, self.resume, self.progress, self.complaints = seed, resume, progress, complaints
        self.density = has_log_density(run.pair, *data)
        self.everything = "all" in asked.methods
        self.methods = self._methods()

    def _methods(self) -> tuple[str, ...]:
        if not self.everything:
            return tuple(name for name in METHODS if name in self.asked.methods)
        local = self.layout.unit_plate is not None
        applies = {
            "exact": isinstance(self.run.model, ExactEvidence),
            "defensive": self.density,
            "bridge": self.density and not local,
        }
        return tuple(name for name in METHODS if applies.get(name, True))

    def estimate(self, method: str) -> Evidence:
        """Evidence of the rows by one method."""
        if method == "exact":
            return self._exact()
        if method in ("is", "prior", "defensive"):
            return self._importance(method)
        if method == "iwae":
            return bounds.iwae(
                self.run.pair,
                *self.data,
                num_particles=self.asked.particles,
                num_repeats=max(2, self.asked.samples // self.asked.particles),
                index=self.index,
                compile=self.asked.compile,
                seed=self.seed,
                progress=self.progress,
            )
        if method == "bridge":
            return self._bridge()
        return annealing.log_evidence(
            self.run.pair,
            *self.data,
            start=self._start,
            num_temperatures=self.asked.temperatures,
            num_chains=self.asked.chains,
            tolerance=self.asked.tolerance,
            index=self.index,
            compile=self.asked.compile,
            seed=self.seed,
            checkpoint=self._kept("ais"),
            resume=self.resume,
            progress=self.progress,
        )

    def _kept(self, method: str) -> Path | None:
        """Where parts of an unfinished estimate are kept."""
        folder = self.run.folder
        return None if folder is None else folder / f"evidence-{method}.partial"

    def bracket(self) -> tuple[Sandwich, dict[str, Any]]:
        """Bounds from both sides on data simulated in the shape of these rows."""
        lower, upper = annealing.bidirectional(
            self.run.pair,
            *self.data,
            start=self._start,
            num_temperatures=self.asked.temperatures,
            num_chains=self.asked.chains,
            index=self.index,
            compile=self.asked.compile,
            seed=self.seed,
            progress=self.progress,
        )
        found = sandwich(lower, upper)
        if self.run.folder is not None:
            with collected_errors(self.complaints):
                lower.save(self.run.folder / "evidence-bdmc-lower.nc")
                upper.save(self.run.folder / "evidence-bdmc.nc")
        return found, {
            "lower_mean": lower.mean,
            "upper_mean": upper.mean,
            "width_mean": found.width,
            "std_error_mean": found.std_error,
            "num_units": found.num_units,
            "ok": found.ok,
            "sentence": found.sentence,
            "seconds": upper.seconds,
        }

    @property
    def _start(self) -> Literal["guide", "prior"]:
        return "prior" if self.asked.start == "prior" or not self.density else "guide"

    def _exact(self) -> Evidence:
        if not isinstance(self.run.model, ExactEvidence):
            raise InputError(
                f"{self.run.settings.model} does not know its exact evidence; use --method is or ais"
            )
        found = exact.log_evidence(self.run.model, *self.data)
        if self.index is None:
            return found
        rows = self.index.cpu().numpy()
        parts = {name: getattr(found, name)[rows] for name in ("log_evidence", "std_error", "bias")}
        return replace(found, index=rows, **parts)

    def _importance(self, method: str) -> Evidence:
        pair = self.run.pair
        defensive = 0.0
        if method == "prior":
            pair = Pair(pair.model, Prior(pair.model))
        if method == "defensive":
            defensive = self.asked.defensive or DEFENSIVE
        return importance.log_evidence(
            pair,
            *self.data,
            num_samples=self.asked.samples,
            defensive=defensive,
            # More draws from the prior would not make it believable.
            tolerance=None if method == "prior" else self.asked.tolerance,
            max_samples=self.asked.max_samples,
            index=self.index,
            compile=self.asked.compile,
            seed=self.seed,
            checkpoint=self._kept(method),
            resume=self.resume,
            progress=self.progress,
        )

    def _bridge(self) -> Evidence:
        if self.layout.unit_plate is not None:
            raise InputError(
                f"--method bridge needs draws of NUTS from one posterior, and {self.run.settings.model} has "
                "one for each row; use --method is or ais"
            )
        if not self.density:
            raise InputError("--method bridge needs log q at a given z, which this guide does not give")
        posterior = nuts.sample(
            self.run.pair,
            *self.data,
            num_draws=BRIDGE_DRAWS,
            mass="low-rank",
            compile=self.asked.compile,
            seed=self.seed + 1,
            progress=self.progress,
        )
        found = bridge.log_evidence(
            self.run.pair, posterior, *self.data, seed=self.seed, progress=self.progress
        )
        return replace(found, seconds=found.seconds + posterior.seconds)
