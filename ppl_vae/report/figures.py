"""Figures of fits and posteriors. Each function returns a matplotlib Figure and touches no global state."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import gaussian_kde

from ppl_vae.evidence import Evidence
from ppl_vae.files import write_whole
from ppl_vae.posterior import Posterior

__all__ = [
    "densities",
    "elbo_curve",
    "evidence_gap",
    "forest",
    "image_grid",
    "latent_plane",
    "leaderboard",
    "win_matrix",
    "write_figure",
]

# Okabe and Ito's colours: told apart by readers with colour-vision deficiencies, and in grey print.
COLOURS = {"svi": "#D55E00", "nuts": "#0072B2", "exact": "#009E73", "held out": "#CC79A7"}
WIDTH = 7.0


def elbo_curve(elbo: np.ndarray, held_out: np.ndarray, num_units: int, kl_warmup: int = 0) -> Figure:
    """The ELBO per unit against the step: every step faintly, a running median over it.

    Steps of a KL warm-up are left out: what they maximise is not the ELBO.
    """
    figure, axes = _axes(3.0)
    values = elbo / num_units
    steps = np.arange(1, len(values) + 1)
    if kl_warmup < len(values):
        values, steps = values[kl_warmup:], steps[kl_warmup:]
    window = max(1, len(values) // 50)
    smooth = pd.Series(values).rolling(window, min_periods=1, center=True).median()
    axes.plot(steps, values, color=COLOURS["svi"], alpha=0.2, linewidth=0.5)
    axes.plot(steps, smooth, color=COLOURS["svi"], label="training (running median)")
    if len(held_out):
        axes.plot(held_out[:, 0], held_out[:, 1], "o-", ms=3, color=COLOURS["held out"], label="validation")
    # The first steps of a fit are so low that they would flatten the rest.
    low, high = np.nanquantile(values[len(values) // 20 :], [0.02, 0.999])
    if len(held_out):
        low = min(low, held_out[len(held_out) // 4 :, 1].min())
    margin = 0.15 * (high - low) or 1.0
    axes.set_ylim(low - margin, high + margin)
    axes.set(xlabel="step", ylabel="ELBO (nats a unit)")
    axes.legend(frameon=False, loc="lower right")
    return figure


def forest(answers: Mapping[str, Posterior], names: Sequence[str]) -> Figure:
    """Mean and central 95 % interval of some scalar quantities, the answers side by side."""
    figure, axes = _axes(0.6 + 0.32 * len(names))
    scalars = {answer: posterior.scalars() for answer, posterior in answers.items()}
    offsets = np.linspace(-0.16, 0.16, len(answers)) if len(answers) > 1 else [0.0]
    for (answer, values), offset in zip(scalars.items(), offsets, strict=True):
        chosen = [values[name].ravel() for name in names]
        at = np.arange(len(names)) + offset
        low, high = np.quantile(chosen, [0.025, 0.975], axis=1)
        colour = COLOURS.get(answer, "black")
        axes.hlines(at, low, high, color=colour, linewidth=2)
        axes.plot(np.mean(chosen, axis=1), at, "o", ms=4, color=colour, label=answer)
    axes.set_yticks(range(len(names)), [_short(name) for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("posterior mean and central 95 % interval")
    axes.legend(frameon=False, ncols=len(answers), loc="lower left", bbox_to_anchor=(0, 1.0))
    return figure


def densities(answers: Mapping[str, Posterior], names: Sequence[str]) -> Figure:
    """Posterior densities of some scalar quantities, one panel each."""
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(WIDTH, 1.9 * rows + 0.3), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    scalars = {answer: posterior.scalars() for answer, posterior in answers.items()}
    for panel, name in zip(panels, names, strict=False):
        _density_panel(panel, {answer: values[name].ravel() for answer, values in scalars.items()})
        panel.set_title(_short(name), fontsize=9)
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), frameon=False)
    return figure


def leaderboard(tables: Mapping[str, pd.DataFrame], max_players: int = 25) -> Figure:
    """Skills as mean ± 2 sd, players in the order of the first table."""
    first = next(iter(tables.values())).head(max_players)
    figure, axes = _axes(0.7 + 0.32 * len(first))
    offsets = np.linspace(-0.14, 0.14, len(tables)) if len(tables) > 1 else [0.0]
    for (answer, table), offset in zip(tables.items(), offsets, strict=True):
        rows = table.loc[first.index]
        at = np.arange(len(rows)) + offset
        colour = COLOURS.get(answer, "black")
        axes.errorbar(rows["mean"], at, xerr=2 * rows["sd"], fmt="o", ms=4, color=colour, label=answer)
    axes.set_yticks(range(len(first)), list(map(str, first.index)))
    axes.invert_yaxis()
    axes.set_xlabel("skill: posterior mean ± 2 sd")
    axes.legend(frameon=False, ncols=len(tables), loc="lower left", bbox_to_anchor=(0, 1.0))
    return figure


def win_matrix(table: pd.DataFrame, max_players: int = 15) -> Figure:
    """Probability that the row's player beats the column's next time."""
    table = table.iloc[:max_players, :max_players]
    figure = Figure(figsize=(WIDTH, 0.55 * len(table) + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.imshow(table, vmin=0, vmax=1, cmap="PuOr", aspect="auto")
    for row, column in np.ndindex(*table.shape):
        if np.isfinite(value := table.iloc[row, column]):
            dark = abs(value - 0.5) > 0.35
            axes.text(
                column,
                row,
                f"{value:.2f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else "black",
            )
    axes.set_xticks(range(len(table)), list(table.columns), rotation=30, ha="right")
    axes.set_yticks(range(len(table)), list(table.index))
    axes.set(xlabel="loser", ylabel="winner")
    return figure


def image_grid(rows: Mapping[str, np.ndarray], image_shape: tuple[int, ...]) -> Figure:
    """Rows of images, each with its name at the left.

    Args:
        rows: arrays of shape (images, pixels), with values in [0, 1].
        image_shape: (height, width) or (height, width, 3).
    """
    columns = max(len(images) for images in rows.values())
    figure = Figure(figsize=(WIDTH, WIDTH / (columns + 2) * len(rows) * 1.08), layout="constrained")
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, images) in zip(panels, rows.items(), strict=True):
        for panel in line:
            panel.set(xticks=[], yticks=[])
            panel.set_frame_on(False)
        for panel, image in zip(line, images, strict=False):
            panel.imshow(np.clip(image.reshape(image_shape), 0, 1), cmap="gray_r", vmin=0, vmax=1)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    return figure


def latent_plane(points: np.ndarray, labels: np.ndarray | None) -> Figure:
    """Posterior means of the first two latent components, coloured by class where there are classes."""
    figure, axes = _axes(4.2)
    second = points[:, 1] if points.shape[1] > 1 else np.zeros(len(points))
    if labels is None:
        axes.plot(points[:, 0], second, ".", color=COLOURS["nuts"], alpha=0.6)
    else:
        from matplotlib import colormaps

        colours = colormaps["tab10"](range(10))
        for number, label in enumerate(np.unique(labels)):
            chosen = labels == label
            axes.plot(
                points[chosen, 0],
                second[chosen],
                ".",
                alpha=0.7,
                color=colours[number % len(colours)],
                label=str(label),
            )
        axes.legend(frameon=False, title="class", loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.set(xlabel="E[z₁ | x]", ylabel="E[z₂ | x]")
    return figure


def evidence_gap(evidence: Evidence) -> Figure:
    """How far the ELBO lies below log p(x), unit by unit."""
    figure, axes = _axes(2.8)
    gap = evidence.log_evidence - evidence.elbo
    axes.hist(gap, bins=min(40, max(8, len(gap) // 8)), color=COLOURS["nuts"], alpha=0.8)
    axes.axvline(gap.mean(), color=COLOURS["svi"], label=f"mean {gap.mean():.3f}")
    axes.set(xlabel="log p(x) − ELBO (nats)", ylabel=f"units (of {len(gap)})")
    axes.legend(frameon=False)
    return figure


def write_figure(path: Path, figure: Figure) -> None:
    """Write a PNG, whole or not at all."""
    write_whole(path, lambda beside: figure.savefig(beside, format="png", dpi=150))


def _density_panel(panel: Axes, draws: Mapping[str, np.ndarray]) -> None:
    joined = np.concatenate(list(draws.values()))
    low, high = np.quantile(joined, [0.001, 0.999])
    if high <= low:
        low, high = low - 0.5, high + 0.5
    grid = np.linspace(low, high, 200)
    for answer, values in draws.items():
        if values.std() > 0:
            density = gaussian_kde(values)(grid)
            panel.plot(grid, density, color=COLOURS.get(answer, "black"), label=answer)
            panel.fill_between(grid, density, color=COLOURS.get(answer, "black"), alpha=0.15)
    panel.set_yticks([])
    for side in ("left", "right", "top"):
        panel.spines[side].set_visible(False)


def _axes(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    for side in ("right", "top"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _short(name: str, length: int = 44) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
