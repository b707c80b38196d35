"""Imports of 0.1.0's modules at the places they have left; to be removed with the version after 0.2."""

import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["GONE", "MOVED", "RENAMED", "Moved"]

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
        "advice check check_files fitting reference",
    ),
    ("diagnostics", "base", "budget=clock"),
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
    ("models", "models", "options=base"),
    ("models", "models.networks", "batch_norm=norms"),
    ("models", "models.skills", "trueskill"),
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

# Names that are others now, by the modules of 0.1.0 that they were in.
RENAMED = {
    "ppl_vae.diagnostics.answers.Chains": "ppl_vae.diagnostics.calibration.answers.ThinnedNuts",
    "ppl_vae.diagnostics.statistics.kind_of": "ppl_vae.diagnostics.prediction.statistics.distribution_kind",
    "ppl_vae.evidence_jobs.Asked": "ppl_vae.runs.evidence_jobs.EvidenceOptions",
    "ppl_vae.evidence_jobs.Found": "ppl_vae.runs.evidence_jobs.EvidenceFound",
    "ppl_vae.inference.graph.check": "ppl_vae.engine.graph.check_graph",
    "ppl_vae.inference.graph.over": "ppl_vae.engine.graph.vmap_graph",
    "ppl_vae.inference.hmc.State": "ppl_vae.inference.samplers.hmc.ChainState",
    "ppl_vae.inference.rule.Rule": "ppl_vae.inference.fitting.rule.GainRule",
    "ppl_vae.inference.stopping.Check": "ppl_vae.inference.fitting.stopping.TailCheck",
    "ppl_vae.inference.terms.guide_values": "ppl_vae.program.given_latents.guide_values",
    "ppl_vae.jobs.fit_run": "ppl_vae.runs.fit_job.fit_run",
    "ppl_vae.user_program.load_guide": "ppl_vae.inference.fitting.started.load_guide",
    "ppl_vae.user_program.read_arguments": "ppl_vae.data.user_data.read_arguments",
}

_DRAWN = "ppl_vae.report.figures.draw, given"
# What does now what these did.
GONE = {
    "ppl_vae.diagnostics.checking": "the functions of ppl_vae.diagnostics.verdict.listed.CHECKS",
    "ppl_vae.inference.stops": "the observers of ppl_vae.inference.fitting",
    "ppl_vae.report.figures.image_grid": f"{_DRAWN} an ImageGrid of ppl_vae.views",
    "ppl_vae.report.figures.latent_plane": f"{_DRAWN} a Scatter of ppl_vae.views",
    "ppl_vae.report.figures.leaderboard": f"{_DRAWN} Intervals of ppl_vae.views",
    "ppl_vae.report.figures.win_matrix": f"{_DRAWN} a Matrix of ppl_vae.views",
    "ppl_vae.report.model_part": "the models' own views, and ppl_vae.report.parts.views.views_part",
    "ppl_vae.report.ppca_figures": f"{_DRAWN} the views of the model",
    "ppl_vae.report.skill_figures": f"{_DRAWN} the views of the model",
}


class _AtItsOldPlace(ModuleType):
    """A module that has moved. Some share their name with a function of the face, and can be called as it."""

    def __getattr__(self, name: str) -> Any:
        new = RENAMED.get(f"{self.__name__}.{name}", f"{MOVED[self.__name__]}.{name}")
        module, _, name = new.rpartition(".")
        return getattr(import_module(module), name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **options)


class Moved(MetaPathFinder, Loader):
    """Finds the modules of `MOVED` by their old names, with a warning that names the new ones."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        """A spec for what has moved; None for everything else, which other finders know or nobody does.

        Raises:
            ImportError: for what is gone, a name in a module too; it says what does the same now.
        """
        if fullname in GONE:
            raise ImportError(f"{fullname} is gone; in its place: {GONE[fullname]}", name=fullname)
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
