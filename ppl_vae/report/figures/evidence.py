"""Figures of log p(x): how estimates settle as samples are added, and the data that fit worst."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ppl_vae.answers.evidence import Evidence
from ppl_vae.base.names import evidence_label
from ppl_vae.report.style import COLOURS, SMALL, WIDTH, blank, keep_inside

__all__ = ["evidence_curves", "worst_images"]

METHOD_COLOURS = {
    "exact": COLOURS["exact"],
    "is": COLOURS["svi"],
    "defensive": "#E69F00",
    "prior": "#999999",
    "iwae": "#56B4E9",
    "ais": COLOURS["nuts"],
    "bridge": COLOURS["held out"],
}
MARKERS = {"is": "o", "defensive": "D", "prior": "s", "iwae": "v", "ais": "^", "bridge": "P"}


def evidence_curves(found: Mapping[str, Evidence]) -> Figure:
    """Estimates of the mean log p(x) of a unit against the number of samples, ± 2 standard errors.

    The band is what an estimate says of itself at that moment: weights that rarely see the large ones are
    too low and too sure. Values of other units than most are left out.
    """
    figure, axes = blank(3.4)
    shown = _same_units(found)
    for name, evidence in shown.items():
        colour, label = METHOD_COLOURS.get(name, "black"), evidence_label(name)
        if evidence.kind == "exact":
            axes.axhline(evidence.mean, color=colour, linewidth=1.5, label=label)
            continue
        points = evidence.curve
        if not len(points) or points[-1, 0] < evidence.num_samples:
            end = np.array([[evidence.num_samples, evidence.mean, evidence.mean_std_error]])
            points = np.concatenate([points, end])
        samples, mean, error = points.T
        marker = MARKERS.get(name, "o")
        if len(points) == 1:
            axes.errorbar(samples, mean, 2 * error, fmt=marker, color=colour, capsize=3, label=label)
            continue
        axes.plot(samples, mean, marker, ms=4, linestyle="-", color=colour, label=label)
        axes.fill_between(samples, mean - 2 * error, mean + 2 * error, color=colour, alpha=0.2, linewidth=0)
    axes.set_xscale("log")
    axes.set(xlabel="samples a unit", ylabel="log p(x) (nats a unit)")
    _focus(axes, shown)
    keep_inside(axes)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False, fontsize=SMALL,
        handlelength=1.6, columnspacing=1.0, borderaxespad=0.2,
    )  # fmt: skip
    return figure


def worst_images(images: np.ndarray, captions: Sequence[str], image_shape: tuple[int, ...]) -> Figure:
    """The images of some rows, each with a caption under it.

    Args:
        images: shape (rows, pixels), values in [0, 1] or any real ones, which are scaled.
        captions: one an image.
        image_shape: (height, width) or (height, width, 3).
    """
    columns = min(4, len(images))
    lines = -(-len(images) // columns)
    figure = Figure(figsize=(WIDTH, 1.35 * WIDTH / 4 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    low, high = float(images.min()), float(images.max())
    low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
    for panel in panels:
        panel.set_axis_off()
    for panel, image, caption in zip(panels, images, captions, strict=False):
        scaled = (image.reshape(image_shape) - low) / max(high - low, 1e-12)
        panel.imshow(scaled, cmap="gray_r", vmin=0, vmax=1)
        panel.set_title(caption, fontsize=SMALL, pad=2)
    return figure


def _same_units(found: Mapping[str, Evidence]) -> dict[str, Evidence]:
    """Those of the units that most of them have: means of other units are means of something else."""
    groups: dict[bytes, dict[str, Evidence]] = {}
    for name, evidence in found.items():
        groups.setdefault(np.sort(evidence.units).tobytes(), {})[name] = evidence
    return max(groups.values(), key=len)


def _focus(axes: Axes, found: Mapping[str, Evidence]) -> None:
    """Show where the estimates end: early ones of a bad proposal are thousands of nats below."""
    ends = [evidence for evidence in found.values() if not evidence.alarming.any()]
    if not ends or len(ends) == len(found):
        return
    low, high = axes.get_ylim()
    values = [point for evidence in ends for point in (*evidence.curve[:, 1], evidence.mean)]
    middle, spread = float(np.median(values)), max(max(values) - min(values), 1e-3)
    axes.set_ylim(max(low, middle - 4 * spread), min(high, middle + 2 * spread))
