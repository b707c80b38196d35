"""The options of simulation-based calibration, declared once."""

from dataclasses import dataclass
from typing import TypedDict

from ppl_vae.base.arguments import PROBABILITY, check_real, check_whole
from ppl_vae.engine.graph import Compile, check_compile

__all__ = ["CalibrationKeywords", "CalibrationOptions"]


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """The options of simulation-based calibration. Values out of range raise `InputError`.

    Attributes:
        num_simulations: number of simulated truths.
        num_draws: L, draws of every answer; NUTS is thinned until its draws are nearly independent.
        refit: whether the guide is fitted anew to each simulated data set, the model held. By default only
            a guide that does not look at its data is; one that does (an amortised one) answers as it is.
        alpha: probability of any false alarm at all.
        budget: seconds after which simulations end; 50, 100, 200, 350 or more are then kept, and fewer than
            50 are refused.
        num_steps, num_particles, lr: of the refits; the learning rate is chosen by a pilot run by default.
        compile: whether densities and steps are compiled; False runs stock Pyro, which takes far longer.
    """

    num_simulations: int = 500
    num_draws: int = 100
    refit: bool | None = None
    alpha: float = 0.05
    budget: float | None = None
    num_steps: int = 600
    num_particles: int = 16
    lr: float | None = None
    compile: Compile = "auto"

    def __post_init__(self) -> None:
        check_whole(2, num_simulations=self.num_simulations)
        check_whole(4, num_draws=self.num_draws)
        check_real(lambda v: 0 < v < 1, PROBABILITY, alpha=self.alpha)
        if self.budget is not None:
            check_real(lambda v: v > 0, "must be a positive number of seconds", budget=self.budget)
        check_compile(self.compile)


class CalibrationKeywords(TypedDict, total=False):
    """The fields of `CalibrationOptions` as keywords; a test holds the two equal."""

    num_simulations: int
    num_draws: int
    refit: bool | None
    alpha: float
    budget: float | None
    num_steps: int
    num_particles: int
    lr: float | None
    compile: Compile
