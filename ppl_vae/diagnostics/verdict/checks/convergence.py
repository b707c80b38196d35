"""Whether the fit came to rest, as far as that was judged."""

from ppl_vae.diagnostics.verdict.case import Case, Found
from ppl_vae.diagnostics.verdict.findings import clause
from ppl_vae.diagnostics.verdict.rule import Finding, Status

__all__ = ["convergence"]


def convergence(case: Case) -> Found | None:
    """A fit that was made, or whose end is known."""
    if case.rested is None:
        return None
    converged, reason = case.rested.converged, case.rested.reason
    if converged is None:
        said = f"what more steps would gain is not judged after a fixed number of them: {clause(reason)}"
        return Found(Finding("convergence", "cannot tell", said), {"converged": None})
    status: Status = "pass" if converged else "warn"
    return Found(Finding("convergence", status, reason, cut=case.cut), {"converged": converged})
