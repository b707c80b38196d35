"""The options of a fit, declared once."""

import math
from dataclasses import dataclass, field, fields
from typing import Literal, TypedDict, cast, get_args

from ppl_vae.base.arguments import check_real, check_whole
from ppl_vae.base.errors import InputError
from ppl_vae.engine.graph import Compile, check_compile
from ppl_vae.inference.fitting.objective import Objective

__all__ = ["FitKeywords", "FitOptions", "MethodName"]

MethodName = Literal["svi", "natural", "deterministic", "em", "ep", "auto"]
ObjectiveName = Literal["elbo", "mean-field", "iwae"]
# Which option belongs to the shell under which name; None: it is Python's alone.
STEPS, PARTICLES, PYTHON = {"shell": "--steps"}, {"shell": "--particles"}, {"shell": None}


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """The options of a fit. Values out of range raise `InputError`, naming the option.

    Attributes:
        method: "svi", or "natural" or "deterministic" for the best Gaussian guide of its family (`natural`,
            `fixed_noise`), or "auto", which takes those where they go and SVI where not, or "em" for a model
            that has EM, or "ep" for expectation propagation. Options but this, ``train``, ``tolerance`` and
            ``compile`` are SVI's alone, and the last two none of EM's and EP's.
        num_steps: number of Adam steps, in all; with ``stop``, the most.
        batch_size: entries of the data plate a step; all by default.
        lr: learning rate of the first step. It falls along a half cosine, or as ``stop`` says.
        lr_end: the last step's learning rate as a fraction of ``lr``; 1 keeps it constant.
        num_particles: draws of the guide a step.
        clip_norm: largest gradient norm, in units of nats; no clipping by default.
        kl_warmup: steps over which β, the weight of the latents' terms, rises from 0 to 1.
        train: "both", or "guide" to hold the model's parameters.
        objective: "elbo"; "mean-field", the ELBO with the KL of each site by formula where there is one; or
            "iwae", the importance-weighted bound of ``num_particles`` draws (Burda et al. 2016), which is
            right with minibatches too. In Python also an object of one's own with `Objective.value`.
        doubly_reparameterised: the guide's gradient of that bound by Tucker et al. (2019): less noise.
        check_every: steps between checks of the objective on held-out data.
        tolerance: in nats a unit: with ``stop`` of what ten times as many steps are expected to gain, else of
            the rise over the last quarter of the steps (see `convergence`). Of other methods, where it is not
            the default: distance to the best of the guide's family, in nats for the whole data.
        average: fraction of the steps, at the end, over which the unconstrained parameters are averaged
            (every fifth iterate; Polyak and Juditsky 1992). The noise of single gradients then no longer
            limits the fit.
        stop: whether to end the fit where going on is expected to gain less than the tolerance. The
            learning rate is then constant until the iterates are stationary (split R-hat of their tail at
            most 1.1) or rise no more, falls by a factor of 0.3, and so on; the answer is the average of
            the iterates' tail. It is judged by the ELBO of held-out data where there are any, else by that
            of the data, under common random numbers. The rule begins after the KL warm-up. Only in the
            last tenth below the cap does ``num_steps`` play a part: the learning rate is then lowered to
            nothing, and the fit counts as not converged. ``lr_end`` and ``average`` have no part in it.
            A deadline (`clock.deadline`) ends such a fit as the cap does, and any other with `OutOfTime`.
            See `Fit.stopping` (Dhaka et al. 2020; Welandawe et al. 2024).
        whiten: start a full-rank or low-rank Gaussian AutoGuide at the best of a few starts, and step in
            coordinates in which its covariance there is the identity: one learning rate then serves models of
            any units, here at most √(tolerance / number of coordinates). With ``stop``, the estimated
            distance from the best of the guide's family judges as well: the rate is not lowered while that
            falls, and the fit ends where it is within the tolerance.
        precision: "bfloat16" runs the programs under autocast; "float32", as None, as they are.
        compile: "on" (or True) traces and compiles the steps, "off" (or False) runs stock Pyro, and "auto"
            decides by the number of steps; see `steps.engine_of_fit`. The numbers are the same to rounding.
        checkpoint_every: steps between checkpoints.
    """

    method: MethodName = "svi"
    num_steps: int = field(default=2000, metadata=STEPS)
    batch_size: int | None = None
    lr: float = 0.01
    lr_end: float = field(default=0.01, metadata=PYTHON)
    num_particles: int = field(default=1, metadata=PARTICLES)
    clip_norm: float | None = None
    kl_warmup: int = 0
    train: Literal["both", "guide"] = "both"
    objective: ObjectiveName | Objective = "elbo"
    doubly_reparameterised: bool = False
    check_every: int = field(default=200, metadata=PYTHON)
    tolerance: float = field(default=0.05, metadata=PYTHON)
    average: float = 0.0
    stop: bool = field(default=False, metadata={"shell": "--stop/--no-stop"})
    whiten: bool = False
    precision: Literal["float32", "bfloat16"] | None = None
    compile: Compile = "auto"
    checkpoint_every: int = field(default=500, metadata=PYTHON)

    def __post_init__(self) -> None:
        check_whole(
            1, num_steps=self.num_steps, batch_size=1 if self.batch_size is None else self.batch_size,
            num_particles=self.num_particles, check_every=self.check_every,
            checkpoint_every=self.checkpoint_every,
        )  # fmt: skip
        check_whole(0, kl_warmup=self.kl_warmup)
        self._check_reals()
        self._check_words()
        if self.stop and self.average:
            raise InputError(
                "average belongs to a fixed number of steps; a fit that stops by itself averages its tail "
                "anyway"
            )
        check_compile(self.compile)

    def keywords(self) -> "FitKeywords":
        """The options as `svi.fit` takes them."""
        return cast(FitKeywords, {f.name: getattr(self, f.name) for f in fields(self)})

    def _check_reals(self) -> None:
        positive = "must be a positive number"
        check_real(lambda v: 0 < v < math.inf, positive, lr=self.lr, tolerance=self.tolerance)
        check_real(lambda v: 0 <= v <= 1, "is a fraction of the steps, from 0 to 1", average=self.average)
        if self.clip_norm is not None:
            check_real(lambda v: v > 0, positive, clip_norm=self.clip_norm)

    def _check_words(self) -> None:
        if self.precision not in (None, "float32", "bfloat16"):
            raise InputError(
                f"precision={self.precision!r} is not known; it is 'float32' or 'bfloat16', or None"
            )
        if self.method not in get_args(MethodName):
            raise InputError(
                f"method={self.method!r} is not known; it is {', '.join(map(repr, get_args(MethodName)))}"
            )
        if self.train not in ("both", "guide"):
            raise InputError(f"train={self.train!r} is not known; it is 'both' or 'guide'")
        if self.objective not in get_args(ObjectiveName) and not isinstance(self.objective, Objective):
            raise InputError(
                f"objective={self.objective!r} is not known; it is 'elbo', 'mean-field' or 'iwae', or an "
                "object with a method value"
            )
        if self.doubly_reparameterised and self.objective != "iwae":
            raise InputError("doubly_reparameterised belongs to objective='iwae'")


class FitKeywords(TypedDict, total=False):
    """The fields of `FitOptions` as keywords; a test holds the two equal."""

    method: MethodName
    num_steps: int
    batch_size: int | None
    lr: float
    lr_end: float
    num_particles: int
    clip_norm: float | None
    kl_warmup: int
    train: Literal["both", "guide"]
    objective: ObjectiveName | Objective
    doubly_reparameterised: bool
    check_every: int
    tolerance: float
    average: float
    stop: bool
    whiten: bool
    precision: Literal["float32", "bfloat16"] | None
    compile: Compile
    checkpoint_every: int
