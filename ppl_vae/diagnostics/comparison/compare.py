"""Answers side by side: how far each posterior is from a reference, one by one and jointly."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.clock import check_time
from ppl_vae.base.errors import InputError
from ppl_vae.base.files import write_text
from ppl_vae.base.notebook import Tone, banner, items, panel, table
from ppl_vae.base.seeds import check_seed
from ppl_vae.diagnostics.comparison.closeness import Tolerances, Verdict, judge
from ppl_vae.diagnostics.comparison.distances import (
    Sample,
    correlations,
    independent_quantities,
    lost_correlation,
    mean_error,
    quantile_error,
    sd_ratio,
    sliced_wasserstein,
    variance_ratios,
    wasserstein,
)
from ppl_vae.diagnostics.comparison.mixing import judge_reference, told_limits, unmixed
from ppl_vae.program.pair import HasIdentifiable, Program

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Comparison", "Identifiable", "Verdict", "compare", "judge_reference"]

Identifiable = Callable[["xr.Dataset"], "xr.Dataset"]

# Directions of the sliced Wasserstein distance.
SLICES = 32
# Quantities that are looked at jointly: the worst of more.
JOINT_QUANTITIES = 200
# Quantities whose distances are computed at once.
CHUNK = 64
# Terms of a direction that are written out.
TERMS = 4


_TONES: dict[Verdict, Tone] = {"agrees": "good", "differs": "bad", "cannot tell": "neutral"}
# What a notebook shows of the table, by its heading there.
_SHOWN = {
    "answer": "answer",
    "name": "quantity",
    "mean": "mean",
    "mean_reference": "reference",
    "mean_error_in_sd": "error in sd",
    "sd_ratio": "ratio of sd",
}


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """What a comparison found.

    Attributes:
        table: one row per answer and quantity: ``answer``, ``name``, ``mean``, ``mean_reference``,
            ``sd``, ``sd_reference``; ``mean_error_in_sd``, ``sd_ratio`` (answer over reference),
            ``q5_error_in_sd`` and ``q95_error_in_sd`` (of the 5 % and 95 % quantiles, in reference
            sd), each with its Monte Carlo error in ``mean_error_mcse``, ``sd_ratio_mcse``,
            ``q5_error_mcse`` and ``q95_error_mcse``; ``wasserstein`` (1-Wasserstein distance in the
            quantity's units), its Monte Carlo error ``mcse`` and ``wasserstein_null``, what two samples
            of one distribution would be apart.
        reference: the reference's method.
        reference_ok: whether the reference passed `judge_reference`, by which `check` judges it too.
        verdicts: "agrees", "differs" or "cannot tell", by answer.
        reasons: sentences behind the verdicts.
        joint: one row per answer, over ``num_quantities`` quantities of which none is a linear
            combination of others: ``sliced_wasserstein`` (in reference sd) with ``_mcse`` and ``_null``;
            ``smallest_variance_ratio`` and ``largest_variance_ratio`` (answer over reference) with
            ``_mcse``, the directions in words in ``smallest_direction`` and ``largest_direction``, and
            ``smallest_width_ratio`` and ``largest_width_ratio`` (of the central 90 % there, with ``_mcse``);
            of all pairs, ``correlation_difference`` (absolute, with ``_mcse``), ``correlation_pair`` (and its
            names, ``correlation_first`` and ``correlation_second``), ``correlation`` and
            ``correlation_reference``; ``seconds``, ``ess`` (the smallest bulk ESS) and ``ess_per_second``.
            NaN where there are fewer than two quantities.
        costs: ``answer``, ``seconds``, ``draws``, ``ess`` and ``ess_per_second``, the reference last.
        limits: the largest R-hat and smallest ESS of a reference that passed, with their limits, in words;
            nothing for independent draws.
    """

    table: pd.DataFrame
    reference: str
    reference_ok: bool
    verdicts: Mapping[str, Verdict]
    reasons: tuple[str, ...]
    joint: pd.DataFrame = field(default_factory=pd.DataFrame)
    costs: pd.DataFrame = field(default_factory=pd.DataFrame)
    limits: str = ""

    def worst(self, num_rows: int = 10) -> pd.DataFrame:
        """The rows with the largest mean error, sd mismatch or tail error, worst first."""
        severity = np.maximum(self.table["mean_error_in_sd"].abs(), self.table["sd_ratio"].map(_log_abs))
        for tail in {"q5_error_in_sd", "q95_error_in_sd"} & set(self.table):
            severity = np.maximum(severity, self.table[tail].abs())
        return self.table.loc[severity.fillna(np.inf).sort_values(ascending=False).index[:num_rows]]

    def __repr__(self) -> str:
        found = ", ".join(f"{name} {verdict}" for name, verdict in self.verdicts.items())
        names = self.table["name"].nunique() if "name" in self.table else 0
        return f"Comparison(with {self.reference} in {names:,} quantities: {found})"

    def _repr_html_(self) -> str:
        """How a notebook shows it: the verdicts, their reasons, and the largest differences."""
        verdicts = [banner(f"{name} {verdict}", _TONES[verdict]) for name, verdict in self.verdicts.items()]
        shown = [name for name in _SHOWN if name in self.table]
        worst = self.worst()[shown].itertuples(index=False) if len(self.table) else []
        return panel(
            f"Compared with {self.reference}" + ("" if self.reference_ok else ", which failed its checks"),
            *verdicts,
            items(self.reasons),
            table([_SHOWN[name] for name in shown], [tuple(row) for row in worst]),
        )

    def save(self, path: str | Path) -> None:
        """Write a JSON file."""
        found = {
            "reference": self.reference,
            "reference_ok": self.reference_ok,
            "verdicts": dict(self.verdicts),
            "reasons": list(self.reasons),
            "limits": self.limits,
            **{name: _to_records(getattr(self, name)) for name in ("table", "joint", "costs")},
        }
        write_text(Path(path), json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False))

    @classmethod
    def load(cls, path: str | Path) -> Comparison:
        """Read what `save` wrote."""
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        frames = {name: _from_records(found.pop(name)) for name in ("table", "joint", "costs")}
        return cls(**{**found, "reasons": tuple(found["reasons"])}, **frames)


def compare(
    posteriors: Mapping[str, Posterior] | Posterior,
    *,
    reference: Posterior,
    model: Program | None = None,
    identifiable: Identifiable | None = None,
    mean_tolerance: float = 0.2,
    sd_tolerance: float = 0.2,
    tail_tolerance: float = 0.5,
    correlation_tolerance: float = 0.3,
    variance_tolerance: float = 2.0,
    seed: int = 0,
) -> Comparison:
    """Compare any number of posteriors with a reference.

    An answer *differs* where, beyond z Monte Carlo errors,

    - a mean is off by more than ``mean_tolerance`` reference standard deviations,
    - a standard deviation is off by more than the factor 1 + ``sd_tolerance``,
    - a 5 % or 95 % quantile is off by more than ``tail_tolerance`` reference standard deviations,
    - a 1-Wasserstein distance (or the sliced one of all quantities jointly) exceeds ``mean_tolerance``
      reference standard deviations, √(W² − null²) being taken for W (by duality, the mean of some function
      of slope 1 is then off by so much),
    - a correlation is off by more than ``correlation_tolerance``, or
    - the variance along some direction is off by more than the factor ``variance_tolerance``.

    z grows with the number m of these numbers, so that an answer with all of them at the tolerance is called
    different with a chance of at most 1 % (Bonferroni): z = Φ⁻¹(1 − 0.005/m).

    An answer *agrees* where no number is over its tolerance by more than noise makes the worst of m, and
    all Monte Carlo errors are below half the tolerance. Otherwise, one *cannot tell*, and the reason says
    how many draws would. (A variance of heavy tails may be noisy where the quantiles are known, and a tail
    quantile's error may be as large as its tolerance.)

    One *cannot tell* either when the reference fails its own checks (see `judge_reference`), or when chains
    that seem to agree have not mixed.

    Args:
        posteriors: answers by name, or one answer (named by its method). Importance weights count only
            in answers that were `Posterior.resampled`.
        reference: NUTS or exact draws of the same latents.
        model: if it is `HasIdentifiable`, quantities are its identifiable functions instead of the
            latents.
        identifiable: a function from draws to the quantities to compare, draw by draw; it comes before the
            model's. `ppl_vae.diagnostics.comparison.symmetries` has some.
        mean_tolerance, sd_tolerance, tail_tolerance, correlation_tolerance, variance_tolerance: see
            above.
        seed: of the directions of the sliced Wasserstein distance.

    Raises:
        InputError: if an answer and the reference have no quantity in common.
    """
    answers = {posteriors.method: posteriors} if isinstance(posteriors, Posterior) else dict(posteriors)
    if identifiable is None and isinstance(model, HasIdentifiable):
        identifiable = model.identifiable
    if identifiable is not None:
        answers = {name: answer.map(identifiable(answer.draws)) for name, answer in answers.items()}
        reference = reference.map(identifiable(reference.draws))
    tolerances = Tolerances(
        mean_tolerance, sd_tolerance, tail_tolerance, correlation_tolerance, variance_tolerance
    )
    summary = reference.summary()
    reference_ok, reasons = judge_reference(reference, summary)
    tables, joint, costs = [], [], []
    verdicts: dict[str, Verdict] = {}
    limits = _cost(reference, summary)
    for name, answer in answers.items():
        check_time()
        own_summary = answer.summary()
        names = _common(name, own_summary, summary)
        own, truth = Sample.of(answer, names), Sample.of(reference, names)
        part = _table(own, truth, own_summary.loc[names], summary.loc[names])
        cost = _cost(answer, own_summary.loc[names])
        together = _joint(own, truth, part, np.random.default_rng(check_seed(seed)))
        ess = min(cost["ess"], limits["ess"])
        verdict, why = judge(part, together, tolerances, ess, _short(name, cost, reference.method, limits))
        if verdict == "agrees" and (doubts := unmixed(answer, own_summary, name)):
            verdict, why = "cannot tell", doubts
        verdicts[name] = verdict if reference_ok else "cannot tell"
        if reference_ok:
            reasons = (*reasons, *(f"{name}: {sentence}" for sentence in why))
        part.insert(0, "answer", name)
        tables.append(part)
        costs.append({"answer": name, **cost})
        joint.append({"answer": name, **together, **cost})
    costs.append({"answer": reference.method, **limits})
    return Comparison(
        pd.concat(tables, ignore_index=True), reference.method, reference_ok, verdicts, reasons,
        pd.DataFrame(joint).drop(columns="draws"), pd.DataFrame(costs),
        told_limits(reference, summary) if reference_ok else "",
    )  # fmt: skip


def _common(answer: str, own: pd.DataFrame, truth: pd.DataFrame) -> list[str]:
    common = [name for name in truth.index if name in own.index]
    if not common:
        raise InputError(
            f"{answer} and the reference have no quantity in common: "
            f"{', '.join(list(own.index)[:5])}, … against {', '.join(list(truth.index)[:5])}, …"
        )
    return common


def _cost(answer: Posterior, summary: pd.DataFrame) -> dict[str, float]:
    ess = float(summary.loc[summary["sd"] != 0, "ess_bulk"].min())
    return {
        "seconds": answer.seconds,
        "draws": answer.num_draws,
        "ess": ess,
        "ess_per_second": ess / answer.seconds if answer.seconds > 0 else np.nan,
    }


def _short(answer: str, own: Mapping[str, float], reference: str, truth: Mapping[str, float]) -> str:
    """Whose draws limit the precision."""
    if own["ess"] < truth["ess"] / 3:
        return answer
    return reference if truth["ess"] < own["ess"] / 3 else f"{answer} and {reference}"


def _table(own: Sample, truth: Sample, own_summary: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """One row a quantity; NaN in the distances of quantities with draws that are no numbers."""
    columns = {"name": list(summary.index)} | {
        name: frame[column].to_numpy()
        for column in ("mean", "sd")
        for name, frame in ((column, own_summary), (f"{column}_reference", summary))
    }
    finite = np.isfinite(columns["sd"]) & np.isfinite(columns["sd_reference"])
    where = np.flatnonzero(finite)
    chunks = [
        _distances(own.take(where[at : at + CHUNK]), truth.take(where[at : at + CHUNK]))
        for at in range(0, len(where), CHUNK)
    ]
    for name in DISTANCES:
        columns[name] = np.full(len(finite), np.nan)
        columns[name][where] = np.concatenate([chunk[name] for chunk in chunks]) if chunks else np.nan
    frame = pd.DataFrame(columns)
    order = ["name", "mean", "mean_reference", "sd", "sd_reference"]
    return frame[[*order, *(column for column in frame if column not in order)]]


def _distances(own: Sample, truth: Sample) -> dict[str, np.ndarray]:
    mean, spread, apart = mean_error(own, truth), sd_ratio(own, truth), wasserstein(own, truth)
    low, high = quantile_error(own, truth, 0.05), quantile_error(own, truth, 0.95)
    # A constant is right or wrong, whatever its standard deviation of zero is multiplied by.
    constant = truth.scale == 0
    ratio = np.where(constant, np.where(own.scale == 0, 1.0, np.inf), spread.value)
    return {
        "mean_error_in_sd": mean.value,
        "mean_error_mcse": mean.error,
        "sd_ratio": ratio,
        "sd_ratio_mcse": np.where(constant, 0.0, spread.error),
        "q5_error_in_sd": low.value,
        "q5_error_mcse": low.error,
        "q95_error_in_sd": high.value,
        "q95_error_mcse": high.error,
        "wasserstein": apart.value,
        "mcse": apart.error,
        "wasserstein_null": apart.null,
    }


def _joint(own: Sample, truth: Sample, part: pd.DataFrame, generator: np.random.Generator) -> dict[str, Any]:
    finite = np.flatnonzero(np.isfinite(part["mean_error_in_sd"]) & (part["sd"] > 0))
    if len(finite) > JOINT_QUANTITIES:
        severity = np.maximum(part["mean_error_in_sd"].abs(), part["sd_ratio"].map(_log_abs)).to_numpy()
        finite = np.sort(finite[np.argsort(-severity[finite], kind="stable")[:JOINT_QUANTITIES]])
    which = finite[independent_quantities(truth.take(finite))] if len(finite) else finite
    names = part["name"].to_numpy()[which]
    if len(which) < 2:
        return {"num_quantities": len(which), **dict.fromkeys(JOINT_NUMBERS, np.nan),
                **dict.fromkeys(JOINT_WORDS, "")}  # fmt: skip
    # Of every pair: which of them are independent is chosen without regard to what is asked of them.
    every, true = own.take(finite), truth.take(finite)
    gap, pair = lost_correlation(every, true)
    correlation, expected = (float(correlations(one.flat[list(pair)])[0, 1]) for one in (every, true))
    first, second = part["name"].to_numpy()[finite[list(pair)]]
    own, truth = own.take(which), truth.take(which)
    apart = sliced_wasserstein(own, truth, generator, SLICES)
    smallest, largest = variance_ratios(own, truth)
    return {
        "num_quantities": len(which),
        "sliced_wasserstein": float(apart.value),
        "sliced_wasserstein_mcse": float(apart.error),
        "sliced_wasserstein_null": float(apart.null),
        "smallest_variance_ratio": smallest.ratio,
        "smallest_variance_ratio_mcse": smallest.error,
        "largest_variance_ratio": largest.ratio,
        "largest_variance_ratio_mcse": largest.error,
        "smallest_width_ratio": smallest.width,
        "smallest_width_ratio_mcse": smallest.width_error,
        "largest_width_ratio": largest.width,
        "largest_width_ratio_mcse": largest.width_error,
        "correlation_difference": float(gap.value),
        "correlation_difference_mcse": float(gap.error),
        "correlation": correlation,
        "correlation_reference": expected,
        "smallest_direction": _in_words(smallest.weights, truth.scale, names),
        "largest_direction": _in_words(largest.weights, truth.scale, names),
        "correlation_pair": f"{first} and {second}",
        "correlation_first": str(first),
        "correlation_second": str(second),
    }


DISTANCES = (
    "mean_error_in_sd", "mean_error_mcse", "sd_ratio", "sd_ratio_mcse", "q5_error_in_sd", "q5_error_mcse",
    "q95_error_in_sd", "q95_error_mcse", "wasserstein", "mcse", "wasserstein_null",
)  # fmt: skip
JOINT_NUMBERS = (
    "sliced_wasserstein", "sliced_wasserstein_mcse", "sliced_wasserstein_null",
    "smallest_variance_ratio", "smallest_variance_ratio_mcse",
    "largest_variance_ratio", "largest_variance_ratio_mcse",
    "smallest_width_ratio", "smallest_width_ratio_mcse", "largest_width_ratio", "largest_width_ratio_mcse",
    "correlation_difference", "correlation_difference_mcse", "correlation", "correlation_reference",
)  # fmt: skip
JOINT_WORDS = (
    "smallest_direction", "largest_direction", "correlation_pair", "correlation_first", "correlation_second",
)  # fmt: skip


def _in_words(weights: np.ndarray, scale: np.ndarray, names: np.ndarray) -> str:
    """A direction as its terms that move most, such as ``0.71 alpha − 0.70 beta``."""
    share = np.abs(weights) * scale
    order = np.argsort(-share, kind="stable")
    kept = sorted(k for k in order[:TERMS] if share[k] > 0.1 * share[order[0]])
    if len(kept) == 1:
        return str(names[kept[0]])
    shown = weights[kept] / np.linalg.norm(weights[kept]) * np.sign(weights[kept[0]])
    terms = [f"{abs(value):.2g} {names[k]}" for k, value in zip(kept, shown, strict=True)]
    signs = ["" if value > 0 else "−" for value in shown]
    text = terms[0] + "".join(
        f" {sign or '+'} {term}" for sign, term in zip(signs[1:], terms[1:], strict=True)
    )
    return text + (" + …" if (share > 0.1 * share[order[0]]).sum() > len(kept) else "")


def _to_records(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """Columns of a table; numbers that JSON lacks are written as words."""
    return {
        str(name): [
            str(value) if isinstance(value, float) and not np.isfinite(value) else value
            for value in frame[name].tolist()
        ]
        for name in frame
    }


def _from_records(columns: Mapping[str, list[Any]]) -> pd.DataFrame:
    words = ("answer", "name", *JOINT_WORDS)
    return pd.DataFrame(
        {name: v if name in words else np.array(v, dtype=float) for name, v in columns.items()}
    )


def _log_abs(ratio: float) -> float:
    return abs(float(np.log(max(ratio, 1e-300))))
