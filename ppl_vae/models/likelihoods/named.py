"""Likelihoods by name."""

from ppl_vae.base.errors import InputError
from ppl_vae.models.likelihoods.base import LIKELIHOODS, Likelihood
from ppl_vae.models.likelihoods.bernoulli import Bernoulli
from ppl_vae.models.likelihoods.gaussian import SCALES, Gaussian

__all__ = ["make_likelihood"]


def make_likelihood(name: str, num_features: int, start_scale: float | None = None) -> Likelihood:
    """The likelihood of that name.

    Args:
        name: one of `LIKELIHOODS`.
        num_features: d.
        start_scale: where a Gaussian's σ starts, in the units of x, its lower bound being a thirtieth of it.

    Raises:
        InputError: naming the ones there are, or for a scale that is none.
    """
    if start_scale is not None and name == "bernoulli":
        raise InputError("start_scale belongs to the Gaussian likelihoods, and the likelihood is bernoulli")
    if name == "bernoulli":
        return Bernoulli()
    if name not in SCALES:
        raise InputError(f"likelihood {name!r} is not known; there are {', '.join(LIKELIHOODS)}")
    if start_scale is None:
        return Gaussian(num_features, SCALES[name])
    if not (isinstance(start_scale, int | float) and 0 < start_scale < float("inf")):
        raise InputError(f"start_scale is {start_scale!r}; it must be a positive number")
    return Gaussian(num_features, SCALES[name], start_scale=start_scale, min_scale=start_scale / 30)
