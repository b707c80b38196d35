"""Answers side by side: how far each posterior is from a reference, quantity by quantity."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import wasserstein_distance

from ppl_vae.errors import InputError
from ppl_vae.posterior import Posterior
from ppl_vae.program import HasIdentifiable, Program

__all__ = ["Comparison", "compare", "judge_reference"]

Verdict = Literal["agrees", "differs", "cannot tell"]
R_HAT_LIMIT = 1.01
ESS_LIMIT = 400
NUM_BOOTSTRAP = 50


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a comparison found.

    Attributes:
        table: one row per answer and quantity: ``answer``, ``name``, ``mean``, ``mean_reference``,
            ``sd``, ``sd_reference``, ``mean_error_in_sd`` and its Monte Carlo error
            ``mean_error_mcse``, ``sd_ratio`` (answer over reference), ``wasserstein`` (1-Wasserstein
            distance in the quantity's units) and its Monte Carlo error ``mcse``.
        reference: the reference's method.
        reference_ok: whether the reference passed R-hat < 1.01 and ESS > 400 everywhere.
        verdicts: "agrees", "differs" or "cannot tell", by answer.
        reasons: sentences behind the verdicts.
    """

    table: pd.DataFrame
    reference: str
    reference_ok: bool
    verdicts: Mapping[str, Verdict]
    reasons: tuple[str, ...]

    def worst(self, num_rows: int = 10) -> pd.DataFrame:
        """The rows with the largest mean error or sd mismatch, worst first."""
        severity = np.maximum(self.table["mean_error_in_sd"].abs(), self.table["sd_ratio"].map(_log_abs))
        return self.table.loc[severity.sort_values(ascending=False).index[:num_rows]]


def compare(
    posteriors: Mapping[str, Posterior] | Posterior,
    *,
    reference: Posterior,
    model: Program | None = None,
    mean_tolerance: float = 0.2,
    sd_tolerance: float = 0.2,
    seed: int = 0,
) -> Comparison:
    """Compare any number of posteriors with a reference.

    An answer *differs* where, beyond two Monte Carlo errors, a mean is off by more than
    ``mean_tolerance`` reference standard deviations or a standard deviation is off by more than the
    factor 1 + ``sd_tolerance``. Nothing is said when the reference itself fails its checks.

    Args:
        posteriors: answers by name, or one answer (named by its method).
        reference: NUTS or exact draws of the same latents.
        model: if it is `HasIdentifiable`, quantities are its identifiable functions instead of the
            latents.
        mean_tolerance, sd_tolerance: see above.
        seed: of the bootstrap behind the Monte Carlo error of the Wasserstein distance.

    Raises:
        InputError: if an answer and the reference have no quantity in common.
    """
    answers = {posteriors.method: posteriors} if isinstance(posteriors, Posterior) else posteriors
    if isinstance(model, HasIdentifiable):
        answers = {name: answer.map(model.identifiable(answer.draws)) for name, answer in answers.items()}
        reference = reference.map(model.identifiable(reference.draws))
    truth = reference.scalars()
    summary = reference.summary()
    reference_ok, reasons = judge_reference(reference, summary)
    generator = np.random.default_rng(seed)
    rows = []
    for answer_name, answer in answers.items():
        own = answer.scalars()
        if not (common := [name for name in truth if name in own]):
            raise InputError(
                f"{answer_name} and the reference have no quantity in common: "
                f"{', '.join(list(own)[:5])}, … against {', '.join(list(truth)[:5])}, …"
            )
        own_summary = answer.summary()
        for name in common:
            row = _row(
                own[name].ravel(), truth[name].ravel(), own_summary.loc[name], summary.loc[name], generator
            )
            rows.append({"answer": answer_name, "name": name, **row})
    table = pd.DataFrame(rows)
    verdicts: dict[str, Verdict] = {}
    for answer_name, part in table.groupby("answer", sort=False):
        verdict, why = _judge(part, mean_tolerance, sd_tolerance)
        verdicts[str(answer_name)] = verdict if reference_ok else "cannot tell"
        if reference_ok:
            reasons = (*reasons, *(f"{answer_name}: {sentence}" for sentence in why))
    return Comparison(table, reference.method, reference_ok, verdicts, reasons)


