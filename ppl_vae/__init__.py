"""Fit a latent-variable model by variational inference, and know how wrong the answer is."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppl_vae import data, diagnostics, guides, inference, models
    from ppl_vae.diagnostics import (
        Agreement,
        Calibration,
        Check,
        Comparison,
        Gaps,
        agreement,
        alternatives,
        check,
        compare,
        gaps,
        predictive_check,
        sandwich,
        sbc,
    )
    from ppl_vae.errors import InputError
    from ppl_vae.evidence import Evidence
    from ppl_vae.fitted import FittedRun, fit, load
    from ppl_vae.foreign import foreign_draws
    from ppl_vae.inference import annealing, bounds, bridge, exact, guide, importance, natural, nuts, svi
    from ppl_vae.models import PPCA, VAE, BayesianPPCA, TrueSkill
    from ppl_vae.posterior import Posterior
    from ppl_vae.program import Pair

__all__ = [
    "PPCA",
    "VAE",
    "Agreement",
    "BayesianPPCA",
    "Calibration",
    "Check",
    "Comparison",
    "Evidence",
    "FittedRun",
    "Gaps",
    "InputError",
    "Pair",
    "Posterior",
    "TrueSkill",
    "__version__",
    "agreement",
    "alternatives",
    "annealing",
    "bounds",
    "bridge",
    "check",
    "compare",
    "data",
    "diagnostics",
    "exact",
    "fit",
    "foreign_draws",
    "gaps",
    "guide",
    "guides",
    "importance",
    "inference",
    "load",
    "models",
    "natural",
    "nuts",
    "predictive_check",
    "sandwich",
    "sbc",
    "svi",
]

__version__ = version("ppl-vae")

# Names load when they are first used (PEP 562), so that `ppl-vae --help` answers without torch.
_HOMES = {
    **dict.fromkeys(
        (
            "Agreement",
            "Calibration",
            "Check",
            "Comparison",
            "Gaps",
            "agreement",
            "alternatives",
            "check",
            "compare",
            "gaps",
            "predictive_check",
            "sandwich",
            "sbc",
        ),
        "diagnostics",
    ),
    "InputError": "errors",
    "Evidence": "evidence",
    **dict.fromkeys(("FittedRun", "fit", "load"), "fitted"),
    "foreign_draws": "foreign",
    **dict.fromkeys(
        ("annealing", "bounds", "bridge", "exact", "guide", "importance", "natural", "nuts", "svi"),
        "inference",
    ),
    "PPCA": "models",
    "VAE": "models",
    "BayesianPPCA": "models",
    "TrueSkill": "models",
    "Posterior": "posterior",
    "Pair": "program",
}


def __getattr__(name: str) -> Any:
    if name in ("data", "diagnostics", "guides", "inference", "models"):
        return import_module(f"ppl_vae.{name}")
    if name in _HOMES:
        return getattr(import_module(f"ppl_vae.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'ppl_vae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
