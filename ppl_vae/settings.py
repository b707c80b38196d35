"""What a fit is asked for: everything that determines it, checked before anything is loaded."""

import inspect
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import torch

from ppl_vae import models
from ppl_vae.errors import InputError
from ppl_vae.inference.graph import Compile, check_compile
from ppl_vae.inference.steps import engine_for

__all__ = [
    "Settings",
    "check_values",
    "checked_options",
    "compile_option",
    "device_of",
    "model_class",
    "model_classes",
    "model_options",
]

PACKAGES = ("ppl-vae", "torch", "pyro-ppl", "numpy", "arviz-stats", "xarray")


@dataclass(frozen=True)
class Settings:
    """Everything that determines a fit; written to ``config.json``.

    Attributes:
        model: its name on the command line.
        data: name of a data set or path of a file.
        guide: its name among the model's guides.
        options: the model's own options.
        standardize: whether features are centred and scaled by the training rows.
        binarize: "static", "dynamic" or "none".
        split: fractions of train, validation and test rows.
        steps, batch_size, lr, particles, kl_warmup, clip_norm, train: of `svi.fit`.
        seed: of the split, of initial values and of everything random.
        device: "cpu", "cuda" or "cuda:N".
        data_dir: where torchvision's data sets are.
        average: fraction of the steps, at the end, whose iterates are averaged.
        precision: "float32" (as the model is) or "bfloat16" (autocast).
        compile: "auto", "on" or "off".
        objective: "elbo" or "iwae", whose K is ``particles``.
        doubly_reparameterised: of the IWAE objective's gradient.
        dequantize: whether features get uniform noise of one step of their grid.
        stop: whether the fit ends by itself, ``steps`` being the most.
    """

    model: str
    data: str
    guide: str
    options: Mapping[str, Any]
    standardize: bool
    binarize: str
    split: tuple[float, float, float]
    steps: int
    batch_size: int | None
    lr: float
    particles: int
    kl_warmup: int
    clip_norm: float | None
    train: str
    seed: int
    device: str
    data_dir: str | None
    average: float = 0.0
    precision: str = "float32"
    compile: str = "auto"
    objective: str = "elbo"
    doubly_reparameterised: bool = False
    dequantize: bool = False
    stop: bool = False

    @property
    def compile_option(self) -> Compile:
        """``compile`` as `svi.fit` takes it."""
        return compile_option(self.compile)

    def to_json(self) -> str:
        """The settings with the versions they are fitted under."""
        about = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
        engine = engine_for(self.compile_option, self.steps, self.stop)
        return json.dumps({**asdict(self), "engine": engine, "versions": about}, indent=2) + "\n"

    @classmethod
    def from_json(cls, path: Path) -> Self:
        """Read what `to_json` wrote.

        Raises:
            InputError: if the file is missing or damaged.
        """
        try:
            content = dict(json.loads(path.read_text(encoding="utf-8")))
            fields = cls.__dataclass_fields__.items()
            # Runs from before a field existed have its default.
            content = {
                name: content[name] for name, field in fields if name in content or field.default is MISSING
            }
            _check_types(content)
            return cls(**{**content, "split": tuple(content["split"])})
        except FileNotFoundError:
            raise InputError(f"{path.parent} is not a run: it has no config.json") from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{path} is damaged: {error}") from error


def _check_types(content: Mapping[str, Any]) -> None:
    """Refuse fields whose values are of another type than a fit's settings have.

    Raises:
        ValueError: naming the first one.
    """
    kinds: dict[str, tuple[type, ...]] = {
        **dict.fromkeys(
            ("model", "data", "guide", "binarize", "train", "device", "precision", "compile"), (str,)
        ),
        **dict.fromkeys(("objective",), (str,)),
        **dict.fromkeys(("steps", "particles", "kl_warmup", "seed"), (int,)),
        **dict.fromkeys(("standardize", "doubly_reparameterised", "dequantize", "stop"), (bool,)),
        **dict.fromkeys(("lr", "average"), (int, float)),
        "batch_size": (int, type(None)),
        "clip_norm": (int, float, type(None)),
        "data_dir": (str, type(None)),
        "options": (dict,),
        "split": (list,),
    }
    for name, value in content.items():
        # A boolean is an integer to Python, and to nobody else.
        if not isinstance(value, kinds[name]) or (isinstance(value, bool) and bool not in kinds[name]):
            raise ValueError(f"{name} is {value!r}")
    if len(content["split"]) != 3 or not all(isinstance(part, int | float) for part in content["split"]):
        raise ValueError(f"split is {content['split']!r}")


