"""What methods are called, in tables and figures and in sentences: the only place that says it."""

from dataclasses import dataclass

__all__ = ["Method", "answer_label", "evidence_in_sentence", "evidence_label", "in_sentence"]


@dataclass(frozen=True)
class Method:
    """A method's names.

    Attributes:
        label: in a legend or a table's head.
        sentence: in a sentence.
    """

    label: str
    sentence: str


POSTERIORS = {
    # The fit's own answer, by whatever method it was fitted.
    "svi": Method("guide", "the guide"),
    "guide": Method("guide", "the guide"),
    "reweighted": Method("reweighted", "reweighted"),
    "exact": Method("exact", "the exact posterior"),
    "nuts": Method("NUTS", "NUTS"),
    "hmc": Method("HMC", "many chains of HMC"),
    "ep": Method("EP", "expectation propagation"),
    "linear-response": Method("linear response", "linear response"),
    "given": Method("reference", "the reference given"),
}
# Of log p(x): the sentences take the number of draws and the proposal.
EVIDENCE = {
    "exact": Method("exact", "exact"),
    "is": Method("importance sampling", "by importance sampling ({draws} samples from the {proposal})"),
    "defensive": Method("defensive mixture", "by importance sampling ({draws} samples from {proposal})"),
    "prior": Method("simple Monte Carlo", "by simple Monte Carlo ({draws} samples from the prior)"),
    "iwae": Method("IWAE bound (of as many)", "at least, by the IWAE bound of {draws} samples"),
    "ais": Method(
        "annealed (chains)", "by annealed importance sampling ({draws} chains, from the {proposal})"
    ),
    "bridge": Method("bridge", "by bridge sampling between NUTS and the guide ({draws} samples)"),
}


def answer_label(answer: str) -> str:
    """An answer's name as a legend and a table say it; its own where it is none of the usual ones."""
    return POSTERIORS[answer].label if answer in POSTERIORS else answer


def in_sentence(answer: str, other: str | None = None) -> str:
    """An answer's name as a sentence says it; ``other``, or its own, where it is none of the usual ones."""
    if answer in POSTERIORS:
        return POSTERIORS[answer].sentence
    return answer if other is None else other


def evidence_label(method: str) -> str:
    """A method for log p(x) as a legend says it."""
    return EVIDENCE[method].label if method in EVIDENCE else method


def evidence_in_sentence(method: str, draws: str, proposal: str) -> str:
    """How log p(x) was estimated, as a sentence goes on after its value."""
    return EVIDENCE[method].sentence.format(draws=draws, proposal=proposal)
