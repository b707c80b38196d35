"""Draws of the guide: what is compared."""

from ppl_vae.base.progress import stage
from ppl_vae.base.wording import in_words
from ppl_vae.diagnostics.verdict.case import Case, Found
from ppl_vae.diagnostics.verdict.checked import ROWS
from ppl_vae.diagnostics.verdict.findings import say_fewer
from ppl_vae.diagnostics.verdict.pace import WEIGHTS_SHARE, affordable
from ppl_vae.diagnostics.verdict.rule import Finding, QuantityNames
from ppl_vae.inference.samplers import guide

__all__ = ["DRAWS", "draws"]

SEED = 2
# Fewer where they take long, and of very many latents, so that they fit into memory.
DRAWS, MOST_NUMBERS = (4000, 1000, 500), 4e7


def draws(case: Case) -> Found | None:
    """As many as there is time and memory for; without any, nothing more can be checked."""
    if not case.layout.latents:
        return None
    stage("check: draws of the guide", show=case.options.progress)
    layout, index = case.layout, case.index
    units = layout.num_units if case.local else 1
    units = units if index is None else len(index)
    allowed = WEIGHTS_SHARE * case.clock.left
    size, cut = affordable(case.problem, DRAWS, allowed, case.options.seed)
    size = int(min(size, max(DRAWS[-1], MOST_NUMBERS / (layout.event_size * units))))
    own = guide.draws(case.pair, *case.data, num_draws=size, index=index, seed=case.seed(SEED))
    own = case.few_rows(own)
    named = in_words(case.quantities.names(own))
    fewer = Finding("draws", "warn", say_fewer(size, DRAWS[0], layout), cut=True) if cut else None
    compared = QuantityNames(compared=f"{named}{_rows_in_words(case)}")
    return Found(fewer, answers={"svi": own}, notes={"names": compared})


def _rows_in_words(case: Case) -> str:
    if not case.local:
        return ""
    units = case.layout.num_units
    compared = min(ROWS, units) if case.index is None else len(case.index)
    return f" of {compared} of {units:,} rows" if compared < units else ""
