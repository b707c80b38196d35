"""What a fit says of itself, by any method: which one and why, where it ended, how far from the best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ppl_vae.base.notebook import Tone, banner, panel, table
from ppl_vae.base.plain import Plain
from ppl_vae.base.wording import with_error
from ppl_vae.inference.evidence.elbo import ELBO
from ppl_vae.inference.fitting.stopping import Stopping
from ppl_vae.program.layout import Layout

__all__ = ["NAMES", "Choice", "Distance", "EvidenceEstimate", "Fit", "Method", "final_particles"]

Method = Literal["svi", "natural", "deterministic", "em", "ep"]
NAMES: dict[Method, str] = {
    "svi": "SVI",
    "natural": "natural gradients",
    "deterministic": "deterministic VI",
    "em": "EM",
    "ep": "expectation propagation",
}
# Nats that nobody needs to be told more exactly.
NOTHING = 1e-4
_WORDS: dict[bool | None, tuple[str, Tone]] = {
    True: ("converged", "good"),
    False: ("not converged", "warn"),
    None: ("convergence not judged", "neutral"),
}


@dataclass(frozen=True)
class Choice(Plain):
    """How a fit is made, and why.

    Attributes:
        method: "svi", "natural", "deterministic", "em" or "ep".
        reason: a clause, such as "the guide is mean-field with 10 latents".
        alternatives: the other methods that take the pair.
        instead_of: the method that was begun and did not arrive in time; "" for none.
    """

    method: Method
    reason: str
    alternatives: tuple[Method, ...] = ()
    instead_of: Method | Literal[""] = ""

    def __str__(self) -> str:
        others = " or ".join(f"method={name!r}" for name in self.alternatives)
        return f"fit by {NAMES[self.method]}: {self.reason}" + (f" (or {others})" if others else "")


@dataclass(frozen=True)
class Distance(Plain):
    """An estimated distance to the optimum of a guide's family.

    Attributes:
        value: in nats, free of bias, so that it may be negative.
        std_error: its Monte Carlo error, by leaving out groups of draws.
        num_draws: of which it was estimated.
    """

    value: float
    std_error: float
    num_draws: int

    @property
    def upper(self) -> float:
        """Two standard errors above the estimate, in nats; at least 0."""
        return max(self.value, 0.0) + 2 * self.std_error

    def __str__(self) -> str:
        if self.upper < NOTHING:
            return f"less than {NOTHING:g} nats"
        return f"{with_error(self.value, self.std_error)} nats"


@dataclass(frozen=True)
class EvidenceEstimate(Plain):
    """What a method that has no bound says log p(x) is.

    Attributes:
        log_evidence: in nats for the whole data. It may be too high as well as too low, by an error that the
            method does not know: importance sampling from the guide judges it.
        approximation: by name, such as "expectation propagation".
    """

    log_evidence: float
    approximation: str

    def __str__(self) -> str:
        return f"log p(x) ≈ {self.log_evidence:.2f} nats by {self.approximation}, no bound"

    @property
    def sentence(self) -> str:
        """The same where the curve of the fit is shown."""
        who = f"{self.approximation[0].upper()}{self.approximation[1:]}"
        return (
            f"{who} estimates log p(x) as {self.log_evidence:.2f} nats, which the curve shows by step: it is "
            "no bound, and may be too high as well as too low."
        )


@dataclass(frozen=True, eq=False, repr=False)
class Fit:
    """What a fit did. The parameters themselves stay in the pair.

    Attributes:
        elbo: the objective's estimate at every step (the ELBO or the IWAE bound), in nats for the whole
            data, shape (steps,). Of expectation propagation, its estimate of log p(x), which is no bound.
        held_out: step and held-out objective per unit at every check, shape (checks, 2).
        final: the ELBO of the training data under the final parameters, with its error and parts.
        steps: number of steps.
        seconds: wall time, resumed runs included.
        converged: whether ten times as many steps are expected to gain no more than the tolerance; None where
            that is not known, after a fixed number of steps whose ELBO has levelled off (see `convergence`).
        reason: the numbers behind it in words.
        engine: how the steps ran: "pyro" (stock), "traced" (a graph, operation by operation), "compiled",
            "quadrature" (natural gradients), "formulas" (EM), or "moments" (expectation propagation).
        compile_seconds: what compiling or loading the compiled graph took, part of ``seconds``.
        stopping: why the fit ended where it did, if it was to stop by itself.
        method: "SVI", "natural gradients", "deterministic VI", "EM" or "expectation propagation".
        distance: the estimated distance to the best of the guide's family, for methods that know it.
        choice: why that method, where it was chosen.
        estimate: of log p(x), of a method that has no bound.
    """

    elbo: np.ndarray
    held_out: np.ndarray
    final: ELBO
    steps: int
    seconds: float
    converged: bool | None
    reason: str
    engine: str
    compile_seconds: float
    stopping: Stopping | None = None
    method: str = "SVI"
    distance: Distance | None = None
    choice: Choice | None = None
    estimate: EvidenceEstimate | None = None

    def to_json(self) -> dict[str, Any]:
        """All but the curves, in plain values; the ELBO with its parts, in nats for the whole data."""
        parts = {name: getattr(self, name) for name in ("stopping", "distance", "choice", "estimate")}
        final = self.final
        return {
            "elbo": final.value, "elbo_std_error": final.std_error, "elbo_mean": final.mean,
            "reconstruction": final.reconstruction, "kl": final.kl, "kl_is_analytic": final.kl_is_analytic,
            "num_units": final.num_units, "steps": self.steps, "seconds": self.seconds,
            "converged": self.converged, "reason": self.reason, "engine": self.engine,
            "compile_seconds": self.compile_seconds, "method": self.method,
            **{name: None if part is None else part.to_json() for name, part in parts.items()},
        }  # fmt: skip

    def __repr__(self) -> str:
        word, _ = _WORDS[self.converged]
        elbo = with_error(self.final.value, self.final.std_error)
        also = "" if self.estimate is None else f"; {self.estimate}"
        took = f"{self.steps:,} steps, {self.engine}, {self.seconds:.0f} s"
        return f"Fit({took}: ELBO {elbo} nats; {word}{also})"

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        word, tone = _WORDS[self.converged]
        rows: list[tuple[str, object]] = [
            ("ELBO of the training data, in nats", with_error(self.final.value, self.final.std_error)),
            ("reconstruction", self.final.reconstruction),
            ("KL to the prior", self.final.kl),
            (f"ELBO of one of {self.final.num_units:,} units", self.final.mean),
            ("held-out objective per unit, last", self.held_out[-1, 1] if len(self.held_out) else "–"),
            ("seconds", self.seconds),
        ]
        if self.estimate is not None:
            estimate = f"log p(x) by {self.estimate.approximation}, no bound, in nats"
            rows.insert(1, (estimate, self.estimate.log_evidence))
        return panel(
            f"Fit by {self.method}: {self.steps:,} steps, {self.engine}",
            banner(word.upper(), tone, self.reason),
            table(["", "value"], rows),
        )


def final_particles(layout: Layout, late: bool, budget: int = 2**20) -> int:
    """Draws for the reported ELBO: many where they cost nothing, few where units average the noise.

    After the time has run out (``late``), two where each runs the programs anew.
    """
    fewest = 4 if layout.num_units >= 1000 else 16
    if not layout.vectorized:
        return 2 if late else fewest
    return min(1000, max(fewest, budget // (layout.num_units * layout.event_size)))
