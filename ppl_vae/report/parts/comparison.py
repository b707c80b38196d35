"""The part of the page that sets answers beside a reference, the worst quantities first."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.names import answer_label, in_sentence
from ppl_vae.base.wording import with_error
from ppl_vae.diagnostics.comparison.distances import correlations
from ppl_vae.diagnostics.comparison.tables import worst_first
from ppl_vae.report.figures.common import densities, forest
from ppl_vae.report.figures.pair import pair_plot, pairs_to_show
from ppl_vae.report.page import Part, Picture, Table

__all__ = ["comparison_part", "cost_table", "joint_table", "worst_first"]

NUM_ROWS = 12
NUM_DENSITIES = 6
NUM_CANDIDATES = 40


def comparison_part(
    answers: Mapping[str, Posterior],
    reference: str,
    table: pd.DataFrame,
    *,
    sentences: Sequence[str] = (),
    more: Sequence[Table] = (),
) -> Part:
    """Tables and figures of a comparison.

    Args:
        answers: posteriors by name, the reference among them, all in the table's quantities; without the
            reference (its draws were not kept) there are no figures.
        reference: its name.
        table: the rows of `Comparison.table`.
        sentences: what to say first.
        more: tables after the first.
    """
    judged = str(table["answer"].iloc[0])
    own = worst_first(table[table["answer"] == judged])
    names = own["name"].tolist()
    tables = [
        Table(_said_of_table(own, judged, reference), _worst_table(table, own, judged, reference)),
        *more,
    ]
    shown = {name: each for name, each in answers.items() if set(names) <= each.scalars().keys()}
    if reference not in shown or judged not in shown:
        return Part("Against the reference", sentences, tables)
    pictures = [
        Picture(
            densities(shown, names[:NUM_DENSITIES]),
            f"The quantities on which {in_sentence(judged)} and {in_sentence(reference)} differ most, worst "
            f"first: the curves should lie on each other. {_worst_in_words(own.iloc[0], reference)}",
        ),
        Picture(
            forest(shown, names[:NUM_ROWS], reference),
            f"Means and 95 % intervals, with {in_sentence(reference)} put at mean 0 and sd 1: bars shorter "
            "than the grey band are overconfident, and dots away from the line are wrong means.",
        ),
    ]
    chosen = pairs_to_show(shown[judged], shown[reference], names[:NUM_CANDIDATES])
    if chosen:
        pictures.append(
            Picture(
                pair_plot(shown[judged], shown[reference], chosen, (judged, reference)),
                "The worst quantity and those whose correlation with it is most wrong: the contours should "
                "follow the cloud of points, and round contours over a slanted cloud are a lost correlation. "
                + _correlation_in_words(shown[judged], shown[reference], chosen, judged, reference),
            )
        )
    return Part("Against the reference", sentences, tables, pictures)


def joint_table(joint: pd.DataFrame, reference: str) -> Table | None:
    """What only shows when quantities are looked at together: one column for each answer."""
    if joint.empty or not (joint["num_quantities"] > 1).any():
        return None
    rows = {
        "smallest variance ratio": _measured(joint, "smallest_variance_ratio"),
        "… along": joint["smallest_direction"],
        "largest variance ratio": _measured(joint, "largest_variance_ratio"),
        "… along ": joint["largest_direction"],
        "correlation most wrong": joint["correlation_pair"],
        "… by the answer": joint["correlation"],
        f"… by {in_sentence(reference)}": joint["correlation_reference"],
        "… error, on other draws": _measured(joint, "correlation_difference"),
        "sliced Wasserstein (sd)": _measured(joint, "sliced_wasserstein"),
    }
    columns = {
        answer_label(str(answer)): [column.iloc[k] for column in rows.values()]
        for k, answer in enumerate(joint["answer"])
    }
    frame = pd.DataFrame(columns, index=pd.Index(list(rows), name="jointly"), dtype=object)
    return Table(
        "All quantities jointly: a variance ratio far from 1 names the direction in which the answer's "
        "covariance is most wrong. Directions and the pair are chosen on one half of the draws and measured "
        "on the other: noise alone may put the smallest ratio above the largest, and the error below zero.",
        frame,
    )


def cost_table(costs: pd.DataFrame) -> Table | None:
    """What each answer cost."""
    if costs.empty:
        return None
    names = {
        "seconds": "seconds",
        "draws": "draws",
        "ess": "ESS (smallest)",
        "ess_per_second": "ESS a second",
    }
    frame = costs[list(names)].rename(columns=names)
    for column in list(names.values())[1:]:
        frame[column] = [_cell_whole(value) for value in frame[column]]
    frame.index = pd.Index([answer_label(str(answer)) for answer in costs["answer"]], name="answer")
    return Table("What each answer cost, and what its draws are worth.", frame)


def _cell_whole(value: float) -> str:
    """A count, or an effective one, without decimals."""
    return f"{value:,.0f}" if np.isfinite(value) else "–"


def _worst_table(table: pd.DataFrame, own: pd.DataFrame, judged: str, reference: str) -> pd.DataFrame:
    rows = own.head(NUM_ROWS).set_index("name")
    columns = {
        "mean error in sd": _measured(rows, "mean_error_in_sd", "mean_error_mcse", sign="+"),
        "sd ratio": _measured(rows, "sd_ratio"),
    }
    for answer, part in table.groupby("answer", sort=False):
        if answer != judged:
            part = part.set_index("name").reindex(rows.index)
            own_name = answer_label(str(answer))
            columns[f"mean error, {own_name}"] = _measured(
                part, "mean_error_in_sd", "mean_error_mcse", sign="+"
            )
            columns[f"sd ratio, {own_name}"] = _measured(part, "sd_ratio")
    for tail in ("q5", "q95"):
        if f"{tail}_error_in_sd" in rows:
            name = f"{tail[1:]} % tail error in sd"
            columns[name] = _measured(rows, f"{tail}_error_in_sd", f"{tail}_error_mcse", sign="+")
    columns |= {
        "Wasserstein": _measured(rows, "wasserstein", "mcse", digits=3),
        f"mean, {answer_label(judged)}": rows["mean"],
        f"mean, {answer_label(reference)}": rows["mean_reference"],
        f"sd, {answer_label(judged)}": rows["sd"],
        f"sd, {answer_label(reference)}": rows["sd_reference"],
    }
    frame = pd.DataFrame(columns)
    frame.index.name = "quantity"
    return frame


def _measured(
    rows: pd.DataFrame, name: str, error: str = "", *, digits: int = 2, sign: str = ""
) -> pd.Series:
    """Numbers with their Monte Carlo errors, where these are known."""
    errors = rows.get(error or f"{name}_mcse", pd.Series(np.nan, index=rows.index))
    texts = [
        with_error(value, known, digits, sign=sign) for value, known in zip(rows[name], errors, strict=True)
    ]
    return pd.Series([text.replace("-", "−") for text in texts], index=rows.index)


def _said_of_table(own: pd.DataFrame, judged: str, reference: str) -> str:
    count = len(own)
    shown = f"The {NUM_ROWS} of {count} quantities" if count > NUM_ROWS else "The quantities"
    return f"{shown} on which {in_sentence(judged)} differs most from {in_sentence(reference)}, worst first."


def _worst_in_words(row: pd.Series, reference: str) -> str:
    error, ratio = row["mean_error_in_sd"], row["sd_ratio"]
    side = "above" if error > 0 else "below"
    return (
        f"The worst is {row['name']}: its mean is {abs(error):.2f} sd {side} that of "
        f"{in_sentence(reference)}, and its sd is {ratio:.2f} times as large."
    )


def _correlation_in_words(
    answer: Posterior, reference: Posterior, names: Sequence[str], judged: str, against: str
) -> str:
    """The pair whose correlation is most wrong."""
    found = []
    for each in (answer, reference):
        scalars = each.scalars()
        found.append(correlations(np.stack([scalars[name].ravel() for name in names])))
    lost = np.abs(found[0] - found[1])
    i, j = divmod(int(np.argmax(lost)), len(names))
    by_reference, by_answer = (f"{found[k][i, j]:+.2f}".replace("-", "−") for k in (1, 0))
    return (
        f"Of the quantities drawn here, {names[i]} and {names[j]} have the correlation that is most wrong: "
        f"{by_reference} by {in_sentence(against)} and {by_answer} by {in_sentence(judged)}."
    )
