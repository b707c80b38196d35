"""What a fit is asked for: everything that determines it, checked before anything is loaded."""

import json
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Self

import torch

from ppl_vae.base.errors import InputError
from ppl_vae.base.options import shell_names
from ppl_vae.base.plain import from_plain
from ppl_vae.guides.named import GUIDES
from ppl_vae.inference.fitting.options import FitOptions
from ppl_vae.inference.fitting.steps import engine_of_fit
from ppl_vae.models.base import SuiteModel
from ppl_vae.program.user_program import digest_of
from ppl_vae.runs.registry import find_model

__all__ = ["Preparation", "Settings", "check_guide_name", "device_of", "options_of"]

PACKAGES = ("ppl-vae", "torch", "pyro-ppl", "numpy", "arviz-stats", "xarray")
# How ``config.json`` is laid out; that of 0.1.0 had no number and no parts.
FORMAT = 2
OLD_NAMES = {"steps": "num_steps", "particles": "num_particles"}
NOT_SHOWN: dict[str, Any] = {"shell": None}


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What is done to data before a fit.

    Attributes:
        standardize: centre and scale features by the training rows.
        binarize: what greys become: binary once (static), every epoch anew (dynamic), or none.
        dequantize: add uniform noise of one grid step to grey or whole-numbered features; needs --binarize
            none.
        split: fractions of train, validation and test rows; an official test split is kept.
        columns: which columns of the data an input is made of, where it is not the one of its own name.
        data_dir: where data sets of images are read from or downloaded to (default: the user's cache)
    """

    standardize: bool = field(default=False, metadata={"shell": "--standardize/--no-standardize"})
    binarize: Literal["static", "dynamic", "none"] = "none"
    dequantize: bool = False
    split: tuple[float, float, float] = (1.0, 0.0, 0.0)
    columns: dict[str, Any] = field(default_factory=dict, metadata=NOT_SHOWN)
    data_dir: str | None = None

    def __post_init__(self) -> None:
        if self.binarize not in ("static", "dynamic", "none"):
            raise InputError(f"binarize is {self.binarize!r}; it is static, dynamic or none")
        if self.dequantize and self.binarize != "none":
            raise InputError("--dequantize is for real-valued likelihoods; it excludes --binarize")


@dataclass(frozen=True)
class Settings:
    """Everything that determines a fit; written to ``config.json``.

    Attributes:
        model: its name on the command line.
        data: name of a data set or path of a file.
        guide: guide, one of the model's.
        options: the model's own options, of its class `Options`.
        preparation: of the data.
        fit: options of the fit.
        seed: seed of the split, of initial values and of everything random.
        device: where to compute: cpu, cuda or cuda:N.
    """

    model: str = field(metadata=NOT_SHOWN)
    data: str = field(metadata=NOT_SHOWN)
    guide: str
    options: Any = field(metadata=NOT_SHOWN)
    preparation: Preparation = field(metadata=NOT_SHOWN)
    fit: FitOptions = field(metadata=NOT_SHOWN)
    seed: int = 0
    device: str = "cpu"

    def to_json(self) -> str:
        """The settings with the versions they are fitted under."""
        about = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
        engine = engine_of_fit(self.fit.compile, self.fit.num_steps, self.fit.stop)
        content = {"format": FORMAT, **asdict(self), "engine": engine, "versions": about}
        if digest := digest_of(self.model):
            content["program"] = digest
        return json.dumps(content, indent=2) + "\n"

    @classmethod
    def from_json(cls, path: Path) -> Self:
        """Read what `to_json` wrote, in this version or in 0.1.0.

        Raises:
            InputError: if the file is missing or damaged, or the model's file is not what was fitted.
        """
        content = _read(path)
        model = _model_of(content, path.parent)
        try:
            return from_plain(cls, {**content, "options": from_plain(model.Options, content["options"])})
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{path} is damaged: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    """What a file of settings holds, in today's parts.

    Raises:
        InputError: if it is missing or damaged.
    """
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
        content = content if "format" in content else _from_0_1(content)
        _check_shape(content)
        return content
    except FileNotFoundError:
        raise InputError(f"{path.parent} is not a run: it has no config.json") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {error}") from error


def _from_0_1(content: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of 0.1.0, which lay side by side, in today's parts."""
    given = {OLD_NAMES.get(name, name): value for name, value in content.items()}
    parts = {
        "preparation": {f.name: given[f.name] for f in fields(Preparation) if f.name in given},
        "fit": {f.name: given[f.name] for f in fields(FitOptions) if f.name in given},
    }
    # What every fit had been asked for.
    for name in ("num_steps", "lr", "num_particles", "kl_warmup", "train"):
        parts["fit"][name] = given[name]
    return {**given, **parts}


def _check_shape(content: Mapping[str, Any]) -> None:
    """Refuse options that are no mapping, and a model that is no name.

    Raises:
        ValueError: naming the first of them.
    """
    for name, kind in (("options", dict), ("model", str)):
        if not isinstance(content[name], kind):
            raise ValueError(f"{name} is {content[name]!r}")


def _model_of(content: Mapping[str, Any], folder: Path) -> type[SuiteModel]:
    """The model that was fitted; a file that is not what was fitted is never run.

    Raises:
        InputError: naming the file, or the models there are.
    """
    name = content["model"]
    if digest_of(name, folder) != content.get("program"):
        raise InputError(
            f"{folder} was fitted with {name}, whose file has changed since, is gone, or lies in the "
            "run's folder; fit again"
        )
    try:
        return find_model(name)
    except InputError as error:
        raise InputError(f"{folder} cannot be opened: {error}") from error


def check_guide_name(model: type[SuiteModel], guide: str) -> None:
    """Refuse a guide that a model does not have; families of `guides.named` serve models of global latents.

    Raises:
        InputError: naming the ones it has.
    """
    every = GUIDES if model.unit == "data set" else {}
    if guide not in model.guides and guide.partition(":")[0] not in every:
        known = ", ".join(dict.fromkeys((*model.guides, *every)))
        raise InputError(f"{model.name} has no guide {guide!r}; it has {known}")


def options_of(model: type[SuiteModel], given: Mapping[str, Any]) -> Any:
    """A model's options from what was given by name.

    Raises:
        InputError: for one that it does not have, or a value of another type.
    """
    known = shell_names(model.Options)
    for name in given:
        if name not in known:
            raise InputError(
                f"--{name.replace('_', '-')} does not belong to {model.name}; its options are "
                f"{', '.join(known.values())}"
            )
    try:
        return from_plain(model.Options, given)
    except ValueError as error:
        raise InputError(f"--{str(error).replace('_', '-', 1)}") from None


def device_of(name: str) -> torch.device:
    """The device of that name.

    Raises:
        InputError: if there is none on this machine.
    """
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise InputError(f"--device is {name!r}; it is cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and (
        not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()
    ):
        raise InputError(
            f"--device is {name!r}, and this machine has {torch.cuda.device_count()} CUDA devices"
        )
    return device
