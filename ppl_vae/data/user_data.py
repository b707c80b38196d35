"""The arguments of a user's own model, from files: which columns it names, and in which types it takes."""

import inspect
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations, islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor
from torch.distributions import transform_to

from ppl_vae.base.errors import InputError, listed
from ppl_vae.base.seeds import seeded
from ppl_vae.data.precision import merged_columns
from ppl_vae.data.readers import listed_suffixes, load_array, load_arrays, read_dataset
from ppl_vae.data.tables import Cells, read_cells

__all__ = ["read_arguments"]

# How many ways of typing the whole numbers among the arguments are tried.
MOST_TRIALS = 40


def read_arguments(paths: Sequence[str], model: Callable[..., Any]) -> tuple[Tensor, ...]:
    """The model's arguments from files.

    One file may hold them all: a ``.csv`` whose columns, or an ``.npz`` whose arrays, have the names of the
    model's parameters; what else it holds is left alone. Otherwise each file is one argument, in order: a
    ``.csv`` is a matrix (or a vector, if it has one column), a ``.npy`` an array. NetCDF files (``.nc``) and
    ``.parquet`` ones hold arrays by name.

    Reals get torch's default precision, or float64 where that could not hold their values apart. The whole
    numbers of a ``.csv`` are reals that happen to be whole, and those of arrays integers, unless the model
    fails on them and runs with the other: whether they are used as an index, or stand under a distribution
    that wants reals, only the model knows. It is run once to see.

    Raises:
        InputError: for a file that cannot be read or holds something else than finite numbers (empty cells
            are NaN, where the model masks them), for another number of arguments than the model takes, and
            for numbers that neither float32 nor the model can hold.
    """
    names, required, variadic = _parameters(model)
    read = [_read(Path(path)) for path in paths]
    if len(read) == 1 and required and {*required} <= {*read[0].names}:
        # An argument with a default may be left out, and nothing after it can then be given.
        given = takewhile(lambda name: name in read[0].names, names)
        found = [_Argument(read[0].array(name), f"{read[0].what} {name}", read[0], name) for name in given]
    else:
        found = [_Argument(source.whole(), str(source.path), source) for source in read]
    if not len(required) <= len(found) <= len(names) and not variadic:
        held = f" ({read[0].path} has {listed(read[0].names)})" if len(read) == 1 and read[0].names else ""
        raise InputError(
            f"the model takes {_count(names)} and --data gave {len(found)}{held}: give one file for each, or "
            "one .csv or .npz with these names"
        )
    arguments = _typed(model, found)
    _refuse_missing(model, found, arguments)
    return arguments


@dataclass(frozen=True)
class _Source:
    """One file: columns or arrays by name."""

    path: Path
    arrays: Mapping[str, np.ndarray] | Cells

    @property
    def is_table(self) -> bool:
        return isinstance(self.arrays, Cells)

    @property
    def what(self) -> str:
        return f"{self.path}, {'column' if self.is_table else 'array'}"

    @property
    def names(self) -> list[str]:
        arrays = self.arrays.names if isinstance(self.arrays, Cells) else self.arrays
        # Python reads its own names in this normal form, too.
        return [unicodedata.normalize("NFKC", name) for name in arrays]

    def array(self, name: str) -> np.ndarray:
        """The column, or array, of a name that the file has."""
        if self.names.count(name) > 1:
            raise InputError(f"{self.path} has the column {name!r} twice")
        place = self.names.index(name)
        if isinstance(self.arrays, Cells):
            return self.arrays.numbers(place, missing=True)
        return _numeric(self.path, list(self.arrays.values())[place])

    def whole(self) -> np.ndarray:
        """The file as one argument."""
        if isinstance(self.arrays, Cells):
            places = range(len(self.arrays.names))
            columns = [self.arrays.numbers(place, missing=True) for place in places]
            return columns[0] if len(columns) == 1 else np.stack(columns, axis=1)
        if len(self.arrays) == 1:
            return _numeric(self.path, next(iter(self.arrays.values())))
        raise InputError(
            f"{self.path} holds several arrays ({listed(list(self.arrays))}), none of them named as the "
            "model's parameters"
        )


