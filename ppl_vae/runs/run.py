"""A run's folder: what a fit was asked for, what it learnt, and how to open it again."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ppl_vae.base.errors import InputError
from ppl_vae.base.files import PART, reading, write_text
from ppl_vae.base.options import from_shell, shell_names
from ppl_vae.base.seeds import seeded
from ppl_vae.data.dataset import Dataset
from ppl_vae.data.games import Games
from ppl_vae.data.inputs import GameInput
from ppl_vae.data.named import load_dataset
from ppl_vae.data.prepare import Prepared, PrepareKeywords, prepare
from ppl_vae.data.preprocess import NoGreys
from ppl_vae.data.readers import SUFFIXES
from ppl_vae.data.rows import Rows
from ppl_vae.guides.named import named_guide
from ppl_vae.inference.fitting.checkpoint import load_parameters
from ppl_vae.inference.fitting.choice import settled
from ppl_vae.inference.fitting.options import FitOptions
from ppl_vae.models.base import FitDefaults, SuiteModel, defaults_of, inputs_of
from ppl_vae.models.likelihoods.base import binarises, taking
from ppl_vae.program.abilities import SearchesStart
from ppl_vae.program.pair import Pair
from ppl_vae.program.user_program import is_program
from ppl_vae.runs.registry import find_model
from ppl_vae.runs.settings import Preparation, Settings, check_guide_name, device_of, options_of

__all__ = ["METHODS", "OWN_DATA", "Run", "only_begun", "prepare_folder", "settings_for"]

Part_ = TypeVar("Part_", Preparation, FitOptions)
# Fields by what the command line calls them: --steps is num_steps.
OTHER_NAMES = {
    option.partition("/")[0].removeprefix("--").replace("-", "_"): name
    for cls in (Preparation, FitOptions)
    for name, option in shell_names(cls).items()
}

# Data that were given in Python are kept in the run's folder.
OWN_DATA = "data.nc"
# How log p(x) can be had, in the order in which a table shows them.
METHODS = ("exact", "is", "defensive", "prior", "iwae", "ais", "bridge", "bdmc")
FILES = (
    "config.json", OWN_DATA, "parameters.safetensors", "checkpoint", "fit.json", "elbo.csv", "held-out.csv",
    "posterior-svi.nc", "posterior-nuts.nc", "posterior-exact.nc", "posterior-foreign.nc", "compare.json",
    "comparison.json",
    *(f"evidence-{method}.nc" for method in METHODS), "evidence-bdmc-lower.nc",
    "evidence.json", "evidence.png", "worst.png",
    "evidence-is.partial", "evidence-defensive.partial", "evidence-prior.partial", "evidence-ais.partial",
    "gaps.nc", "gaps.json", "gaps.png", "report.html",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Run:
    """A model, its guide and its data, made from settings.

    Attributes:
        settings: what was asked for.
        model, pair: the programs.
        data: what the model takes of the data, split and preprocessed.
        folder: where the run is kept, once it is fitted.
        given: the data set as it was given in Python; None where it is found by its name.
    """

    settings: Settings
    model: SuiteModel
    pair: Pair
    data: Prepared
    folder: Path | None = None
    given: Dataset | None = None

    @classmethod
    def make(cls, settings: Settings, given: Dataset | None = None, *, started: bool = True) -> Self:
        """Load the data, unless they are given, and build the pair, untrained.

        Args:
            settings: what was asked for.
            given: the data set, where it was given in Python.
            started: whether a model that searches for a start does so; not where its parameters are then set
                by other means.

        Raises:
            InputError: for anything asked that cannot be done.
        """
        device = device_of(settings.device)
        chosen = find_model(settings.model)
        check_guide_name(chosen, settings.guide)
        # Nothing else holds the table as it was read: it may be large.
        data = _prepared(_loaded(settings, settings.data) if given is None else given, chosen, settings)
        with seeded(settings.seed):
            training = chosen.data_type.of(data.part("train"))
            if started or not isinstance(chosen, SearchesStart):
                model = chosen.from_data(training, settings.options)
            else:
                model = chosen.without_start(training, settings.options)
            del training
            tensors = data.arguments("train", getattr(torch, chosen.defaults.dtype))
            own = chosen.guides.get(settings.guide)
            guide = named_guide(settings.guide, model) if own is None else own(model, *tensors)
        for program in (model, guide):
            if isinstance(program, nn.Module):
                program.to(device)
        return cls(settings, model, Pair(model, guide), data, None, given)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a fitted run.

        Raises:
            InputError: if the folder is no run, is not fitted yet, or is damaged.
        """
        if not folder.is_dir():
            raise InputError(f"{folder} does not exist; a run is a folder that `ppl-vae fit` made")
        settings = Settings.from_json(folder / "config.json")
        if not (folder / "parameters.safetensors").exists():
            raise InputError(f"{folder} is not fitted yet: finish it with `ppl-vae fit … --resume`")
        with reading(folder / "config.json"):
            own = Dataset.from_netcdf(folder / OWN_DATA) if (folder / OWN_DATA).exists() else None
            run = cls.make(settings, own, started=False)
        run.pair.initialise(*run.tensors("train"), seed=settings.seed)
        load_parameters(run.pair, folder / "parameters.safetensors")
        return replace(run, folder=folder)

    def tensors(self, part: str = "train") -> tuple[Tensor, ...]:
        """The programs' data for one part.

        Raises:
            InputError: for a part that this run does not have.
        """
        part = part if len(self.parts) > 1 else "train"
        return self.data.arguments(part, self._dtype, device_of(self.settings.device))

    def other_tensors(self, data: str) -> tuple[Tensor, ...]:
        """Another data set under this run's preprocessing, fitted on this run's training rows.

        Raises:
            InputError: if it is of another kind or width, or has a category or player that is new to it.
        """
        other = _loaded(self.settings, data)
        raw = self.raw() if self.settings.preparation.standardize else other
        alike = self.data.alike(other, raw, _preparation(self.settings))
        return alike.arguments(self.data.inputs, self._dtype, device_of(self.settings.device))

    def training(self) -> Any:
        """The data that the model learns from, of its type, after preprocessing."""
        return type(self.model).data_type.of(self.data.part("train"))

    def raw(self) -> Dataset:
        """The data set before anything was done to it."""
        return _loaded(self.settings, self.settings.data) if self.given is None else self.given

    def unscaled(self, part: str = "train") -> Dataset:
        """The data of a part before they were standardised."""
        asked: PrepareKeywords = {**_preparation(self.settings), "standardize": False}
        return prepare(self.raw(), self.data.inputs, **asked).part(part)

    def epoch_data(self, epoch: int) -> tuple[Tensor, ...]:
        """Training rows binarised afresh for an epoch."""
        return self.data.epoch(self.settings.seed, epoch, self._dtype, device_of(self.settings.device))

    @cached_property
    def source(self) -> Rows | Games | Dataset:
        """What the model takes, as its type of data shows it."""
        found: Rows | Games | Dataset = type(self.model).data_type.of(self.data.dataset)
        return found

    @property
    def read_as(self) -> tuple[str, ...]:
        """How a table of games was read, in sentences; nothing of other data."""
        return self.data.dataset.history if self._of_games else ()

    @property
    def _of_games(self) -> bool:
        return type(self.model).data_type is Games

    @property
    def _dtype(self) -> torch.dtype:
        return getattr(torch, type(self.model).defaults.dtype)

    @property
    def parts(self) -> Mapping[str, np.ndarray]:
        """Row numbers of "train", "validation" and "test"; only "train" for games."""
        return self.data.parts

    @property
    def is_dynamic(self) -> bool:
        """Whether training rows are binarised afresh every epoch."""
        return self.data.grey is not None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What preprocessing had to say, each once."""
        # Games have no others, and making them takes memory.
        return (self.data.dataset if self._of_games else self.source).warnings


def settings_for(model: str, data: str, given: Mapping[str, Any], options: Mapping[str, Any]) -> Settings:
    """Fill in the model's defaults for everything that was not given.

    Args:
        model: its name, or FILE.py:CLASS.
        data: name or path.
        given: fields of `Settings`, `Preparation` and `FitOptions`, by their names or as the command line
            calls them (steps), and ``epochs``; None counts as not given.
        options: the model's own options.

    Raises:
        InputError: for an unknown model, option or value.
    """
    cls = find_model(model)
    chosen = _found_anywhere(options_of(cls, {n: value for n, value in options.items() if value is not None}))
    given = {OTHER_NAMES.get(name, name): value for name, value in given.items() if value is not None}
    if "method" in given:
        names = [*given, *(["num_steps"] if "epochs" in given else [])]
        given["method"] = settled(given["method"], names)
    epochs = given.pop("epochs", None)
    if epochs is not None and "num_steps" in given:
        raise InputError("--steps and --epochs exclude each other")
    usual = defaults_of(cls, chosen)
    guide = given.pop("guide", next(iter(cls.guides)))
    check_guide_name(cls, guide)
    seed, device = given.pop("seed", 0), given.pop("device", "cpu")
    if seed < 0:
        raise InputError(f"--seed is {seed}; it must be at least 0")
    device_of(device)
    settings = Settings(
        model=_in_full(model) if is_program(model) else model,
        # A run can be opened from any folder: a file's path is kept in full.
        data=str(Path(data).resolve()) if Path(data).suffix.lower() in SUFFIXES else data,
        guide=guide,
        options=chosen,
        preparation=_declared(Preparation, _usual_preparation(usual), given),
        fit=_declared(FitOptions, _usual_fit(usual, given), given),
        seed=seed,
        device=device,
    )
    if epochs is None:
        return settings
    settings = _with_epochs(settings, epochs)
    if "kl_warmup" in given:
        return settings
    length = _length(settings.fit.num_steps, usual.num_steps, settings.fit.stop)
    return replace(settings, fit=replace(settings.fit, kl_warmup=round(usual.kl_warmup * length)))


def _found_anywhere(options: Any) -> Any:
    """A model's options with the paths of files in full: a run can be opened from any folder."""
    files = [f.name for f in fields(options) if f.metadata.get("file") and getattr(options, f.name)]
    return replace(options, **{name: str(Path(getattr(options, name)).resolve()) for name in files})


