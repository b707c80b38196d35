"""Imports of 0.1.0's modules at the places they have left; to be removed with the version after 0.2."""

import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["MOVED", "Moved"]

# The package that each was in, the one it is in, and names, old=new where they differ.
_PLACES = (
    ("", "answers", "evidence foreign posterior"),
    ("", "base", "errors files progress rng=seeds threads"),
    ("", "cli", "demo tables"),
    ("", "program", "user_program"),
    ("", "runs", "check_jobs evidence_jobs evidence_results jobs run settings summary"),
    ("diagnostics", "diagnostics.calibration", "answers ranks simulations"),
    (
        "diagnostics",
        "diagnostics.comparison",
        "agreement alternatives closeness compare distances mixing scores symmetries",
    ),
    ("diagnostics", "diagnostics.latents", "best_guides collapse funnels gap_parts gaps"),
    ("diagnostics", "diagnostics.prediction", "predictive profiles replicated statistics"),
    (
        "diagnostics",
        "diagnostics.verdict",
        "advice check check_files checking=checks.reference fitting reference",
    ),
    ("inference", "answers", "labels pareto"),
    ("inference", "engine", "compiler decompositions gradients graph native objectives=density"),
    (
        "inference",
        "inference.evidence",
        "annealing bounds bridge elbo importance partial running temperatures tempered tolerance weights",
    ),
    (
        "inference",
        "inference.fitting",
        "checkpoint fixed_data iwae natural refits restarts rule schedule steps stopping svi tail unrolled",
    ),
    (
        "inference",
        "inference.samplers",
        "chains exact guide hmc hmc_tuning laplace many_chains many_data nutpie_nuts nuts pyro_nuts",
    ),
    ("inference", "program", "batches model_densities simulation=simulate sites=layout terms"),
    (
        "report",
        "report.figures",
        "calibration_figure=calibration collapse_figure=collapse evidence_figure=evidence gap_figure=gap "
        "pair_figure=pair predictive_figure=predictive stopping_figure=stopping",
    ),
    ("report", "report.parts", "check_page=check comparison_part=comparison fit_part=fit"),
)

MOVED = {
    ".".join(filter(None, ("ppl_vae", before, old))): f"ppl_vae.{after}.{new or old}"
    for before, after, names in _PLACES
    for old, _, new in (name.partition("=") for name in names.split())
}


class _AtItsOldPlace(ModuleType):
    """A module that has moved. Some share their name with a function of the face, and can be called as it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(MOVED[self.__name__]), name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **options)


class Moved(MetaPathFinder, Loader):
    """Finds the modules of `MOVED` by their old names, with a warning that names the new ones."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        """A spec for what has moved; None for everything else, which other finders know or nobody does."""
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """What stands at the old place."""
        warnings.warn(
            f"{spec.name} has moved to {MOVED[spec.name]}; the old name goes with the next version",
            DeprecationWarning,
            stacklevel=2,
        )
        return _AtItsOldPlace(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Load the module at its new place."""
        module.__doc__ = import_module(MOVED[module.__name__]).__doc__
