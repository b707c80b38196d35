"""Two players' skills on one plane: prior, likelihood, posterior and guide."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import chi2
from torch import Tensor

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.errors import InputError
from ppl_vae.program.pair import PairwiseFactors
from ppl_vae.report.style import COLOURS, TEXT, WIDTH, blank

__all__ = ["TWO_PLAYER_CAPTION", "two_player_plane"]

TWO_PLAYER_CAPTION = (
    "The two skills on one plane. The games know only the difference, so that the likelihood is a ridge "
    "along the diagonal; prior times likelihood is the exact posterior (50 % and 90 % inside the lines). A "
    "guide without correlations has contours along the axes and cannot follow the tilt."
)
# The part of the probability inside each pair of contours.
INSIDE = (0.5, 0.9)
# Of its maximum, where the likelihood's contours are.
LIKELIHOOD = (0.5, 0.1)
PRIOR_COLOUR, LIKELIHOOD_COLOUR = "0.45", COLOURS["exact"]
NUM_POINTS = 321
# Standard deviations on either side that are computed, and that are shown.
COMPUTED, SHOWN = 4.0, 2.6


@torch.no_grad()
def two_player_plane(
    model: PairwiseFactors,
    games: Tensor,
    guide: Posterior | tuple[np.ndarray, np.ndarray],
    names: Sequence[str] = ("player 1", "player 2"),
) -> Figure:
    """Contours of prior, likelihood, exact posterior and guide over (skill of the first, of the second).

    The posterior is computed on a grid; the guide is shown as the Gaussian of its moments.

    Args:
        model: skills of two players.
        games: its data.
        guide: draws of the guide, or its mean of shape (2,) and covariance of shape (2, 2).
        names: of the players.

    Raises:
        InputError: for another number of players.
    """
    site, prior = model.normal_prior()
    if prior.batch_shape != (2,):
        number = prior.batch_shape.numel()
        raise InputError(f"the plane of skills is for two players; this model has {number}")
    mean, covariance = _moments(guide, site)
    centre, scale = prior.mean.double().cpu().numpy(), prior.stddev.double().cpu().numpy()
    half, middle = _window(centre, scale, mean, covariance)
    first_grid, second_grid = (np.linspace(at - half, at + half, NUM_POINTS) for at in middle)
    grids = (first_grid, second_grid)
    first, second = np.meshgrid(*grids, indexing="ij")
    log_prior = -0.5 * (((first - centre[0]) / scale[0]) ** 2 + ((second - centre[1]) / scale[1]) ** 2)
    log_likelihood = _log_likelihood(model, games, first - second)
    log_posterior = log_prior + log_likelihood
    figure, axes = blank(WIDTH)
    posterior = np.exp(log_posterior - log_posterior.max())
    levels = _levels(posterior)
    axes.contourf(*grids, posterior.T, levels=[*levels, 1.1], colors=["#BFDDF0", "#7DB8DE"])
    styles = (
        (np.exp(log_prior), _gaussian_levels(), PRIOR_COLOUR, ":", 1.3),
        (_relative(log_likelihood), sorted(LIKELIHOOD), LIKELIHOOD_COLOUR, "--", 1.3),
        (posterior, levels, COLOURS["nuts"], "-", 1.3),
        (_gaussian(first, second, mean, covariance), _gaussian_levels(), COLOURS["svi"], "-", 1.8),
    )
    for values, at, colour, line, width in styles:
        axes.contour(*grids, values.T, levels=at, colors=[colour], linestyles=[line], linewidths=width)
    axes.plot(*mean, "+", color=COLOURS["svi"], ms=8, mew=1.8)
    axes.set(xlabel=f"skill of {names[0]}", ylabel=f"skill of {names[1]}")
    limits = np.stack([middle - half * SHOWN / COMPUTED, middle + half * SHOWN / COMPUTED], axis=1)
    axes.set(xlim=tuple(limits[0]), ylim=tuple(limits[1]))
    axes.set_aspect("equal", adjustable="box")
    labels = ("prior", "likelihood", "posterior", "guide")
    handles = [Line2D([], [], color=colour, ls=line, linewidth=width) for _, _, colour, line, width in styles]
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=TEXT,
                  columnspacing=1.0, handlelength=1.6)  # fmt: skip
    return figure


def _moments(guide: Posterior | tuple[np.ndarray, np.ndarray], site: str) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(guide, Posterior):
        return np.asarray(guide[0], dtype=float), np.asarray(guide[1], dtype=float)
    draws = guide.draws[site].transpose("chain", "draw", ...).to_numpy().reshape(-1, 2)
    return draws.mean(0), np.cov(draws.T)


def _window(
    centre: np.ndarray, scale: np.ndarray, mean: np.ndarray, covariance: np.ndarray
) -> tuple[float, np.ndarray]:
    """Half the side and the middle of a square that holds prior and guide to four standard deviations."""
    spread = np.sqrt(np.diag(covariance))
    low = np.minimum(centre - COMPUTED * scale, mean - COMPUTED * spread)
    high = np.maximum(centre + COMPUTED * scale, mean + COMPUTED * spread)
    return 0.5 * float((high - low).max()), 0.5 * (low + high)


def _log_likelihood(model: PairwiseFactors, games: Tensor, difference: np.ndarray) -> np.ndarray:
    """Σ ℓ(±(s_1 − s_2)): equal games have equal terms, so that each outcome is computed once."""
    first, _ = model.index_pairs(games)
    d = torch.as_tensor(difference)
    forward = int((first == 0).sum())
    return (forward * model.log_likelihood(d) + (len(first) - forward) * model.log_likelihood(-d)).numpy()


def _relative(log_density: np.ndarray) -> np.ndarray:
    return np.exp(log_density - log_density.max())


def _levels(density: np.ndarray) -> list[float]:
    """Heights above which the given parts of the mass on the grid lie, the lowest first."""
    heights = np.sort(density.ravel())[::-1]
    mass = heights.cumsum() / heights.sum()
    return sorted(float(heights[np.searchsorted(mass, part)]) for part in INSIDE)


def _gaussian(first: np.ndarray, second: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    away = np.stack([first - mean[0], second - mean[1]], axis=-1)
    return np.exp(-0.5 * np.einsum("...i,ij,...j->...", away, np.linalg.inv(covariance), away))


def _gaussian_levels() -> list[float]:
    """Of a two-dimensional Gaussian relative to its peak: exp(−½ χ²₂) at the given parts."""
    return sorted(float(np.exp(-0.5 * chi2(2).ppf(part))) for part in INSIDE)
