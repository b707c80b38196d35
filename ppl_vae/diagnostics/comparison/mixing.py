"""Whether draws may be relied on: R-hat, effective sample size and divergences of chains."""

import numpy as np
import pandas as pd
from scipy import stats

from ppl_vae.answers.posterior import SUPERCHAINS, Posterior
from ppl_vae.base.names import answer_label
from ppl_vae.base.wording import distinct_texts
from ppl_vae.diagnostics.comparison.reasons import Reason, ess_in_words

__all__ = ["ESS_LIMIT", "failures", "fewest_effective", "judge_reference", "limits_in_words", "unmixed"]

R_HAT_LIMIT = 1.01
R_HAT_EXCUSED = 1.02
ESS_LIMIT = 400


def judge_reference(
    reference: Posterior, summary: pd.DataFrame | None = None
) -> tuple[bool, tuple[str, ...]]:
    """Whether chains may serve as a reference: R-hat < 1.01 and bulk ESS > 400 for every quantity, and at
    most 1 % of the draws diverging. An R-hat up to 1.02 passes where chance explains it as the worst of many.

    Independent exact draws pass by construction, if there are more than 400.

    Returns:
        The answer, and a sentence for each check that failed.
    """
    found = failures(reference, reference.summary() if summary is None else summary)
    return not found, tuple(map(str, found))


def failures(reference: Posterior, summary: pd.DataFrame) -> tuple[Reason, ...]:
    """A reason for each check of `judge_reference` that failed."""
    who, found = f"the {answer_label(reference.method)} reference", []
    broken = summary.index[~np.isfinite(summary["sd"])]
    if len(broken):
        found.append(Reason(criterion="finite", quantity=broken[0], who=who))
    found += unmixed(reference, summary, who)
    short = summary[~(summary["ess_bulk"] > ESS_LIMIT) & (summary["sd"] != 0)]
    if len(short):
        worst = short["ess_bulk"].idxmin()
        found.append(
            Reason(
                criterion="ess", quantity=str(worst), size=float(short.loc[worst, "ess_bulk"]),
                limits=(ESS_LIMIT,), count=len(short), total=len(summary), who=who,
            )
        )  # fmt: skip
    return tuple(found)


def limits_in_words(reference: Posterior, summary: pd.DataFrame) -> str:
    """By what limits chains passed `judge_reference`, and how closely; nothing for independent draws."""
    moving = summary[summary["sd"] > 0]
    if reference.dependence != "chains" or not len(moving):
        return ""
    worst = moving["r_hat"].fillna(np.inf).idxmax()
    limit = _r_hat_limit(reference, summary)[worst]
    chance = f" ({R_HAT_LIMIT} and what chance adds)" if limit > R_HAT_LIMIT else ""
    largest, most = distinct_texts(moving.loc[worst, "r_hat"], limit)
    return (
        f"largest R-hat {largest}, limit {most}{chance}; "
        f"smallest ESS {ess_in_words(fewest_effective(summary), ESS_LIMIT)}, limit {ESS_LIMIT}"
    )


def fewest_effective(summary: pd.DataFrame) -> float:
    """The smallest bulk ESS of all quantities that move; infinite where none does."""
    return float(summary.loc[summary["sd"] > 0, "ess_bulk"].min()) if (summary["sd"] > 0).any() else np.inf


def unmixed(answer: Posterior, summary: pd.DataFrame, who: str) -> list[Reason]:
    """R-hat and divergences beyond their limits; none for independent draws.

    Args:
        answer: the draws.
        summary: of them.
        who: whose they are, in words.
    """
    if answer.dependence != "chains":
        return []
    found = []
    limit = _r_hat_limit(answer, summary)
    failing = summary[~(summary["r_hat"] < limit) & (summary["sd"] > 0)]
    if len(failing):
        worst = failing["r_hat"].fillna(np.inf).idxmax()
        found.append(
            Reason(
                criterion="r_hat", quantity=str(worst), size=float(failing.loc[worst, "r_hat"]),
                limits=(float(limit[worst]),), count=len(failing), total=len(summary), who=who,
            )
        )  # fmt: skip
    diverging = answer.stats.get("diverging")
    if diverging is not None and (count := int(diverging.sum())) > 0.01 * answer.num_draws:
        found.append(Reason(criterion="divergences", count=count, total=answer.num_draws, who=who))
    return found


def _r_hat_limit(answer: Posterior, summary: pd.DataFrame) -> pd.Series:
    """1.01, or what chance makes the largest R-hat of so many quantities in chains that have mixed.

    For k chains (R-hat splits them in two, or joins them to eight superchains) of n effective draws in all,
    R-hat² − 1 is then about (χ²/(k − 1) − 1) k/n with k − 1 degrees of freedom. Chance excuses at most 1.02,
    and only where ESS > 400.
    """
    k = 2 * answer.num_chains if answer.num_chains <= SUPERCHAINS else SUPERCHAINS
    largest = float(stats.chi2.isf(1e-3 / (2 * len(summary)), k - 1)) / (k - 1)
    chance = (1 + (largest - 1) * k / (2 * summary["ess_bulk"])).clip(R_HAT_LIMIT, R_HAT_EXCUSED)
    return chance.where(summary["ess_bulk"] > ESS_LIMIT, R_HAT_LIMIT)
