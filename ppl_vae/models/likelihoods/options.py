"""The options of likelihoods, for every model that has one."""

from dataclasses import dataclass
from typing import Literal, TypedDict

__all__ = ["LikelihoodKeywords", "LikelihoodOptions"]


@dataclass(frozen=True, kw_only=True)
class LikelihoodOptions:
    """What a model can be asked for whose data have a likelihood given a decoder's outputs.

    Attributes:
        likelihood: bernoulli, gaussian, gaussian-fixed, gaussian-pixel, gaussian-heteroscedastic, laplace,
            student-t, continuous-bernoulli, discretised-logistic, logistic-mixture, categorical, poisson or
            negative-binomial.
        start_scale: Where the scale of a Gaussian, Laplace or Student-t likelihood starts, in the units of x.
            0.3 suits standardised data and greys in [0, 1] (default: 0.3)
        min_scale: Lower bound of that scale, in the units of x (default: a thirtieth of where it starts)
        floor: Whether that scale has a lower bound. Without one, a feature that never changes gives the ELBO
            no upper bound.
        mixture_components: Logistic distributions a feature in a logistic-mixture (default: 5)
        num_levels: Levels of greys, evenly spaced in [0, 1], or of categories, numbered from 0 (default: 256
            of greys; of categories, as many as the training data have)
        exposure: What counts are counted in (poisson, negative-binomial): total, a row's sum, of which the
            decoder gives the shares; or none.
    """

    likelihood: str = "bernoulli"
    start_scale: float | None = None
    min_scale: float | None = None
    floor: bool = True
    mixture_components: int | None = None
    num_levels: int | None = None
    exposure: Literal["none", "total"] = "none"


class LikelihoodKeywords(TypedDict, total=False):
    """`LikelihoodOptions` as keywords."""

    likelihood: str
    start_scale: float | None
    min_scale: float | None
    floor: bool
    mixture_components: int | None
    num_levels: int | None
    exposure: Literal["none", "total"]
