"""How each kind of view is drawn, once for all models."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ppl_vae.report.figures.common import MARKERS, interval_rows, legend_above
from ppl_vae.report.style import COLOURS, SMALL, TEXT, WIDTH, blank, colours, panels, wrapped
from ppl_vae.views import Bars, Contours, ImageGrid, Intervals, Matrix, Scatter, View

__all__ = ["draw"]

POSITIVE, NEGATIVE = COLOURS["nuts"], COLOURS["svi"]
# More would not be read: of each kind the first so many are shown.
MOST_NAMES, MOST_PANELS, MOST_IMAGES, MOST_GROUPS = 30, 6, 12, 20
# Columns up to which numbers stand in the cells: of two digits, and of two decimals.
MOST_PERCENT, MOST_NUMBERS = 12, 5
MANY_POINTS = 50
# Colour and line of the layers that have their own.
LAYERS = {
    "prior": ("0.45", ":"),
    "likelihood": (COLOURS["exact"], "--"),
    "posterior": (COLOURS["nuts"], "-"),
    "guide": (COLOURS["svi"], "-"),
}
FILLS = ["#BFDDF0", "#7DB8DE"]


def draw(view: View) -> Figure | None:
    """The figure of a view; None for the kinds that are text. What is left out is said in the figure."""
    for kind, drawer in DRAWERS.items():
        if isinstance(view, kind):
            found: Figure | None = drawer(view)
            return _nothing() if found is None else found
    return None


def _nothing() -> Figure:
    figure, axes = blank(0.6)
    axes.set_axis_off()
    axes.text(0.5, 0.5, "nothing to show", ha="center", va="center", fontsize=TEXT, color="0.4")
    return figure


def _image_grid(view: ImageGrid) -> Figure | None:
    """Rows of images, each with its name above."""
    rows = {name: images[:MOST_IMAGES] for name, images in [*view.rows.items()][:MOST_IMAGES]}
    columns = max(map(len, rows.values()), default=0)
    if columns == 0:
        return None
    shape = view.image_shape
    # A few large images need not be as wide as the page.
    side = WIDTH / max(columns, 3)
    figure = Figure(figsize=(WIDTH, (side * shape[0] / shape[1] + 0.3) * len(rows)))
    strips = figure.subfigures(len(rows), 1, squeeze=False).ravel()
    for strip, (name, images) in zip(strips, rows.items(), strict=True):
        top = 1 - 0.23 * len(rows) / figure.get_figheight()
        all_of_it = len(images) == len(view.rows[name])
        said = _some(wrapped(name, 52 if all_of_it else 32, 1), len(images), len(view.rows[name]))
        strip.text(0.004, 0.97, said, ha="left", va="top", fontsize=TEXT)
        line = strip.subplots(1, max(columns, 3), squeeze=False).ravel()
        strip.subplots_adjust(left=0.004, right=0.996, bottom=0.0, top=top, wspace=0.06)
        for panel in line:
            panel.set_axis_off()
        for panel, image in zip(line, images, strict=False):
            panel.imshow(np.clip(image, 0, 1), cmap="gray_r", vmin=0, vmax=1)
    return figure


def _matrix(view: Matrix) -> Figure | None:
    values = view.values[:MOST_NAMES]
    if not values.size:
        return None
    rows, columns = values.shape
    names = [wrapped(str(name), 14, 1) for name in view.column_names]
    # Long names are slanted, and short ones such as numbers may leave some out.
    slanted = max(map(len, names)) > 3
    step = -(-columns // 12)
    numbers = columns <= (MOST_PERCENT if view.percent else MOST_NUMBERS)
    deep = 0.31 if view.percent and numbers else 0.2
    figure, axes = blank(max(2.0, (1.2 if slanted else 0.8) + deep * rows))
    low, high = view.limits or _symmetric(values)
    shown = axes.imshow(values, vmin=low, vmax=high, cmap="PuOr", aspect="auto")
    if numbers:
        _digits(axes, view, values, low, high)
    ticks = range(0, columns, step)
    turned: dict[str, Any] = {"rotation": 45, "ha": "right"} if slanted else {}
    axes.set_xticks(ticks, [names[k] for k in ticks], **turned)
    axes.set_yticks(range(rows), [wrapped(str(name), 20, 1) for name in view.row_names[:rows]])
    axes.set(xlabel=view.column_label, ylabel=_some(view.row_label, rows, len(view.row_names)))
    if not (view.percent and numbers):
        bar = figure.colorbar(shown, ax=axes, shrink=0.8)
        bar.ax.tick_params(labelsize=TEXT)
    return figure


def _digits(axes: Axes, view: Matrix, values: np.ndarray, low: float, high: float) -> None:
    middle, half = 0.5 * (low + high), 0.5 * (high - low)
    size = TEXT if view.percent and values.shape[1] <= 8 else SMALL
    for row, column in np.argwhere(np.isfinite(values)):
        value = float(values[row, column])
        # Adding zero keeps "−0.00" from being written.
        short = f"{round(value, 2) + 0.0:.2f}" if abs(value) < 100 else f"{value:.3g}"
        text = f"{100 * value:.0f}" if view.percent else short
        ink = "white" if abs(value - middle) > 0.65 * half else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color=ink)


def _intervals(view: Intervals) -> Figure | None:
    names = view.names[:MOST_NAMES]
    if not len(names) or not view.answers:
        return None
    figure, axes = blank(0.9 + (0.3 + 0.09 * max(0, len(view.answers) - 2)) * len(names))
    interval_rows(axes, names, {answer: each[: len(names)] for answer, each in view.answers.items()})
    axes.set_xlabel(_some(view.label, len(names), len(view.names)))
    legend_above(figure, axes)
    return figure


def _scatter(view: Scatter) -> Figure | None:
    if not sum(map(len, view.groups.values())):
        return None
    shown = min(len(view.groups), MOST_GROUPS) + len(view.levels)
    longest = max(len(name) for name in view.groups)
    columns = 5 if longest < 4 else 3 if longest < 14 else 2
    # The legend above takes its room from the axes only where it is short.
    figure, axes = blank(2.6 if view.joined else 3.9 + 0.19 * max(0, -(-shown // columns) - 2))
    everything = np.concatenate(list(view.groups.values()))
    if view.joined:
        axes.plot(*everything.T, color="0.6", linewidth=1)
    many = len(everything) > MANY_POINTS
    one = len(view.groups) == 1
    paint = colormaps["tab10"](range(10))
    for number, (name, points) in enumerate(view.groups.items()):
        hollow = name in view.hollow
        mark = "." if one and many else MARKERS[0 if view.joined else number % len(MARKERS)]
        axes.plot(
            *points.T, mark, ms=(6 if one else 3) if many else 5 if hollow else 7, alpha=0.7 if many else 1.0,
            color="0.4" if hollow else POSITIVE if one or view.joined else paint[number % 10],
            mfc="white" if hollow else None, rasterized=many,
            label=_legend_name(name, number, len(view.groups), 34 if view.joined else 22),
        )  # fmt: skip
        if name in view.outlines:
            axes.plot(*view.outlines[name].T, color=paint[number % 10], linewidth=1.2)
    for name, height in view.levels.items():
        if np.isfinite(height):
            axes.axhline(height, color=NEGATIVE, linestyle="--", linewidth=1.5, label=wrapped(name, 22, 1))
    axes.set(xlabel=view.x_label, ylabel=view.y_label)
    if view.joined and not (everything[:, 1] < 0).any():
        axes.set_ylim(0, None)
    if np.array_equal(everything[:, 0], everything[:, 0].round()):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if view.joined:
        axes.legend(frameon=False, fontsize=TEXT)
    elif any(view.groups) or view.levels:
        legend_above(figure, axes, columns=columns, title=view.legend)
    return figure


def _legend_name(name: str, number: int, count: int, width: int) -> str:
    """Groups past the last that a legend has room for are counted."""
    if number >= MOST_GROUPS - 1 and count > MOST_GROUPS:
        return f"{count - number} more" if number == MOST_GROUPS - 1 else "_more"
    # matplotlib leaves names with a leading underscore out.
    return wrapped(name, width, 1).lstrip("_") or "_"


def _bars(view: Bars) -> Figure | None:
    names, chosen = view.names[:MOST_NAMES], [*view.panels.items()][:MOST_PANELS]
    if not len(names) or not chosen:
        return None
    columns = min(2, len(chosen))
    lines = -(-len(chosen) // columns)
    figure, grid = panels(lines, columns, (0.7 + 0.2 * len(names)) * lines)
    at = np.arange(len(names))
    every = np.stack([values[: len(names)] for _, values in chosen])
    limit = 1.08 * _symmetric(every)[1]
    for number, (panel, (name, _)) in enumerate(zip(grid, chosen, strict=False)):
        bars = every[number]
        panel.barh(at, np.nan_to_num(bars), color=np.where(bars >= 0, POSITIVE, NEGATIVE), height=0.75)
        panel.axvline(0, color="black", linewidth=0.8)
        panel.set_xlim(-limit if (every < 0).any() else 0, limit)
        panel.set_ylim(len(names) - 0.4, -0.6)
        first = number % columns == 0
        panel.set_yticks(at, [wrapped(str(each), 20, 1) if first else "" for each in names])
        panel.set_title(wrapped(name, 24), fontsize=TEXT)
        panel.set_xlabel(wrapped(_some(view.label, len(names), len(view.names)), 26))
        panel.locator_params(axis="x", nbins=4)
    if len(view.panels) > len(chosen):
        panel.set_xlabel(f"{panel.get_xlabel()}\n({len(chosen)} of {len(view.panels)} panels)")
    for panel in grid[len(chosen) :]:
        panel.set_visible(False)
    return figure


def _contours(view: Contours) -> Figure | None:
    if not view.layers:
        return None
    figure, axes = blank(WIDTH)
    paint = colours(view.layers) | {name: colour for name, (colour, _) in LAYERS.items()}
    handles = []
    for name, heights in view.layers.items():
        line = LAYERS.get(name, ("", "-"))[1]
        width = 1.8 if name == [*view.layers][-1] else 1.3
        label = wrapped(name, 20, 1)
        handles.append(Line2D([], [], color=paint[name], ls=line, linewidth=width, label=label))
        levels = _crossed(heights, np.asarray(view.levels[name]))
        if not levels:
            continue
        if name == view.filled:
            top = float(np.nextafter(np.nanmax(heights), np.inf))
            fills = colormaps["Blues"](np.linspace(0.25, 0.55, len(levels))) if len(levels) != 2 else FILLS
            axes.contourf(view.x, view.y, heights.T, levels=[*levels, top], colors=fills, zorder=1)
        axes.contour(
            view.x, view.y, heights.T, levels=levels, colors=[paint[name]], linestyles=[line],
            linewidths=width, zorder=2,
        )  # fmt: skip
    for name, (across, up) in view.marks.items():
        axes.plot(across, up, "+", color=paint[name], ms=8, mew=1.8)
    axes.set(xlabel=view.x_label, ylabel=view.y_label)
    axes.set(xlim=(view.x[0], view.x[-1]), ylim=(view.y[0], view.y[-1]))
    if np.isclose(np.ptp(view.x), np.ptp(view.y)):
        axes.set_aspect("equal", adjustable="box")
    figure.legend(
        handles=handles, loc="outside upper center", ncols=min(4, len(handles)), frameon=False, fontsize=TEXT,
        columnspacing=1.0, handlelength=1.6,
    )  # fmt: skip
    return figure


def _crossed(heights: np.ndarray, levels: np.ndarray) -> list[float]:
    """The levels that the heights cross, rising."""
    known = heights[np.isfinite(heights)]
    if not known.size:
        return []
    return [float(level) for level in levels if known.min() < level < known.max()]


def _symmetric(values: np.ndarray) -> tuple[float, float]:
    """The same distance on both sides of zero that holds all values."""
    known = np.abs(values[np.isfinite(values)])
    limit = float(known.max()) if known.size and known.max() > 0 else 1.0
    return -limit, limit


def _some(label: str, shown: int, count: int) -> str:
    """A label that says how many of a view's names are shown, where they are not all."""
    return label if shown == count else f"{label} (the first {shown} of {count})".strip()


DRAWERS: dict[type[View], Callable[[Any], Figure | None]] = {
    ImageGrid: _image_grid,
    Matrix: _matrix,
    Intervals: _intervals,
    Scatter: _scatter,
    Bars: _bars,
    Contours: _contours,
}
