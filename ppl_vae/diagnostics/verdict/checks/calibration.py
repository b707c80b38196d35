"""Simulation-based calibration of the guide, and then of NUTS, in what time is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ppl_vae.base.clock import OutOfTime, TooLittleTime, deadline
from ppl_vae.base.errors import InputError
from ppl_vae.base.progress import stage
from ppl_vae.diagnostics.calibration.sbc import sbc
from ppl_vae.diagnostics.comparison.compare import Identifiable
from ppl_vae.diagnostics.verdict.case import LEAST_LEFT, Case, Found, skipped
from ppl_vae.diagnostics.verdict.rule import Finding, Status
from ppl_vae.program.pair import Program
from ppl_vae.program.pairwise import as_linear

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["calibration", "sampler"]

SEED = 8
# Share of the time left for calibrating the guide, before the sampler.
GUIDE_SHARE = 0.6
# Data sets that are simulated, where there is time.
NUM_SIMULATIONS = 500


def calibration(case: Case) -> Found | None:
    """The guide's, refitted or amortised, over data that the model simulates."""
    return _calibrated(case, "guide", "calibration", GUIDE_SHARE if _by_nuts(case) else 1.0)


def sampler(case: Case) -> Found | None:
    """That of NUTS, where it is the reference."""
    return _calibrated(case, "nuts", "sampler", 1.0) if _by_nuts(case) else None


def _by_nuts(case: Case) -> bool:
    return case.measures.reference == "nuts"


def _calibrated(case: Case, answer: Literal["guide", "nuts"], name: str, share: float) -> Found | None:
    if not case.options.calibrate or not case.layout.latents:
        return None
    if case.clock.left < LEAST_LEFT * case.clock.budget:
        return Found(skipped(name, "there was no time left for simulated data"))
    whose = "the guide" if answer == "guide" else "NUTS"
    stage(f"check: calibration of {whose}", show=case.options.progress)
    seconds = share * case.clock.left
    try:
        with deadline(seconds):
            found = sbc(
                case.pair,
                *case.data,
                answer=answer,
                num_simulations=NUM_SIMULATIONS,
                budget=seconds,
                identifiable=case.options.identifiable,
                functions=_common_mean(case.pair.model),
                seed=case.seed(SEED),
                progress=case.options.progress,
            )
    except (InputError, OutOfTime) as error:
        said = str(error) or "there was too little time left for simulated data"
        return Found(skipped(name, said, cut=isinstance(error, OutOfTime | TooLittleTime)))
    status: Status = "pass" if found.passed else "warn"
    return Found(Finding(name, status, found.sentence(), cut=found.cut), answers={answer: found})


def _common_mean(model: Program) -> Identifiable | None:
    """For models of skills and the like, the mean, of which games say next to nothing: its spread is a
    guide's alone."""
    linear = as_linear(model)
    if linear is None:
        return None
    site, _ = linear.normal_prior()

    def mean(draws: xr.Dataset) -> xr.Dataset:
        values = draws[site]
        dims = [dim for dim in values.dims if dim not in ("chain", "draw")]
        return values.mean(dims).to_dataset(name=f"mean of {site}")

    return mean
