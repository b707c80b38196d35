"""The decision rule: from what the checks measured to trust, reweight, do not trust or not a posterior.

The rule is a pure function of a few numbers (`Measures`) and a few thresholds (`Rule`), so that it can be
read, argued with, and tried again on measurements that were kept.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ppl_vae.base.names import in_sentence
from ppl_vae.base.plain import Plain
from ppl_vae.base.wording import in_words

__all__ = [
    "OTHERS",
    "REASONS",
    "Decision",
    "Finding",
    "Measures",
    "QuantityNames",
    "Rule",
    "Status",
    "Verdict",
    "decide",
]

Verdict = Literal["trust", "reweight", "do not trust", "not a posterior"]
Status = Literal["pass", "warn", "fail", "cannot tell", "skipped"]
NAN = math.nan
# A reference by a method that has no name of its own.
OTHERS = "the reference given"


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: of the check, such as "weights" or "reference".
        status: "fail" counts against the fit, "warn" is worth knowing and does not.
        sentence: what was seen, with its numbers.
        seconds: what the check took.
        cut: whether the budget ended it early, so that its numbers depend on the time that things take.
    """

    name: str
    status: Status
    sentence: str
    seconds: float = 0.0
    cut: bool = False


@dataclass(frozen=True)
class Measures(Plain):
    """The numbers that the rule reads; NaN and None stand for what is not known.

    An *error* is the largest of an answer's deviations over all quantities, each as a multiple of its
    tolerance: 1 is just tolerable. Its *floor* is what is left of it after Monte Carlo error.

    Attributes:
        reference: "exact", "nuts", "given" (draws of the caller's) or "none".
        reference_ok: whether it passed its own checks.
        error, error_floor: of the guide against the reference.
        reweighted_error, reweighted_floor: of the guide's draws, reweighted, against the reference.
        shift, shift_floor: of the guide against its own draws, reweighted.
        alarming: fraction of units whose importance weights cannot be trusted.
        pareto_k: the largest k̂ over the units.
        ess: the fewest effective samples of a unit, as a fraction.
        gap: log p(x) − ELBO in nats a unit.
        missed: by how many nats log w exceeds log p(x) in nine of ten draws of a chain of the reference, in
            the worst chain and unit: large where the guide misses the part that the chain lives in.
        converged: whether SVI came to rest; None where nothing was fitted, or that was not judged.
        active: fraction of a latent vector's dimensions that depend on the data.
        points: the latent sites whose guide is a point mass.
        improper: whether the posterior was found to have no integral.
        summed: the latent sites, where all of them are summed out and the guide draws nothing.
        degenerate: what is wrong with the model's parameters, where they are no estimate.
        unbounded: why no parameters are one, where the likelihood has no upper bound.
        others: numbers of checks of one's own, by name, which `decide` does not read.
    """

    INFINITE = 1e12

    reference: str = "none"
    reference_ok: bool = False
    error: float = NAN
    error_floor: float = NAN
    reweighted_error: float = NAN
    reweighted_floor: float = NAN
    shift: float = NAN
    shift_floor: float = NAN
    alarming: float = NAN
    pareto_k: float = NAN
    ess: float = NAN
    gap: float = NAN
    missed: float = NAN
    converged: bool | None = None
    active: float = NAN
    points: tuple[str, ...] = ()
    improper: bool = False
    summed: tuple[str, ...] = ()
    degenerate: str = ""
    unbounded: str = ""
    others: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Rule:
    """The thresholds.

    Attributes:
        tolerable: the largest error that is still trusted, in tolerances. It exceeds 1 a little, because
            the largest of many noisy deviations does so without fault.
        floor: the largest error after Monte Carlo error.
        repaired: the largest error of reweighted draws that count as repaired: without that allowance, since
            few effective draws err by more than they show.
        alarming: fraction of units whose weights may alarm.
        missed: nats; see `Measures.missed`.
    """

    tolerable: float = 1.25
    floor: float = 1.0
    repaired: float = 1.0
    alarming: float = 0.05
    missed: float = 6.0


@dataclass(frozen=True)
class Decision:
    """What follows.

    Attributes:
        verdict: the answer.
        failing: names of the findings behind it.
        reason: a sentence.
        criterion: by which it was decided, a key of `REASONS`; its numbers are in `Measures`. It is "" in
            checks that were saved before 0.2.
    """

    verdict: Verdict
    failing: tuple[str, ...]
    reason: str
    criterion: str = ""


