"""What `ppl-vae check` does: a run, a fit that is still to be made, or a user's own programs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import torch

from ppl_vae.base.clock import Clock, OutOfTime, deadline
from ppl_vae.base.errors import InputError
from ppl_vae.base.files import collected_errors, read_json
from ppl_vae.base.plain import plain
from ppl_vae.base.progress import stage
from ppl_vae.base.seeds import seeded
from ppl_vae.data.rows import Rows
from ppl_vae.data.user_data import read_arguments
from ppl_vae.diagnostics.verdict.case import Rested
from ppl_vae.diagnostics.verdict.check import MOST_STEPS, Check, CheckKeywords, check, check_pair
from ppl_vae.diagnostics.verdict.fitting import FIT_SHARE
from ppl_vae.inference.fitting.options import MethodName
from ppl_vae.inference.fitting.started import load_guide
from ppl_vae.program.user_program import load_program
from ppl_vae.runs.fit_job import converged_of, fit_run, was_cut
from ppl_vae.runs.jobs import part_problem, row_numbers
from ppl_vae.runs.run import Run, only_begun, settings_for

__all__ = ["CheckedOptions", "check_json", "check_programs", "check_run", "fit_for_check"]


@dataclass(frozen=True, kw_only=True)
class CheckedOptions:
    """What the command line asks of a check.

    Attributes:
        budget: time for everything, such as 90s, 2m or 1h; the important checks come first.
        method: svi, natural, deterministic, em, ep or auto, where a fit is made (default: auto for
            programs of your own, svi for models)
        steps: the most steps of SVI.
        lr: learning rate that SVI begins with (default: the model's, or 0.05)
        split: train, validation or test rows (default: test where there are any, else train)
        calibrate: spend what is left of the budget on simulated data.
        seed: seed of everything random (default: 0, or the run's)
    """

    budget: str = "2m"
    method: MethodName | None = None
    steps: int = MOST_STEPS
    lr: float | None = None
    split: str | None = None
    calibrate: bool = True
    seed: int | None = None


def check_run(
    run: Run,
    *,
    split: str | None = None,
    rows: slice | None = None,
    budget: float | Clock = 120.0,
    calibrate: bool = True,
    seed: int | None = None,
    callback: Callable[[Check], None] | None = None,
    progress: bool = True,
    complaints: list[InputError] | None = None,
) -> Check:
    """Check a fitted run; its folder keeps what was found.

    Args:
        run: a fitted run.
        split: "train", "validation" or "test"; test where there are test rows, else train.
        rows: which rows' posteriors are compared, the first eight by default.
        budget: seconds, or a clock that already runs.
        calibrate: whether to spend what is left on simulation-based calibration.
        seed: the run's by default.
        callback: called once the verdict stands; see `check`.
        progress: whether to show progress bars on a terminal.
        complaints: see `files.collected_errors`: what could not be written.

    Raises:
        InputError: for rows or parts that the run does not have.
    """
    part, problem = part_problem(run, split)
    fit = read_json(run.folder / "fit.json") if run.folder else {}
    if fit and not {"converged", "reason"} <= {*fit}:
        raise InputError(f"{run.folder}/fit.json is damaged: it says nothing of convergence")
    found = check_pair(
        run.pair,
        *problem.data,
        rested=Rested(converged_of(fit), str(fit["reason"]), str(fit.get("method", "SVI"))) if fit else None,
        cut=bool(fit) and was_cut(fit, run.settings.fit.num_steps),
        rows=row_numbers(run, problem.layout, rows, part) if rows is not None else None,
        calibrate=calibrate,
        budget=budget,
        feature_names=run.source.feature_names if isinstance(run.source, Rows) else (),
        seed=run.settings.seed if seed is None else seed,
        callback=callback,
        progress=progress,
    )
    if run.folder is not None:
        with collected_errors(complaints):
            found.save(run.folder)
    return found


def fit_for_check(
    model: str,
    data: str,
    out: Path,
    *,
    steps: int,
    lr: float | None,
    budget: Clock,
    seed: int,
    method: MethodName | None = None,
    progress: bool = True,
) -> None:
    """Fit a model of the suite with its defaults into a new run's folder, until that comes to rest.

    Args:
        model, data: names, or a data file.
        out: the folder.
        steps: the most steps.
        lr: learning rate that they begin with; the model's by default.
        budget: for fit and checks; the fit may take its share.
        seed: of the fit.
        method: of the fit; the model's by default.
        progress: whether to show a progress bar on a terminal.

    Raises:
        InputError: as `fit_job.fit_run`, and where the time was over before the first step.
    """
    if out.exists() and not only_begun(out):
        raise InputError(
            f"{out} is not empty; give another --out, or judge the run that it holds: ppl-vae check {out}"
        )
    # Steps are SVI's alone; what is the usual need not have been asked for.
    own = {"steps": steps} if method is None or steps != MOST_STEPS else {}
    settings = settings_for(model, data, {"method": method, "lr": lr, "seed": seed, **own}, {})
    stage("check: fitting", show=progress)
    try:
        with deadline(FIT_SHARE * budget.left):
            fit_run(settings, out, progress=progress)
    except OutOfTime:
        raise budget.too_short() from None


def check_programs(
    model: str,
    guide: str,
    data: Sequence[str],
    out: Path,
    *,
    method: MethodName | None = None,
    steps: int = MOST_STEPS,
    lr: float | None = None,
    rows: slice | None = None,
    complaints: list[InputError] | None = None,
    **options: Unpack[CheckKeywords],
) -> Check:
    """Fit and check a user's own pair; a folder keeps what was found.

    Args:
        model, guide: as ``FILE.py:NAME``; the guide may also be a family of `guides.named`.
        data: files of the programs' arguments; see `user_data.read_arguments`.
        out: the folder.
        method: of the fit; "auto" by default.
        steps: the most steps of SVI.
        lr: the learning rate that they begin with.
        rows, complaints: as for `check_run`.
        options: the fields of `diagnostics.verdict.options.CheckOptions`.

    Raises:
        InputError: for programs or data that cannot be read or do not fit each other, or a folder that
            holds other files.
    """
    program = load_program(model)
    arguments = read_arguments(data, program)
    if out.exists() and any(out.iterdir()) and not (out / "check.json").exists():
        raise InputError(f"{out} is not empty and holds no check; give another --out")
    seed = options.get("seed", 0)
    with seeded(seed):
        own = load_guide(guide, program, *arguments, seed=seed)
    found = check(
        program,
        own,
        *arguments,
        method=method or "auto",
        num_steps=steps,
        lr=lr,
        rows=None if rows is None else torch.arange(_most(arguments))[rows],
        **options,
    )
    with collected_errors(complaints):
        found.save(out)
    return found


def check_json(found: Check) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        "verdict": found.verdict,
        "reason": found.reason,
        "next_step": found.next_step,
        "findings": plain(found.findings),
        "measures": found.measures.to_json(),
        "rows": plain(found.index),
        "seconds": found.seconds,
        "budget": found.budget,
    }


def _most(arguments: tuple[torch.Tensor, ...]) -> int:
    return max((len(values) for values in arguments if values.dim()), default=0)
