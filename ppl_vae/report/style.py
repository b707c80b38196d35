"""How the report's figures look: one width, sizes of text that a phone keeps legible, and colours."""

from collections.abc import Iterable, Sequence
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "LARGE",
    "LINES",
    "SMALL",
    "TEXT",
    "WIDTH",
    "blank",
    "colours",
    "keep_inside",
    "panels",
    "tidy",
    "wrapped",
]

# Inches. A phone shows a figure about 350 CSS pixels wide, that is 83 pixels an inch: text of 9 points is
# then 10 pixels high. A figure of seven inches would leave 6 of them.
WIDTH = 4.2
# Sizes of text in points: of numbers inside a figure, of labels, of headings. Nothing is smaller than SMALL.
SMALL, TEXT, LARGE = 8.0, 9.0, 10.0

# Okabe and Ito's colours: told apart by readers with colour-vision deficiencies, and in grey print.
COLOURS = {
    "svi": "#D55E00",
    "nuts": "#0072B2",
    "hmc": "#0072B2",
    "exact": "#009E73",
    "given": "#0072B2",
    "reweighted": "#E69F00",
    "held out": "#CC79A7",
}
# Lines differ too, so that colour is never alone.
LINES = {"svi": "-", "nuts": "--", "hmc": "--", "exact": "--", "given": "--", "reweighted": ":"}
_OTHERS = ("#56B4E9", "#CC79A7", "#999999", "#F0E442", "#000000")


def colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each answer: its own if it is a usual one, else the next that is free."""
    others = iter(_OTHERS * 10)
    return {name: COLOURS[name] if name in COLOURS else next(others) for name in names}


def blank(height: float, *, width: float = WIDTH) -> tuple[Figure, Axes]:
    """A figure of one panel, without the frame's upper and right sides."""
    figure, grid = panels(1, 1, height, width=width)
    return figure, grid[0]


def panels(rows: int, columns: int, height: float, *, width: float = WIDTH) -> tuple[Figure, list[Axes]]:
    """A figure of rows × columns panels, in reading order; ``height`` is the whole figure's, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axes in grid:
        tidy(axes)
    return figure, grid


def tidy(axes: Axes) -> Axes:
    """Legible sizes, and no frame where it says nothing."""
    for side in ("right", "top"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=TEXT)
    for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
        label.set_fontsize(TEXT)
    axes.xaxis.get_offset_text().set_fontsize(SMALL)
    axes.yaxis.get_offset_text().set_fontsize(SMALL)
    return axes


def keep_inside(axes: Axes) -> None:
    """Leave out the points of lines that lie above or below the panel: no line runs through its frame."""
    low, high = sorted(axes.get_ylim())
    for line in axes.lines:
        if line.get_transform() == axes.transData:
            values = np.asarray(line.get_ydata(), dtype=float)
            line.set_ydata(np.where((values >= low) & (values <= high), values, np.nan))


def wrapped(name: str, width: int = 20, lines: int = 2) -> str:
    """A long name on a few lines; what does not fit ends with an ellipsis.

    A dollar sign is kept from beginning a formula.
    """
    # "skill[New York]" is better parted at the bracket than in the middle of a word.
    head, bracket, rest = name.partition("[") if len(name) > width else (name, "", "")
    pieces: Sequence[str] = [*wrap(head, width), *wrap(bracket + rest, width)]
    if len(pieces) > lines:
        pieces = [*pieces[: lines - 1], pieces[lines - 1][: width - 1] + "…"]
    return "\n".join(pieces).replace("$", r"\$")
