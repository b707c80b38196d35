"""Figures of fits and posteriors. Each function returns a matplotlib Figure and touches no global state."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import gaussian_kde

from ppl_vae.answers.evidence import Evidence
from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.files import write_whole
from ppl_vae.base.moments import standard_deviation
from ppl_vae.base.names import answer_label
from ppl_vae.report.style import COLOURS, LINES, SMALL, TEXT, WIDTH, blank, colours, panels, wrapped

__all__ = [
    "COLOURS",
    "WIDTH",
    "densities",
    "evidence_gap",
    "forest",
    "interval_rows",
    "legend_above",
    "write_figure",
]

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MAX_KDE = 2000


def forest(answers: Mapping[str, Posterior], names: Sequence[str], reference: str | None = None) -> Figure:
    """Mean and central 95 % interval of some scalar quantities, the answers side by side.

    Args:
        answers: posteriors by name.
        names: of the quantities, from top to bottom.
        reference: the answer whose mean becomes 0 and whose standard deviation becomes 1 for every quantity,
            so that quantities of all sizes share one axis; the plain values without it.
    """
    step = 0.3 + 0.09 * max(0, len(answers) - 2)
    figure, axes = blank(0.9 + step * len(names))
    scalars = {answer: posterior.scalars() for answer, posterior in answers.items()}
    if reference is not None:
        axes.axvspan(-1.96, 1.96, color="0.93", linewidth=0)
        axes.axvline(0.0, color="0.6", linewidth=0.8)
    truth = {} if reference is None else scalars[reference]
    ends = {
        answer: np.stack([_ends(_relative(values[name], truth.get(name))) for name in names])
        for answer, values in scalars.items()
    }
    interval_rows(axes, names, ends)
    scale = "mean and 95 % interval"
    axes.set_xlabel(f"{scale}, in sd of {answer_label(reference)}" if reference else scale)
    legend_above(figure, axes)
    return figure


def interval_rows(axes: Axes, names: Sequence[str], answers: Mapping[str, np.ndarray]) -> None:
    """A row for each name, with an interval of every answer.

    Args:
        axes: a panel.
        names: from top to bottom.
        answers: lower end, value and upper end of every name, shape (names, 3), by answer.
    """
    paint = colours(answers)
    offsets = (np.arange(len(answers)) - (len(answers) - 1) / 2) * min(0.24, 0.8 / max(1, len(answers)))
    for number, (answer, ends) in enumerate(answers.items()):
        at = np.arange(len(names)) + offsets[number]
        axes.hlines(at, ends[:, 0], ends[:, 2], color=paint[answer], linewidth=1.8)
        mark = MARKERS[number % len(MARKERS)]
        axes.plot(
            ends[:, 1], at, mark, ms=4.5, color=paint[answer], label=wrapped(answer_label(answer), 40, 1)
        )
    size = SMALL if max(len(str(name)) for name in names) > 20 else TEXT
    axes.set_yticks(range(len(names)), [wrapped(str(name), 24) for name in names], fontsize=size)
    axes.set_ylim(len(names) - 0.4, -0.6)


def densities(answers: Mapping[str, Posterior], names: Sequence[str]) -> Figure:
    """Posterior densities of some scalar quantities, one panel each."""
    columns = min(2, len(names))
    rows = -(-len(names) // columns)
    figure, grid = panels(rows, columns, 1.5 * rows + 0.35)
    scalars = {answer: posterior.scalars() for answer, posterior in answers.items()}
    paint = colours(answers)
    for panel, name in zip(grid, names, strict=False):
        _density_panel(panel, {answer: values[name].ravel() for answer, values in scalars.items()}, paint)
        panel.set_title(wrapped(name, 26), fontsize=TEXT)
    for panel in grid[len(names) :]:
        panel.set_visible(False)
    legend_above(figure, grid[0])
    return figure


def evidence_gap(evidence: Evidence) -> Figure:
    """How far the ELBO lies below log p(x), unit by unit."""
    figure, axes = blank(2.5)
    gap = evidence.log_evidence - evidence.elbo
    axes.hist(gap, bins=min(40, max(8, len(gap) // 8)), color=COLOURS["nuts"], alpha=0.8)
    axes.axvline(gap.mean(), color=COLOURS["svi"], linestyle="--", label=f"mean {gap.mean():.3f}")
    axes.set(xlabel="log p(x) − ELBO (nats)", ylabel=f"units (of {len(gap)})")
    axes.legend(frameon=False, fontsize=TEXT)
    return figure


def write_figure(path: Path, figure: Figure) -> None:
    """Write a PNG, whole or not at all."""
    write_whole(path, lambda beside: figure.savefig(beside, format="png", dpi=200))


def _ends(values: np.ndarray) -> np.ndarray:
    """Where the central 95 % end, and the mean between them."""
    low, high = np.quantile(values, [0.025, 0.975])
    return np.array([low, values.mean(), high])


def _relative(values: np.ndarray, truth: np.ndarray | None) -> np.ndarray:
    if truth is None:
        return values.ravel()
    return (values.ravel() - truth.mean()) / (float(standard_deviation(truth)) or 1.0)


def _density_panel(panel: Axes, draws: Mapping[str, np.ndarray], paint: Mapping[str, str]) -> None:
    joined = np.concatenate(list(draws.values()))
    low, high = np.quantile(joined, [0.001, 0.999])
    if high <= low:
        low, high = low - 0.5, high + 0.5
    grid = np.linspace(low, high, 120)
    for answer, values in draws.items():
        # A density of some thousand draws looks like one of all of them.
        some = values[:: -(-len(values) // MAX_KDE)]
        if np.ptp(some) > 0:
            density = gaussian_kde(some)(grid)
            panel.plot(
                grid,
                density,
                LINES.get(answer, "-"),
                color=paint[answer],
                linewidth=1.4,
                label=answer_label(answer),
            )
            panel.fill_between(grid, density, color=paint[answer], alpha=0.15, linewidth=0)
    panel.set_yticks([])
    panel.set_ylim(bottom=0)
    panel.spines["left"].set_visible(False)
    panel.locator_params(axis="x", nbins=4)


def legend_above(figure: Figure, axes: Axes, *, columns: int = 4, title: str | None = None) -> None:
    """The panel's legend over the figure, in so many columns."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=min(columns, len(labels)),
        frameon=False,
        fontsize=TEXT,
        title=title,
        title_fontsize=TEXT,
        handlelength=1.6,
        columnspacing=1.2,
        handletextpad=0.5,
        borderaxespad=0.2,
    )
