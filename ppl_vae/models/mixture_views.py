"""What a mixture of Gaussians has to show: its components, and the rows that belong to each."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ppl_vae.models.mixture_em import Mixture
from ppl_vae.views import Matrix, Scatter, View

__all__ = ["mixture_views"]

# Features in the table of means, rows in the picture, and points of an ellipse.
MAX_FEATURES, MAX_ROWS, ELLIPSE = 30, 2000, 60


def mixture_views(
    mixture: Mixture, x: Tensor, shares: Tensor, feature_names: Sequence[str], training: Tensor
) -> list[View]:
    """The components' means, and the rows in the plane of the two longest principal axes.

    Args:
        mixture: with covariances as matrices (K, d, d).
        x: the rows shown, shape (N, d).
        shares: their responsibilities, shape (N, K).
        feature_names: d names.
        training: the rows whose principal axes are meant, shape (N', d).
    """
    names = [f"{k + 1} ({share:.0%})" for k, share in enumerate(mixture.weights.tolist())]
    means = Matrix(
        caption="Where the components are: the mean of every feature. In brackets, the component's weight.",
        values=mixture.means.T[:MAX_FEATURES].numpy(),
        row_names=feature_names[:MAX_FEATURES],
        column_names=names,
        column_label="component (weight)",
    )
    if x.shape[1] == 1:
        return [means, _line(x[:MAX_ROWS], shares[:MAX_ROWS], feature_names[0])]
    return [means, _plane(mixture, x[:MAX_ROWS], shares[:MAX_ROWS], feature_names, training)]


def _line(x: Tensor, shares: Tensor, feature_name: str) -> Scatter:
    most = shares.max(1)
    points = torch.stack([x[:, 0].double(), most.values.double()], 1)
    return Scatter(
        caption="Rows by their most probable component, and how probable that is.",
        groups={f"component {k + 1}": points[most.indices == k].numpy() for k in range(shares.shape[1])},
        x_label=feature_name, y_label="probability of the component",
    )  # fmt: skip


def _plane(
    mixture: Mixture, x: Tensor, shares: Tensor, feature_names: Sequence[str], training: Tensor
) -> Scatter:
    axes, labels = _axes(training.double(), feature_names)
    places, nearest = (x.double() @ axes).numpy(), shares.argmax(1).numpy()
    groups = {f"component {k + 1}": places[nearest == k] for k in range(len(mixture.weights))}
    angle = torch.linspace(0, 2 * math.pi, ELLIPSE, dtype=torch.float64)
    circle = 2 * torch.stack([angle.cos(), angle.sin()], 1)
    spreads = torch.linalg.cholesky(axes.T @ mixture.covariances.double() @ axes)
    centres = mixture.means.double() @ axes
    outlines = {
        name: centre + circle @ spread.T
        for name, centre, spread in zip(groups, centres, spreads, strict=True)
    }
    return Scatter(
        caption="Rows by their most probable component, and the ellipse of two standard deviations of each "
        "component: a component with hardly any rows, or a thin ellipse, sits on a few of them.",
        groups=groups, x_label=labels[0], y_label=labels[1], outlines=outlines,
    )  # fmt: skip


def _axes(x: Tensor, feature_names: Sequence[str]) -> tuple[Tensor, tuple[str, str]]:
    """Directions of the plane, shape (d, 2), and what they are."""
    if x.shape[1] == 2:
        return torch.eye(2, dtype=x.dtype), (feature_names[0], feature_names[1])
    _, vectors = torch.linalg.eigh((x - x.mean(0)).T @ (x - x.mean(0)))
    return vectors[:, -2:].flip(1), ("first principal axis", "second principal axis")
