"""Simulation-based calibration as a picture: how far ranks are from uniform, and how far they may be."""

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ppl_vae.diagnostics.calibration.sbc import Calibration
from ppl_vae.report.style import COLOURS, TEXT, panels, wrapped

__all__ = ["calibration_panels"]

FAILED, PASSED, BAND = COLOURS["svi"], COLOURS["nuts"], "#BBBBBB"


def calibration_panels(found: Calibration, most: int = 6) -> Figure:
    """The ECDF of the ranks less that of uniform ones, with its simultaneous band; the worst come first.

    A right answer stays inside every band, all quantities together, with probability 1 − alpha. A line
    that rises before the middle and is below zero after it is of draws too narrow, its mirror image of
    draws too wide; one hill means that draws lie too high, one valley that they lie too low.

    Args:
        found: the calibration.
        most: panels, at most.
    """
    chosen = list(found.table.index[:most])
    columns = min(2, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    figure, grid = panels(rows, columns, 1.65 * rows + 0.4)
    for panel in grid[1:]:
        panel.sharex(grid[0])
        panel.sharey(grid[0])
    for panel, name in zip(grid, chosen, strict=False):
        _panel(panel, found, str(name))
    for panel in grid[len(chosen) :]:
        panel.set_visible(False)
    figure.supxlabel("fraction of the draws below the truth", fontsize=TEXT)
    figure.supylabel("ECDF − uniform", fontsize=TEXT)
    return figure


def _panel(panel: Axes, found: Calibration, name: str) -> None:
    at, difference, low, high = found.ecdf_difference(name)
    row = found.table.loc[name]
    colour = PASSED if row["passed"] else FAILED
    panel.fill_between(at, low, high, color=BAND, alpha=0.6, linewidth=0)
    panel.axhline(0.0, color="black", linewidth=0.6)
    panel.plot(at, difference, color=colour, linewidth=1.5)
    panel.set_title(f"{wrapped(name, 24)}\n{row['shape']}", fontsize=TEXT, color=colour)
    panel.set_xticks([0, 0.5, 1], ["0", "½", "1"])
