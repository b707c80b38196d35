"""Two quantities at a time: whether an answer has the reference's correlations, tails and modes."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import gaussian_kde

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.names import answer_label
from ppl_vae.diagnostics.comparison.distances import correlations
from ppl_vae.report.style import SMALL, colours, panels, wrapped

__all__ = ["pair_plot", "pairs_to_show"]

MAX_POINTS = 500
MAX_CROSSES = 60
SAME = 0.999
MAX_KDE = 1000
MASSES = (0.5, 0.9)
GRID = 60


def pair_plot(
    answer: Posterior, reference: Posterior, names: Sequence[str], labels: tuple[str, str]
) -> Figure:
    """The reference's draws as points and, over them, contours that hold half and 90 % of the answer's.

    The diagonal has the densities. Draws at which the reference's sampler diverged are crosses.

    Args:
        answer: what is judged.
        reference: what it is judged by.
        names: two to four quantities that both have.
        labels: names of the answer and of the reference.
    """
    size = len(names)
    figure, grid = panels(size, size, 4.2 if size > 2 else 3.6)
    paint = colours(labels)
    own, truth = ({name: each.scalars()[name].ravel() for name in names} for each in (answer, reference))
    limits = {name: _limits(own[name], truth[name]) for name in names}
    diverged = _diverging(reference)
    for place, axes in enumerate(grid):
        row, column = divmod(place, size)
        across, up = names[column], names[row]
        if column > row:
            axes.set_visible(False)
            continue
        axes.set_xlim(limits[across])
        if column == row:
            _densities(axes, own[up], truth[up], paint, labels)
        else:
            axes.set_ylim(limits[up])
            _cloud(axes, truth[across], truth[up], diverged, paint[labels[1]])
            _contours(axes, own[across], own[up], paint[labels[0]])
        _frame(axes, names, row, column)
    handles = [
        Line2D([], [], color=paint[labels[0]], label=f"{answer_label(labels[0])}: 50 % and 90 % contours"),
        Line2D(
            [],
            [],
            color=paint[labels[1]],
            marker=".",
            linestyle="",
            label=f"{answer_label(labels[1])}: draws",
        ),
    ]
    if diverged.any():
        handles.append(Line2D([], [], color="black", marker="x", linestyle="", label="divergences"))
    figure.legend(
        handles=handles, loc="outside upper left", ncols=2, frameon=False, fontsize=SMALL, borderaxespad=0.2,
        handlelength=1.4, columnspacing=1.0,
    )  # fmt: skip
    return figure


def pairs_to_show(answer: Posterior, reference: Posterior, worst: Sequence[str], most: int = 3) -> list[str]:
    """The worst quantity, and those whose correlation with it the answer gets most wrong.

    Args:
        answer, reference: as in `pair_plot`.
        worst: quantities, worst first.
        most: how many to choose.
    """
    own, truth = answer.scalars(), reference.scalars()
    moving = [name for name in worst if np.ptp(own[name]) > 0 and np.ptp(truth[name]) > 0]
    if len(moving) < 2:
        return []
    known = _correlations(truth, moving)
    lost = np.abs(_correlations(own, moving) - known)
    chosen = [0]
    while len(chosen) < most:
        # Among equals the worse quantity comes first; one that another determines shows nothing new.
        score = lost[chosen].max(axis=0).round(2)
        score[(np.abs(known[chosen]) > SAME).any(axis=0)] = -1
        if score.max() < 0:
            break
        chosen.append(int(np.argmax(score)))
    return [moving[place] for place in sorted(chosen)] if len(chosen) > 1 else []


def _correlations(values: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    return correlations(np.stack([values[name].ravel() for name in names]))


def _diverging(reference: Posterior) -> np.ndarray:
    if "diverging" not in reference.stats:
        return np.zeros(reference.num_draws, dtype=bool)
    return reference.stats["diverging"].transpose("chain", "draw").to_numpy().ravel().astype(bool)


def _limits(*sides: np.ndarray) -> tuple[float, float]:
    """Where all sides have nearly all their draws, with a margin."""
    ends = [np.quantile(values, [0.002, 0.998]) for values in sides]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    return low - 0.08 * (high - low), high + 0.08 * (high - low)


def _cloud(axes: Axes, x: np.ndarray, y: np.ndarray, diverged: np.ndarray, colour: str) -> None:
    step = -(-len(x) // MAX_POINTS)
    axes.plot(x[::step], y[::step], ".", ms=2.5, color=colour, alpha=0.35, rasterized=True, zorder=1)
    some = np.flatnonzero(diverged)[:: -(-int(diverged.sum()) // MAX_CROSSES) or 1]
    axes.plot(x[some], y[some], "x", ms=3.5, mew=0.8, color="black", zorder=3)


def _contours(axes: Axes, x: np.ndarray, y: np.ndarray, colour: str) -> None:
    """Where the density exceeds what it exceeds at half, and at 90 %, of the draws."""
    step = -(-len(x) // MAX_KDE)
    points = np.stack([x[::step], y[::step]])
    # Quantities that determine each other have no density in the plane: their draws are shown instead.
    if not np.ptp(points, axis=1).all() or np.linalg.matrix_rank(correlations(points), tol=1e-6) < 2:
        axes.plot(*points[:, :MAX_POINTS], ".", ms=2, color=colour, rasterized=True, zorder=2)
        return
    density = gaussian_kde(points)
    levels = np.quantile(density(points), [1 - mass for mass in reversed(MASSES)])
    across, up = np.meshgrid(np.linspace(*axes.get_xlim(), GRID), np.linspace(*axes.get_ylim(), GRID))
    height = density(np.stack([across.ravel(), up.ravel()])).reshape(across.shape)
    axes.contour(across, up, height, levels=levels, colors=[colour], linewidths=[1.0, 1.8], zorder=4)


def _densities(
    axes: Axes, own: np.ndarray, truth: np.ndarray, paint: Mapping[str, str], labels: tuple[str, str]
) -> None:
    at = np.linspace(*axes.get_xlim(), 100)
    for label, values, line in ((labels[1], truth, "--"), (labels[0], own, "-")):
        axes.plot(
            at, gaussian_kde(values[:: -(-len(values) // MAX_KDE)])(at), line, color=paint[label], lw=1.3
        )
    axes.set_ylim(bottom=0)


def _frame(axes: Axes, names: Sequence[str], row: int, column: int) -> None:
    """Names at the left and below only, and few ticks."""
    last = row == len(names) - 1
    axes.tick_params(labelsize=SMALL, labelbottom=last, labelleft=column == 0 and row > 0)
    axes.locator_params(nbins=3)
    if column == row:
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
    if last:
        axes.set_xlabel(wrapped(names[column], 15, 3), fontsize=SMALL)
    if column == 0:
        axes.set_ylabel(wrapped(names[row], 15, 3), fontsize=SMALL)
