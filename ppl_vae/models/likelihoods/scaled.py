"""What likelihoods with a scale share: where it starts, and the bound below it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.base.arguments import check_real
from ppl_vae.base.errors import InputError
from ppl_vae.models.likelihoods.base import Likelihood

if TYPE_CHECKING:
    from ppl_vae.models.likelihoods.options import LikelihoodOptions

__all__ = ["START_SCALE", "ScaledLikelihood", "check_scale", "inverse_softplus", "no_floor", "scales_of"]

START_SCALE, MIN_SCALE = 0.3, 0.01


class ScaledLikelihood(Likelihood):
    """A density around a location, whose scale is bounded below so that no feature can be explained away.

    A feature that never changes would else give the ELBO no upper bound: at its mean, log p rises by ln 10
    with every decade by which the scale falls.

    Args:
        num_scales: 1, or d for one a feature.
        learnt: whether the scale is a parameter, or stays where it starts.
        start_scale: where the scale starts, in the units of x.
        min_scale: its lower bound, in the units of x; None for none.

    Raises:
        InputError: for a bound that is not positive or not below the start.
    """

    own_options: ClassVar[tuple[str, ...]] = ("start_scale", "min_scale", "floor")

    def __init__(
        self, num_scales: int, *, learnt: bool = True, start_scale: float = START_SCALE,
        min_scale: float | None = MIN_SCALE,
    ) -> None:  # fmt: skip
        super().__init__()
        check_scale(start_scale, min_scale)
        self.min_scale = min_scale or 0.0
        raw = torch.full((num_scales,), start_scale - self.min_scale).expm1().log()
        if learnt:
            self.raw_scale = nn.Parameter(raw)
        else:
            self.register_buffer("raw_scale", raw)

    @classmethod
    def from_options(cls, options: LikelihoodOptions, num_features: int, num_channels: int) -> Self:
        """See `Likelihood.from_options`: with one scale a feature."""
        start, least = scales_of(options)
        return cls(num_features, start_scale=start, min_scale=least)

    @property
    def scale(self) -> Tensor:
        """The scale, of shape (1,) or (d,), in the units of x."""
        return softplus(self.raw_scale) + self.min_scale

    def unbounded(self) -> str | None:
        """That the scale has no lower bound, where it is learnt and has none."""
        learnt = isinstance(self.raw_scale, nn.Parameter)
        return no_floor(self.name) if learnt and not self.min_scale else None


def no_floor(name: str) -> str:
    """What is wrong with a fit under this likelihood without a lower bound of its scale."""
    return (
        f"the scale of the {name} likelihood has no lower bound (no floor): the ELBO rises without limit "
        "where the scale of a feature that is reproduced exactly goes to 0, so that it has no maximum"
    )


def scales_of(options: LikelihoodOptions) -> tuple[float, float | None]:
    """Where a scale starts, and its lower bound: a thirtieth of it unless it is given, None without a floor.

    Raises:
        InputError: for scales that are none, and a lower bound of 0, for which no floor must be asked.
    """
    start, least = options.start_scale, options.min_scale
    if not options.floor and least:
        raise InputError(f"min_scale is {least:g}, and no floor was asked for (--no-floor): give one of them")
    if start is not None:
        check_real(lambda v: 0 < v < float("inf"), "must be a positive number", start_scale=start)
    usual = MIN_SCALE if start is None else start / 30
    start = START_SCALE if start is None else start
    if not options.floor:
        return start, None
    check_scale(start, usual if least is None else least)
    return start, usual if least is None else least


def check_scale(start_scale: float, min_scale: float | None) -> None:
    """Refuse a lower bound that is none, or not below the start.

    Raises:
        InputError: saying what it is for.
    """
    if min_scale == 0:
        raise InputError(
            "min_scale is 0; it must be positive: a feature that never changes would give the ELBO no upper "
            "bound (to see that happen, ask for no floor: --no-floor)"
        )
    if min_scale is not None and not 0 < min_scale < start_scale:
        raise InputError(f"min_scale is {min_scale}; it must be positive and below {start_scale}")


def inverse_softplus(x: Tensor) -> Tensor:
    """The number whose softplus is x > 0, without overflow."""
    return x + (-(-x).expm1()).log()
