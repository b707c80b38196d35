"""Fitted runs from Python: fit a model of the suite in one call, open a run in one line."""

from __future__ import annotations

import inspect
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

import numpy as np
from torch import Tensor

from ppl_vae.base.clock import seconds_of
from ppl_vae.base.errors import InputError
from ppl_vae.base.files import read_json
from ppl_vae.data.accept import as_dataset
from ppl_vae.data.dataset import Dataset
from ppl_vae.inference.evidence.elbo import ELBO
from ppl_vae.inference.fitting.fit_result import Choice, Distance, EvidenceEstimate, Fit
from ppl_vae.inference.fitting.options import FitKeywords
from ppl_vae.inference.fitting.stopping import Stopping
from ppl_vae.inference.samplers import guide as guide_method
from ppl_vae.models.base import SuiteModel
from ppl_vae.models.keywords import ModelKeywords
from ppl_vae.program.pair import Pair, Program
from ppl_vae.runs.fit_job import converged_of, fit_run
from ppl_vae.runs.registry import suite_models
from ppl_vae.runs.run import METHODS, Run, settings_for
from ppl_vae.runs.settings import Preparation

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from ppl_vae.answers.evidence import Evidence
    from ppl_vae.answers.posterior import Posterior
    from ppl_vae.diagnostics.forecasting.leaderboard import Leaderboard
    from ppl_vae.diagnostics.verdict.check import Check
    from ppl_vae.runs.game_jobs import Predictions, ScoredRun

__all__ = ["FittedRun", "RunKeywords", "fit", "load"]


class PreparationKeywords(TypedDict, total=False):
    """The fields of `settings.Preparation` as keywords; a test holds the two equal."""

    standardize: bool
    binarize: Literal["static", "dynamic", "none"]
    dequantize: bool
    split: tuple[float, float, float]
    columns: dict[str, Any]
    data_dir: str | None


class RunKeywords(ModelKeywords, FitKeywords, PreparationKeywords, total=False):
    """Options of the suite's models, of the fit and of what is done to the data before it."""


class Lease:
    """A temporary folder, removed when nobody holds this any more.

    Args:
        folder: whose.
    """

    def __init__(self, folder: Path) -> None:
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)


