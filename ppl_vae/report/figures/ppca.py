"""Figures of PPCA: what the principal axes are made of, and how many there are."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ppl_vae.base.errors import InputError
from ppl_vae.report.style import COLOURS, SMALL, TEXT, blank, panels, wrapped

__all__ = ["loadings", "principal_axes", "scree"]

POSITIVE, NEGATIVE = COLOURS["nuts"], COLOURS["svi"]
MAX_BARS, MAX_COLUMNS = 30, 2


def principal_axes(weights: np.ndarray) -> np.ndarray:
    """W rotated to its principal axes: W R = U S, columns by decreasing length, shape (d, q).

    W is determined up to a rotation of the latent space; this one makes WᵀW diagonal. Each column's largest
    entry is positive. Source: Tipping and Bishop (1999), section 3.2 and appendix A.
    """
    left, sizes, _ = np.linalg.svd(np.asarray(weights, dtype=float), full_matrices=False)
    axes = left * sizes
    largest = np.abs(axes).argmax(0)
    return axes * np.where(axes[largest, np.arange(axes.shape[1])] < 0, -1.0, 1.0)


def loadings(weights: np.ndarray, feature_names: Sequence[str] = ()) -> Figure:
    """The principal axes of W, feature by feature: bars for one or two of them, else a heat map.

    Features stand in the order of their loading on the first axis; of more than thirty the longest thirty
    are shown.

    Args:
        weights: W of any rotation, shape (d, q).
        feature_names: d names.
    """
    axes = principal_axes(weights)
    names = [str(name) for name in feature_names] or [f"feature {k + 1}" for k in range(len(axes))]
    if len(names) != len(axes):
        raise InputError(f"there are {len(names)} feature names for {len(axes)} features")
    length = np.linalg.norm(axes, axis=1)
    kept = np.sort(np.argsort(-length, kind="stable")[:MAX_BARS])
    kept = kept[np.argsort(-axes[kept, 0], kind="stable")]
    chosen, labels = axes[kept], [wrapped(names[k], 20, 1) for k in kept]
    if chosen.shape[1] <= MAX_COLUMNS:
        return _bars(chosen, labels)
    return _heat_map(chosen, labels)


def scree(eigenvalues: np.ndarray, latent_dim: int, noise_variance: float | None = None) -> Figure:
    """Eigenvalues of the data's covariance, those of the kept axes marked, and the noise level.

    At the maximum of the likelihood σ² is the mean of the discarded eigenvalues (Tipping and Bishop 1999,
    equation 8): the line should run through the middle of what is left.

    Args:
        eigenvalues: of the 1/N covariance of the data, in any order, shape (d,).
        latent_dim: q, how many axes the model keeps.
        noise_variance: σ² of the fitted model.

    Raises:
        InputError: if q does not lie between 1 and d.
    """
    values = np.sort(np.asarray(eigenvalues, dtype=float))[::-1]
    if not 1 <= latent_dim <= len(values):
        raise InputError(f"latent_dim is {latent_dim}; there are {len(values)} eigenvalues")
    figure, axes = blank(2.6)
    shown = values[: max(MAX_BARS, latent_dim + 5)]
    at = np.arange(1, len(shown) + 1)
    share = values[:latent_dim].sum() / values.sum()
    axes.plot(at, shown, color="0.6", linewidth=1)
    kept = f"kept ({share:.0%} of the variance)"
    axes.plot(at[:latent_dim], shown[:latent_dim], "o", ms=7, color=POSITIVE, label=kept)
    if latent_dim < len(shown):
        axes.plot(
            at[latent_dim:], shown[latent_dim:], "o", ms=5, mfc="white", color="0.4", label="left to noise"
        )
    if noise_variance is not None:
        axes.axhline(noise_variance, color=NEGATIVE, linestyle="--", linewidth=1.5, label="noise level σ²")
    axes.set(xlabel="principal axis", ylabel="eigenvalue")
    axes.set_ylim(0, None)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=TEXT)
    return figure


def _bars(axes: np.ndarray, labels: Sequence[str]) -> Figure:
    figure, grid = panels(1, axes.shape[1], 0.7 + 0.2 * len(axes))
    at = np.arange(len(axes))
    limit = 1.08 * float(np.abs(axes).max())
    for number, panel in enumerate(grid):
        column = axes[:, number]
        panel.barh(at, column, color=np.where(column >= 0, POSITIVE, NEGATIVE), height=0.75)
        panel.axvline(0, color="black", linewidth=0.8)
        panel.set_xlim(-limit, limit)
        panel.set_ylim(len(axes) - 0.4, -0.6)
        panel.set_yticks(at, labels if number == 0 else [""] * len(at))
        panel.set_title(f"axis {number + 1}", fontsize=TEXT)
        panel.set_xlabel("loading")
        panel.locator_params(axis="x", nbins=4)
    return figure


def _heat_map(axes: np.ndarray, labels: Sequence[str]) -> Figure:
    figure, panel = blank(max(2.0, 0.8 + 0.2 * len(axes)))
    limit = float(np.abs(axes).max())
    image = panel.imshow(axes, cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto")
    panel.set_yticks(range(len(labels)), labels)
    step = -(-axes.shape[1] // 12)
    panel.set_xticks(range(0, axes.shape[1], step), [str(k + 1) for k in range(0, axes.shape[1], step)])
    panel.set_xlabel("principal axis")
    if axes.shape[1] <= 5:
        _numbers(panel, axes, limit)
    bar = figure.colorbar(image, ax=panel, shrink=0.8)
    bar.ax.tick_params(labelsize=TEXT)
    return figure


def _numbers(panel: Axes, values: np.ndarray, limit: float) -> None:
    for row, column in np.ndindex(*values.shape):
        value = values[row, column]
        colour = "white" if abs(value) > 0.6 * limit else "black"
        panel.text(
            column,
            row,
            f"{round(float(value), 2) + 0.0:.2f}",
            ha="center",
            va="center",
            fontsize=SMALL,
            color=colour,
        )
