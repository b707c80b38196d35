"""The ELBO during a fit, with the decision to stop."""

from dataclasses import dataclass, field
from typing import Self

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ppl_vae.inference.fitting.stopping import R_HAT_LIMIT, Stopping
from ppl_vae.report.style import COLOURS, SMALL, TEXT, blank, keep_inside, panels

__all__ = ["Marks", "stopping_curve"]

TICKS = (1.1, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)


@dataclass(frozen=True)
class Marks:
    """What to mark along the steps.

    Attributes:
        lowered: steps at which the learning rate was lowered.
        stopped: the step at which the rule ended the fit; None where it did not.
        averaged: first and last step of the iterates that were averaged; None without averaging.
        checks: step, R-hat of the iterates, and the ELBO of their average in nats a unit, at every check,
            shape (checks, 3).
        limit: the R-hat below which iterates count as at rest.
    """

    lowered: tuple[int, ...] = ()
    stopped: int | None = None
    averaged: tuple[int, int] | None = None
    checks: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    limit: float = R_HAT_LIMIT

    @classmethod
    def of(cls, stopping: Stopping) -> Self:
        """What the rule did."""
        checks = stopping.checks
        return cls(
            lowered=tuple(check.step for check in checks if check.action == "lower"),
            stopped=stopping.step if stopping.converged else None,
            checks=np.array([(check.step, check.r_hat, check.elbo) for check in checks]).reshape(-1, 3),
        )


def stopping_curve(
    elbo: np.ndarray,
    held_out: np.ndarray,
    num_units: int,
    *,
    kl_warmup: int = 0,
    marks: Marks | None = None,
) -> Figure:
    """The ELBO per unit against the step: every step faintly, a running median over it.

    Steps of a KL warm-up are left out: what they maximise is not the ELBO.

    Args:
        elbo: nats for the whole data at every step, shape (steps,).
        held_out: step and held-out objective per unit at every check, shape (checks, 2).
        num_units: units of the data.
        kl_warmup: steps of the warm-up.
        marks: what the stopping rule did; the plain curve without it.
    """
    marks = Marks() if marks is None else marks
    if len(marks.checks):
        figure, (axes, below) = panels(2, 1, 4.0)
        _r_hats(below, marks)
        below.sharex(axes)
    else:
        figure, axes = blank(2.7)
        axes.set_xlabel("step")
    values = elbo / num_units
    steps = np.arange(1, len(values) + 1)
    if kl_warmup < len(values):
        values, steps = values[kl_warmup:], steps[kl_warmup:]
    smooth = pd.Series(values).rolling(max(1, len(values) // 50), min_periods=1, center=True).median()
    axes.plot(steps, values, color=COLOURS["svi"], alpha=0.25, linewidth=0.5, rasterized=True)
    axes.plot(steps, smooth, color=COLOURS["svi"], label="running median", rasterized=len(steps) > 5000)
    if len(held_out):
        axes.plot(held_out[:, 0], held_out[:, 1], "o-", ms=3, color=COLOURS["held out"], label="validation")
    if len(marks.checks):
        axes.plot(
            marks.checks[:, 0],
            marks.checks[:, 2],
            "D",
            ms=4,
            color=COLOURS["nuts"],
            label="averaged iterates",
        )
    axes.set_ylim(*_range(values, held_out))
    keep_inside(axes)
    axes.set_ylabel("ELBO (nats a unit)")
    _marks(axes, marks)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper left", ncols=2, frameon=False, fontsize=SMALL,
        handlelength=1.6, columnspacing=1.2, borderaxespad=0.2,
    )  # fmt: skip
    return figure


def _marks(axes: Axes, marks: Marks) -> None:
    if marks.averaged is not None:
        axes.axvspan(
            *marks.averaged, color=COLOURS["exact"], alpha=0.15, linewidth=0, label="averaging window"
        )
    _lines(axes, marks)


def _lines(axes: Axes, marks: Marks) -> None:
    for number, step in enumerate(marks.lowered):
        label = "learning rate lowered" if number == 0 else None
        axes.axvline(step, color="0.35", linestyle=":", linewidth=1.2, label=label)
    if marks.stopped is not None:
        axes.axvline(marks.stopped, color="black", linewidth=1.4, label="stopped by the rule")


def _r_hats(axes: Axes, marks: Marks) -> None:
    """R-hat of the iterates at every check, in a panel of its own."""
    steps, r_hat, _ = marks.checks.T
    known = np.isfinite(r_hat)
    axes.set_yscale("log")
    axes.set_ylim(0.97, max(1.5, 1.15 * r_hat[known].max(initial=1.0)))
    axes.plot(steps[known], r_hat[known], "D-", ms=3.5, color=COLOURS["nuts"])
    axes.axhline(marks.limit, color="black", linestyle="--", linewidth=1)
    ticks = [tick for tick in TICKS if tick < axes.get_ylim()[1]]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    _lines(axes, marks)
    axes.set_xlabel("step", fontsize=TEXT)
    axes.set_ylabel("R-hat of iterates", fontsize=TEXT)


def _range(values: np.ndarray, held_out: np.ndarray) -> tuple[float, float]:
    """The first steps of a fit are so low that they would flatten the rest."""
    low, high = np.nanquantile(values[len(values) // 20 :], [0.02, 0.999])
    if len(held_out):
        low = min(low, held_out[len(held_out) // 4 :, 1].min())
    margin = 0.15 * (high - low) or 1.0
    return float(low - margin), float(high + margin)
