"""A user's own Pyro programs and data, named on the command line: ``my.py:model``."""

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ppl_vae.errors import InputError

__all__ = ["is_program", "load_guide", "load_program", "read_arguments"]

# AutoGuides by the name of their family, for who has written none.
AUTO_GUIDES = {
    "mean-field": "AutoNormal",
    "full-rank": "AutoMultivariateNormal",
    "low-rank": "AutoLowRankMultivariateNormal",
}


def is_program(text: str) -> bool:
    """Whether it names an object in a Python file."""
    return ".py:" in text


def load_program(text: str) -> Callable[..., Any]:
    """The callable that ``FILE.py:NAME`` names. The file is run, once for all names in it.

    Raises:
        InputError: if there is no such file or name, the file does not run, or it is no callable.
    """
    file, _, name = text.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise InputError(f"there is no file {path}; a program is named as FILE.py:NAME")
    module = _module(path.resolve())
    if not hasattr(module, name):
        known = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        own = [n for n in known if getattr(getattr(module, n), "__module__", None) == module.__name__]
        raise InputError(f"{path} has no {name!r}; it has {', '.join(own or known) or 'no callables'}")
    program = getattr(module, name)
    if not callable(program):
        raise InputError(f"{text} is a {type(program).__name__}; a model or a guide is a callable")
    return program


def load_guide(text: str, model: Callable[..., Any]) -> Callable[..., Any]:
    """The guide that ``FILE.py:NAME`` names, or the AutoGuide of a family such as mean-field.

    Raises:
        InputError: as `load_program`, or for an unknown family.
    """
    if is_program(text):
        return load_program(text)
    if text not in AUTO_GUIDES:
        raise InputError(
            f"the guide is {text!r}; it is FILE.py:NAME, or one of Pyro's AutoGuides: "
            f"{', '.join(AUTO_GUIDES)}"
        )
    import pyro.infer.autoguide as autoguide

    guide: Callable[..., Any] = getattr(autoguide, AUTO_GUIDES[text])(model)
    return guide


def read_arguments(paths: Sequence[str], model: Callable[..., Any]) -> tuple[Tensor, ...]:
    """The model's arguments from files.

    One file may hold them all: a ``.csv`` whose columns, or an ``.npz`` whose arrays, have the names of the
    model's parameters. Otherwise each file is one argument, in order: a ``.csv`` with a header is a matrix
    (or a vector, if it has one column), a ``.npy`` an array. Reals and all numbers of a ``.csv`` get torch's
    default precision; whole numbers in arrays stay whole.

    Raises:
        InputError: for a file that cannot be read or holds something else than finite numbers, and for
            another number of arguments than the model takes.
    """
    names = _parameters(model)
    read = [_read(Path(path)) for path in paths]
    required = _parameters(model, required=True)
    if len(read) == 1 and required and set(required) <= read[0].keys():
        # An argument with a default may be left out, and nothing after it can then be given.
        given = takewhile(lambda name: name in read[0], names)
        found = [read[0][name] for name in given]
    else:
        found = [_joined(path, columns) for path, columns in zip(paths, read, strict=True)]
    least = len(required)
    if not least <= len(found) <= max(len(names), least) and names:
        raise InputError(
            f"the model takes {_count(names)} ({', '.join(names)}) and --data gave {len(found)}: give one "
            "file for each, or one .csv or .npz with these names"
        )
    return tuple(_tensor(values) for values in found)


def _module(path: Path) -> ModuleType:
    name = f"_ppl_vae_user_{path.stem}_{abs(hash(str(path)))}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # The file may import its neighbours.
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file raises
        del sys.modules[name]
        raise InputError(
            f"{path} does not run: {_where(error, path)}{type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _where(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: "
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
    ]
    return f"line {lines[-1]}: " if lines else ""


def _parameters(model: Callable[..., Any], *, required: bool = False) -> list[str]:
    """Names of positional parameters; none where they cannot be told."""
    target = model.forward if isinstance(model, torch.nn.Module) else model
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    empty = inspect.Parameter.empty
    return [p.name for p in parameters if p.kind in kinds and (p.default is empty or not required)]


def _read(path: Path) -> dict[str, np.ndarray]:
    """A file's arrays, or its columns, by name."""
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        if path.suffix == ".csv":
            return _columns(path)
        if path.suffix == ".npy":
            return {"": np.load(path, allow_pickle=False)}
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read: {error}") from error
    raise InputError(f"{path} cannot be read; data are .csv, .npy or .npz files")


def _columns(path: Path) -> dict[str, np.ndarray]:
    try:
        table = pd.read_csv(path, skipinitialspace=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no table: {error}") from error
    for column in table:
        numbers = pd.to_numeric(table[column], errors="coerce")
        if len(bad := np.flatnonzero(~np.isfinite(numbers.to_numpy(dtype=float)))):
            value = table[column].iloc[bad[0]]
            raise InputError(f"{path}, row {bad[0] + 1}, column {column}: {str(value)!r} is no finite number")
        table[column] = numbers
    # Whole measurements, such as 28 or -3, are reals that happen to be whole.
    return {str(column): table[column].to_numpy(dtype=float) for column in table}


def _joined(path: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """One argument from one file."""
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    if Path(path).suffix == ".npz":
        raise InputError(
            f"{path} holds several arrays ({', '.join(arrays)}), none of them named as the model's parameters"
        )
    return np.stack(list(arrays.values()), axis=1)


def _tensor(values: np.ndarray) -> Tensor:
    if values.dtype.kind not in "biuf":
        raise InputError(f"the data hold values of type {values.dtype}; a model takes numbers")
    found = torch.tensor(values)
    return found.to(torch.get_default_dtype()) if found.is_floating_point() else found.long()


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} argument" + ("" if len(names) == 1 else "s")