@dataclass(frozen=True, eq=False, repr=False)
class FittedRun:
    """A fitted run: model, guide, data, and every answer that its folder holds.

    Attributes:
        run: the folder's content, for the functions that the command line calls.
        lease: of a temporary folder, which lasts as long as any object that has this.
    """

    run: Run
    lease: Lease | None = None

    def __repr__(self) -> str:
        asked = self.run.settings
        return f"FittedRun({asked.model} on {Path(asked.data).name}, guide {asked.guide}; {self.folder})"

    @property
    def folder(self) -> Path:
        """Where the run is kept; a folder of its own until this object ends, where none was named."""
        assert self.run.folder is not None
        return self.run.folder

    @property
    def model(self) -> SuiteModel:
        """The model with the learnt parameters."""
        return self.run.model

    @property
    def guide(self) -> Program:
        """The guide with the learnt parameters."""
        return self.run.pair.guide

    @property
    def pair(self) -> Pair:
        """Model and guide, as every method of `ppl_vae.inference` takes them."""
        return self.run.pair

    @property
    def data(self) -> Dataset:
        """The data set as the model sees it, preprocessed; its parts by `part`."""
        return self.run.data.dataset

    def part(self, split: str = "train") -> Dataset:
        """The units of "train", "validation" or "test".

        Raises:
            InputError: for a part that the run does not have.
        """
        return self.run.data.part(split)

    def tensors(self, split: str = "train") -> tuple[Tensor, ...]:
        """The programs' arguments for one part.

        Raises:
            InputError: for a part that the run does not have.
        """
        return self.run.tensors(split)

    @cached_property
    def posterior(self) -> Posterior:
        """A thousand draws of the guide for the training data, with their log importance weights."""
        return guide_method.draws(self.pair, *self.tensors(), seed=self.run.settings.seed)

    @cached_property
    def fit(self) -> Fit:
        """What the fit did."""
        import pandas as pd

        content = read_json(self.folder / "fit.json")
        if not {"elbo", "reason", "converged"} <= {*content}:
            raise InputError(f"{self.folder}/fit.json is missing or damaged")
        final = ELBO(
            content["elbo"], content["elbo_std_error"], content["reconstruction"], content["kl"],
            content["kl_is_analytic"], content["num_units"], content.get("num_particles", 0),
        )  # fmt: skip
        stopping, distance, choice = (content.get(name) for name in ("stopping", "distance", "choice"))
        estimate = content.get("estimate")
        return Fit(
            elbo=pd.read_csv(self.folder / "elbo.csv")["elbo"].to_numpy(),
            held_out=pd.read_csv(self.folder / "held-out.csv").to_numpy(dtype=np.float64),
            final=final,
            steps=content["steps"],
            seconds=content["seconds"],
            converged=converged_of(content),
            reason=content["reason"],
            engine=content["engine"],
            compile_seconds=content["compile_seconds"],
            stopping=Stopping.from_json(stopping) if stopping else None,
            method=content.get("method", "SVI"),
            distance=Distance.from_json(distance) if distance else None,
            choice=Choice.from_json(choice) if choice else None,
            estimate=EvidenceEstimate.from_json(estimate) if estimate else None,
        )

    @property
    def evidence(self) -> Mapping[str, Evidence]:
        """Every estimate of log p(x) that the folder holds, by method; `ppl-vae evidence` adds to them."""
        from ppl_vae.answers.evidence import Evidence

        paths = {name: self.folder / f"evidence-{name}.nc" for name in METHODS}
        return {name: Evidence.load(path) for name, path in paths.items() if path.exists()}

    @property
    def check(self) -> Check | None:
        """The check that the folder holds; None where there is none yet (`judge` makes one)."""
        from ppl_vae.diagnostics.verdict.outcome import Check

        return Check.load(self.folder) if (self.folder / "check.json").exists() else None

    def judge(
        self, budget: str | float = "2m", *, calibrate: bool = True, seed: int | None = None,
        progress: bool = True,
    ) -> Check:  # fmt: skip
        """Can this fit be trusted? Make every check that the budget allows, and keep it in the folder.

        Args:
            budget: seconds, or such as "90s" or "1h".
            calibrate: whether to spend what is left of it on simulated data, which change no verdict.
            seed: of everything random; the run's by default.
            progress: whether to show it on a terminal.
        """
        from ppl_vae.runs.check_jobs import check_run

        seconds = seconds_of(budget) if isinstance(budget, str) else budget
        return check_run(self.run, budget=seconds, calibrate=calibrate, seed=seed, progress=progress)

    def export(
        self, what: str, *, split: str | None = None, rows: slice | None = None, num_draws: int = 1000,
        seed: int | None = None,
    ) -> xr.Dataset:  # fmt: skip
        """Codes, draws, samples, reconstructions, imputed or log-evidence, labelled; see `exports.export`."""
        from ppl_vae.runs.exports import export

        return export(self.run, what, split=split, rows=rows, num_draws=num_draws, seed=seed)

    def predict(self, fixtures: Any, *, seed: int | None = None, **columns: str) -> Predictions:
        """What a model of games expects of fixtures: a table, a file or `Games`; see `predict_run`.

        Args:
            fixtures: games to come, whose outcomes may be missing and are not read.
            seed: of draws; the run's by default.
            columns: which column plays which part, as for `data.read_games`.
        """
        from ppl_vae.runs.game_jobs import predict_run

        return predict_run(self.run, fixtures, columns=columns, seed=seed)

    def score(
        self, later: Any, *, walk_forward: bool = False, seed: int | None = None, progress: bool = True,
        **columns: str,
    ) -> ScoredRun:  # fmt: skip
        """How good a model of games forecasts later ones; see `score_run`.

        Args:
            later: games with outcomes, after all that the run was fitted to.
            walk_forward: whether each date's games are learnt before the next date's are forecast.
            seed: of draws and of bands.
            progress: whether to show a progress bar on a terminal.
            columns: which column plays which part, as for `data.read_games`.
        """
        from ppl_vae.runs.game_jobs import score_run

        return score_run(
            self.run, later, walk_forward=walk_forward, columns=columns, seed=seed, progress=progress
        )

    def leaderboard(
        self, date: str | None = None, *, num_draws: int | None = None, seed: int | None = None
    ) -> Leaderboard:
        """Players by what they are almost surely worth, with their possible ranks; see `leaderboard_of_run`.

        Args:
            date: such as "2024-05-01"; that of the last game by default.
            num_draws: joint draws behind ranks; 4,000 by default, of more than 25,000 players fewer.
            seed: of them.
        """
        from ppl_vae.runs.game_jobs import leaderboard_of_run

        return leaderboard_of_run(self.run, date, num_draws=num_draws, seed=seed)

    def curves(self, players: Sequence[str] | None = None, *, seed: int | None = None) -> pd.DataFrame:
        """Levels of players over time with their bands; see `skill_curves`."""
        from ppl_vae.runs.game_jobs import skill_curves

        return skill_curves(self.run, players, seed=seed)

    def update(self, new: Any, *, out: str | Path | None = None, **columns: str) -> FittedRun:
        """The run with further games learnt, the model's own numbers held; see `update_run`.

        Args:
            new: games with outcomes, none earlier than the run's last.
            out: another folder for it; the run's own is replaced by default.
            columns: which column plays which part, as for `data.read_games`.
        """
        from ppl_vae.runs.update_job import update_run

        target = None if out is None else Path(out)
        update_run(self.run, new, out=target, columns=columns, progress=False)
        return FittedRun(Run.open(self.folder), self.lease) if target is None else load(target)

    def table(self, what: str, **options: Any) -> pd.DataFrame:
        """The same as a DataFrame: a row for every unit or draw."""
        from ppl_vae.runs.export_files import export_table

        return export_table(self.export(what, **options))


