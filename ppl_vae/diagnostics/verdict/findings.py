"""What the checks found, in sentences."""

import numpy as np

from ppl_vae.answers.evidence import Evidence
from ppl_vae.base.names import in_sentence
from ppl_vae.base.wording import with_error
from ppl_vae.diagnostics.comparison.closeness import Severity, Tolerances
from ppl_vae.diagnostics.comparison.compare import Comparison
from ppl_vae.diagnostics.verdict.rule import OTHERS, Rule, Status
from ppl_vae.program.layout import Layout

__all__ = ["clause", "differing", "say_fewer", "say_gap", "say_score", "say_weights"]

# Share of the draws below which a few of them decide; k̂ of weights that are equal to rounding.
FEW, EQUAL = 0.1, -1.0


def clause(sentence: str) -> str:
    """A sentence to be set among others: without its full stop, and small unless it begins with a name."""
    text = sentence.rstrip(".")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def say_weights(found: Evidence, most: float) -> tuple[Status, str]:
    """Whether importance weights are sound, and by which numbers.

    Args:
        found: by importance sampling from the guide.
        most: the fraction of units whose weights may alarm.
    """
    alarms = int(found.alarming.sum())
    local = found.num_units > 1
    if (lost := int(np.isnan(found.ess).sum())) and alarms > most * found.num_units:
        where = f" in {lost} of {found.num_units} rows" if local else ""
        return (
            "fail",
            f"none of {found.num_samples:,} draws has any weight{where}: the guide misses the posterior",
        )
    tail = found.pareto_k.max()
    shape = f"k̂ is {tail:.2f}" if tail > EQUAL else "all are equal"
    numbers = f"{shape} and {found.num_samples:,} draws are worth {found.ess.min():,.0f}" + (
        " in the worst row" if local else ""
    )
    if alarms <= most * found.num_units:
        but = f" in all but {alarms} of {found.num_units} rows" if alarms else ""
        return "pass", f"the importance weights are sound{but}: {numbers}"
    whose = f" of {alarms} of {found.num_units} rows" if local else ""
    # A k̂ beyond its limit speaks of weights that were not drawn, however many of those that were are of use.
    decide = (
        "a few draws decide everything"
        if found.ess.min() < FEW * found.num_samples
        else "larger weights may be missing among them"
    )
    return "fail", (
        f"the importance weights{whose} cannot be trusted: {numbers}, so that {decide}; the guide has "
        "lighter tails than the posterior or sits beside it"
    )


def say_fewer(size: int, wanted: int, layout: Layout) -> str:
    """That there was time for fewer draws than were wanted, and why they take so long."""
    alone = "" if layout.vectorized else ", one after another: the programs do not take many at once"
    return f"for lack of time {size:,} draws instead of {wanted:,}{alone}"


def say_gap(truth: Evidence, gap: float, of: str, exact: bool, doubtful: bool) -> str:
    """log p(x) − ELBO, with its error and what it is of.

    Args:
        truth: log p(x).
        gap: nats a unit.
        of: whose, such as " over 100 rows spread over all 1,797", or nothing.
        exact: whether log p(x) is.
        doubtful: whether the weights alarm.
    """
    local = truth.unit == "datum"
    unit = "nats a row" if local else "nats"
    shown = with_error(gap, None if exact else truth.mean_std_error)
    note = "; the weights alarm, so the gap is probably larger" if doubtful else ""
    return (
        f"log p(x), {'exactly' if exact else 'by importance sampling'}, is {shown} {unit} above the "
        f"ELBO{of}: so far the guide is from the posterior (KL divergence){note}"
    )


def say_score(
    found: Comparison, own: Severity, mended: Severity, weights_ok: bool, rule: Rule
) -> tuple[Status, str]:
    """How the guide, and its reweighted draws, compare with a reference.

    Args:
        found: the comparison.
        own, mended: how wrong the two are.
        weights_ok: whether the weights raise no alarm.
        rule: what is tolerated.
    """
    status, sentence = _say_score(found, own, mended, weights_ok, rule)
    return (
        status,
        f"{sentence} ({in_sentence(found.reference, OTHERS)}: {found.limits})" if found.limits else sentence,
    )


def _say_score(
    found: Comparison, own: Severity, mended: Severity, weights_ok: bool, rule: Rule
) -> tuple[Status, str]:
    name = in_sentence(found.reference, OTHERS)
    if own.error <= rule.tolerable and own.floor <= rule.floor:
        if found.verdicts["svi"] == "differs":
            return (
                "pass",
                f"in nine rows of ten the guide is near enough to {name}; in the worst, {own.worst.sentence}",
            )
        return "pass", f"every mean, spread, tail and correlation of the guide is near enough to {name}'s"
    reasons = found.about("svi") if found.verdicts["svi"] == "differs" else [own.worst]
    sentence = f"against {name}, {'; '.join(reason.sentence for reason in reasons)}"
    if mended.error > rule.repaired or mended.floor > rule.floor:
        return "fail", f"{sentence}. Reweighted, {mended.worst.sentence}"
    if weights_ok:
        return "fail", f"{sentence}. Reweighting mends it"
    return "fail", f"{sentence}. Reweighted draws come near, by weights that cannot be trusted"


def differing(found: Comparison) -> tuple[str, ...]:
    """The variables of which a mean, spread, tail or correlation of the guide is off beyond its tolerance."""
    limits = Tolerances()
    table = found.table[found.table["answer"] == "svi"]
    off = (
        (table["mean_error_in_sd"].abs() > limits.mean)
        | ~table["sd_ratio"].between(1 / (1 + limits.sd), 1 + limits.sd)
        | (table["q5_error_in_sd"].abs() > limits.tail)
        | (table["q95_error_in_sd"].abs() > limits.tail)
    )
    names = table.loc[off, "name"].to_list()
    for row in found.joint[found.joint["answer"] == "svi"].to_dict("records"):
        if row["correlation_difference"] > limits.correlation:
            names += [row["correlation_first"], row["correlation_second"]]
    return tuple(dict.fromkeys(str(name).partition("[")[0] for name in names))