def _usual_preparation(usual: FitDefaults) -> dict[str, Any]:
    return {"standardize": usual.standardize, "binarize": usual.binarize, "split": usual.split}


def _usual_fit(usual: FitDefaults, given: Mapping[str, Any]) -> dict[str, Any]:
    # Averages over a share of the steps belong to a fixed number of them.
    stop = bool(given.get("stop", not given.get("average")))
    # Where a fit ends by itself, the cap says nothing about its length.
    length = _length(given.get("num_steps"), usual.num_steps, stop)
    return {
        "num_steps": usual.max_steps if stop else usual.num_steps,
        "batch_size": usual.batch_size,
        "lr": usual.lr,
        "num_particles": usual.num_particles,
        "kl_warmup": round(usual.kl_warmup * length),
        "precision": "float32",
        "stop": stop,
    }


def _declared(cls: type[Part_], usual: Mapping[str, Any], given: Mapping[str, Any]) -> Part_:
    """Options of a class, from its model's defaults and what was given, complaining in the shell's words."""
    names = {f.name for f in fields(cls)}
    return from_shell(cls, {**usual, **{name: value for name, value in given.items() if name in names}})


def _in_full(program: str) -> str:
    file, _, name = program.rpartition(":")
    return f"{Path(file).resolve()}:{name}"


