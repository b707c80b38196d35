"""The decision rule, case by case, and the cheapest next step."""

import math
from dataclasses import replace

import pytest

from ppl_vae.diagnostics.verdict.advice import Facts, next_step
from ppl_vae.diagnostics.verdict.rule import REASONS, Decision, Measures, QuantityNames, Rule, decide

SOUND = {"alarming": 0.0, "pareto_k": 0.3, "ess": 0.8}
ALARMED = {"alarming": 1.0, "pareto_k": 1.2, "ess": 0.001}


@pytest.mark.parametrize(
    ("measures", "verdict", "criterion"),
    [
        # A reference that passed its checks decides.
        (Measures("nuts", True, error=0.4, error_floor=0.1, **ALARMED), "trust", "agrees"),
        (Measures("nuts", True, 3.0, 2.0, 0.3, 0.0, **SOUND), "reweight", "repaired"),
        (Measures("nuts", True, 3.0, 2.0, 2.5, 2.0, **SOUND), "do not trust", "differs"),
        (Measures("exact", True, 3.0, 2.0, 0.3, 0.0, **ALARMED), "do not trust", "differs"),
        # Beyond the tolerance even after Monte Carlo error, however small the excess.
        (Measures("nuts", True, 1.2, 1.1, 0.3, 0.0, **SOUND), "reweight", "repaired"),
        # Without one, the weights do.
        (Measures("nuts", False, shift=0.3, shift_floor=0.0, **SOUND), "trust", "unchanged"),
        (Measures("none", False, shift=3.0, shift_floor=2.0, **SOUND), "reweight", "off"),
        (Measures("none", False, shift=0.3, shift_floor=0.0, **ALARMED), "do not trust", "alone"),
        # Chains in a part that the guide misses are believed without a passed reference, and a guide that
        # agrees with a passed one is not accused of missing anything.
        (Measures("nuts", False, shift=0.3, shift_floor=0.0, missed=50.0, **SOUND), "do not trust", "missed"),
        (Measures("nuts", True, 0.3, 0.0, 0.3, 0.0, missed=50.0, **SOUND), "trust", "agrees"),
        (Measures("nuts", True, 0.3, 0.0, 0.3, 0.0, active=0.0, **SOUND), "do not trust", "collapsed"),
        (Measures("nuts", True, 0.3, 0.0, 0.3, 0.0, active=0.5, converged=False, **SOUND), "trust", "agrees"),
        # Reweighted draws get no allowance for the largest of many noisy deviations.
        (Measures("nuts", True, 2.4, 2.2, 1.15, 0.25, **SOUND), "do not trust", "differs"),
        (Measures("nuts", True, 2.4, 2.2, 0.95, 0.25, **SOUND), "reweight", "repaired"),
        # Nothing known is nothing to trust.
        (Measures(), "do not trust", "alone"),
    ],
)
def test_rule_follows_the_evidence(measures, verdict, criterion):
    decision = decide(measures)
    assert (decision.verdict, decision.criterion) == (verdict, criterion)
    assert decision.failing == REASONS[criterion][1]
    assert bool(decision.failing) == (verdict != "trust")
    assert next_step(decision, measures, Facts())


def test_thresholds_are_arguments():
    measures = Measures("nuts", True, 1.5, 0.5, 1.5, 0.5, **SOUND)
    assert decide(measures).verdict == "do not trust"
    assert decide(measures, Rule(tolerable=2.0)).verdict == "trust"
    assert decide(measures, Rule(repaired=2.0)).verdict == "reweight"


def test_worse_never_becomes_trusted():
    rungs = [decide(Measures("nuts", True, e, e / 2, 0.3, 0.0, **SOUND)).verdict for e in (0.5, 1, 2, 4, 8)]
    first_bad = rungs.index("reweight")
    assert set(rungs[:first_bad]) == {"trust"}
    assert set(rungs[first_bad:]) == {"reweight"}


def test_measures_survive_json():
    measures = Measures("nuts", True, math.inf, 0.5, converged=None, **SOUND)
    back = Measures.from_json(measures.to_json())
    assert back.error > 1e9
    assert back.converged is None
    assert math.isnan(back.gap)
    assert back.pareto_k == measures.pareto_k
    assert decide(back).verdict == decide(measures).verdict


NATURAL = Facts(method="natural gradients")


