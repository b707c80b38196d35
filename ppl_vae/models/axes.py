"""Pictures of the loadings W of linear models: their principal axes, and how many exceed the noise."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.views import Bars, Matrix, Scatter, View

__all__ = ["axes_views", "loadings_view", "principal_axes"]

Array = NDArray[np.floating]
# Features in the picture of the axes, and eigenvalues in the one beside it.
MAX_FEATURES = 30


def axes_views(
    weights: Array, noise_variance: float, x: Tensor, feature_names: Sequence[str], whose: str
) -> list[View]:
    """What the principal axes of W are made of, and how many stand out from the noise.

    Args:
        weights: W of any rotation, shape (d, q).
        noise_variance: σ².
        x: the training data, shape (num_data, d).
        feature_names: d names, or none.
        whose: the axes are, in words.
    """
    axes = principal_axes(weights)
    return [loadings_view(axes, feature_names, whose), _scree(x, axes.shape[1], noise_variance)]


def loadings_view(axes: Array, feature_names: Sequence[str], whose: str) -> View:
    """What axes are made of: bars of one or two, a matrix of more; of many features the longest.

    Args:
        axes: shape (d, q), the longest axis first.
        feature_names: d names, or none.
        whose: the axes are, in words.
    """
    caption = (
        f"What {whose} principal axes are made of, the longest axis first: features with large "
        "loadings of one sign rise and fall together. The sign of a whole axis means nothing."
    )
    names = list(feature_names) or [f"feature {k + 1}" for k in range(len(axes))]
    kept = np.sort(np.argsort(-np.linalg.norm(axes, axis=1), kind="stable")[:MAX_FEATURES])
    kept = kept[np.argsort(-axes[kept, 0], kind="stable")]
    labels, chosen = [names[k] for k in kept], axes[kept]
    if axes.shape[1] <= 2:
        panels = {f"axis {k + 1}": column for k, column in enumerate(chosen.T)}
        return Bars(caption=caption, names=labels, panels=panels, label="loading")
    columns = [str(k + 1) for k in range(axes.shape[1])]
    return Matrix(
        caption=caption, values=chosen, row_names=labels, column_label="principal axis", column_names=columns
    )


def principal_axes(weights: Array) -> Array:
    """W rotated to its principal axes: W R = U S, columns by decreasing length, shape (d, q).

    W is determined up to a rotation of the latent space; this one makes WᵀW diagonal. Each column's largest
    entry is positive. Source: Tipping and Bishop (1999), section 3.2 and appendix A.
    """
    left, sizes, _ = np.linalg.svd(np.asarray(weights, dtype=float), full_matrices=False)
    axes = left * sizes
    largest = np.abs(axes).argmax(0)
    return axes * np.where(axes[largest, np.arange(axes.shape[1])] < 0, -1.0, 1.0)


def _scree(x: Tensor, latent_dim: int, noise_variance: float) -> Scatter:
    """Eigenvalues of the 1/N covariance. At the maximum of the likelihood σ² is the mean of those that are
    not kept (Tipping and Bishop 1999, equation 8)."""
    values = np.linalg.eigvalsh(np.cov(x.double().cpu().numpy().T, bias=True))[::-1]
    points = np.column_stack([np.arange(1, len(values) + 1), values])[: max(MAX_FEATURES, latent_dim + 5)]
    kept = f"kept ({values[:latent_dim].sum() / values.sum():.0%} of the variance)"
    return Scatter(
        caption="Eigenvalues of the data's covariance: the kept axes should stand out from the rest, and the "
        "noise level should run through the middle of what is left.",
        groups={kept: points[:latent_dim], "left to noise": points[latent_dim:]},
        x_label="principal axis",
        y_label="eigenvalue",
        joined=True,
        hollow={"left to noise"},
        levels={"noise level σ²": noise_variance},
    )
