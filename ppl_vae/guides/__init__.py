"""Guides that serve many models. Pyro's AutoGuides serve for global latents."""

from ppl_vae.guides.amortised import AmortisedNormal, LinearNormal
from ppl_vae.guides.local import LocalSite, LocalVector
from ppl_vae.guides.normal import num_raw
from ppl_vae.guides.per_datum import PerDatum, PerDatumNormal
from ppl_vae.guides.per_datum_flow import PerDatumFlow
from ppl_vae.guides.prior import Prior

__all__ = [
    "AmortisedNormal",
    "LinearNormal",
    "LocalSite",
    "LocalVector",
    "PerDatum",
    "PerDatumFlow",
    "PerDatumNormal",
    "Prior",
    "num_raw",
]