@pytest.mark.parametrize(
    ("facts", "measures", "word"),
    [
        (Facts(), Measures("nuts", True, converged=False), "more steps"),
        (Facts(method="expectation propagation"), Measures("nuts", True, converged=False), "more steps"),
        # Steps of SVI help only a guide that is short of the best of its family, and then others get there.
        (Facts(trainer="natural.fit"), Measures("nuts", True, converged=False), "natural.fit"),
        (Facts(trainer="natural.fit", funnel=True), Measures("nuts", False), "non-centred"),
        (Facts(trained=True), Measures("nuts", True, converged=False), "draws of the NUTS reference"),
        (Facts(trained=True, local=True), Measures("nuts", True, converged=False), "full covariance"),
        (Facts(trained=True, local=True, family="full-rank"), Measures("nuts", True), "guide with a flow"),
        (Facts(missed=True), Measures("nuts", False), "several starts"),
        (Facts(missed=True), Measures("nuts", False), "mixture:2"),
        # Other methods than SVI have no steps to take more of.
        (NATURAL, Measures("nuts", True, converged=False), "natural.fit with more common draws"),
        (
            replace(NATURAL, trainer="natural.fit"),
            Measures("nuts", True, converged=False),
            "more common draws",
        ),
        (replace(NATURAL, late=True), Measures("nuts", True, converged=False), "a larger budget"),
        (replace(NATURAL, trained=True), Measures("nuts", True, converged=False), "draws of the NUTS"),
        (Facts(method="deterministic VI"), Measures("nuts", True, converged=False), "fixed_noise.fit with"),
        # A richer guide is one that has what was lost.
        (Facts(mean_field=True, within=True), Measures("nuts", True), "(block)"),
        (Facts(mean_field=True, sparse=True), Measures("nuts", True), "(sparse)"),
        (Facts(mean_field=True, dim=900), Measures("nuts", True), "low-rank:20"),
        (Facts(dim=900), Measures("none", False), "low-rank:20"),
        # What the model itself offers comes before the guides of any model.
        (
            Facts(mean_field=True, sparse=True, guides=("mean-field", "sparse-precision")),
            Measures("nuts", True),
            "--guide sparse-precision",
        ),
        (Facts(trained=True, family="full-rank"), Measures("nuts", True), "(spline-flow)"),
        (Facts(trained=True, family="mean-field", dim=1), Measures("nuts", True), "(mixture:2)"),
        (Facts(funnel=True), Measures("nuts", False), "non-centred"),
        (Facts(mean_field=True), Measures("nuts", True), "full-rank"),
        (Facts(mean_field=True, local=True), Measures("nuts", True), "full covariance"),
        (Facts(), Measures("nuts", True), "draws of the NUTS reference"),
        (Facts(cut=True), Measures("none", False), "budget"),
        # Another fit takes seconds, where the model offers the guide; a reference may take minutes.
        (
            Facts(cut=True, apart=True, guides=("markov", "sparse-precision")),
            Measures("none", False),
            "--guide sparse-precision",
        ),
        (Facts(cut=True, apart=True), Measures("none", False), "budget"),
        (Facts(cut=True, guides=("markov", "sparse-precision")), Measures("none", False), "budget"),
        (Facts(), Measures("nuts", False), "other coordinates"),
        # A funnel is what chains that miss its neck look like.
        (Facts(missed=True, funnel=True), Measures("nuts", False), "non-centred"),
    ],
)
def test_next_step_is_the_cheapest_that_helps(facts, measures, word):
    assert word in next_step(Decision("do not trust", ("reference",), ""), measures, facts)


def test_what_is_right_comes_with_the_guide_that_a_model_offers_for_the_rest():
    facts = Facts(identified_right=True, guides=("markov", "sparse-precision"))
    decision, names = Decision("do not trust", ("reference",), ""), QuantityNames(right="differences")
    for guides, words in ((facts.guides, "--guide sparse-precision"), ((), "--guide full-rank")):
        found = next_step(decision, Measures("nuts", True), replace(facts, guides=guides), names)
        assert found.startswith("use only differences of this guide, or fit ")
        assert words in found


@pytest.mark.parametrize("family", ["full-rank", "sparse-precision"])
def test_a_joint_guide_is_not_advised_to_who_has_one(family):
    """Found beside a reference, without one, and right in differences."""
    facts = Facts(family=family, apart=True, guides=("markov", "sparse-precision"))
    decision, names = Decision("do not trust", ("reference",), ""), QuantityNames(right="differences")
    steps = [
        next_step(decision, measures, replace(facts, identified_right=right), names)
        for measures in (Measures("nuts", True), Measures("none", False))
        for right in (False, True)
    ]
    assert not [step for step in steps if f"--guide {family}" in step or "full covariance" in step]
