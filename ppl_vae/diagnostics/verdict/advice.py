"""The cheapest next step after a verdict."""

from dataclasses import dataclass
from typing import Literal

from ppl_vae.base.names import answer_label, in_sentence
from ppl_vae.diagnostics.verdict.rule import OTHERS, Decision, Measures, QuantityNames

__all__ = ["JOINT", "Advice", "AdviceKey", "Facts", "advise", "next_step"]

# What fits to the best of a family, by method; how full-rank is called; and many latents for a dense matrix.
LONGER = {"natural gradients": "natural.fit", "deterministic VI": "fixed_noise.fit"}
FULL, LARGE = "full-rank, AutoMultivariateNormal", 500
# A model's own guide of all its latents together at the cost of the model's own zeros.
JOINT = "sparse-precision"

AdviceKey = Literal[
    "use",
    "laplace",
    "spread",
    "proper priors",
    "bound",
    "reweight",
    "use the latents",
    "reparametrise",
    "restart",
    "linear response",
    "use what is right",
    "train better",
    "more draws",
    "more steps",
    "use the reference",
    "richer guide",
    "larger budget",
]


@dataclass(frozen=True)
class Advice:
    """What to do now.

    Attributes:
        key: of the kind, by which a command is chosen.
        sentence: for a reader, without its full stop.
        guide: the guide that the sentence names first, as fits and `named_guide` take it; "" for none.
    """

    key: AdviceKey
    sentence: str
    guide: str = ""


@dataclass(frozen=True)
class Facts:
    """What else is known about a checked pair.

    Attributes:
        local: whether every row has latents of its own.
        mean_field: whether the guide lost a correlation that the reference has.
        within: whether those that it lost are all within single sites, of several.
        apart: whether the guide's family takes latents for independent that share data.
        dim: number of latents.
        funnel: whether one was found.
        missed: whether the guide misses a part of the posterior.
        laplace: whether the guide is a Laplace approximation that has not been made yet.
        identified_right: whether the guide is wrong only in what is shown, and right in what data determine.
        cut: whether the budget ended the search for a reference.
        reference_seconds: what a reference that passed its checks took.
        guides: names of those that the model itself offers.
        family, sparse, trained, trainer, responds: as in `Notes`.
        method: by which the guide was fitted, as in `Rested`: that which was begun first.
        late: whether that did not arrive in time, so that SVI had the rest.
    """

    local: bool = False
    mean_field: bool = False
    within: bool = False
    apart: bool = False
    dim: int = 0
    funnel: bool = False
    missed: bool = False
    laplace: bool = False
    identified_right: bool = False
    cut: bool = False
    reference_seconds: float = float("nan")
    family: str = ""
    sparse: bool = False
    trained: bool = False
    trainer: str = ""
    method: str = "SVI"
    late: bool = False
    responds: bool = False
    guides: tuple[str, ...] = ()


def next_step(
    decision: Decision, measures: Measures, facts: Facts, names: QuantityNames | None = None
) -> str:
    """The sentence of `advise`."""
    return advise(decision, measures, facts, names).sentence


def advise(
    decision: Decision, measures: Measures, facts: Facts, names: QuantityNames | None = None
) -> Advice:
    """What to do now, the cheapest that helps first.

    Args:
        decision: the verdict.
        measures: what it rests on.
        facts: what else is known.
        names: of the quantities that are right.
    """
    if decision.verdict == "trust":
        return Advice("use", "use the guide; check again when the data or the model change")
    if decision.verdict == "reweight":
        better = f"; {facts.trainer} would make a better guide of it" if facts.trainer else ""
        return Advice(
            "reweight", f"use the reweighted draws, or the guide with its importance weights{better}"
        )
    if decision.verdict == "not a posterior":
        return _of_points(facts)
    if measures.improper:
        sentence = "give proper priors to the latents that are named, or hold one of them, and fit again"
        return Advice("proper priors", sentence)
    if decision.criterion == "unbounded":
        return Advice("bound", "fit again with a lower bound of what has none")
    if "parameters" in decision.failing:
        return Advice("restart", "fit again from other starts, or a model of fewer parameters")
    if "collapse" in decision.failing:
        sentence = "fit again with a longer KL warm-up or a weaker decoder, so that the latents are used"
        return Advice("use the latents", sentence)
    if facts.funnel:
        return Advice("reparametrise", "write the model in a non-centred form, and fit again")
    if facts.missed:
        sentence = (
            "fit again from several starts, or give the guide as many components as there are modes "
            "(mixture:2 for two)"
        )
        return Advice("restart", sentence)
    if facts.responds and not facts.trainer:
        sentence = (
            "use the covariances that linear response gives (linear_response.posterior(pair, *data)), which "
            f"agree with {in_sentence(measures.reference, OTHERS)}"
        )
        return Advice("linear response", sentence)
    if facts.identified_right and names is not None:
        if facts.family in ("full-rank", JOINT):
            return Advice("use what is right", f"use only {names.right} of this guide")
        other = "a full-rank one (AutoMultivariateNormal; --guide full-rank)"
        sentence = f"use only {names.right} of this guide, or fit {_joint(facts) or other}"
        return Advice("use what is right", sentence, JOINT if _joint(facts) else "full-rank")
    short = measures.converged is False and not facts.trained
    if short and facts.method in LONGER:
        return _longer(facts)
    if facts.trainer:
        sentence = f"fit the guide by {facts.trainer}, which brings it to the best of its family"
        return Advice("train better", sentence)
    if short and facts.method == "SVI":
        return Advice("more steps", "take more steps: SVI has not come to rest")
    if short and facts.method == "expectation propagation":
        sentence = "fit by ep.fit with more steps or damping (max_steps, damping): it has not come to rest"
        return Advice("more steps", sentence)
    return _by_reference(measures, facts)