def model_classes() -> dict[str, Any]:
    """The suite's models by their names on the command line."""
    return {cls.name: cls for cls in (getattr(models, name) for name in models.__all__)}


def model_class(name: str) -> Any:
    """The model of that name.

    Raises:
        InputError: naming the ones there are.
    """
    known = model_classes()
    if name not in known:
        raise InputError(f"there is no model {name!r}; there are {', '.join(sorted(known))}")
    return known[name]


def model_options(cls: Any) -> dict[str, inspect.Parameter]:
    """A model's own options and their defaults."""
    parameters = inspect.signature(cls.from_data).parameters.values()
    return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}


def compile_option(text: str) -> Compile:
    """The command line's word.

    Raises:
        InputError: unless it is "auto", "on" or "off".
    """
    if text not in ("auto", "on", "off"):
        raise InputError(f"--compile is {text!r}; it is auto, on or off")
    return check_compile(text)


def checked_options(cls: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """A model's options.

    Raises:
        InputError: for one that it does not have.
    """
    known = model_options(cls)
    for name in options:
        if name not in known:
            shown = ", ".join("--" + option.replace("_", "-") for option in known)
            raise InputError(
                f"--{name.replace('_', '-')} does not belong to {cls.name}; its options are {shown}"
            )
    return dict(options)


def check_values(values: Mapping[str, Any], cls: Any) -> None:
    """Refuse values that no fit of this model can have.

    Raises:
        InputError: naming the option and what is accepted.
    """
    if values["guide"] not in cls.guides:
        raise InputError(f"{cls.name} has no guide {values['guide']!r}; it has {', '.join(cls.guides)}")
    if values["binarize"] not in ("static", "dynamic", "none"):
        raise InputError(f"--binarize is {values['binarize']!r}; it is static, dynamic or none")
    if values["train"] not in ("both", "guide"):
        raise InputError(f"--train is {values['train']!r}; it is both or guide")
    if values["objective"] not in ("elbo", "iwae"):
        raise InputError(f"--objective is {values['objective']!r}; it is elbo or iwae")
    if values["doubly_reparameterised"] and values["objective"] != "iwae":
        raise InputError("--doubly-reparameterised belongs to --objective iwae")
    if values["dequantize"] and values["binarize"] != "none":
        raise InputError("--dequantize is for real-valued likelihoods; it excludes --binarize")
    compile_option(values["compile"])
    if values["precision"] not in ("float32", "bfloat16"):
        raise InputError(f"--precision is {values['precision']!r}; it is float32 or bfloat16")
    if not 0 <= values["average"] <= 1:
        raise InputError(f"--average is {values['average']}; it is a fraction of the steps, from 0 to 1")
    for name, least in (("steps", 1), ("particles", 1), ("kl_warmup", 0), ("seed", 0)):
        if values[name] < least:
            raise InputError(f"--{name.replace('_', '-')} is {values[name]}; it must be at least {least}")
    if values["batch_size"] is not None and values["batch_size"] < 1:
        raise InputError(f"--batch-size is {values['batch_size']}; it must be at least 1")
    for name in ("lr", "clip_norm"):
        if values[name] is not None and not 0 < values[name] < float("inf"):
            raise InputError(f"--{name.replace('_', '-')} is {values[name]}; it must be positive")
    device_of(values["device"])


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
