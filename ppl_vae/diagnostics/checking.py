"""The checks themselves, one after another, each adding what it found."""

from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ppl_vae.diagnostics.advice import Facts
from ppl_vae.diagnostics.budget import Clock
from ppl_vae.diagnostics.calibration import Calibration, sbc
from ppl_vae.diagnostics.closeness import Severity
from ppl_vae.diagnostics.collapse import Collapse, collapse
from ppl_vae.diagnostics.compare import Comparison, Identifiable, compare, judge_reference
from ppl_vae.diagnostics.funnels import funnel
from ppl_vae.diagnostics.predictive import Predictive, predictive_check
from ppl_vae.diagnostics.reference import within
from ppl_vae.diagnostics.scores import over_rows, score
from ppl_vae.diagnostics.symmetries import sampled_entries
from ppl_vae.diagnostics.verdict import Finding, Measures, Rule, Status, told_reference
from ppl_vae.errors import InputError
from ppl_vae.evidence import Evidence
from ppl_vae.inference import bridge, exact, guide, importance
from ppl_vae.inference.elbo import check_index
from ppl_vae.inference.sites import Layout
from ppl_vae.inference.terms import has_log_density, layout
from ppl_vae.posterior import Posterior
from ppl_vae.program import (
    ExactEvidence,
    ExactPosterior,
    HasIdentifiable,
    Pair,
    PairwiseFactors,
    Program,
)
from ppl_vae.rng import derived

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Checks"]

