"""The checks themselves, one after another, each adding what it found."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ppl_vae.answers.evidence import Evidence
from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.clock import Clock, OutOfTime, TooLittleTime, deadline
from ppl_vae.base.errors import InputError
from ppl_vae.base.progress import stage
from ppl_vae.base.seeds import derived
from ppl_vae.base.watch import watched
from ppl_vae.diagnostics.calibration.sbc import Calibration, sbc
from ppl_vae.diagnostics.comparison.closeness import Severity
from ppl_vae.diagnostics.comparison.compare import Comparison, Identifiable, compare, judge_reference
from ppl_vae.diagnostics.comparison.scores import over_rows, score
from ppl_vae.diagnostics.latents.collapse import Collapse, collapse
from ppl_vae.diagnostics.latents.funnels import Funnel, funnel
from ppl_vae.diagnostics.prediction.predictive import Predictive, predictive_check
from ppl_vae.diagnostics.verdict.advice import Facts
from ppl_vae.diagnostics.verdict.checked import ROWS, of_rows, rows_compared
from ppl_vae.diagnostics.verdict.findings import clause, differing, say_gap, say_score, say_weights
from ppl_vae.diagnostics.verdict.pace import affordable
from ppl_vae.diagnostics.verdict.quantities import Quantities
from ppl_vae.diagnostics.verdict.reference import Sampled, within
from ppl_vae.diagnostics.verdict.rule import Finding, Measures, Rule, Spoken, Status, in_words
from ppl_vae.inference.evidence import bridge, importance
from ppl_vae.inference.samplers import exact, guide, nuts
from ppl_vae.program.layout import Layout
from ppl_vae.program.pair import ExactEvidence, ExactPosterior, Pair, PairwiseFactors, Program
from ppl_vae.program.point_mass import point_masses
from ppl_vae.program.problem import Problem
from ppl_vae.program.terms import has_log_density, layout

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Checks", "begin_reference"]

# Rows whose importance weights are looked at.
WEIGHED_ROWS = 100
# Draws of the guide: fewer where they take long, and of very many latents, so that they fit into memory.
DRAWS, MOST_NUMBERS = (4000, 1000, 500), 4e7
# Samples behind the weights, of one unit and of several: fewer where one takes long, or very many numbers.
SAMPLES, SAMPLES_A_ROW, MOST_EVALUATED = (10_000, 1000, 100), (2000, 500, 100), 2e8
# Draws that NUTS keeps at most, in numbers.
MOST_KEPT = 2e8
# Shares of the time left: for weights and draws, and for the reference with and without calibration to come.
WEIGHTS_SHARE, REFERENCE_SHARE, WHOLE_SHARE = 0.1, 0.75, 0.95
LOWER_TAIL = 0.1
# References that have draws of every latent.
OURS = ("exact", "nuts")
# Share of the time left for calibrating the guide, before the sampler; with less than the last left, nothing
# is begun.
GUIDE_SHARE, LEAST_LEFT = 0.6, 0.05
# Data sets that are simulated, where there is time.
NUM_SIMULATIONS = 500
# Numbers of the data that predictive checks replicate.
PREDICTED = 100_000
NO_TIME = "there was no time left for it: give a larger budget"
# Of the time left, what tracing the model for NUTS may take before the fit.
BEGINNING = 0.05


class Checks:
    """The checks of one pair, each adding what it found."""

    def __init__(
        self,
        pair: Pair,
        data: tuple[Any, ...],
        clock: Clock,
        reference: Posterior | None,
        identifiable: Identifiable | None,
        rows: Tensor | None,
        feature_names: tuple[str, ...],
        rule: Rule | None,
        seed: int,
        progress: bool,
    ) -> None:
        self.pair, self.data, self.clock = pair, data, clock
        self.rule = Rule() if rule is None else rule
        self.given, self.identifiable, self.seed, self.progress = reference, identifiable, seed, progress
        self.feature_names = feature_names
        self.shape = layout(pair, *data)
        self.index = rows_compared(self.shape, data, rows)
        self.quantities = Quantities(pair.model, identifiable, local=self.shape.unit_plate is not None)
        self.functions = self.quantities.functions
        self.findings: list[Finding] = []
        self.measures = Measures()
        self.answers: dict[str, Posterior] = {}
        self.evidence: dict[str, Evidence] = {}
        self.weighed: Evidence | None = None
        self.calibrations: dict[str, Calibration] = {}
        self.comparison: Comparison | None = None
        self.predicted: Predictive | None = None
        self.collapsed: Collapse | None = None
        self.facts = Facts(local=self.shape.unit_plate is not None)
        self.spoken = Spoken()
        self.funnel: Funnel | None = None
        # Whether the time that things took had a part in the reference.
        self.late = False
        self.mark = time.perf_counter()

    def add(self, name: str, status: Status, sentence: str, cut: bool = False) -> None:
        """Keep a finding, timed from the one before; ``cut`` if the budget ended it early."""
        now = time.perf_counter()
        self.findings.append(Finding(name, status, clause(sentence), now - self.mark, cut))
        self.mark = now

    def in_time(self, name: str, part: Callable[[], None]) -> None:
        """Run a part for as long as there is time, and say so where there is not."""
        try:
            # A long program may take seconds in one run: the clock is looked at inside it too.
            with deadline(self.clock.left), watched():
                part()
        except OutOfTime:
            self.add(name, "skipped", NO_TIME, cut=True)

    def measure(self, **values: Any) -> None:
        """Keep numbers for the rule."""
        self.measures = replace(self.measures, **values)

    def seed_of(self, part: int) -> int:
        """A seed of one check's own."""
        return derived(self.seed, part)

    def convergence(self, converged: bool | None, reason: str, cut: bool = False) -> None:
        """Whether SVI came to rest, as far as that was judged."""
        self.measure(converged=converged)
        if converged is None:
            self.add(
                "convergence",
                "cannot tell",
                f"what more steps would gain is not judged after a fixed number of them: {clause(reason)}",
            )
            return
        self.add("convergence", "pass" if converged else "warn", reason, cut)

    def points(self) -> bool:
        """Whether the guide is a point in some latent, which leaves nothing to be judged."""
        found = point_masses(Problem(self.pair, self.data, self.shape))
        if found:
            every = len(found) == len(self.shape.latents)
            self.measure(points=found)
            self.add(
                "guide",
                "fail",
                f"every draw of {in_words(found)} is the same: the guide is a point there, which is an "
                + ("estimate" if every else f"estimate of {in_words(found)}") + " and no posterior",
            )  # fmt: skip
        return bool(found)

    def weights(self) -> None:
        """Importance weights, log p(x), and the gap of the ELBO."""
        stage("check: importance weights", show=self.progress)
        index = self._weighed()
        units = self.shape.num_units if index is None else len(index)
        memory = MOST_EVALUATED / (self.shape.event_size * units)
        sizes = SAMPLES if units == 1 else SAMPLES_A_ROW
        allowed = WEIGHTS_SHARE * self.clock.left
        try:
            with deadline(self.clock.left):
                size, cut = affordable(self.pair, self.data, self.shape, index, sizes, allowed, self.seed)
                size = int(min(size, max(sizes[-1], memory)))
                found = importance.log_evidence(
                    self.pair, *self.data, num_samples=size, improper=bool(self.shape.improper), index=index,
                    seed=self.seed_of(1), progress=False,
                )  # fmt: skip
        except OutOfTime:
            self.add("weights", "skipped", NO_TIME, cut=True)
            return
        except InputError as error:  # a tempered model's weights, for one
            self.add("weights", "skipped", str(error))
            return
        self.weighed = found
        self.measure(
            alarming=float(found.alarming.mean()),
            pareto_k=float(found.pareto_k.max()),
            ess=float(found.ess.min()) / found.num_samples,
        )
        status, said = say_weights(found, self.rule.alarming)
        fewer = f"; {self._fewer(size, sizes[0])}" if cut else ""
        self.add("weights", status, said + fewer, cut)
        if self.shape.improper:
            flat = in_words(self.shape.improper)
            self.add(
                "evidence", "skipped", f"log p(x) is not defined: the prior of {flat} is flat (improper)"
            )
            return
        self.evidence["is"] = found
        self._gap(found)

    def _fewer(self, size: int, wanted: int) -> str:
        alone = "" if self.shape.vectorized else ", one after another: the programs do not take many at once"
        return f"for lack of time {size:,} draws instead of {wanted:,}{alone}"

    def _weighed(self) -> Tensor | None:
        """The rows whose weights are looked at; None for everything."""
        index = self.index
        if self.shape.unit_plate and self.shape.can_index and self.shape.num_units > WEIGHED_ROWS:
            spread = np.linspace(0, self.shape.num_units - 1, WEIGHED_ROWS).round().astype(int)
            return torch.tensor(np.union1d(spread, [] if index is None else index.numpy()).astype(int))
        return None if self.shape.unit_plate else index

    def _gap(self, found: Evidence) -> None:
        truth = found
        if isinstance(self.pair.model, ExactEvidence):
            truth = exact.log_evidence(self.pair.model, *self.data)
            if found.index is not None:
                none = np.zeros(len(found.index))
                chosen = truth.log_evidence[found.index]
                truth = replace(truth, log_evidence=chosen, std_error=none, bias=none, index=found.index)
            self.evidence["exact"] = truth
        with np.errstate(invalid="ignore"):
            gap = truth.log_evidence - found.elbo
        self.measure(gap=float(gap.mean()))
        if not np.isfinite(gap).all():
            self.add(
                "evidence",
                "fail",
                "the guide draws values that the model gives no probability: its ELBO is −∞",
            )
            return
        doubtful = truth is found and bool(found.alarming.any())
        few = found.num_units < self.shape.num_units
        of = f" over {found.num_units:,} rows spread over all {self.shape.num_units:,}" if few else ""
        said = say_gap(truth, float(gap.mean()), of, truth is not found, doubtful)
        self.add("evidence", "warn" if doubtful else "pass", said)

    def draw(self) -> bool:
        """Draws of the guide, also reweighted, and what their shape says; False where time is out."""
        stage("check: draws of the guide", show=self.progress)
        units = 1 if self.shape.unit_plate is None else self.shape.num_units
        units = units if self.index is None else len(self.index)
        allowed = WEIGHTS_SHARE * self.clock.left
        try:
            with deadline(self.clock.left):
                size, cut = affordable(
                    self.pair, self.data, self.shape, self.index, DRAWS, allowed, self.seed
                )
                size = int(min(size, max(DRAWS[-1], MOST_NUMBERS / (self.shape.event_size * units))))
                own = guide.draws(
                    self.pair, *self.data, num_draws=size, index=self.index, seed=self.seed_of(2)
                )
        except OutOfTime:
            self.add("draws", "skipped", NO_TIME, cut=True)
            return False
        if cut:
            self.add("draws", "warn", self._fewer(size, DRAWS[0]), cut)
        self.answers["svi"] = self._few_rows(own)
        named = in_words(self.quantities.names(self.answers["svi"]))
        self.spoken = Spoken(compared=f"{named}{self._rows_in_words()}")
        self.in_time("draws", self._reweigh)
        return True

    def _reweigh(self) -> None:
        try:
            self.answers["reweighted"] = self.answers["svi"].resampled(seed=self.seed_of(3))
            shift = self._score("svi", self.answers["reweighted"])
        except InputError as error:  # no weight at all, or weights that are no numbers
            shift = Severity(np.inf, np.inf, str(error))
        self.measure(shift=shift.error, shift_floor=shift.floor)
        # What needs no reference is found before one is looked for, and kept.
        self._look_for_funnel(self.answers.get("reweighted", self.answers["svi"]))

    def _few_rows(self, answer: Posterior) -> Posterior:
        """The first rows of an answer, where rows could not be chosen before it was drawn."""
        plate = self.shape.unit_plate
        if plate is None or self.index is not None or answer.draws.sizes.get(plate, 0) <= ROWS:
            return answer
        return answer.isel({plate: slice(0, ROWS)})

    def _rows_in_words(self) -> str:
        if self.shape.unit_plate is None:
            return ""
        compared = min(ROWS, self.shape.num_units) if self.index is None else len(self.index)
        return f" of {compared} of {self.shape.num_units:,} rows" if compared < self.shape.num_units else ""

    def _look_for_funnel(self, draws: Posterior) -> None:
        if self.shape.unit_plate is None:
            self.funnel = funnel(draws) or self.funnel

    def compare(self, calibrate: bool) -> None:
        """The guide and its reweighted draws against a reference.

        Args:
            calibrate: whether calibration is still to come.
        """
        found, kind = self._reference(REFERENCE_SHARE if calibrate else WHOLE_SHARE)
        self.late = found.cut
        if found.posterior is None:
            self.measure(reference=kind)
            self.add("reference", "skipped", "; ".join(found.reasons), found.cut)
            return
        try:
            with deadline(self.clock.left):
                self._compare(found, found.posterior, kind)
        except OutOfTime:
            self.add("reference", "skipped", f"{NO_TIME} to compare with it", cut=True)

    def _compare(self, found: Sampled, reference: Posterior, kind: str) -> None:
        if kind == "nuts":
            self._look_for_funnel(reference)
        comparison = self._compared(reference)
        if found.ok:
            own = self._score("svi", reference)
            mended = self._score("reweighted", reference) if "reweighted" in self.answers else own
        self.answers[kind], self.comparison = reference, comparison
        self.measure(reference=kind, reference_ok=found.ok)
        if found.ok:
            self._judge(reference, own, mended, found.note)
        else:
            self.add("reference", "cannot tell", "; ".join(found.reasons), found.cut)

    def _judge(self, reference: Posterior, own: Severity, mended: Severity, note: str) -> None:
        """Keep how far the guide, and its reweighted draws, are from a reference that passed its checks."""
        assert self.comparison is not None
        self.measure(
            error=own.error,
            error_floor=own.floor,
            reweighted_error=mended.error,
            reweighted_floor=mended.floor,
        )
        wrong = differing(self.comparison)
        names = self.quantities.names(self.answers["svi"])
        right = tuple(name for name in names if name not in wrong)
        self.spoken = replace(self.spoken, wrong=in_words(wrong), right=in_words(right))
        self.facts = replace(
            self.facts, reference_seconds=reference.seconds,
            identified_right=bool(wrong) and self.quantities.only_shown(wrong, self.answers["svi"]),
        )  # fmt: skip
        weights_ok = self.measures.alarming <= self.rule.alarming
        status, said = say_score(self.comparison, own, mended, weights_ok, self.rule)
        self.add("reference", status, f"{said}; {note}" if note else said, self.late)

    def _reference(self, share: float) -> tuple[Sampled, str]:
        plate = self.shape.unit_plate
        coords = {} if self.index is None else {plate or "": self.index.tolist()}
        if self.given is not None:
            functions = self.functions
            judged = self.given.map(functions(self.given.draws)) if functions else self.given
            return Sampled(self.given, *judge_reference(judged)), "given"
        data = of_rows(self.data, self.index)
        if isinstance(self.pair.model, ExactPosterior):
            try:
                with deadline(self.clock.left), watched():
                    drawn = exact.draws(
                        self.pair.model, *data, num_draws=DRAWS[0], coords=coords, seed=self.seed_of(4)
                    )
            except OutOfTime:
                return Sampled(None, False, (NO_TIME,), cut=True), "none"
            return Sampled(self._few_rows(drawn), True, ()), "exact"
        units = self.shape.num_units if plate and self.index is None else 1
        if (numbers := units * self.shape.event_size * DRAWS[0]) > MOST_KEPT:
            return Sampled(None, False, (
                f"draws of all {units:,} rows would be {numbers:.1g} numbers, and these programs do not take "
                "some of their rows (index the data by the plate: x[i])",
            )), "none"  # fmt: skip
        stage("check: NUTS", show=self.progress)
        sampled = within(
            share * self.clock.left, self.pair, *data, local=plate is not None,
            coords=coords, identifiable=self.functions, seed=self.seed_of(5), progress=self.progress,
        )  # fmt: skip
        if sampled.posterior is None:
            return sampled, "none"
        return replace(sampled, posterior=self._few_rows(sampled.posterior)), "nuts"

    def _compared(self, reference: Posterior) -> Comparison:
        return compare(
            {name: self.answers[name] for name in ("svi", "reweighted") if name in self.answers},
            reference=reference,
            identifiable=self.functions,
        )

    def _score(self, name: str, reference: Posterior) -> Severity:
        """How wrong an answer is; where rows have their own latents, in nine rows of ten."""
        answer, plate = self.answers[name], self.shape.unit_plate
        if plate is None or plate not in answer.draws.sizes or plate not in reference.draws.sizes:
            return self._scored(name, answer, reference)
        rows: list[dict[Hashable, object]] = [{plate: [row]} for row in range(answer.draws.sizes[plate])]
        return over_rows([self._scored(name, answer.isel(row), reference.isel(row)) for row in rows])

    def _scored(self, name: str, answer: Posterior, reference: Posterior) -> Severity:
        found = compare({name: answer}, reference=reference, identifiable=self.functions)
        return score(found, name)

    def modes(self) -> None:
        """Parts of the posterior that the guide misses."""
        kind = self.measures.reference
        reference = self.answers.get(kind)
        all_rows = self.shape.unit_plate is None or self.index is not None
        known = kind in OURS and all_rows and self.weighed is not None
        if known and reference is not None and has_log_density(self.pair, *self.data):
            self._modes(reference)

    def say_funnel(self) -> None:
        """The funnel, from wherever it was found."""
        if self.funnel is not None:
            self.facts = replace(self.facts, funnel=self.funnel.sentence)
            bad = not self.measures.reference_ok or self.measures.error_floor > 1
            self.add("funnel", "fail" if bad else "warn", self.funnel.sentence, self.late)

    def _modes(self, reference: Posterior) -> None:
        assert self.weighed is not None
        log_w = bridge.log_weights(self.pair, reference, *self.data)
        by_unit = {int(unit): at for at, unit in enumerate(self.weighed.units)}
        units = range(log_w.shape[2]) if self.index is None else self.index.tolist()
        known = self.weighed.log_evidence[[by_unit[unit] for unit in units]]
        # A chain in a part that the guide misses has not even its lower tail in common with it; a chain
        # that is only wider has.
        with np.errstate(invalid="ignore"):
            excess = np.quantile(log_w, LOWER_TAIL, axis=1, method="lower") - known
        # Where no draw of the guide has any weight, whatever the chains found was missed.
        excess = np.where(np.isnan(excess), np.inf, excess)
        missed = float(excess.max())
        self.measure(missed=missed)
        if missed > self.rule.missed:
            # Copies of it under a symmetry do not count, where a reference passed in what is identifiable.
            counts = not self.measures.reference_ok
            self.facts = replace(self.facts, missed=counts)
            chains = int((excess.max(1) > self.rule.missed).sum())
            self.add(
                "modes",
                "fail" if counts else "warn",
                f"{chains} of {len(log_w)} chains of the reference live where the guide puts next to no "
                f"probability (log p − log q exceeds log p(x) by {missed:.0f} nats in nine of ten draws): "
                "the guide misses a part of the posterior",
                self.late,
            )

    def collapse(self) -> None:
        """Latents of rows that say nothing about them."""
        stage("check: what the latents carry", show=self.progress and self.shape.unit_plate is not None)
        if self.shape.unit_plate is None or not self.shape.latents:
            return
        try:
            self.collapsed = collapse(self.pair, *self.data, seed=self.seed_of(6))
        except InputError as error:
            self.add("collapse", "skipped", str(error))
            return
        active = self.collapsed.num_active / self.collapsed.latent_dim
        self.measure(active=active)
        status: Status = "pass" if active == 1 else "warn" if active > 0 else "fail"
        self.add("collapse", status, self.collapsed.sentence())

    def predictive(self) -> None:
        """Whether data like these come from the fitted model."""
        if self.clock.left < LEAST_LEFT * self.clock.budget:
            raise OutOfTime
        stage("check: data replicated from the model", show=self.progress)
        known = self.measures.reference_ok and self.measures.reference in OURS and self.index is None
        some = None
        if self.shape.can_index and self.shape.num_units * self.shape.event_size > PREDICTED:
            some = torch.arange(max(ROWS, PREDICTED // self.shape.event_size))
        try:
            self.predicted = predictive_check(
                self.pair,
                *self.data,
                # The right posterior, where it is known: what fails is then the model's fault alone.
                posterior=self.answers[self.measures.reference] if known else None,
                index=some,
                feature_names=self.feature_names,
                seed=self.seed_of(7),
            )
        except InputError as error:
            self.add("prediction", "skipped", str(error))
            return
        status: Status = "warn" if len(self.predicted.failing) else "pass"
        self.add("prediction", status, self.predicted.sentence(), self.late)

    def calibration(self) -> None:
        """Simulation-based calibration of the guide, and then of NUTS, in what time is left."""
        sampler = self.measures.reference == "nuts"
        self._calibrate("guide", "calibration", GUIDE_SHARE if sampler else 1.0)
        if sampler:
            self._calibrate("nuts", "sampler", 1.0)

    def _calibrate(self, answer: Literal["guide", "nuts"], name: str, share: float) -> None:
        if self.clock.left < LEAST_LEFT * self.clock.budget:
            self.add(name, "skipped", "there was no time left for simulated data", cut=True)
            return
        stage(f"check: calibration of {'the guide' if answer == 'guide' else 'NUTS'}", show=self.progress)
        seconds = share * self.clock.left
        try:
            with deadline(seconds):
                found = sbc(
                    self.pair,
                    *self.data,
                    answer=answer,
                    num_simulations=NUM_SIMULATIONS,
                    budget=seconds,
                    identifiable=self.identifiable,
                    functions=_common_mean(self.pair.model),
                    seed=self.seed_of(8),
                    progress=self.progress,
                )
        except (InputError, OutOfTime) as error:
            said = str(error) or "there was too little time left for simulated data"
            self.add(name, "skipped", said, cut=isinstance(error, OutOfTime | TooLittleTime))
            return
        self.calibrations[answer] = found
        self.add(name, "pass" if found.passed else "warn", found.sentence(), found.cut)


def _common_mean(model: Program) -> Identifiable | None:
    """For models of differences, the mean that the data say nothing about: its spread is a guide's alone."""
    if not isinstance(model, PairwiseFactors):
        return None
    site, _ = model.normal_prior()

    def mean(draws: xr.Dataset) -> xr.Dataset:
        values = draws[site]
        dims = [dim for dim in values.dims if dim not in ("chain", "draw")]
        return values.mean(dims).to_dataset(name=f"mean of {site}")

    return mean


def begin_reference(
    pair: Pair, data: tuple[Any, ...], shape: Layout, rows: Tensor | None, clock: Clock
) -> None:
    """Begin to compile what NUTS will want, beside the fit; see `compile_apart.ahead`."""
    index = rows_compared(shape, data, rows)
    known = isinstance(pair.model, ExactPosterior)
    if known or (index is None and shape.num_units * shape.event_size * DRAWS[0] > MOST_KEPT):
        return
    # Whatever it raises comes up again where NUTS is wanted, and is said there.
    with suppress(Exception, OutOfTime), deadline(BEGINNING * clock.left):
        nuts.begin_compiling(pair, *of_rows(data, index))