def _of_points(facts: Facts) -> Advice:
    """For a guide that has no spread."""
    if facts.laplace:
        return Advice(
            "laplace", "check the Laplace approximation instead: guide.laplace_approximation(*data)"
        )
    return Advice(
        "spread",
        "take a guide with a spread, such as AutoNormal, or a Laplace approximation "
        "(AutoLaplaceApproximation, then its laplace_approximation)",
    )


def _longer(facts: Facts) -> Advice:
    """For a fit to the best of a Gaussian family that did not arrive there."""
    call = LONGER[facts.method]
    if facts.late:
        sentence = f"give a larger budget, or fit the guide by {call} before: {facts.method} ran out of time"
        return Advice("larger budget", sentence)
    sentence = (
        f"fit the guide again by {call} with more common draws and iterations (max_draws, max_iterations): "
        f"{facts.method} did not arrive at the best of its family"
    )
    return Advice("more draws", sentence)


def _joint(facts: Facts) -> str:
    """The cheapest guide that keeps correlations, where the model has one of its own; else ""."""
    offered = JOINT in facts.guides and facts.family != JOINT
    return f"one of all latents together (--guide {JOINT})" if offered else ""


def _richer(facts: Facts) -> tuple[str, str]:
    """The guides that suit what was found, in words, and the name of the first, as `named_guide` takes it."""
    if facts.local:  # networks' guides have names of their models' own
        other = "a flow" if facts.family == "full-rank" else "a full covariance or a flow"
        return f"a guide with {other}", ""
    if (facts.mean_field or facts.apart) and (joint := _joint(facts)):
        return f"a guide that keeps correlations at next to no cost: {joint}", JOINT
    if facts.mean_field and facts.within:
        return f"a guide with a full covariance a site (block) or of all latents ({FULL})", "block"
    if facts.mean_field and facts.sparse:
        words = f"a guide with the model's own sparse precision (sparse) or a full covariance ({FULL})"
        return words, "sparse"
    if facts.mean_field and facts.dim > LARGE:
        return f"a guide of low rank (low-rank:20) or a full covariance ({FULL})", "low-rank:20"
    if facts.mean_field:
        return f"a full-rank guide ({FULL})", "full-rank"
    if facts.dim == 1:
        return "a mixture of normals (mixture:2)", "mixture:2"
    if facts.family in ("full-rank", JOINT):
        return "a guide that is no normal (spline-flow)", "spline-flow"
    if facts.dim > LARGE:
        return "a guide of low rank (low-rank:20)", "low-rank:20"
    return f"a guide with a full covariance ({FULL}) or one that is no normal (spline-flow)", "full-rank"


def _by_reference(measures: Measures, facts: Facts) -> Advice:
    """For a guide that came to rest and is not right, by what is known of the posterior."""
    words, guide = _richer(facts)
    richer = Advice("richer guide", f"try {words}", guide)
    if measures.reference_ok and not facts.local:
        taken = f" (they took {facts.reference_seconds:.0f} s)" if facts.reference_seconds > 1 else ""
        also = f", or try {words}" if facts.mean_field or facts.trained else ""
        return Advice(
            "use the reference",
            f"use the draws of the {answer_label(measures.reference)} reference{taken}{also}",
        )
    # Seconds of another fit come before minutes of a reference.
    if facts.mean_field or measures.reference_ok or (facts.cut and guide == JOINT):
        return richer
    if not facts.cut and measures.reference == "nuts":
        sentence = "write the model in other coordinates, in which NUTS mixes, and fit again"
        return Advice("reparametrise", sentence)
    if not facts.cut:
        return richer
    return Advice("larger budget", "give a larger budget, so that NUTS can be run long enough to tell")
