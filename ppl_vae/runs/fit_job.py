"""What `fit` does: a fit into a run's folder. It loads nothing that only judges or draws."""

import csv
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppl_vae.base.errors import InputError
from ppl_vae.base.files import collected_errors, write_json, write_text
from ppl_vae.base.progress import stage
from ppl_vae.data.dataset import Dataset
from ppl_vae.guides.per_datum import PerDatum
from ppl_vae.inference.fitting.checkpoint import save_parameters
from ppl_vae.inference.fitting.choice import fit_by
from ppl_vae.inference.fitting.fit_result import NAMES
from ppl_vae.inference.fitting.propagation.guides import takes
from ppl_vae.models.base import HintsAtScale
from ppl_vae.program.abilities import HasDegenerate
from ppl_vae.program.factors import RankingFactors
from ppl_vae.program.pairwise import as_linear
from ppl_vae.runs.run import OWN_DATA, Run, prepare_folder
from ppl_vae.runs.settings import Settings

__all__ = ["converged_of", "fit_run", "was_cut"]

# Guides that `natural.fit` takes of models of linear predictors.
BY_QUADRATURE = ("markov", "mean-field", "full-rank", "sparse-precision")


def fit_run(
    settings: Settings,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    complaints: list[InputError] | None = None,
    given: Dataset | None = None,
) -> dict[str, Any]:
    """Fit into a run's folder.

    Args:
        settings: what to fit.
        out: the folder.
        resume: go on from its checkpoint.
        overwrite: replace the run that it holds.
        progress: whether to show a progress bar on a terminal.
        complaints: see `files.collected_errors`: what could not be written at the end.
        given: the data set, where it has no name; the folder keeps it.

    Returns:
        What ``--json`` prints: totals in nats, ``_mean`` per unit beside them.

    Raises:
        InputError: for anything that cannot be done; the folder is then left as it was.
    """
    if resume and settings.fit.method in ("em", "ep"):
        name = NAMES[settings.fit.method]
        raise InputError(f"{name} keeps no checkpoint for --resume to go on from; fit anew, with --overwrite")
    # EM has starts of its own.
    run = Run.make(settings, given, started=settings.fit.method != "em")
    data = run.tensors("train")
    held_out = None
    if len(run.parts.get("validation", ())) and not isinstance(run.pair.guide, PerDatum):
        held_out = run.tensors("validation")
    prepare_folder(out, settings, resume=resume, overwrite=overwrite)
    if given is not None:
        given.to_netcdf(out / OWN_DATA)
    for line in run.read_as:
        stage(line, show=progress)
    if hint := _scale_hint(run):
        warnings.warn(hint, stacklevel=2)
    if settings.fit.method == "svi":
        stage(_said_of_svi(run), show=progress)
    fitted = fit_by(
        run.pair,
        data,
        settings.fit,
        held_out=held_out,
        refresh=run.epoch_data if run.is_dynamic else None,
        seed=settings.seed,
        checkpoint=out / "checkpoint",
        resume=resume,
        progress=progress,
    )
    warned = run.warnings
    if isinstance(run.model, HasDegenerate) and (said := run.model.degenerate()):
        warned = (*warned, said)
        warnings.warn(said, stacklevel=2)
    result = {
        "split": "train",
        **fitted.to_json(),
        "objective": settings.fit.objective,
        "warnings": list(warned),
        "read": list(run.read_as),
        "out": str(out),
    }
    with collected_errors(complaints):
        write_text(out / "elbo.csv", _csv(("step", "elbo"), enumerate(fitted.elbo.tolist(), start=1)))
        write_text(out / "held-out.csv", _csv(("step", "elbo_mean"), fitted.held_out.tolist()))
        write_json(out / "fit.json", result)
        # Last, for a folder with parameters is a fitted run.
        save_parameters(run.pair, out / "parameters.safetensors")
    return result


def converged_of(fit: Mapping[str, Any]) -> bool | None:
    """Whether the fit that a run keeps has converged; None where that was not judged (see `Fit`).

    Version 0.1.0 also called a fixed number of steps converged, by another rule.
    """
    found, by_svi = fit["converged"], fit.get("method", "SVI") == "SVI"
    return None if found is None or (found and by_svi and not fit.get("stopping")) else bool(found)


def was_cut(fit: Mapping[str, Any], num_steps: int) -> bool:
    """Whether the fit that a run keeps was ended by the time, before it came to rest or its steps ran out."""
    by_svi = fit.get("method", "SVI") == "SVI"
    return by_svi and converged_of(fit) is False and int(fit.get("steps", num_steps)) < num_steps


def _said_of_svi(run: Run) -> str:
    """That SVI begins, and what would be sooner there."""
    if isinstance(run.model, RankingFactors) and takes(run.pair):
        return (
            "SVI; where performances are normal, --method ep rates such games in a few steps, without draws"
        )
    if as_linear(run.model) is None or run.settings.guide not in BY_QUADRATURE:
        return "SVI"
    return "SVI; of such a model --method natural finds the optimum itself, without draws and sooner"


def _scale_hint(run: Run) -> str | None:
    """What the model has to say of the features' scale."""
    if run.settings.preparation.standardize or not isinstance(run.model, HintsAtScale):
        return None
    return run.model.scale_hint(run.training(), run.settings.options)


def _csv(header: tuple[str, ...], rows: Any) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
