"""The options of a check."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.arguments import check_real
from ppl_vae.base.clock import Clock
from ppl_vae.diagnostics.comparison.compare import Identifiable
from ppl_vae.diagnostics.verdict.case import Listed
from ppl_vae.diagnostics.verdict.listed import CHECKS
from ppl_vae.diagnostics.verdict.outcome import Check
from ppl_vae.diagnostics.verdict.rule import Rule

__all__ = ["CheckKeywords", "CheckOptions"]


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """The options of a check. A budget that is none raises `InputError`.

    Attributes:
        reference: draws from p(z | x) that are already there; by default exact ones where the model knows
            them, else NUTS.
        identifiable: functions of the latents to compare instead of the latents: takes and gives a data
            set with dimensions (chain, draw, …). By default what the model itself says is identifiable.
        calibrate: whether to spend what is left of the budget on simulation-based calibration.
        budget: seconds, or a clock that already runs. The important checks come first; every part looks at
            the clock while it runs. What was cut short is said (`Check.cut`), and depends on the time that
            things take; all else is the same with the same seed.
        rule: the thresholds of the verdict; see `verdict.decide`.
        seed: of everything random.
        callback: called with the check as it is once the verdict stands, before data are simulated.
        checks: what is checked, in order; ``(*CHECKS, Listed("mine", mine))`` of `verdict.listed` and
            `verdict.case` adds one.
        progress: whether to show progress bars on a terminal.
        told: the name of ``callback`` in 0.1; goes with the next version.
    """

    reference: Posterior | None = None
    identifiable: Identifiable | None = None
    calibrate: bool = True
    budget: float | Clock = 120.0
    rule: Rule | None = None
    seed: int = 0
    callback: Callable[[Check], None] | None = None
    checks: Sequence[Listed] = CHECKS
    progress: bool = True
    told: Callable[[Check], None] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.budget, Clock):
            check_real(lambda v: v >= 0, "is a number of seconds, or a clock", budget=self.budget)
        if self.told is not None:
            said = "told= of check is now called callback=; the old name goes with the next version"
            warnings.warn(said, DeprecationWarning, stacklevel=4)
            object.__setattr__(self, "callback", self.callback or self.told)

    def clock(self) -> Clock:
        """The budget as a clock; one that begins now where it is a number."""
        return self.budget if isinstance(self.budget, Clock) else Clock(self.budget)


class CheckKeywords(TypedDict, total=False):
    """The fields of `CheckOptions` as keywords; a test holds the two equal."""

    reference: Posterior | None
    identifiable: Identifiable | None
    calibrate: bool
    budget: float | Clock
    rule: Rule | None
    seed: int
    callback: Callable[[Check], None] | None
    checks: Sequence[Listed]
    progress: bool
    told: Callable[[Check], None] | None
