"""Natural-gradient variational inference for Gaussian guides: variational Newton to the best of the family.

Models of sparse linear predictors of Gaussian states, as skills are, go by quadrature (`quadrature`),
without a draw; all others by common draws of the guide and gradients of the density.

Sources: Khan and Rue, "The Bayesian Learning Rule", JMLR 24 (2023); Khan et al., "Fast and Scalable Bayesian
Deep Learning by Weight-Perturbation in Adam", ICML 2018; Giordano, Ingram and Broderick, "Black Box
Variational Inference with a Deterministic Objective", JMLR 25 (2024), for draws that are held.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Unpack

from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.inference.fitting.factors import quadrature
from ppl_vae.inference.fitting.factors.quadrature import quadrature_elbo
from ppl_vae.inference.fitting.fit_result import Distance, Fit
from ppl_vae.inference.fitting.gaussians.distance import distance
from ppl_vae.inference.fitting.gaussians.gaussian import Gaussian
from ppl_vae.inference.fitting.gaussians.gaussian_fit import GaussianKeywords, GaussianOptions, fit_gaussian
from ppl_vae.inference.fitting.gaussians.newton import ascend
from ppl_vae.inference.fitting.gaussians.target import Target
from ppl_vae.program.pair import Pair

__all__ = ["MOST_DIMENSIONS", "NaturalGradients", "fit", "quadrature_elbo"]

# Coordinates, beyond which a dense curvature takes more memory and time than it is worth.
MOST_DIMENSIONS = 1500
# Common draws at first: at least, and a dimension (two would do, were they exact).
FEWEST, A_DIMENSION = 64, 4


def fit(
    pair: Pair,
    *data: Any,
    num_nodes: int | None = None,
    train: Literal["guide", "both"] = "guide",
    seed: int = 0,
    progress: bool = True,
    **options: Unpack[GaussianKeywords],
) -> Fit:
    """Fit a Gaussian guide by natural gradients, in place.

    A model with the ability `LinearFactors` (or `PairwiseFactors`) under one of the guides ``AutoNormal``,
    `ChainNormal`, `JointNormal` and ``AutoMultivariateNormal`` is fitted by Gauss–Hermite quadrature,
    from where the guide stands, until an iteration of full length raises the ELBO by no more than the
    tolerance (1e-4 nats unless given) and twice the nodes change it by no more. Every other pair
    is fitted on common draws of its guide, from the best of a few starts, until its ELBO is no further than
    the tolerance from the best of the guide's family, by draws to which it was not fitted.

    Args:
        pair: with one of these guides, of Pyro's Gaussian AutoGuides, or an AutoGuideList of those. The
            guide's parameters are changed in their own precision; all arithmetic is in float64.
        data: the programs' full data.
        num_nodes: nodes of the quadrature's rule; by default as many as it takes.
        train: "both" to learn the model's parameters as well, by the ELBO at its best guide: by quadrature
            alone. Otherwise they are held.
        seed: of the draws.
        progress: whether to show a progress bar on a terminal.
        options: the fields of `GaussianOptions`; quadrature takes ``tolerance`` and ``max_iterations``.

    Returns:
        A `Fit` whose ``elbo`` holds the ELBO after every iteration, on the draws or by quadrature, and whose
        ``distance`` is the estimated distance to the best of the family. By quadrature nothing is drawn: the
        engine is "quadrature", and ``final`` the guide's `quadrature_elbo` with twice the nodes.

    Raises:
        InputError: if the guide is another, the model has more than 1,500 latents (but by quadrature), or
            parameters to learn where quadrature does not go, data or options are not acceptable, or the ELBO
            is finite at no start.
    """
    if quadrature.fits(pair):
        asked = GaussianOptions(**options)
        return quadrature.fit(
            pair,
            *data,
            tolerance=options.get("tolerance", 1e-4),
            max_iterations=asked.max_iterations,
            num_nodes=num_nodes,
            train=train,
            progress=progress,
        )
    if train == "both" and (count := _learnt(pair, *data)):
        raise InputError(
            f"the model has {count:,} parameters to learn, and natural gradients on draws hold them; take "
            "train='guide', or svi.fit"
        )
    return fit_gaussian(NaturalGradients(), pair, data, GaussianOptions(**options), seed, progress)


def _learnt(pair: Pair, *data: Any) -> int:
    """Numbers of the model that have gradients."""
    pair.initialise(*data)
    own = pair.parameters("guide")
    return sum(leaf.numel() for name, leaf in pair.parameters().items() if name not in own)


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
            target.refuse_far(here.at)
            if step.rise <= least * step.length and (step.gain <= least or not step.length):
                break
        return here.at, "natural gradients"

    def distance(self, target: Target, at: Gaussian, noise: Tensor, num_draws: int, seed: int) -> Distance:
        """See `Method`."""
        return distance(target, at, num_draws, seed)
