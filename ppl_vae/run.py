"""A run's folder: what a fit was asked for, what it learnt, and how to open it again."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from ppl_vae.data import SUFFIXES, Dataset, Games, Prepared, Rows, load_dataset, prepare
from ppl_vae.data.prepare import Preparation
from ppl_vae.errors import InputError
from ppl_vae.files import CHECK_FILES, PART, reading, write_text
from ppl_vae.inference.checkpoint import load_parameters
from ppl_vae.program import Pair
from ppl_vae.rng import seeded
from ppl_vae.settings import (
    Settings,
    check_values,
    checked_options,
    device_of,
    model_class,
    model_options,
)

__all__ = ["METHODS", "Run", "only_begun", "prepare_folder", "settings_for"]

# How log p(x) can be had, in the order in which a table shows them.
METHODS = ("exact", "is", "defensive", "prior", "iwae", "ais", "bridge", "bdmc")
FILES = (
    "config.json", "parameters.safetensors", "checkpoint", "fit.json", "elbo.csv", "held-out.csv",
    "posterior-svi.nc", "posterior-nuts.nc", "posterior-exact.nc", "posterior-foreign.nc", "compare.json",
    "comparison.json", *CHECK_FILES,
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
        source: the same, as the model's type of data shows it.
        folder: where the run is kept, once it is fitted.
    """

    settings: Settings
    model: Any
    pair: Pair
    data: Prepared
    source: Rows | Games | Dataset
    folder: Path | None = None

    @classmethod
    def make(cls, settings: Settings) -> Self:
        """Load the data and build the pair, untrained.

        Raises:
            InputError: for anything asked that cannot be done.
        """
        device = device_of(settings.device)
        chosen = model_class(settings.model)
        data = prepare(_loaded(settings, settings.data), chosen.inputs, **_preparation(settings))
        with seeded(settings.seed):
            training = chosen.data_type.of(data.part("train"))
            model = chosen.from_data(training, **checked_options(chosen, settings.options))
            tensors = data.arguments("train", getattr(torch, chosen.defaults.dtype))
            guides = chosen.guides
            if settings.guide not in guides:
                raise InputError(
                    f"{settings.model} has no guide {settings.guide!r}; it has {', '.join(guides)}"
                )
            guide = guides[settings.guide](model, *tensors)
        model.to(device)
        if isinstance(guide, nn.Module):
            guide.to(device)
        return cls(settings, model, Pair(model, guide), data, chosen.data_type.of(data.dataset))

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
            check_values(asdict(settings), model_class(settings.model))
            run = cls.make(settings)
        run.pair.initialise(*run.tensors("train"), seed=settings.seed)
        load_parameters(run.pair, folder / "parameters.safetensors")
        return replace(run, folder=folder)

    def tensors(self, part: str = "train") -> tuple[Tensor, ...]:
        """The programs' data for one part.

        Raises:
            InputError: for a part that this run does not have.
        """
        part = "train" if isinstance(self.source, Games) else part
        return self.data.arguments(part, self._dtype, device_of(self.settings.device))

    def other_tensors(self, data: str) -> tuple[Tensor, ...]:
        """Another data set under this run's preprocessing, fitted on this run's training rows.

        Raises:
            InputError: if it is of another kind or width.
        """
        other = _loaded(self.settings, data)
        if isinstance(self.source, Games) or other.unit == "game":
            raise InputError(
                "evidence of other data needs a model of rows; a skill model's evidence is its own games'"
            )
        raw = _loaded(self.settings, self.settings.data) if self.settings.standardize else other
        alike = self.data.alike(other, raw, _preparation(self.settings))
        return alike.arguments(self.data.inputs, self._dtype, device_of(self.settings.device))

    def epoch_data(self, epoch: int) -> tuple[Tensor, ...]:
        """Training rows binarised afresh for an epoch."""
        return self.data.epoch(self.settings.seed, epoch, self._dtype, device_of(self.settings.device))

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
        return self.source.warnings


