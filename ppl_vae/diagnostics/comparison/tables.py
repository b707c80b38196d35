"""The tables of a comparison: one row a quantity, and one for all quantities jointly."""

from typing import Any

import numpy as np
import pandas as pd

from ppl_vae.base.clock import check_time
from ppl_vae.diagnostics.comparison.closeness import how_far
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

__all__ = ["JOINT_WORDS", "joint_row", "quantities_table", "worst_first"]

# Directions of the sliced Wasserstein distance.
SLICES = 32
# Quantities that are looked at jointly: the worst of more.
JOINT_QUANTITIES = 200
# Quantities whose distances are computed at once.
CHUNK = 64
# Terms of a direction that are written out.
TERMS = 4
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


def worst_first(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of `Comparison.table` by `how_far` they are off, the furthest first."""
    far = pd.Series(how_far(table), index=table.index).fillna(np.inf)
    return table.loc[far.sort_values(ascending=False, kind="stable").index]


def quantities_table(
    own: Sample, truth: Sample, own_summary: pd.DataFrame, summary: pd.DataFrame
) -> pd.DataFrame:
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
    check_time()
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


def joint_row(
    own: Sample, truth: Sample, part: pd.DataFrame, generator: np.random.Generator
) -> dict[str, Any]:
    """A row of `Comparison.joint`; NaN and no words where there are fewer than two quantities."""
    check_time()
    finite = np.flatnonzero(np.isfinite(part["mean_error_in_sd"]) & (part["sd"] > 0))
    if len(finite) > JOINT_QUANTITIES:
        far = how_far(part, tails=False)
        finite = np.sort(finite[np.argsort(-far[finite], kind="stable")[:JOINT_QUANTITIES]])
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
