"""What only one kind of model has to show: skills, loadings, reconstructions."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.seeds import seeded
from ppl_vae.guides.amortised import AmortisedNormal
from ppl_vae.models.bayesian_ppca import BayesianPPCA
from ppl_vae.models.ppca import PPCA
from ppl_vae.models.trueskill import TrueSkill
from ppl_vae.models.vae import VAE, interpolate, reconstruct
from ppl_vae.report.figures.common import image_grid, latent_plane, leaderboard, win_matrix
from ppl_vae.report.figures.ppca import loadings, scree
from ppl_vae.report.figures.skills import TWO_PLAYER_CAPTION, two_player_plane
from ppl_vae.report.page import Picture

__all__ = ["plane_picture", "ppca_pictures", "skill_pictures", "vae_pictures"]

NUM_IMAGES = 8
# Players in the matrix of win probabilities, the best first: more would not be read.
MATRIX_PLAYERS = 15


def skill_pictures(model: TrueSkill, games: Tensor, answers: Mapping[str, Posterior]) -> list[Picture]:
    """Leaderboard and win probabilities; for two players also their skills on one plane.

    Args:
        model: the skill model.
        games: shape (num_games, 2).
        answers: posteriors of the skills by name, the guide's ("svi") among them; the last one answers for
            the win probabilities.
    """
    boards = {name: model.leaderboard(posterior) for name, posterior in answers.items()}
    first, best = next(iter(boards.values())), list(answers.values())[-1]
    matrix = model.win_probability(best, list(first.index[:MATRIX_PLAYERS]))
    found = [
        Picture(
            leaderboard(boards),
            "The leaderboard, by conservative skill (mean − 3 sd): overlapping bars are players that "
            "the games do not tell apart.",
        ),
        Picture(
            win_matrix(matrix),
            "Of a hundred games between two players, how many the row's player would win: near 50, the games "
            "played so far do not say who is better.",
        ),
    ]
    if model.num_players == 2:
        plane = two_player_plane(model, games, answers["svi"], model.players)
        found.append(Picture(plane, TWO_PLAYER_CAPTION))
    return found


def ppca_pictures(
    model: PPCA | BayesianPPCA, x: Tensor, feature_names: Sequence[str], answers: Mapping[str, Posterior]
) -> list[Picture]:
    """Loadings and scree plot.

    Args:
        model: with its loadings, or with draws of them in ``answers``.
        x: training rows, shape (rows, features).
        feature_names: of the columns.
        answers: posteriors by name; the guide's ("svi") is used where the loadings are latents.
    """
    values = x.double().cpu().numpy()
    eigenvalues = np.linalg.eigvalsh(np.cov(values.T, bias=True))
    if isinstance(model, PPCA):
        weights = model.loadings.detach().cpu().numpy()
        noise, whose = float(model.noise_scale.detach()) ** 2, "the model's"
    elif "svi" in answers:
        weights, noise = _mean_loadings(answers["svi"], model.latent_dim)
        whose = "the posterior mean's"
    else:
        return []
    return [
        Picture(
            loadings(weights, feature_names),
            f"What {whose} principal axes are made of, the longest axis first: features with large "
            "loadings of one sign rise and fall together. The sign of a whole axis means nothing.",
        ),
        Picture(
            scree(eigenvalues, model.latent_dim, noise),
            "Eigenvalues of the data's covariance: the kept axes should stand out from the rest, and the "
            "noise level should run through the middle of what is left.",
        ),
    ]


def vae_pictures(
    model: VAE, guide: AmortisedNormal, x: Tensor, image_shape: tuple[int, ...], part: str, seed: int
) -> list[Picture]:
    """Reconstructions, samples and interpolation.

    Args:
        model, guide: the fitted pair.
        x: images, shape (rows, pixels).
        image_shape: (height, width) or (height, width, 3).
        part: which rows these are, in a word.
        seed: of the samples.
    """
    x = x[:NUM_IMAGES]
    with seeded(seed):
        grid = {
            f"{part} data": x,
            "reconstruction (decoder's mean)": reconstruct(model, guide, x),
            "sample from the prior (decoder's mean)": model.sample(NUM_IMAGES),
            "sample from the prior (draw)": model.sample(NUM_IMAGES, draw=True),
            "interpolation of the first two (decoder's mean)": interpolate(
                model, guide, x[0], x[min(1, len(x) - 1)], num_steps=NUM_IMAGES
            ),
        }
    images = {name: values.detach().cpu().numpy() for name, values in grid.items()}
    caption = (
        "Reconstructions should keep the shape of the data above them, samples should look like data, and "
        "the line between two images should pass through images that look like data."
    )
    return [Picture(image_grid(images, image_shape), caption)]


@torch.no_grad()
def plane_picture(guide: nn.Module, x: Tensor, labels: np.ndarray | None, part: str) -> Picture:
    """Posterior means of rows.

    Args:
        guide: with a method ``encode``.
        x: rows.
        labels: their classes.
        part: which rows these are, in a word.
    """
    points = guide.encode(x).mean.cpu().numpy()  # type: ignore[operator]
    caption = (
        f"Posterior means of the {part} rows in the two latent dimensions that vary most: rows that are "
        "alike should lie together."
    )
    return Picture(latent_plane(points, labels), caption)


def _mean_loadings(answer: Posterior, latent_dim: int) -> tuple[np.ndarray, float]:
    """Loadings of the mean of WWᵀ, which has no sign and no rotation, and the mean of σ²."""
    columns = answer.draws["loadings"].transpose("chain", "draw", "component", "feature").to_numpy()
    columns = columns.reshape(-1, *columns.shape[2:])
    values, vectors = np.linalg.eigh(np.einsum("nki,nkj->ij", columns, columns) / len(columns))
    chosen = slice(None, -latent_dim - 1, -1)
    weights = vectors[:, chosen] * np.sqrt(np.maximum(values[chosen], 0.0))
    return weights, float((answer.draws["noise_scale"] ** 2).mean())
