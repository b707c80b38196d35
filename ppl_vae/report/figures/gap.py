"""The figure of a gap taken apart."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ppl_vae.diagnostics.latents.gaps import Gap, Gaps
from ppl_vae.report.style import COLOURS, SMALL, TEXT, blank

__all__ = ["gap_bars"]

APPROXIMATION, SHORTFALL = COLOURS["nuts"], COLOURS["svi"]


def gap_bars(gaps: Gaps) -> Figure:
    """How far each guide's ELBO lies below log p(x), in mean nats a unit.

    The bar of the pair's own guide stacks its two parts where it has them; the others are the best guides of
    each family. Error bars are ± 2 standard errors of the whole gap, and the band about zero those of
    log p(x), which move all bars together. Parts that come out negative are drawn below zero.
    """
    figure, axes = blank(3.3)
    error = 2 * Gap(gaps.log_evidence, gaps.evidence_std_error).mean_std_error
    if error > 0:
        axes.axhspan(-error, error, color="0.85", linewidth=0, label="log p(x) ± 2 se")
    axes.axhline(0.0, color="black", linewidth=0.8)
    if gaps.family:
        _stack(axes, gaps)
    else:
        axes.bar(0, gaps.total.mean, 0.62, color=SHORTFALL, label="gap")
        _error_and_value(axes, 0, gaps.total, top=gaps.total.mean)
    for at, family in enumerate(gaps.best, start=1):
        label = "approximation gap" if at == 1 else None
        axes.bar(at, gaps.gap(family).mean, 0.62, color=APPROXIMATION, label=label)
        _error_and_value(axes, at, gaps.gap(family), top=gaps.gap(family).mean)
    names = {"diagonal": "best\nmean-field", "full": "best full\ncovariance", "flow": "best\nflow"}
    kind = "amortised" if gaps.amortised else "per-datum"
    own = {"diagonal": "mean-field", "full": "full cov.", "flow": "flow"}.get(gaps.family)
    ticks = [
        "own guide" if own is None else f"own guide:\n{kind}\n{own}",
        *(names[name] for name in gaps.best),
    ]
    axes.set_xticks(range(len(ticks)), ticks, fontsize=SMALL)
    axes.set_ylabel("log p(x) − ELBO\n(nats a unit)", fontsize=TEXT)
    low, high = axes.get_ylim()
    # Room for the numbers and the legend above, and below only where something is negative.
    axes.set_ylim(low if low < -0.06 * high else -0.02 * high, high + 0.12 * (high - low))
    axes.legend(frameon=False, loc="upper right", fontsize=SMALL)
    return figure


def _stack(axes: Axes, gaps: Gaps) -> None:
    """The own guide's two parts; one that is negative hangs below zero."""
    first, second = gaps.approximation.mean, gaps.amortisation.mean
    axes.bar(0, first, 0.62, color=APPROXIMATION)
    bottom = first if first * second >= 0 else 0.0
    axes.bar(0, second, 0.62, bottom=bottom, color=SHORTFALL, label=gaps.shortfall)
    _error_and_value(axes, 0, gaps.total, top=max(gaps.total.mean, first, bottom + second))


def _error_and_value(axes: Axes, at: int, gap: Gap, top: float) -> None:
    error = 2 * gap.mean_std_error
    axes.errorbar(at, gap.mean, yerr=error, fmt="none", ecolor="black", elinewidth=1.5, capsize=4)
    height = max(0.0, top, gap.mean + error)
    # Adding zero keeps "−0.00" from being written.
    text = f"{round(gap.mean, _digits(gap)) + 0.0:.{_digits(gap)}f}"
    axes.annotate(text, (at, height), (0, 3), textcoords="offset points", ha="center", fontsize=TEXT)


def _digits(gap: Gap) -> int:
    """As many decimals as the error leaves, from one to four."""
    error = max(gap.mean_std_error, 5e-5)
    return int(np.clip(np.ceil(-np.log10(error)), 1, 4))
