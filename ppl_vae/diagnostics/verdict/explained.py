"""How a verdict and the findings that point elsewhere fit together, in the verdict's own sentence."""

from collections.abc import Sequence

from ppl_vae.diagnostics.verdict.rule import Decision, Finding, Measures, Rule

__all__ = ["explained"]


def explained(
    decision: Decision, measures: Measures, findings: Sequence[Finding], rule: Rule
) -> tuple[str, ...]:
    """Clauses on the findings that seem to contradict a verdict.

    What they are worth follows the study of false alarms: a reference that passed its checks decides, weights
    stand in for it, and calibration speaks of data that the model simulates, which may be unlike these.

    Args:
        decision: the verdict.
        measures: what it rests on.
        findings: of all checks so far.
        rule: the thresholds.
    """
    status = {finding.name: finding.status for finding in findings}
    calibrated = status.get("calibration")
    if decision.verdict == "do not trust" and calibrated == "pass" and measures.reference_ok:
        return ("calibration passes, since it refits the guide to data unlike these",)
    if decision.verdict not in ("trust", "reweight"):
        return ()
    found = []
    if decision.verdict == "trust" and measures.reference_ok and measures.alarming > rule.alarming:
        found.append(
            "its importance weights alarm all the same, which counts against log p(x) and reweighting and "
            "not against these draws"
        )
    if decision.verdict == "trust" and status.get("funnel") == "warn":
        found.append("the guide follows the funnel that was found near enough")
    if decision.verdict == "trust" and status.get("family") == "warn":
        found.append("the guide is not the best of its family, but near enough")
    if decision.verdict == "trust" and measures.converged is False:
        found.append("the fit had not come to rest, but is near enough")
    if calibrated == "warn":
        found.append(
            "on data simulated from the model the guide is off (calibration), so that for other data than "
            "these it is to be checked anew"
        )
    if status.get("sampler") == "warn":
        found.append("NUTS, the reference, is itself off on simulated data (sampler)")
    return tuple(found)
