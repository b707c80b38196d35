"""What a Gaussian mixture of maximum likelihood can be asked for."""

from dataclasses import dataclass
from typing import TypedDict

from ppl_vae.base.arguments import check_real, check_whole
from ppl_vae.base.errors import InputError
from ppl_vae.models.mixture_em import COVARIANCES, Covariance

__all__ = ["GaussianMixtureKeywords", "GaussianMixtureOptions", "check_mixture"]


@dataclass(frozen=True)
class GaussianMixtureOptions:
    """What a Gaussian mixture can be asked for.

    Attributes:
        num_components: Components of the mixture.
        covariance: Covariances of the components: full, diagonal, spherical, or tied (one full for all).
        num_starts: Runs of EM, from as many k-means++ starts, the best of which the fit begins at, or with
            --method em is; 0 for the first start itself.
        min_eigenvalue: Solutions with a covariance whose smallest eigenvalue is below this share of the
            features' variances are singular, and are rejected.
    """

    num_components: int = 3
    covariance: Covariance = "full"
    num_starts: int = 10
    min_eigenvalue: float = 1e-3


class GaussianMixtureKeywords(TypedDict, total=False):
    """`GaussianMixtureOptions` as keywords."""

    num_components: int
    covariance: Covariance
    num_starts: int
    min_eigenvalue: float


def check_mixture(options: GaussianMixtureOptions) -> None:
    """Refuse options out of range.

    Raises:
        InputError: naming the option.
    """
    check_whole(1, num_components=options.num_components)
    check_whole(0, num_starts=options.num_starts)
    check_real(lambda v: 0 < v < 1, "is a share between 0 and 1", min_eigenvalue=options.min_eigenvalue)
    if options.covariance not in COVARIANCES:
        raise InputError(f"covariance is {options.covariance!r}; it is {', '.join(COVARIANCES)}")
