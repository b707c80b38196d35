"""The cheapest next step after a verdict."""

from dataclasses import dataclass

from ppl_vae.diagnostics.verdict.rule import Decision, Measures, QuantityNames

__all__ = ["Facts", "next_step"]


@dataclass(frozen=True)
class Facts:
    """What else is known about a checked pair.

    Attributes:
        local: whether every row has latents of its own.
        mean_field: whether the guide lost a correlation that the reference has.
        funnel: whether one was found.
        missed: whether the guide misses a part of the posterior.
        laplace: whether the guide is a Laplace approximation that has not been made yet.
        identified_right: whether the guide is wrong only in what is shown, and right in what data determine.
        cut: whether the budget ended the search for a reference.
        reference_seconds: what a reference that passed its checks took.
    """

    local: bool = False
    mean_field: bool = False
    funnel: bool = False
    missed: bool = False
    laplace: bool = False
    identified_right: bool = False
    cut: bool = False
    reference_seconds: float = float("nan")


def next_step(
    decision: Decision, measures: Measures, facts: Facts, names: QuantityNames | None = None
) -> str:
    """What to do now, the cheapest that helps first.

    Args:
        decision: the verdict.
        measures: what it rests on.
        facts: what else is known.
        names: of the quantities that are right.
    """
    if decision.verdict == "trust":
        return "use the guide; check again when the data or the model change"
    if decision.verdict == "not a posterior":
        if facts.laplace:
            return "check the Laplace approximation instead: guide.laplace_approximation(*data)"
        return (
            "take a guide with a spread, such as AutoNormal, or a Laplace approximation "
            "(AutoLaplaceApproximation, then its laplace_approximation)"
        )
    if decision.verdict == "reweight":
        return "use the reweighted draws (answers['reweighted']), or the guide with its importance weights"
    if "collapse" in decision.failing:
        return "fit again with a longer KL warm-up or a weaker decoder, so that the latents are used"
    if facts.funnel:
        return "write the model in a non-centred form, and fit again"
    if facts.missed:
        return "fit again from several starts, or give the guide as many components as there are modes"
    if facts.identified_right and names is not None:
        return (
            f"use only {names.right} of this guide, or fit a full-rank one (AutoMultivariateNormal; --guide "
            "full-rank)"
        )
    if measures.converged is False:
        return "take more steps: SVI has not come to rest"
    if measures.reference_ok and not facts.local:
        taken = f" (they took {facts.reference_seconds:.0f} s)" if facts.reference_seconds > 1 else ""
        also = ", or try a full-rank guide (AutoMultivariateNormal)" if facts.mean_field else ""
        return f"use the draws of the {measures.reference} reference{taken}{also}"
    if facts.mean_field or measures.reference_ok:
        return "try a guide with a full covariance or a flow"
    if not facts.cut and measures.reference == "nuts":
        return "write the model in other coordinates, in which NUTS mixes, and fit again"
    if not facts.cut:
        return "try a guide with a full covariance or a flow"
    return "give a larger budget, so that NUTS can be run long enough to tell"