@dataclass(frozen=True)
class _Argument:
    """Values, where they are from in words, the file, and the name of its column or array if they are one."""

    values: np.ndarray
    where: str
    source: _Source
    name: str | None = None

    @property
    def is_table(self) -> bool:
        """Whether they are of a table, whose whole numbers are mostly reals."""
        return self.source.is_table

    @property
    def empty(self) -> str | None:
        """Where the first empty cell is, in words; None where there is none."""
        table = self.source.arrays
        if not isinstance(table, Cells):
            return None
        names = self.source.names
        places = range(len(names)) if self.name is None else [names.index(self.name)]
        return next((words for place in places if (words := table.empty(place))), None)

    @property
    def is_whole(self) -> bool:
        return self.values.dtype.kind in "biu" or bool(np.all(self.values == np.round(self.values)))

    @property
    def merged(self) -> bool:
        """Whether float32 would make values equal that differ."""
        if self.values.dtype.kind not in "iuf" or not self.values.size:
            return False
        width = self.values.shape[-1] if self.values.ndim > 1 else 1
        return bool(len(merged_columns(self.values.reshape(-1, width))))

    def choices(self) -> tuple[Tensor, ...]:
        """The types that the model may want, the likeliest first."""
        default = torch.get_default_dtype()
        keep = default == torch.float32 and self.merged
        reals = torch.tensor(self.values, dtype=torch.float64 if keep else default)
        if not self.is_whole or (self.values.dtype.kind == "f" and not self.is_table):
            return (reals,)
        if self.values.dtype.kind == "f" and np.abs(self.values).max(initial=0) > 2.0**53:
            return (reals,)
        integers = torch.tensor(self.values.astype(np.int64))
        return (reals, integers) if self.is_table else (integers, reals)


def _typed(model: Callable[..., Any], found: Sequence[_Argument]) -> tuple[Tensor, ...]:
    """The arguments in types with which the model runs; the likeliest ones if it never does."""
    choices = [argument.choices() for argument in found]
    kept = [number for number, tensors in enumerate(choices) if tensors[0].dtype == torch.float64]
    kept = kept if torch.get_default_dtype() != torch.float64 else []
    unsure = [number for number, tensors in enumerate(choices) if len(tensors) > 1]
    likeliest = tuple(tensors[0] for tensors in choices)
    if not unsure and not kept:
        return likeliest
    for flipped in islice(_flips(unsure), MOST_TRIALS):
        arguments = tuple(tensors[number in flipped] for number, tensors in enumerate(choices))
        error = _failure(model, arguments)
        if error is None or (flipped and isinstance(error, IndexError) and "out of" in str(error)):
            return arguments
        # Only these speak of types; any other failure is the program's own, and comes up again.
        if not isinstance(error, IndexError | RuntimeError | TypeError):
            break
    _refuse_lost(model, found, likeliest, kept)
    return likeliest


def _refuse_missing(
    model: Callable[..., Any], found: Sequence[_Argument], arguments: tuple[Tensor, ...]
) -> None:
    """Refuse empty cells, unless the model masks them: all its observed sites then have densities.

    Raises:
        InputError: naming the first of them.
    """
    empty = [(argument, words) for argument in found if (words := argument.empty)]
    if not empty:
        return
    if _failure(model, arguments, finite=True) is not None:
        raise InputError(
            f"{empty[0][1]}, and the model does not mask missing values (NanMaskedNormal, or poutine.mask "
            "with another value in their place)"
        )
    for argument, _ in empty:
        if isinstance(argument.source.arrays, Cells):
            argument.source.arrays.check_widths()