def _prepared(raw: Dataset, model: type[SuiteModel], settings: Settings) -> Prepared:
    """The data as the model is given them.

    Raises:
        InputError: as `prepare` does; of reals for a likelihood of binary values, with those that take reals.
    """
    try:
        return prepare(raw, inputs_of(model, settings.options), **_preparation(settings))
    except NoGreys as error:
        likelihood = getattr(settings.options, "likelihood", "")
        if not binarises(likelihood):
            raise
        raise InputError(
            f"{str(error).rstrip('.')}; a {likelihood} likelihood takes no other values: take --likelihood "
            f"{taking('real')}"
        ) from None


def prepare_folder(folder: Path, settings: Settings, *, resume: bool, overwrite: bool) -> None:
    """Make the run's folder, or say why not; to be called when everything else has been checked.

    A folder in which a fit has only begun, by a process that was killed or by steps that failed before the
    first checkpoint, holds nothing to lose and is taken again.

    Raises:
        InputError: if the folder holds another run or other files.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; --out names a folder")
    held = sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []
    kept = [] if only_begun(folder) else held
    if resume and kept:
        before = Settings.from_json(folder / "config.json")
        old, new = _flat(before), _flat(settings)
        if changed := [name for name in old if old[name] != new.get(name)]:
            name = changed[0]
            raise InputError(
                f"{folder} was started with {name}={old[name]}, not {new.get(name)}; --resume goes on with "
                "the same options"
            )
        return
    if kept and not overwrite:
        raise InputError(
            f"{folder} is not empty; give another --out, --resume to go on with its run, or --overwrite"
        )
    if kept and "config.json" not in kept:
        raise InputError(f"{folder} holds files of something else than a run; they will not be overwritten")
    # The config goes last, by being replaced: a kill before that leaves a run that --overwrite takes.
    leftovers = [name for name in held if name.startswith(PART)]
    ours = [folder / name for name in (*FILES, *leftovers) if name != "config.json"]
    if any(name.startswith(("check.", "check-")) for name in held):
        from ppl_vae.diagnostics.verdict.check_files import check_files

        ours += check_files(folder)
    for path in ours:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    write_text(folder / "config.json", settings.to_json())


def only_begun(folder: Path) -> bool:
    """Whether a folder holds nothing, or nothing but the beginnings of a fit."""
    if not folder.is_dir():
        return not folder.exists()
    whole = [entry.name for entry in folder.iterdir() if not entry.name.startswith(PART)]
    saved = folder / "checkpoint"
    in_checkpoint = [entry.name for entry in saved.iterdir()] if saved.is_dir() else []
    return {*whole} <= {"config.json", "checkpoint"} and all(name.startswith(PART) for name in in_checkpoint)


def _loaded(settings: Settings, data: str) -> Dataset:
    """A data set by name or path, for a run of these settings."""
    asked = settings.preparation
    games = any(isinstance(found, GameInput) for found in find_model(settings.model).inputs.values())
    columns = asked.columns if games else None
    data_dir = Path(asked.data_dir) if asked.data_dir else None
    return load_dataset(data, data_dir=data_dir, games=games, columns=columns)


def _preparation(settings: Settings) -> PrepareKeywords:
    """What is done to the data of a run."""
    asked = settings.preparation
    return {
        "seed": settings.seed,
        "fractions": asked.split,
        "standardize": asked.standardize,
        "binarize": asked.binarize,
        "dequantize": asked.dequantize,
        "columns": asked.columns or None,
    }


def _with_epochs(settings: Settings, epochs: float) -> Settings:
    """Epochs as steps, which needs the number of training rows."""
    if not 0 < epochs < float("inf"):
        raise InputError(f"--epochs is {epochs}; it must be positive")
    count = len(Run.make(settings, started=False).parts["train"])
    batch = min(settings.fit.batch_size or count, count)
    return replace(settings, fit=replace(settings.fit, num_steps=max(1, round(epochs * count / batch))))


def _length(steps: int | None, usual: int, stop: bool) -> int:
    """The length of a fit that its warm-up is a share of: a cap on the steps is none."""
    if steps is None:
        return usual
    return min(steps, usual) if stop else steps


def _flat(settings: Settings) -> dict[str, Any]:
    """All settings by name, as JSON would give them back, for comparing."""
    content = json.loads(json.dumps(asdict(settings)))
    parts = [content.pop(name) for name in ("options", "preparation", "fit")]
    return {**content, **{name: value for part in parts for name, value in part.items()}}