def settings_for(model: str, data: str, given: Mapping[str, Any], options: Mapping[str, Any]) -> Settings:
    """Fill in the model's defaults for everything that was not given.

    Args:
        model: its name.
        data: name or path.
        given: fields of `Settings`, and ``epochs``, that were asked for; None counts as not given.
        options: the model's own options.

    Raises:
        InputError: for an unknown model, option or value.
    """
    cls = model_class(model)
    defaults = cls.defaults
    options = {name: value for name, value in options.items() if value is not None}
    checked_options(cls, options)
    given = {name: value for name, value in given.items() if value is not None}
    epochs = given.pop("epochs", None)
    # Averages over a share of the steps belong to a fixed number of them.
    stop = bool(given.get("stop", not given.get("average")))
    is_vae_like = "likelihood" in model_options(cls)
    binary = options.get("likelihood", "bernoulli") == "bernoulli"
    values = {
        "guide": next(iter(cls.guides)),
        "standardize": defaults.standardize,
        "binarize": "static" if is_vae_like and binary else "none",
        "split": defaults.split,
        "steps": defaults.max_steps if stop else defaults.num_steps,
        "batch_size": defaults.batch_size,
        "lr": defaults.lr,
        "particles": defaults.num_particles,
        # Where a fit ends by itself, the cap says nothing about its length.
        "kl_warmup": round(defaults.kl_warmup * _length(given.get("steps"), defaults.num_steps, stop)),
        "clip_norm": None,
        "train": "both",
        "seed": 0,
        "device": "cpu",
        "data_dir": None,
        "average": 0.0,
        "precision": "float32",
        "compile": "auto",
        "objective": "elbo",
        "doubly_reparameterised": False,
        "dequantize": False,
        "stop": stop,
        **given,
    }
    check_values(values, cls)
    # A run can be opened from any folder: a file's path is kept in full.
    data = str(Path(data).resolve()) if Path(data).suffix.lower() in SUFFIXES else data
    settings = Settings(model=model, data=data, options=options, **values)
    if epochs is None:
        return settings
    settings = _with_epochs(settings, epochs)
    if "kl_warmup" in given:
        return settings
    length = _length(settings.steps, defaults.num_steps, stop)
    return replace(settings, kl_warmup=round(defaults.kl_warmup * length))


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
        old, new = asdict(before), asdict(settings)
        if changed := [name for name in old if _plain(old[name]) != _plain(new[name])]:
            name = changed[0]
            raise InputError(
                f"{folder} was started with {name}={old[name]}, not {new[name]}; --resume goes on with the "
                "same options"
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
    for name in [name for name in FILES if name != "config.json"] + leftovers:
        path = folder / name
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
    return load_dataset(data, data_dir=Path(settings.data_dir) if settings.data_dir else None)


def _preparation(settings: Settings) -> Preparation:
    """What is done to the data of a run."""
    return {
        "seed": settings.seed,
        "fractions": settings.split,
        "standardize": settings.standardize,
        "binarize": settings.binarize,
        "dequantize": settings.dequantize,
        "columns": None,
    }


def _with_epochs(settings: Settings, epochs: float) -> Settings:
    """Epochs as steps, which needs the number of training rows."""
    if not 0 < epochs < float("inf"):
        raise InputError(f"--epochs is {epochs}; it must be positive")
    count = len(Run.make(settings).parts["train"])
    batch = min(settings.batch_size or count, count)
    return replace(settings, steps=max(1, round(epochs * count / batch)))


def _length(steps: int | None, usual: int, stop: bool) -> int:
    """The length of a fit that its warm-up is a share of: a cap on the steps is none."""
    if steps is None:
        return usual
    return min(steps, usual) if stop else steps


def _plain(value: Any) -> Any:
    """As JSON would give it back, for comparing settings."""
    return json.loads(json.dumps(value))
