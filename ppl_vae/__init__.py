"""Fit a latent-variable model by variational inference, and know how wrong the answer is."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppl_vae import data, diagnostics, guides, inference, models
    from ppl_vae.answers.evidence import Evidence
    from ppl_vae.answers.foreign import foreign_draws
    from ppl_vae.answers.posterior import Posterior
    from ppl_vae.base.errors import InputError
    from ppl_vae.diagnostics.calibration.sbc import Calibration, sbc
    from ppl_vae.diagnostics.comparison.alternatives import alternatives
    from ppl_vae.diagnostics.comparison.compare import Comparison, compare
    from ppl_vae.diagnostics.latents.gaps import Gaps, gaps
    from ppl_vae.diagnostics.prediction.predictive import predictive_check
    from ppl_vae.diagnostics.verdict.check import Check, check
    from ppl_vae.inference.evidence import annealing, bounds, bridge, importance
    from ppl_vae.inference.evidence.agreement import Agreement, agreement, sandwich
    from ppl_vae.inference.fitting import natural, svi
    from ppl_vae.inference.samplers import exact, guide, nuts
    from ppl_vae.models.bayesian_ppca import BayesianPPCA
    from ppl_vae.models.ppca import PPCA
    from ppl_vae.models.trueskill import TrueSkill
    from ppl_vae.models.vae import VAE
    from ppl_vae.program.pair import Pair
    from ppl_vae.runs.fitted import FittedRun, fit, load

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
