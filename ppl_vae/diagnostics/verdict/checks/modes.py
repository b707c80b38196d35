"""Parts of the posterior that the guide misses."""

import numpy as np

from ppl_vae.answers.evidence import Evidence
from ppl_vae.answers.posterior import Posterior
from ppl_vae.diagnostics.verdict.case import Case, Found
from ppl_vae.diagnostics.verdict.rule import Finding
from ppl_vae.inference.evidence import bridge
from ppl_vae.program.terms import has_log_density

__all__ = ["WHOLE", "modes"]

LOWER_TAIL = 0.1
# References that have draws of every latent.
WHOLE = ("exact", "nuts")


def modes(case: Case) -> Found | None:
    """Chains of the reference that live where the guide puts next to nothing."""
    kind, weighed = case.measures.reference, case.notes.weighed
    reference = case.posteriors.get(kind)
    all_rows = not case.local or case.index is not None
    if weighed is None or reference is None or not (kind in WHOLE and all_rows):
        return None
    if not has_log_density(case.pair, *case.data):
        return None
    excess = _excess(case, reference, weighed)
    missed = float(excess.max())
    if not missed > case.rule.missed:
        return Found(measures={"missed": missed})
    # Copies of it under a symmetry do not count, where a reference passed in what is identifiable.
    counts = not case.measures.reference_ok
    chains = int((excess.max(1) > case.rule.missed).sum())
    said = (
        f"{chains} of {len(excess)} chains of the reference live where the guide puts next to no probability "
        f"(log p − log q exceeds log p(x) by {missed:.0f} nats in nine of ten draws): the guide misses a "
        "part of the posterior"
    )
    found = Finding("modes", "fail" if counts else "warn", said, cut=case.notes.late)
    return Found(found, {"missed": missed}, notes={"missed": counts})


def _excess(case: Case, reference: Posterior, weighed: Evidence) -> np.ndarray:
    """By how many nats log w exceeds log p(x) in nine of ten draws: (chains, units)."""
    log_w = bridge.log_weights(case.pair, reference, *case.data)
    by_unit = {int(unit): at for at, unit in enumerate(weighed.units)}
    units = range(log_w.shape[2]) if case.index is None else case.index.tolist()
    known = weighed.log_evidence[[by_unit[unit] for unit in units]]
    # A chain in a part that the guide misses has not even its lower tail in common with it; a chain
    # that is only wider has.
    with np.errstate(invalid="ignore"):
        excess = np.quantile(log_w, LOWER_TAIL, axis=1, method="lower") - known
    # Where no draw of the guide has any weight, whatever the chains found was missed.
    return np.where(np.isnan(excess), np.inf, excess)