def judge_reference(
    reference: Posterior, summary: pd.DataFrame | None = None
) -> tuple[bool, tuple[str, ...]]:
    """Whether chains may serve as a reference: R-hat < 1.01 and bulk ESS > 400 for every quantity.

    Independent exact draws pass by construction, if there are more than 400.

    Returns:
        The answer, and a sentence for each check that failed.
    """
    summary = reference.summary() if summary is None else summary
    failures = []
    constant = summary["sd"] == 0
    if reference.dependence == "chains":
        unmixed = summary[~(summary["r_hat"] < R_HAT_LIMIT) & ~constant]
        if len(unmixed):
            worst = unmixed["r_hat"].fillna(np.inf).idxmax()
            failures.append(
                f"the {reference.method} reference fails R-hat < {R_HAT_LIMIT} for {len(unmixed)} of "
                f"{len(summary)} quantities (worst: {worst}, {unmixed.loc[worst, 'r_hat']:.3f})"
            )
        diverging = reference.stats.get("diverging")
        if diverging is not None and (count := int(diverging.sum())) > 0.01 * reference.num_draws:
            failures.append(f"{count} of the reference's {reference.num_draws} draws diverged")
    short = summary[~(summary["ess_bulk"] > ESS_LIMIT) & ~constant]
    if len(short):
        worst = short["ess_bulk"].idxmin()
        failures.append(
            f"the {reference.method} reference fails ESS > {ESS_LIMIT} for {len(short)} of {len(summary)} "
            f"quantities (worst: {worst}, {short.loc[worst, 'ess_bulk']:.0f}); draw more"
        )
    return not failures, tuple(failures)


def _row(
    own: np.ndarray,
    truth: np.ndarray,
    own_summary: pd.Series,
    summary: pd.Series,
    generator: np.random.Generator,
) -> dict[str, float]:
    sd = max(float(summary["sd"]), np.finfo(float).tiny)
    return {
        "mean": float(own_summary["mean"]),
        "mean_reference": float(summary["mean"]),
        "sd": float(own_summary["sd"]),
        "sd_reference": float(summary["sd"]),
        "mean_error_in_sd": float(own_summary["mean"] - summary["mean"]) / sd,
        "mean_error_mcse": float(np.hypot(own_summary["mcse_mean"], summary["mcse_mean"])) / sd,
        "sd_ratio": float(own_summary["sd"]) / sd,
        # A standard deviation from n effective draws has a relative error near 1/√(2n).
        "sd_ratio_mcse": float(own_summary["sd"]) / sd
        * float(np.sqrt(0.5 / own_summary["ess_bulk"] + 0.5 / summary["ess_bulk"])),
        "wasserstein": float(wasserstein_distance(own, truth)),
        "mcse": _wasserstein_error(own, truth, own_summary["ess_bulk"], summary["ess_bulk"], generator),
    }  # fmt: skip


def _wasserstein_error(
    own: np.ndarray, truth: np.ndarray, own_ess: float, truth_ess: float, generator: np.random.Generator
) -> float:
    """Bootstrap standard error of the 1-Wasserstein distance.

    Each side is resampled to its effective size, so that autocorrelated chains count for what they
    are worth; the distance is the mean absolute difference of the two quantile functions.
    """
    at = (np.arange(200) + 0.5) / 200
    sides = []
    for values, ess in ((own, own_ess), (truth, truth_ess)):
        size = int(np.clip(ess, 10, values.size))
        resampled = values[generator.integers(values.size, size=(NUM_BOOTSTRAP, size))]
        sides.append(np.quantile(resampled, at, axis=1))
    return float(np.abs(sides[0] - sides[1]).mean(axis=0).std(ddof=1))


def _judge(part: pd.DataFrame, mean_tolerance: float, sd_tolerance: float) -> tuple[Verdict, list[str]]:
    mean_off = part["mean_error_in_sd"].abs() - 2 * part["mean_error_mcse"] > mean_tolerance
    too_narrow = part["sd_ratio"] + 2 * part["sd_ratio_mcse"] < 1 / (1 + sd_tolerance)
    too_wide = part["sd_ratio"] - 2 * part["sd_ratio_mcse"] > 1 + sd_tolerance
    reasons = []
    if mean_off.any():
        worst = part.loc[part["mean_error_in_sd"].abs().idxmax()]
        reasons.append(
            f"{mean_off.sum()} of {len(part)} means are off by more than {mean_tolerance:g} reference sd "
            f"(worst: {worst['name']}, {worst['mean_error_in_sd']:+.2f} sd)"
        )
    for off, word, column in ((too_narrow, "narrow", "idxmin"), (too_wide, "wide", "idxmax")):
        if off.any():
            worst = part.loc[getattr(part["sd_ratio"], column)()]
            reasons.append(
                f"{off.sum()} of {len(part)} standard deviations are too {word} "
                f"(worst: {worst['name']}, {worst['sd_ratio']:.2f} of the reference's)"
            )
    if reasons:
        return "differs", reasons
    return "agrees", [
        f"all {len(part)} means are within {mean_tolerance:g} reference sd, and all sd ratios within "
        f"{1 / (1 + sd_tolerance):.2f} to {1 + sd_tolerance:.2f}, up to Monte Carlo error"
    ]


def _log_abs(ratio: float) -> float:
    return abs(float(np.log(max(ratio, 1e-300))))
