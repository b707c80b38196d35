"""Latents of rows that say nothing about them."""

from ppl_vae.base.errors import InputError
from ppl_vae.base.progress import stage
from ppl_vae.diagnostics.latents.collapse import collapse
from ppl_vae.diagnostics.verdict.case import Case, Found, skipped
from ppl_vae.diagnostics.verdict.rule import Finding, Status

__all__ = ["collapsed"]

SEED = 6


def collapsed(case: Case) -> Found | None:
    """What fraction of a row's latent dimensions depends on the data."""
    stage("check: what the latents carry", show=case.options.progress and case.local)
    if not case.local or not case.layout.latents:
        return None
    try:
        found = collapse(case.pair, *case.data, seed=case.seed(SEED))
    except InputError as error:
        return Found(skipped("collapse", str(error), cut=False))
    active = found.num_active / found.latent_dim
    status: Status = "pass" if active == 1 else "warn" if active > 0 else "fail"
    return Found(Finding("collapse", status, found.sentence()), {"active": active}, {"": found})