def load(folder: str | Path) -> FittedRun:
    """Open a run that `ppl-vae fit` or `fit` made.

    Raises:
        InputError: if the folder is no run, is not fitted yet, is damaged, or is of an older version that
            cannot be read.
    """
    return FittedRun(Run.open(Path(folder)))


def fit(
    model: str | type[SuiteModel],
    data: Any,
    *,
    out: str | Path | None = None,
    guide: str | None = None,
    seed: int = 0,
    device: str = "cpu",
    overwrite: bool = False,
    progress: bool = True,
    **options: Unpack[RunKeywords],
) -> FittedRun:
    """Fit a model of the suite to data: from a table to a run that can be checked, in one call.

    What is not given has the model's defaults, as on the command line.

    Args:
        model: its name (`ppl-vae models` lists them), its class, or FILE.py:CLASS of a class of your own.
        data: a DataFrame, an array, a tensor, a mapping of columns, xarray, the path of a file or the name of
            a data set: whatever `data.as_dataset` takes.
        out: the run's folder; a temporary one, which ends with the object, by default.
        guide: one of the model's.
        seed: of the split, of initial values and of everything random.
        device: "cpu", "cuda" or "cuda:N".
        overwrite: whether to replace the run that ``out`` holds.
        progress: whether to show a progress bar on a terminal.
        options: of the model, of the fit and of the preparation of the data.

    Raises:
        InputError: for a model, an option or data that cannot be used.
    """
    name = _name(model)
    given = None if isinstance(data, str | Path) else as_dataset(data)
    own, general = _apart(options)
    asked = {**general, "guide": guide, "seed": seed, "device": device}
    settings = settings_for(name, str(data) if given is None else given.name, asked, own)
    temporary = Path(tempfile.mkdtemp(prefix="ppl-vae-")) if out is None else None
    try:
        folder = Path(str(out)) if temporary is None else temporary / "run"
        fit_run(settings, folder, overwrite=overwrite, progress=progress, given=given)
        return FittedRun(Run.open(folder), None if temporary is None else Lease(temporary))
    except BaseException:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise


def _name(model: str | type[SuiteModel]) -> str:
    """What the command line calls a model."""
    if isinstance(model, str):
        return model
    if suite_models().get(model.name) is model:
        return model.name
    file = inspect.getsourcefile(model)
    if file is None:
        raise InputError(f"{model.__name__} is in no file; put it into one, for its run to be opened again")
    return f"{file}:{model.__name__}"


def _apart(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model's own options, and the others."""
    general = {*FitKeywords.__annotations__, *Preparation.__dataclass_fields__, "epochs"}
    own = {name: value for name, value in options.items() if name not in general}
    return own, {name: value for name, value in options.items() if name in general}