# By criterion: the verdict, the names of the findings behind it, and the sentence.
REASONS: Mapping[str, tuple[Verdict, tuple[str, ...], str]] = {
    "points": ("not a posterior", ("guide",), "the guide is a point in {}: it has no spread there, and so "
               "neither density, weights nor log p(x)"),
    "improper": ("do not trust", ("family",), "the posterior cannot be normalised, so that no guide can be "
                 "right"),
    "degenerate": ("do not trust", ("parameters",), "{}"),
    "unbounded": ("do not trust", ("parameters",), "{}"),
    "summed": ("trust", (), "nothing is approximated: {} is summed out, and the ELBO is log p(x)"),
    "collapsed": ("do not trust", ("collapse",), "the latents do not depend on the data at all"),
    "missed": ("do not trust", ("modes",), "the sampler found a part of the posterior in which the guide "
               "puts next to no probability"),
    "agrees": ("trust", (), "the guide agrees with {}{}"),
    "repaired": ("reweight", ("reference",), "the guide differs from {}{}, and its draws agree once they are "
                 "reweighted"),
    "differs": ("do not trust", ("reference", "weights"), "the guide differs from {}{}, and its importance "
                "weights cannot repair it"),
    "alone": ("do not trust", ("weights",), "nothing vouches for the guide: {}, and no reference passed its "
              "own checks"),
    "unchanged": ("trust", (), "the importance weights are sound, and reweighting hardly changes {}"),
    "off": ("reweight", ("weights",), "the guide's own answer is off, and its importance weights are sound "
            "enough to repair it"),
}  # fmt: skip


@dataclass(frozen=True)
class QuantityNames:
    """What a verdict speaks of, in words.

    Attributes:
        compared: the quantities that were compared, such as "mu and tau".
        wrong: those of them in which the guide differs from the reference.
        right: those in which it does not.
    """

    compared: str = ""
    wrong: str = ""
    right: str = ""


def decide(measures: Measures, rule: Rule | None = None, names: QuantityNames | None = None) -> Decision:
    """Trust, reweight, do not trust, or say that there is nothing to judge.

    1. *Point masses*: a guide that is a point in some latent has no density, and is not a posterior.
       Parameters that are no estimate (a singular solution, a likelihood without an upper bound) are not
       trusted; where they are one and all latents are summed out, there is nothing that a guide could get
       wrong.
    2. *Collapse*: a latent vector none of whose dimensions depends on the data is not trusted.
    3. *Missed part*: chains of a sampler that live where the guide puts next to nothing are believed, even
       where they do not agree with each other.
    4. With a reference that passed its own checks, the guide is trusted if its error against it is
       tolerable. If not, reweighting is advised if the weights raise no alarm and the reweighted draws'
       error is tolerable.
    5. Without one, the weights decide: where they alarm, nothing vouches for the guide. Where they do not,
       the reweighted draws stand in for the reference, and the guide is trusted if it is near them.

    Convergence of SVI, calibration over simulated data and predictive checks explain a verdict and do not
    make one: a fit that has not come to rest may already be good, calibration speaks of other data, and
    predictive checks speak of the model.

    Args:
        measures: what the checks measured.
        rule: the thresholds.
        names: of quantities, for the sentence.
    """
    rule = Rule() if rule is None else rule
    names = QuantityNames() if names is None else names
    m = measures
    if m.points:
        return _decided("points", in_words(m.points))
    if m.improper:
        return _decided("improper")
    if m.degenerate:
        return _decided("degenerate", m.degenerate)
    if m.unbounded:
        return _decided("unbounded", m.unbounded)
    if m.summed:
        return _decided("summed", in_words(m.summed))
    if m.active == 0:
        return _decided("collapsed")
    if m.missed > rule.missed and not m.reference_ok:
        return _decided("missed")
    weights_ok = m.alarming <= rule.alarming
    if m.reference_ok:
        return _against_reference(m, rule, weights_ok, names)
    if not weights_ok:
        known = m.alarming == m.alarming
        return _decided("alone", "its importance weights cannot be trusted" if known else "it has no weights")
    if _tolerable(m.shift, m.shift_floor, rule.tolerable, rule.floor):
        return _decided("unchanged", names.compared or "the answer")
    return _decided("off")


def _against_reference(m: Measures, rule: Rule, weights_ok: bool, names: QuantityNames) -> Decision:
    name = in_sentence(m.reference, OTHERS)
    if _tolerable(m.error, m.error_floor, rule.tolerable, rule.floor):
        return _decided("agrees", name, f" in {names.compared}" if names.compared else "")
    where = f" in {names.wrong}" if names.wrong else ""
    where += f" (not in {names.right})" if names.wrong and names.right else ""
    repaired = _tolerable(m.reweighted_error, m.reweighted_floor, rule.repaired, rule.floor)
    return _decided("repaired" if weights_ok and repaired else "differs", name, where)


def _decided(criterion: str, *words: str) -> Decision:
    verdict, failing, sentence = REASONS[criterion]
    return Decision(verdict, failing, sentence.format(*words), criterion)


def _tolerable(error: float, floor: float, most: float, most_floor: float) -> bool:
    """Whether an error is: NaN is not."""
    return error <= most and not floor > most_floor