def _flips(unsure: Sequence[int]) -> Iterator[tuple[int, ...]]:
    for count in range(len(unsure) + 1):
        yield from combinations(unsure, count)


def _refuse_lost(
    model: Callable[..., Any], found: Sequence[_Argument], likeliest: tuple[Tensor, ...], kept: Sequence[int]
) -> None:
    """Refuse values that only float64 holds where the model runs with float32 only."""
    narrow = tuple(
        values.to(torch.float32) if number in kept else values for number, values in enumerate(likeliest)
    )
    if kept and _failure(model, narrow) is None:
        raise InputError(
            f"{found[kept[0]].where}: float32 cannot hold these values apart and the model does not run with "
            "float64: subtract their least, or give them in larger units"
        )


def _failure(
    model: Callable[..., Any], arguments: tuple[Tensor, ...], *, finite: bool = False
) -> Exception | None:
    """What one run of the model raises, its densities included; nothing that it does is kept.

    Args:
        model: the program.
        arguments: what it is run on.
        finite: whether a density of an observed site that is not finite counts as a failure, too.
    """
    with seeded(0), pyro.get_param_store().scope(), _evaluation(model), _Placed():
        try:
            trace = pyro.poutine.trace(model).get_trace(*arguments)
            trace.compute_log_prob()
            if finite:
                _require_finite(trace)
        except Exception as error:  # whatever the user's program raises
            return error
    return None


def _require_finite(trace: pyro.poutine.Trace) -> None:
    observed = [site for site in trace.nodes.values() if site["type"] == "sample" and site["is_observed"]]
    if not all(bool(torch.as_tensor(site["log_prob"]).isfinite().all()) for site in observed):
        raise ValueError("an observed site has no density")


class _Placed(pyro.poutine.messenger.Messenger):  # type: ignore[misc]
    """Flat priors have no draws: a value inside the support stands for one."""

    def _pyro_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], pyro.distributions.ImproperUniform) and msg["value"] is None:
            shape = msg["fn"].batch_shape + msg["fn"].event_shape
            msg["value"] = transform_to(msg["fn"].support)(torch.zeros(shape))
            msg["done"] = True


@contextmanager
def _evaluation(model: Callable[..., Any]) -> Iterator[None]:
    """Buffers such as those of batch norm do not move in this mode."""
    modules = list(model.modules()) if isinstance(model, torch.nn.Module) else []
    modes = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def _parameters(model: Callable[..., Any]) -> tuple[list[str], list[str], bool]:
    """Names of positional parameters, of those without a default, and whether there may be any number.

    Raises:
        InputError: if it must be called with keywords.
    """
    target = model.forward if isinstance(model, torch.nn.Module) else model
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return [], [], True
    empty = inspect.Parameter.empty
    if by_name := [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is empty]:
        raise InputError(
            f"the model takes {', '.join(by_name)} as keywords only; its data must be positional"
        )
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p.name for p in positional if p.default is empty]
    return [p.name for p in positional], required, any(p.kind is p.VAR_POSITIONAL for p in parameters)


def _read(path: Path) -> _Source:
    """A file's arrays, or its columns, by name."""
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return _Source(path, read_cells(path))
    if suffix == ".npy":
        return _Source(path, {"": load_array(path)})
    if suffix == ".npz":
        return _Source(path, load_arrays(path))
    if suffix in (".nc", ".parquet"):
        variables = read_dataset(path).variables
        return _Source(path, {name: found.values for name, found in variables.items() if not found.levels})
    raise InputError(f"{path} cannot be read; data are {listed_suffixes()} files")


def _numeric(path: Path, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "biuf":
        raise InputError(f"{path} holds values of type {values.dtype}; a model takes numbers")
    return values


def _count(names: Sequence[str]) -> str:
    some = f"{len(names)} argument" + ("" if len(names) == 1 else "s")
    return f"{some} ({', '.join(names)})" if names else "no arguments"
