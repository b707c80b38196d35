"""The skills of two players on one plane: prior, likelihood, posterior, and the Gaussian of a guide."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ppl_vae.views import Contours

__all__ = ["skill_plane"]

# Points a side, and the standard deviations on either side that are computed and shown.
NUM_POINTS, COMPUTED, SHOWN = 321, 4.0, 2.6
# The lines hold these parts of the probability; the likelihood's are at these parts of its maximum.
INSIDE, LIKELIHOOD = (0.5, 0.9), (0.1, 0.5)


def skill_plane(
    prior: tuple[float, float],
    log_likelihood: Callable[[Tensor], Tensor],
    skill: np.ndarray,
    players: Sequence[str],
) -> Contours:
    """Two skills on a grid: prior, likelihood, posterior, and the Gaussian of the guide's moments.

    Args:
        prior: mean and sd of either skill, which are independent.
        log_likelihood: of all games, in nats, at differences first − second, elementwise.
        skill: the guide's draws, shape (draws, 2).
        players: the two names.
    """
    mean, covariance = skill.mean(0), np.cov(skill.T)
    centre, scale = np.full(2, prior[0]), np.full(2, prior[1])
    half, middle = _window(centre, scale, mean, covariance)
    x, y = (np.linspace(at - half, at + half, NUM_POINTS) for at in middle)
    first, second = np.meshgrid(x, y, indexing="ij")
    log_prior = -0.5 * (((first - centre[0]) / scale[0]) ** 2 + ((second - centre[1]) / scale[1]) ** 2)
    of_games = log_likelihood(torch.as_tensor(first - second)).numpy()
    away = np.stack([first - mean[0], second - mean[1]], axis=-1)
    layers = {
        "prior": np.exp(log_prior),
        "likelihood": _relative(of_games),
        "posterior": _relative(log_prior + of_games),
        "guide": np.exp(-0.5 * np.einsum("...i,ij,...j->...", away, np.linalg.inv(covariance), away)),
    }
    # Of a two-dimensional Gaussian relative to its peak: exp(−½ χ²₂) where a part of it lies inside.
    gaussian = [1 - part for part in INSIDE]
    levels = {"prior": gaussian, "likelihood": LIKELIHOOD, "guide": gaussian}
    levels["posterior"] = _heights(layers["posterior"])
    edge = int(np.searchsorted(x, middle[0] - half * SHOWN / COMPUTED))
    cut = slice(edge, NUM_POINTS - edge)
    names = [f"skill of {name}" for name in players]
    return Contours(
        caption="The two skills on one plane. The games know only the difference, so that the likelihood "
        "is a ridge along the diagonal; prior times likelihood is the exact posterior (50 % and 90 % "
        "inside the lines). A guide without correlations has contours along the axes and cannot follow "
        "the tilt.",
        x=x[cut], y=y[cut], layers={name: heights[cut, cut] for name, heights in layers.items()},
        levels=levels, x_label=names[0], y_label=names[1], filled="posterior",
        marks={"guide": (float(mean[0]), float(mean[1]))},
    )  # fmt: skip


def _window(
    centre: np.ndarray, scale: np.ndarray, mean: np.ndarray, covariance: np.ndarray
) -> tuple[float, np.ndarray]:
    """Half the side and the middle of a square that holds prior and guide to four standard deviations."""
    spread = np.sqrt(np.diag(covariance))
    low = np.minimum(centre - COMPUTED * scale, mean - COMPUTED * spread)
    high = np.maximum(centre + COMPUTED * scale, mean + COMPUTED * spread)
    return 0.5 * float((high - low).max()), 0.5 * (low + high)


def _relative(log_density: np.ndarray) -> np.ndarray:
    return np.exp(log_density - log_density.max())


def _heights(density: np.ndarray) -> list[float]:
    """Heights above which the given parts of the mass on the grid lie."""
    heights = np.sort(density.ravel())[::-1]
    mass = heights.cumsum() / heights.sum()
    return [float(heights[np.searchsorted(mass, part)]) for part in INSIDE]