# Rows whose posterior is compared with a reference, where every row has its own.
ROWS = 8
# Rows whose importance weights are looked at.
WEIGHED_ROWS = 100
# Draws of the guide: fewer of very many latents, so that they fit into memory.
NUM_DRAWS, FEWEST_DRAWS, MOST_NUMBERS = 4000, 500, 4e7
# Quantities that are compared, of models with more.
QUANTITIES = 500
# Samples behind the weights: fewer where one takes very many numbers.
NUM_SAMPLES, MOST_EVALUATED = 10_000, 2e8
# Share of the budget that the reference may take.
REFERENCE_SHARE = 0.6
LOWER_TAIL = 0.1
# References that have draws of every latent.
OURS = ("exact", "nuts")
# Shares of the time left for calibrating the guide, and then the sampler; with less than the last left,
# nothing is begun.
GUIDE_SHARE, SAMPLER_SHARE, LEAST_LEFT = 0.5, 0.7, 0.1
# Numbers of the data that predictive checks replicate.
PREDICTED = 100_000


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
        if identifiable is None and isinstance(pair.model, HasIdentifiable):
            identifiable = pair.model.identifiable
        self.feature_names = feature_names
        self.shape = layout(pair, *data)
        self.index = _rows(self.shape, data, rows)
        # Rows keep their dimension: they are compared one by one.
        local = self.shape.unit_plate is not None
        self.functions = identifiable if local else sampled_entries(identifiable, QUANTITIES)
        self.findings: list[Finding] = []
        self.measures = Measures()
        self.answers: dict[str, Posterior] = {}
        self.evidence: dict[str, Evidence] = {}
        self.calibrations: dict[str, Calibration] = {}
        self.comparison: Comparison | None = None
        self.predicted: Predictive | None = None
        self.collapsed: Collapse | None = None
        self.facts = Facts(local=self.shape.unit_plate is not None)
        self.mark = time.perf_counter()

    def add(self, name: str, status: Status, sentence: str) -> None:
        """Keep a finding, timed from the one before."""
        now = time.perf_counter()
        self.findings.append(Finding(name, status, _clause(sentence), now - self.mark))
        self.mark = now

    def measure(self, **values: Any) -> None:
        """Keep numbers for the rule."""
        self.measures = replace(self.measures, **values)

    def seed_of(self, part: int) -> int:
        """A seed of one check's own."""
        return derived(self.seed, part)

    def convergence(self, converged: bool, reason: str) -> None:
        """Whether SVI came to rest."""
        self.measure(converged=converged)
        self.add("convergence", "pass" if converged else "warn", reason)

    def weights(self) -> None:
        """Importance weights, log p(x), and the gap of the ELBO."""
        index = self.index
        if self.shape.unit_plate and self.shape.can_index and self.shape.num_units > WEIGHED_ROWS:
            spread = np.linspace(0, self.shape.num_units - 1, WEIGHED_ROWS).round().astype(int)
            index = torch.tensor(np.union1d(spread, [] if index is None else index.numpy()).astype(int))
        elif self.shape.unit_plate:
            index = None
        units = self.shape.num_units if index is None else len(index)
        found = importance.log_evidence(
            self.pair,
            *self.data,
            num_samples=int(np.clip(MOST_EVALUATED / self.shape.event_size, 1000, NUM_SAMPLES))
            if units == 1
            else 2000,
            index=index,
            seed=self.seed_of(1),
            progress=False,
        )
        self.evidence["is"] = found
        alarms = found.alarming
        self.measure(
            alarming=float(alarms.mean()),
            pareto_k=float(found.pareto_k.max()),
            ess=float(found.ess.min()) / found.num_samples,
        )
        self.add("weights", *_say_weights(found, self.rule.alarming))
        self._gap(found)

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
        error = truth.mean_std_error
        unit = "nats a row" if self.shape.unit_plate else "nats"
        how = "exactly" if truth is not found else "by importance sampling"
        doubtful = truth is found and found.alarming.any()
        note = "; the weights alarm, so the gap is probably larger" if doubtful else ""
        self.add(
            "evidence",
            "warn" if doubtful else "pass",
            f"log p(x), {how}, is {gap.mean():.3f} ± {error:.3f} {unit} above the ELBO: so far the guide is "
            f"from the posterior (KL divergence){note}",
        )

    def compare(self) -> None:
        """The guide and its reweighted draws against a reference."""
        own = guide.draws(
            self.pair,
            *self.data,
            num_draws=int(np.clip(MOST_NUMBERS / self.shape.event_size, FEWEST_DRAWS, NUM_DRAWS)),
            index=self.index,
            seed=self.seed_of(2),
        )
        self.answers["svi"] = own
        try:
            self.answers["reweighted"] = own.resampled(seed=self.seed_of(3))
            shift = self._score("svi", self.answers["reweighted"])
        except InputError as error:  # no weight at all, or weights that are no numbers
            shift = Severity(np.inf, np.inf, str(error))
        self.measure(shift=shift.error, shift_floor=shift.floor)
        found, kind, ok, reasons = self._reference()
        self.measure(reference=kind, reference_ok=ok)
        if found is None:
            self.add("reference", "skipped", "; ".join(reasons))
            return
        self.answers[kind] = found
        self.comparison = self._compared(found)
        if not ok:
            self.add("reference", "cannot tell", "; ".join(reasons))
            return
        own_score = self._score("svi", found)
        mended = self._score("reweighted", found) if "reweighted" in self.answers else shift
        self.measure(
            error=own_score.error,
            error_floor=own_score.floor,
            reweighted_error=mended.error,
            reweighted_floor=mended.floor,
        )
        self.facts = replace(self.facts, reference_seconds=found.seconds)
        weights_ok = self.measures.alarming <= self.rule.alarming
        self.add("reference", *_say_score(self.comparison, own_score, mended, weights_ok, self.rule))

    def _reference(self) -> tuple[Posterior | None, str, bool, tuple[str, ...]]:
        coords = {} if self.index is None else {self.shape.unit_plate or "": self.index.tolist()}
        if self.given is not None:
            given = self.given
            ok, reasons = judge_reference(given.map(self.functions(given.draws)) if self.functions else given)
            return self.given, "given", ok, reasons
        data = self.data if self.index is None else tuple(values[self.index] for values in self.data)
        if isinstance(self.pair.model, ExactPosterior):
            drawn = exact.draws(
                self.pair.model, *data, num_draws=NUM_DRAWS, coords=coords, seed=self.seed_of(4)
            )
            return drawn, "exact", True, ()
        if self.shape.unit_plate and self.index is None and self.shape.num_units > ROWS:
            return None, "none", False, ("NUTS on all rows would take too long, and these programs do not "
                                         "take some of them",)  # fmt: skip
        sampled = within(
            REFERENCE_SHARE * self.clock.left, self.pair, *data, local=self.shape.unit_plate is not None,
            coords=coords, identifiable=self.functions, seed=self.seed_of(5), progress=self.progress,
        )  # fmt: skip
        return sampled.posterior, "nuts" if sampled.posterior else "none", sampled.ok, sampled.reasons

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

    def shape_of_the_posterior(self) -> None:
        """Parts that the guide misses, and funnels."""
        kind = self.measures.reference
        reference = self.answers.get(kind)
        if kind in OURS and reference is not None and has_log_density(self.pair, *self.data):
            self._modes(reference)
        known = reference or self.answers.get("reweighted", self.answers["svi"])
        if self.shape.unit_plate is None and (found := funnel(known)) is not None:
            self.facts = replace(self.facts, funnel=found.sentence)
            bad = not self.measures.reference_ok or self.measures.error_floor > 1
            self.add("funnel", "fail" if bad else "warn", found.sentence)

    def _modes(self, reference: Posterior) -> None:
        log_w = bridge.log_weights(self.pair, reference, *self.data)
        by_unit = {int(unit): at for at, unit in enumerate(self.evidence["is"].units)}
        units = range(log_w.shape[2]) if self.index is None else self.index.tolist()
        known = self.evidence["is"].log_evidence[[by_unit[unit] for unit in units]]
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
            )

    def collapse(self) -> None:
        """Latents of rows that say nothing about them."""
        if self.shape.unit_plate is None or len(self.shape.latents) != 1:
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
        self.add("prediction", "warn" if len(self.predicted.failing) else "pass", self.predicted.sentence())

    def calibration(self) -> None:
        """Simulation-based calibration of the guide, and then of NUTS, in what time is left."""
        self._calibrate("guide", "calibration", GUIDE_SHARE)
        if self.measures.reference == "nuts":
            self._calibrate("nuts", "sampler", SAMPLER_SHARE)

    def _calibrate(self, answer: Literal["guide", "nuts"], name: str, share: float) -> None:
        if self.clock.left < LEAST_LEFT * self.clock.budget:
            self.add(name, "skipped", "there was no time left for simulated data")
            return
        try:
            found = sbc(
                self.pair,
                *self.data,
                answer=answer,
                budget=share * self.clock.left,
                identifiable=self.identifiable,
                functions=_common_mean(self.pair.model),
                seed=self.seed_of(8),
                progress=self.progress,
            )
        except InputError as error:
            self.add(name, "skipped", str(error))
            return
        self.calibrations[answer] = found
        self.add(name, "pass" if found.passed else "warn", found.sentence())


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


