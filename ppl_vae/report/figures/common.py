"""Figures of fits and posteriors. Each function returns a matplotlib Figure and touches no global state."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import gaussian_kde

from ppl_vae.answers.evidence import Evidence
from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.files import write_whole
from ppl_vae.base.moments import standard_deviation
from ppl_vae.report.style import COLOURS, LINES, SMALL, TEXT, WIDTH, blank, colours, panels, spoken, wrapped

__all__ = [
    "COLOURS",
    "WIDTH",
    "densities",
    "evidence_gap",
    "forest",
    "image_grid",
    "latent_plane",
    "leaderboard",
    "win_matrix",
    "write_figure",
]

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MAX_KDE = 2000
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


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
    paint = colours(answers)
    offsets = (np.arange(len(answers)) - (len(answers) - 1) / 2) * 0.22
    if reference is not None:
        axes.axvspan(-1.96, 1.96, color="0.93", linewidth=0)
        axes.axvline(0.0, color="0.6", linewidth=0.8)
    for number, (answer, values) in enumerate(scalars.items()):
        chosen = [
            _relative(values[name], None if reference is None else scalars[reference][name]) for name in names
        ]
        at = np.arange(len(names)) + offsets[number]
        low, high = np.quantile(chosen, [0.025, 0.975], axis=1)
        axes.hlines(at, low, high, color=paint[answer], linewidth=1.8)
        mark = MARKERS[number % len(MARKERS)]
        axes.plot(np.mean(chosen, axis=1), at, mark, ms=4.5, color=paint[answer], label=spoken(answer))
    axes.set_yticks(range(len(names)), [wrapped(name, 24) for name in names], fontsize=SMALL)
    axes.set_ylim(len(names) - 0.4, -0.6)
    scale = "mean and 95 % interval"
    axes.set_xlabel(f"{scale}, in sd of {spoken(reference)}" if reference else scale)
    _legend_above(figure, axes)
    return figure


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
    _legend_above(figure, grid[0])
    return figure


def leaderboard(tables: Mapping[str, pd.DataFrame], max_players: int = 25) -> Figure:
    """Skills as mean ± 2 sd, players in the order of the first table."""
    first = next(iter(tables.values())).head(max_players)
    figure, axes = blank(0.9 + 0.3 * len(first))
    paint = colours(tables)
    offsets = (np.arange(len(tables)) - (len(tables) - 1) / 2) * 0.26
    for number, (answer, table) in enumerate(tables.items()):
        rows = table.loc[first.index]
        at = np.arange(len(rows)) + offsets[number]
        mark = MARKERS[number % len(MARKERS)]
        axes.errorbar(
            rows["mean"], at, xerr=2 * rows["sd"], fmt=mark, ms=4.5, color=paint[answer], label=spoken(answer)
        )
    axes.set_yticks(range(len(first)), [wrapped(str(player), 20) for player in first.index])
    axes.set_ylim(len(first) - 0.4, -0.6)
    axes.set_xlabel("skill: posterior mean ± 2 sd")
    _legend_above(figure, axes)
    return figure


def win_matrix(table: pd.DataFrame, max_players: int = 12) -> Figure:
    """Probability that the row's player beats the column's next time, in per cent."""
    table = table.iloc[:max_players, :max_players]
    figure, axes = blank(0.31 * len(table) + 1.2)
    axes.imshow(table, vmin=0, vmax=1, cmap="PuOr", aspect="auto")
    size = TEXT if len(table) <= 8 else SMALL
    for row, column in np.ndindex(*table.shape):
        if np.isfinite(value := table.iloc[row, column]):
            ink = "white" if abs(value - 0.5) > 0.35 else "black"
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=size, color=ink)
    axes.set_xticks(
        range(len(table)), [wrapped(str(n), 14, 1) for n in table.columns], rotation=45, ha="right"
    )
    axes.set_yticks(range(len(table)), [wrapped(str(name), 14, 1) for name in table.index])
    axes.set(xlabel="loser", ylabel="winner (wins of 100)")
    return figure


def image_grid(rows: Mapping[str, np.ndarray], image_shape: tuple[int, ...]) -> Figure:
    """Rows of images, each with its name above.

    Args:
        rows: arrays of shape (images, pixels), with values in [0, 1].
        image_shape: (height, width) or (height, width, 3).
    """
    columns = max(len(images) for images in rows.values())
    side = WIDTH / columns
    figure = Figure(figsize=(WIDTH, (side * image_shape[0] / image_shape[1] + 0.3) * len(rows)))
    for strip, (name, images) in zip(
        figure.subfigures(len(rows), 1, squeeze=False).ravel(), rows.items(), strict=True
    ):
        top = 1 - 0.23 * len(rows) / figure.get_figheight()
        strip.text(0.004, 0.97, name, ha="left", va="top", fontsize=TEXT)
        line = strip.subplots(1, columns, squeeze=False).ravel()
        strip.subplots_adjust(left=0.004, right=0.996, bottom=0.0, top=top, wspace=0.06)
        for panel in line:
            panel.set_axis_off()
        for panel, image in zip(line, images, strict=False):
            panel.imshow(np.clip(image.reshape(image_shape), 0, 1), cmap="gray_r", vmin=0, vmax=1)
    return figure


def latent_plane(points: np.ndarray, labels: np.ndarray | None) -> Figure:
    """Posterior means in the two latent components that vary most, coloured by class where there are classes.

    Args:
        points: posterior means, shape (rows, components).
        labels: classes, shape (rows,).
    """
    figure, axes = blank(3.9)
    most = np.argsort(-points.var(0), kind="stable")[:2]
    first, second = points[:, most[0]], points[:, most[1]] if len(most) > 1 else np.zeros(len(points))
    if labels is None:
        axes.plot(first, second, ".", color=COLOURS["nuts"], alpha=0.6, rasterized=True)
    else:
        paint = colormaps["tab10"](range(10))
        for number, label in enumerate(np.unique(labels)):
            chosen = labels == label
            mark = MARKERS[number % len(MARKERS)]
            axes.plot(
                first[chosen],
                second[chosen],
                mark,
                ms=3,
                alpha=0.7,
                color=paint[number % 10],
                label=str(label),
            )
        _legend_above(
            figure, axes, columns=5 if max(len(str(each)) for each in labels) < 4 else 3, title="class"
        )
    names = [f"E[z{str(place + 1).translate(SUBSCRIPTS)} | x]" for place in most]
    axes.set(xlabel=names[0], ylabel=names[1] if len(names) > 1 else "")
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
                label=spoken(answer),
            )
            panel.fill_between(grid, density, color=paint[answer], alpha=0.15, linewidth=0)
    panel.set_yticks([])
    panel.set_ylim(bottom=0)
    panel.spines["left"].set_visible(False)
    panel.locator_params(axis="x", nbins=4)


def _legend_above(figure: Figure, axes: Axes, *, columns: int = 4, title: str | None = None) -> None:
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
