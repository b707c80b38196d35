"""The checks, in the order in which they are made: a check is a function of a `Case` in a file of its own.

To add one, write it there and list it here: its finding is said and shown, its numbers reach the rule, and
its answers are saved, loaded and shown by their types.
"""

from ppl_vae.diagnostics.verdict.case import Listed
from ppl_vae.diagnostics.verdict.checks.calibration import calibration, sampler
from ppl_vae.diagnostics.verdict.checks.collapse import collapsed
from ppl_vae.diagnostics.verdict.checks.convergence import convergence
from ppl_vae.diagnostics.verdict.checks.draws import draws
from ppl_vae.diagnostics.verdict.checks.family import best_of_family
from ppl_vae.diagnostics.verdict.checks.funnel import funnel_found
from ppl_vae.diagnostics.verdict.checks.gap import gap
from ppl_vae.diagnostics.verdict.checks.modes import modes
from ppl_vae.diagnostics.verdict.checks.parameters import parameters, summed, unbounded
from ppl_vae.diagnostics.verdict.checks.points import points
from ppl_vae.diagnostics.verdict.checks.prediction import prediction
from ppl_vae.diagnostics.verdict.checks.proper import proper
from ppl_vae.diagnostics.verdict.checks.reference import reference
from ppl_vae.diagnostics.verdict.checks.response import response
from ppl_vae.diagnostics.verdict.checks.reweighted import reweighted
from ppl_vae.diagnostics.verdict.checks.weights import weights

__all__ = ["CHECKS"]

CHECKS = (
    Listed("convergence", convergence, "itself"),
    Listed("guide", points, "itself", decides=True),
    Listed("parameters", parameters, "itself"),
    Listed("parameters", unbounded, "itself"),
    Listed("guide", summed, "itself"),
    Listed("weights", weights, "loops"),
    Listed("evidence", gap, "itself"),
    Listed("family", best_of_family, "loops"),
    Listed("family", proper, "loops"),
    Listed("draws", draws, "loops", decides=True),
    Listed("draws", reweighted),
    Listed("reference", reference, "itself"),
    Listed("response", response, "itself"),
    Listed("modes", modes),
    Listed("funnel", funnel_found, "itself"),
    Listed("collapse", collapsed),
    Listed("prediction", prediction, simulates=True),
    Listed("calibration", calibration, "itself", simulates=True),
    Listed("sampler", sampler, "itself", simulates=True),
)
