"""Natural gradients for Gaussian guides of any model: variational Newton steps to the best of the family.

Sources: Khan and Rue, "The Bayesian Learning Rule", JMLR 24 (2023); Khan et al., "Fast and Scalable Bayesian Deep
Learning by Weight-Perturbation in Adam", ICML 2018; Giordano, Ingram and Broderick, "Black Box Variational
Inference with a Deterministic Objective", JMLR 25 (2024), for draws that are held.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.inference.fitting.distance import Distance, distance
from ppl_vae.inference.fitting.gaussian import Gaussian
from ppl_vae.inference.fitting.gaussian_fit import GaussianKeywords, GaussianOptions, fit_gaussian
from ppl_vae.inference.fitting.newton import ascend
from ppl_vae.inference.fitting.svi import Fit
from ppl_vae.inference.fitting.target import Target
from ppl_vae.program.pair import Pair

__all__ = ["MOST_DIMENSIONS", "NaturalGradients", "fit"]

# Coordinates, beyond which a dense curvature takes more memory and time than it is worth.
MOST_DIMENSIONS = 1500
# Common draws at first: at least, and a dimension (two would do, were they exact).
FEWEST, A_DIMENSION = 64, 4


def fit(
    pair: Pair, *data: Any, seed: int = 0, progress: bool = True, **options: Unpack[GaussianKeywords]
) -> Fit:
    """Fit a Gaussian guide by natural gradients.

    Args:
        pair: with one of Pyro's Gaussian AutoGuides, or an AutoGuideList of them, whose parameters are changed
            in place, in their own precision; all arithmetic is in float64. The model's parameters are held.
        data: the programs' full data.
        seed: of the draws.
        progress: whether to show a progress bar on a terminal.
        options: the fields of `GaussianOptions`.

    Returns:
        A `Fit` whose ``elbo`` holds the ELBO on the common draws after every iteration and whose ``distance``
        is the estimated distance to the best of the family.

    Raises:
        InputError: if the guide is another, the model has more than 1,500 latents, or the ELBO is finite at no
            start.
    """
    return fit_gaussian(NaturalGradients(), pair, data, GaussianOptions(**options), seed, progress)


class NaturalGradients:
    """Steps of `newton` until a whole one raises the ELBO no more."""

    name = "natural gradients"

    def first_draws(self, start: Gaussian) -> int:
        """See `Method`."""
        dim = start.family.dim
        if dim > MOST_DIMENSIONS:
            raise InputError(
                f"natural gradients work with dense matrices of the latents, here {dim:,}; of more than "
                f"{MOST_DIMENSIONS:,} take fixed_noise.fit or svi.fit"
            )
        return max(FEWEST, A_DIMENSION * dim)

    def maximise(
        self,
        target: Target,
        start: Gaussian,
        noise: Tensor,
        options: GaussianOptions,
        seen: Callable[[float], None],
    ) -> tuple[Gaussian, str]:
        """See `Method`."""
        here, least = target.expect(start, noise), options.tolerance / 10
        for _ in range(options.max_iterations):
            step = ascend(target, here)
            here = step.there
            seen(here.elbo)
            if step.rise <= least * step.length and (step.gain <= least or not step.length):
                break
        return here.at, "natural gradients"

    def distance(self, target: Target, at: Gaussian, noise: Tensor, num_draws: int, seed: int) -> Distance:
        """See `Method`."""
        return distance(target, at, num_draws, seed)
