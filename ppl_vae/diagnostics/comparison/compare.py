"""Answers side by side: how far each posterior is from a reference, one by one and jointly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.clock import check_time
from ppl_vae.base.errors import InputError
from ppl_vae.base.notebook import Tone, banner, items, panel, table
from ppl_vae.base.saved import Saved
from ppl_vae.base.seeds import check_seed
from ppl_vae.diagnostics.comparison.closeness import Tolerances, Verdict, judge
from ppl_vae.diagnostics.comparison.distances import Sample
from ppl_vae.diagnostics.comparison.mixing import failures, judge_reference, limits_in_words, unmixed
from ppl_vae.diagnostics.comparison.reasons import Reason, reasons_in
from ppl_vae.diagnostics.comparison.tables import joint_row, quantities_table, worst_first
from ppl_vae.program.abilities import HasIdentifiable
from ppl_vae.program.pair import Program

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Comparison", "Identifiable", "Verdict", "compare", "judge_reference"]

Identifiable = Callable[["xr.Dataset"], "xr.Dataset"]

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
class Comparison(Saved):
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
        why: the reasons behind the verdicts, as values; `reasons` has them in sentences.
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

    SUFFIX: ClassVar[str] = ".json"

    table: pd.DataFrame
    reference: str
    reference_ok: bool
    verdicts: Mapping[str, Verdict]
    why: tuple[Reason, ...]
    joint: pd.DataFrame = field(default_factory=pd.DataFrame)
    costs: pd.DataFrame = field(default_factory=pd.DataFrame)
    limits: str = ""

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reasons behind the verdicts in sentences, each after the name of its answer."""
        return tuple(map(str, self.why))

    def about(self, answer: str) -> tuple[Reason, ...]:
        """The reasons behind one answer's verdict, those of the reference among them."""
        return tuple(reason for reason in self.why if reason.answer in ("", answer))

    def worst(self, num_rows: int = 10) -> pd.DataFrame:
        """The rows with the largest mean error, sd mismatch or tail error, worst first."""
        return worst_first(self.table).head(num_rows)

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

    def to_json(self) -> dict[str, Any]:
        """As JSON has it, the reasons in sentences too."""
        return {**super().to_json(), "reasons": list(self.reasons)}

    @classmethod
    def upgraded(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Files of 0.1.0 have reasons in sentences alone."""
        return {**content, "why": reasons_in(content)}


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
    truth = _Side(reference.method, reference, reference.summary())
    failed = failures(reference, truth.summary)
    every = [_judged(_Side(name, answer, answer.summary()), truth, tolerances, seed)
             for name, answer in answers.items()]  # fmt: skip
    return Comparison(
        table=pd.concat([each.table for each in every], ignore_index=True),
        reference=reference.method,
        reference_ok=not failed,
        verdicts={each.answer: "cannot tell" if failed else each.verdict for each in every},
        why=failed or tuple(reason for each in every for reason in each.why),
        joint=pd.DataFrame([each.joint for each in every]).drop(columns="draws"),
        costs=pd.DataFrame([*(each.cost for each in every), {"answer": truth.name, **truth.cost()}]),
        limits="" if failed else limits_in_words(reference, truth.summary),
    )


@dataclass(frozen=True, eq=False)
class _Side:
    """An answer or the reference, with its summary."""

    name: str
    posterior: Posterior
    summary: pd.DataFrame

    def cost(self, names: list[str] | None = None) -> dict[str, float]:
        """What it cost, by the quantities of these names."""
        summary = self.summary if names is None else self.summary.loc[names]
        ess, seconds = float(summary.loc[summary["sd"] != 0, "ess_bulk"].min()), self.posterior.seconds
        return {
            "seconds": seconds,
            "draws": self.posterior.num_draws,
            "ess": ess,
            "ess_per_second": ess / seconds if seconds > 0 else np.nan,
        }


@dataclass(frozen=True, eq=False)
class _Judged:
    """One answer beside the reference: its rows of the tables, its verdict and the reasons."""

    answer: str
    table: pd.DataFrame
    joint: dict[str, Any]
    cost: dict[str, Any]
    verdict: Verdict
    why: tuple[Reason, ...]


def _judged(one: _Side, truth: _Side, tolerances: Tolerances, seed: int) -> _Judged:
    check_time()
    names = _common(one.name, one.summary, truth.summary)
    own, true = Sample.of(one.posterior, names), Sample.of(truth.posterior, names)
    table = quantities_table(own, true, one.summary.loc[names], truth.summary.loc[names])
    joint = joint_row(own, true, table, np.random.default_rng(check_seed(seed)))
    cost, limits = one.cost(names), truth.cost()
    short = _short(one.name, cost, truth.name, limits)
    verdict, reasons = judge(table, joint, tolerances, min(cost["ess"], limits["ess"]), short)
    if verdict == "agrees" and (doubts := unmixed(one.posterior, one.summary, one.name)):
        verdict, reasons = "cannot tell", doubts
    table.insert(0, "answer", one.name)
    named: dict[str, Any] = {"answer": one.name, **cost}
    why = tuple(replace(reason, answer=one.name) for reason in reasons)
    return _Judged(one.name, table, {"answer": one.name, **joint, **cost}, named, verdict, why)


def _common(answer: str, own: pd.DataFrame, truth: pd.DataFrame) -> list[str]:
    common = [name for name in truth.index if name in own.index]
    if not common:
        raise InputError(
            f"{answer} and the reference have no quantity in common: "
            f"{', '.join(list(own.index)[:5])}, … against {', '.join(list(truth.index)[:5])}, …"
        )
    return common


def _short(answer: str, own: Mapping[str, float], reference: str, truth: Mapping[str, float]) -> str:
    """Whose draws limit the precision."""
    if own["ess"] < truth["ess"] / 3:
        return answer
    return reference if truth["ess"] < own["ess"] / 3 else f"{answer} and {reference}"