def _rows(shape: Layout, data: tuple[Any, ...], rows: Tensor | None) -> Tensor | None:
    """The rows whose posteriors are compared; None for everything."""
    if shape.unit_plate is None:
        if rows is not None:
            raise InputError("rows belong to models with latents of every row; this one has none")
        return None
    splits = all(isinstance(v, Tensor) and v.dim() and len(v) == shape.num_units for v in data)
    if not (shape.can_index and splits):
        if rows is not None:
            raise InputError(
                "rows cannot be taken of these data: not all of them, or the programs, go by rows"
            )
        return None
    check_index(rows, shape.num_units)
    return torch.arange(min(ROWS, shape.num_units)) if rows is None else rows


def _clause(sentence: str) -> str:
    """A sentence to be set among others: without its full stop, and small unless it begins with a name."""
    text = sentence.rstrip(".")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _say_weights(found: Evidence, most: float) -> tuple[Status, str]:
    alarms = int(found.alarming.sum())
    local = found.num_units > 1
    numbers = (
        f"k̂ is {found.pareto_k.max():.2f} and {found.num_samples:,} draws are worth {found.ess.min():,.0f}"
        + (" in the worst row" if local else "")
    )
    if alarms <= most * found.num_units:
        but = f" in all but {alarms} of {found.num_units} rows" if alarms else ""
        return "pass", f"the importance weights are sound{but}: {numbers}"
    whose = f" of {alarms} of {found.num_units} rows" if local else ""
    return "fail", (
        f"the importance weights{whose} cannot be trusted: {numbers}, so that a few draws decide everything; "
        "the guide has lighter tails than the posterior or sits beside it"
    )


def _say_score(
    found: Comparison, own: Severity, mended: Severity, weights_ok: bool, rule: Rule
) -> tuple[Status, str]:
    name = told_reference(found.reference)
    if own.error <= rule.tolerable and own.floor <= rule.floor:
        if found.verdicts["svi"] == "differs":
            return (
                "pass",
                f"in nine rows of ten the guide is near enough to {name}; in the worst, {own.worst}",
            )
        return "pass", f"every mean, spread, tail and correlation of the guide is near enough to {name}'s"
    reasons = [text.removeprefix("svi: ") for text in found.reasons if text.startswith("svi: ")]
    told = "; ".join(reasons) if found.verdicts["svi"] == "differs" else own.worst
    sentence = f"against {name}, {told}"
    if mended.error > rule.repaired or mended.floor > rule.floor:
        return "fail", f"{sentence}. Reweighted, {mended.worst}"
    if weights_ok:
        return "fail", f"{sentence}. Reweighting mends it"
    return "fail", f"{sentence}. Reweighted draws come near, by weights that cannot be trusted"
