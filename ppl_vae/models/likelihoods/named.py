"""Likelihoods by name."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TypeVar

from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.models.likelihoods.base import LIKELIHOODS, Likelihood
from ppl_vae.models.likelihoods.bernoulli import Bernoulli
from ppl_vae.models.likelihoods.categorical import Categorical
from ppl_vae.models.likelihoods.continuous_bernoulli import ContinuousBernoulli
from ppl_vae.models.likelihoods.gaussian import SCALES, Gaussian
from ppl_vae.models.likelihoods.heteroscedastic import HeteroscedasticGaussian
from ppl_vae.models.likelihoods.laplace import Laplace
from ppl_vae.models.likelihoods.logistic import DiscretisedLogistic
from ppl_vae.models.likelihoods.logistic_mixture import LogisticMixture
from ppl_vae.models.likelihoods.negative_binomial import NegativeBinomial
from ppl_vae.models.likelihoods.options import LikelihoodOptions
from ppl_vae.models.likelihoods.poisson import Poisson
from ppl_vae.models.likelihoods.student_t import StudentT

__all__ = ["CLASSES", "completed", "likelihood_of", "make_likelihood"]

Options = TypeVar("Options", bound=LikelihoodOptions)

CLASSES: Mapping[str, type[Likelihood]] = {
    **dict.fromkeys(SCALES, Gaussian),
    **{
        cls.name: cls
        for cls in (
            Bernoulli, HeteroscedasticGaussian, Laplace, StudentT, ContinuousBernoulli, DiscretisedLogistic,
            LogisticMixture, Categorical, Poisson, NegativeBinomial,
        )
    },
}  # fmt: skip


def completed(options: Options, x: Tensor) -> Options:
    """Options with what they leave to data of shape (N, d): how many levels there are of categories."""
    if options.likelihood != "categorical" or options.num_levels is not None or not x.numel():
        return options
    return replace(options, num_levels=max(2, int(x.max()) + 1))


def likelihood_of(
    options: LikelihoodOptions, num_features: int, image_shape: Sequence[int] | None = None
) -> Likelihood:
    """The likelihood that options ask for.

    Args:
        options: a model's own, of which those of `LikelihoodOptions` are read.
        num_features: d.
        image_shape: how a row folds into an image, (height, width) or (height, width, channels).

    Raises:
        InputError: for an unknown name, or an option that is out of range or belongs to others.
    """
    name = options.likelihood
    if name not in CLASSES:
        raise InputError(f"likelihood {name!r} is not known; there are {', '.join(LIKELIHOODS)}")
    cls = CLASSES[name]
    for field in fields(LikelihoodOptions):
        if field.name in ("likelihood", *cls.own_options) or getattr(options, field.name) == field.default:
            continue
        owners = ", ".join(other for other in LIKELIHOODS if field.name in CLASSES[other].own_options)
        raise InputError(f"{field.name} belongs to the likelihoods {owners}, and the likelihood is {name}")
    channels = [*(image_shape or ()), 1, 1, 1][2]
    return cls.from_options(options, num_features, channels)


def make_likelihood(name: str, num_features: int, start_scale: float | None = None) -> Likelihood:
    """The likelihood of that name, with the defaults of its other options; see `likelihood_of`.

    Args:
        name: one of `LIKELIHOODS`.
        num_features: d.
        start_scale: where a scale starts, in the units of x, its lower bound being a thirtieth of it.

    Raises:
        InputError: naming the ones there are, or for a scale that is none.
    """
    return likelihood_of(LikelihoodOptions(likelihood=name, start_scale=start_scale), num_features)
