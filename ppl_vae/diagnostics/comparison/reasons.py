"""Why a comparison came out as it did: reasons as values, and the one place that makes sentences of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_vae.base.plain import Plain
from ppl_vae.base.wording import distinct_texts, with_error

__all__ = ["Reason", "ess_in_words", "reasons_in"]

NAN = math.nan
# So many times as many draws are still advised.
MOST_DRAWS = 50


@dataclass(frozen=True, kw_only=True)
class Reason(Plain):
    """One thing that speaks for or against an answer, or a reference.

    Attributes:
        criterion: what was asked: "mean", "sd", "5 %", "95 %", "shape", "correlation", "variance" or "joint"
            is beyond its tolerance; "agrees"; "open" (see ``of``); "few" effective draws; "finite" draws;
            "r_hat", "divergences" or "ess" of chains; "off", the worst of all; "said", words of elsewhere.
        answer: whose reason it is; "" for the reference's.
        of: the criterion that is open or off.
        quantity: the worst of those that it is about.
        size: of its error, as the criterion measures it.
        error: Monte Carlo error of that.
        expected: the reference's value, of correlations.
        limits: what was tolerated.
        count: how many quantities, or draws, it is about, and
        total: of how many.
        times: so many times as many draws would tell.
        who: whose draws it speaks of, in words; of "said" the words.
    """

    criterion: str
    answer: str = ""
    of: str = ""
    quantity: str = ""
    size: float = NAN
    error: float = NAN
    expected: float = NAN
    limits: tuple[float, ...] = ()
    count: int = 0
    total: int = 0
    times: float = NAN
    who: str = ""

    @property
    def sentence(self) -> str:
        """It in words, without the name of the answer."""
        return _SENTENCES[self.criterion](self)

    def __str__(self) -> str:
        return f"{self.answer}: {self.sentence}" if self.answer else self.sentence

    def to_json(self) -> dict[str, Any]:
        """What is known of it."""
        return {name: value for name, value in super().to_json().items() if value not in (None, "", [])}


def reasons_in(content: Mapping[str, Any]) -> tuple[Reason, ...]:
    """The reasons of a comparison that was kept as JSON; those of 0.1, which kept sentences, in its words."""
    if "why" in content:
        return tuple(Reason.from_json(each) for each in content["why"])
    found = []
    for text in content["reasons"]:
        name, _, rest = text.partition(": ")
        known = name in content.get("verdicts", ("svi",))
        found.append(Reason(criterion="said", answer=name if known else "", who=rest if known else text))
    return tuple(found)


def ess_in_words(size: float, limit: float) -> str:
    """An effective sample size, in as many digits as tell it from the limit."""
    text = f"{size:,.0f}"
    return distinct_texts(size, limit)[0] if text == f"{limit:.0f}" else text


# What each criterion measures, and how its size is shown.
_WHAT = {
    "mean": "mean",
    "sd": "standard deviation",
    "5 %": "5 % quantile",
    "95 %": "95 % quantile",
    "shape": "1-Wasserstein distance",
    "variance": "variance",
    "correlation": "correlation",
    "joint": "sliced Wasserstein distance",
}


def _shown(reason: Reason) -> str:
    kind = reason.of or reason.criterion
    if kind == "correlation":
        return f"{reason.size:+.2f} instead of {reason.expected:+.2f}"
    if kind in ("shape", "joint"):
        return f"of {reason.size:.2f} reference sd"
    if kind in ("sd", "variance"):
        return f"{with_error(reason.size, reason.error, 2)} of the reference's"
    return f"{with_error(reason.size, reason.error, 2, sign='+')} sd"


def _of(reason: Reason) -> str:
    return f"{reason.count} of {reason.total}"


def _mean(reason: Reason) -> str:
    return (
        f"{_of(reason)} means are off by more than {reason.limits[0]:g} reference sd (worst: "
        f"{reason.quantity}, {reason.size:+.2f} sd)"
    )


def _sd(reason: Reason) -> str:
    side = "narrow" if reason.size < 1 else "wide"
    return (
        f"{_of(reason)} standard deviations are too {side} (worst: {reason.quantity}, {reason.size:.2f} of "
        "the reference's)"
    )


def _tail(reason: Reason) -> str:
    return (
        f"{_of(reason)} {reason.criterion} quantiles are off by more than {reason.limits[0]:g} reference sd "
        f"(worst: {reason.quantity}, {_shown(reason)})"
    )


def _shape(reason: Reason) -> str:
    return (
        f"{_of(reason)} distributions have another shape (worst: {reason.quantity}, a 1-Wasserstein distance "
        f"{_shown(reason)})"
    )


def _agrees(reason: Reason) -> str:
    mean, sd = reason.limits
    joined = "; tails and correlations agree too" if reason.total > 1 else "; the tails agree too"
    return (
        f"all {reason.total} means are within {mean:g} reference sd, and all sd ratios within "
        f"{1 / (1 + sd):.2f} to {1 + sd:.2f}, up to Monte Carlo error{joined}"
    )


def _open(reason: Reason) -> str:
    advice = (
        f"draw about {np.ceil(reason.times):.0f} times as many from {reason.who}"
        if reason.times <= MOST_DRAWS
        else "it lies so close to the tolerance that more draws will hardly settle it"
    )
    return (
        f"Monte Carlo error leaves {_of(reason)} numbers open (worst: the {_WHAT[reason.of]} of "
        f"{reason.quantity}, {_shown(reason)}): {advice}"
    )


def _finite(reason: Reason) -> str:
    if reason.who:
        return f"{reason.who} has draws of {reason.quantity} that are no numbers"
    return f"draws of {_of(reason)} quantities are no numbers ({reason.quantity})"


def _few(reason: Reason) -> str:
    return (
        f"{reason.size:.0f} effective draws are too few to compare (at least {reason.limits[0]:.0f}): draw "
        f"more from {reason.who}"
    )


def _r_hat(reason: Reason) -> str:
    largest, most = distinct_texts(reason.size, reason.limits[0])
    return (
        f"{reason.who} fails R-hat < {most} for {_of(reason)} quantities (worst: {reason.quantity}, "
        f"{largest}); draw longer chains"
    )


def _ess(reason: Reason) -> str:
    (limit,) = reason.limits
    return (
        f"{reason.who} fails ESS > {limit:.0f} for {_of(reason)} quantities (worst: {reason.quantity}, "
        f"{ess_in_words(reason.size, limit)}); draw more"
    )


_SENTENCES: dict[str, Callable[[Reason], str]] = {
    "mean": _mean,
    "sd": _sd,
    "5 %": _tail,
    "95 %": _tail,
    "shape": _shape,
    "correlation": lambda reason: f"the correlation of {reason.quantity} is {_shown(reason)}",
    "variance": lambda reason: f"along {reason.quantity} the variance is {_shown(reason)}",
    "joint": lambda reason: f"jointly the draws are apart: a sliced Wasserstein distance {_shown(reason)}",
    "agrees": _agrees,
    "open": _open,
    "off": lambda reason: f"the {_WHAT[reason.of]} of {reason.quantity} is off: {_shown(reason)}",
    "few": _few,
    "finite": _finite,
    "r_hat": _r_hat,
    "ess": _ess,
    "divergences": lambda reason: f"{reason.count} of the {reason.total} draws of {reason.who} diverged",
    "said": lambda reason: reason.who,
}
