"""What was found about log p(x), as JSON, and the data that fit worst."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ppl_vae.answers.evidence import Evidence
from ppl_vae.base.errors import InputError
from ppl_vae.base.files import collected_errors
from ppl_vae.base.wording import rows_option
from ppl_vae.data.preprocess import grid_step
from ppl_vae.data.rows import Rows
from ppl_vae.diagnostics.comparison.agreement import Agreement
from ppl_vae.program.layout import Layout
from ppl_vae.program.problem import Problem
from ppl_vae.program.terms import is_density
from ppl_vae.report.figures.common import write_figure
from ppl_vae.report.figures.evidence import worst_images
from ppl_vae.runs.run import Run

__all__ = ["Dimensions", "dimensions", "evidence_json", "together", "worst_rows"]

ON_A_GRID = (
    "log p(x) is the log of a density of real numbers, and these data lie on a grid: such a density can grow "
    "without bound and cannot be set against a model of the discrete values; read bits per dimension, which "
    "multiply it by the volume of the grid's cells, or fit with --dequantize"
)


def evidence_json(
    found: Evidence, data: str, dims: "Dimensions | None", num_rows: int | None
) -> dict[str, Any]:
    """One method's numbers: totals in nats, and ``_mean`` per unit beside them.

    Args:
        found: log p(x) of some rows, or of a data set.
        data: which part of the run's data, or which other data set.
        dims: for bits per dimension.
        num_rows: how many rows the part has; None where the data set is the unit.
    """
    result: dict[str, Any] = {
        "method": found.method,
        "kind": found.kind,
        "proposal": found.proposal,
        "data": data,
        "num_samples": found.num_samples,
        "unit": found.unit,
        "num_units": found.num_units,
        **(
            {}
            if num_rows is None
            else {"chosen_rows": rows_option(found.units.tolist(), num_rows), "num_rows": num_rows}
        ),
        "log_evidence": _finite(found.total),
        "std_error": _finite(found.total_std_error),
        "bias": _finite(found.total_bias),
        "log_evidence_mean": _finite(found.mean),
        "std_error_mean": _finite(found.mean_std_error),
        "num_alarms": int(found.alarming.sum()),
        "notes": list(found.notes),
        "seconds": found.seconds,
    }
    # The mean log weight of other proposals is the ELBO of no guide of interest.
    if len(found.elbo) and found.method in ("is", "iwae"):
        result |= {"elbo": _finite(float(found.elbo.sum())), "elbo_mean": _finite(float(found.elbo.mean()))}
    if len(found.smoothed):
        result["smoothed_mean"] = _finite(float(found.smoothed.mean()))
    if len(found.acceptance):
        result["acceptance"] = float(found.acceptance.mean())
    for name in ("ess", "pareto_k"):
        if len(values := getattr(found, name)):
            result[name] = _three(values)
    if dims is not None:
        result["bits_per_dim"] = _finite(found.bits_per_dim(dims.count, dims.log_volume))
        result["notes"] += dims.notes
    return result


@dataclass(frozen=True)
class Dimensions:
    """What a row's log p(x) is spread over: numbers a row, and the log volume of a cell of their grid."""

    count: int
    log_volume: float
    notes: list[str]


def dimensions(run: Run, layout: Layout, data: tuple[Tensor, ...]) -> Dimensions | None:
    """For bits per dimension: discrete values as they are, densities on a grid by their cells' volume.

    None where there is no such number: for games, where values are missing or count by weights, and for
    densities of values on no grid.
    """
    if not isinstance(run.source, Rows) or layout.unit_plate is None or layout.weighted:
        return None
    if np.isnan(run.source.values.sum()):
        return None
    count = run.source.num_features
    if not is_density(Problem(run.pair, data, layout)):
        return Dimensions(count, 0.0, [])
    preparation = run.settings.preparation
    raw = Rows.of(run.raw())
    if (step := grid_step(raw.values)) is None:
        return None
    if preparation.dequantize and raw.kind != "real":
        step /= 1 + step
    log_volume = count * math.log(step)
    if preparation.standardize:
        scale = raw.values[run.parts["train"]].std(0, dtype=np.float64)
        log_volume -= float(np.log(scale[scale > 0]).sum())
    return Dimensions(count, log_volume, [] if preparation.dequantize else [ON_A_GRID])


def together(
    each: Mapping[str, dict[str, Any]], judged: Agreement | None, bracket: Mapping[str, Any]
) -> dict[str, Any]:
    """One method's numbers themselves, several by name; and what they say about each other."""
    found = dict(next(iter(each.values()))) if len(each) == 1 and not bracket else {"methods": dict(each)}
    if judged is not None:
        found |= {"best": judged.best, "trusted": judged.trusted, "flags": list(judged.flags)}
    return {**found, "simulated": dict(bracket)} if bracket else found


def worst_rows(
    run: Run, found: Evidence, count: int, part: str | None, complaints: list[InputError] | None = None
) -> list[dict[str, Any]]:
    """The units of lowest log p(x), with a picture of them where they are images."""
    order = np.argsort(found.log_evidence)[:count]
    rows: list[dict[str, Any]] = [
        {
            "row": int(found.units[at]),
            "log_evidence": float(found.log_evidence[at]),
            "std_error": _finite(float(found.std_error[at])),
            **({"elbo_gap": float(found.log_evidence[at] - found.elbo[at])} if len(found.elbo) else {}),
            **({"pareto_k": _finite(float(found.pareto_k[at]))} if len(found.pareto_k) else {}),
        }
        for at in order
    ]
    if part is None or not isinstance(run.source, Rows) or found.unit != "datum":
        return rows
    place = run.parts[part]
    values, labels = run.source.values[place], run.source.labels
    there = np.ma.masked_invalid(values)
    spread = there.std(0).filled(0.0)
    odd = (np.abs(there - there.mean(0)) / np.where(spread > 0, spread, np.inf)).filled(0.0)
    for row, at in zip(rows, order, strict=True):
        number = int(found.units[at])
        if labels is not None:
            row["label"] = int(labels[place][number])
        if run.source.image_shape is None:
            feature = int(odd[number].argmax())
            row["oddest"] = f"{run.source.feature_names[feature]} ({odd[number, feature]:.1f} sd)"
    if run.source.image_shape is not None and run.folder is not None:
        chosen = [int(row["row"]) for row in rows]
        captions = [f"{row['row']}: {row['log_evidence']:.1f}" for row in rows]
        with collected_errors(complaints):
            write_figure(
                run.folder / "worst.png", worst_images(values[chosen], captions, run.source.image_shape)
            )
    return rows


def _three(values: np.ndarray) -> dict[str, float | None]:
    three = {"min": values.min(), "median": np.median(values), "max": values.max()}
    return {name: _finite(float(value)) for name, value in three.items()}


def _finite(value: float) -> float | None:
    """JSON knows no infinity."""
    return value if math.isfinite(value) else None
