"""The one type for all data: named variables of known kinds along a leading unit dimension.

A class of our own, of NumPy arrays, and not an `xarray.Dataset`: importing xarray and pandas costs more
processor time than a small fit may take beside PyTorch, `isel` costs 164 µs a batch, and ragged tables need
a `take` that rebuilds their offsets. It converts both ways (`to_xarray`, `to_pandas`, NetCDF) and loads
either only when asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, final, get_args

import numpy as np
from numpy.typing import NDArray

from ppl_vae.base.errors import InputError, brief, listed

if TYPE_CHECKING:
    import pandas as pd
    import torch
    import xarray as xr

    from ppl_vae.data.inputs import Input

__all__ = ["Columns", "Dataset", "Units", "Variable", "VariableKind"]

VariableKind = Literal["real", "grey", "binary", "count", "category", "index", "image", "mask", "time"]
Units = NDArray[np.integer[Any]] | NDArray[np.bool_] | slice
# Which variables of a data set an input is made of, where it is not the one of its own name.
Columns = Mapping[str, str | Sequence[str]]

# Types of NumPy (`dtype.kind`) that each kind may have.
_DTYPES: dict[str, str] = {
    "real": "biuf", "grey": "biuf", "binary": "biuf", "count": "iuf", "category": "i", "index": "iu",
    "image": "u", "mask": "b", "time": "iufM",
}  # fmt: skip
_TRAILING = {1: ("feature",), 2: ("step", "feature"), 3: ("height", "width", "channel")}


@dataclass(frozen=True, eq=False)
class Variable:
    """The values of one variable for every unit.

    Attributes:
        values: shape (units, …); of a ragged variable (entries, …), all units' entries one after the other.
            A memory map stays one.
        kind: what the values are. "real"; "grey", in [0, 1]; "binary", 0 or 1; "count", whole and not
            negative; "category", int64 positions in `levels`, −1 where missing; "index", int64 positions, in
            `levels` if there are any; "image", bytes of shape (units, height, width[, channels]); "mask",
            booleans; "time", numbers or NumPy's dates. Missing reals are NaN.
        dims: names of the dimensions after the first.
        labels: names along some of `dims`.
        levels: names of categories or of what an index counts.
        image_shape: how a row of features folds into an image, (height, width) or (height, width, channels).
        offsets: of a ragged variable, int64 of shape (units + 1,): unit n has the entries from `offsets[n]`
            up to `offsets[n + 1]`.
        fault: why these are no finite numbers and where the first one at fault stands in the file, as a
            sentence.

    Raises:
        InputError: the shapes do not agree, or the values are not of this kind's type.
    """

    values: NDArray[Any]
    kind: VariableKind
    dims: tuple[str, ...] = ()
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    levels: tuple[str, ...] = ()
    image_shape: tuple[int, ...] | None = None
    offsets: NDArray[np.int64] | None = None
    fault: str = ""

    def __post_init__(self) -> None:
        values = self.values
        if self.kind not in get_args(VariableKind):
            raise InputError(f"There is no kind of variable {self.kind!r}: there are {listed(_DTYPES)}.")
        if values.ndim < 1 or values.dtype.kind not in _DTYPES[self.kind]:
            raise InputError(
                f"A variable of kind {self.kind} cannot have values of type {values.dtype} and "
                f"{values.ndim} dimensions."
            )
        if not self.dims:
            count = values.ndim - 1
            dims = _TRAILING.get(count, tuple(f"axis {place}" for place in range(1, count + 1)))
            object.__setattr__(self, "dims", dims)
        self._check_shapes()
        if self.levels and values.size and not -1 <= values.min() <= values.max() < len(self.levels):
            raise InputError(f"A variable of {len(self.levels)} levels holds positions outside them.")

    def _check_shapes(self) -> None:
        shape = self.values.shape[1:]
        if len(self.dims) != len(shape):
            raise InputError(f"{len(self.dims)} names of dimensions for values of shape {self.values.shape}.")
        sizes = dict(zip(self.dims, shape, strict=True))
        for dim, names in self.labels.items():
            if sizes.get(dim) != len(names):
                raise InputError(f"{len(names)} labels of {dim!r} for values of shape {self.values.shape}.")
        if self.image_shape is not None and np.prod(self.image_shape) != np.prod(shape):
            raise InputError(
                f"Values of shape {self.values.shape} do not fold into images of {self.image_shape}."
            )
        ends = self.offsets
        if ends is not None and not (
            ends.ndim == 1
            and len(ends)
            and ends[0] == 0
            and ends[-1] == len(self.values)
            and not (ends[1:] < ends[:-1]).any()
        ):
            raise InputError(f"Offsets must rise from 0 to the number of entries, {len(self.values)}.")

    @property
    def num_units(self) -> int:
        """The number of units."""
        return len(self.values if self.offsets is None else self.offsets) - (self.offsets is not None)

    @property
    def is_ragged(self) -> bool:
        """Whether units have different numbers of entries."""
        return self.offsets is not None

    def take(self, units: Units) -> Variable:
        """The values of some units, in the order asked for; a slice of an array stays a view of it."""
        if self.offsets is None:
            return replace(self, values=self.values[units])
        chosen = np.arange(self.num_units)[units]
        lengths = np.diff(self.offsets)[chosen]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        entries = np.repeat(self.offsets[:-1][chosen], lengths) + within
        return replace(self, values=self.values[entries], offsets=offsets)

    def names(self) -> NDArray[Any]:
        """The levels' names in place of their positions; None where one is missing."""
        return np.array([*self.levels, None], dtype=object)[self.values]


@final
@dataclass(frozen=True, eq=False)
class Dataset:
    """Data of any form: variables by name, and where they came from.

    Attributes:
        name: the data set's name, or the file's.
        variables: by name, all of the same number of units. Splits are the variable "split", a category of
            the levels train, validation and test.
        source: where the data came from, in words; "" if nobody said.
        history: what was done to the values, in order.
        warnings: what the user should know about it, one sentence each.
        unit: what a unit is called: "row", or "game".

    Raises:
        InputError: the variables have different numbers of units, or there are none.
    """

    name: str
    variables: Mapping[str, Variable]
    source: str = ""
    history: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unit: str = "row"

    def __post_init__(self) -> None:
        counts = {name: variable.num_units for name, variable in self.variables.items()}
        if not counts:
            raise InputError(f"{self.name} has no variables.")
        first = next(iter(counts))
        for name, count in counts.items():
            if count != counts[first]:
                raise InputError(
                    f"{self.name} has {counts[first]} units of {brief(first)!r} and {count} of "
                    f"{brief(name)!r}."
                )

    def __getitem__(self, name: str) -> Variable:
        if name not in self.variables:
            raise InputError(f"{self.name} has no variable {name!r}: it has {listed(self.variables)}.")
        return self.variables[name]

    def __contains__(self, name: object) -> bool:
        return name in self.variables

    def __iter__(self) -> Iterator[str]:
        return iter(self.variables)

    def __len__(self) -> int:
        return self.num_units

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}: {_shown(variable)}" for name, variable in [*self.variables.items()][:8])
        more = f", and {len(self.variables) - 8} more" if len(self.variables) > 8 else ""
        return f"Dataset({self.name!r}, {self.num_units} {self.unit}s; {shown}{more})"

    @property
    def num_units(self) -> int:
        """The number of units."""
        return next(iter(self.variables.values())).num_units

    @classmethod
    def of(cls, dataset: Dataset, columns: Columns | None = None) -> Dataset:
        """The data set itself: as `Rows.of` and `Games.of`, for models that take more than either."""
        return dataset

    def take(self, units: Units) -> Self:
        """Some units, in the order asked for, by their positions, by a boolean each or as a slice.

        Ragged variables get new offsets. Slices share memory with the data set, memory maps too.
        """
        return replace(self, variables={name: found.take(units) for name, found in self.variables.items()})

    def select(self, names: Sequence[str]) -> Self:
        """These variables alone, in this order.

        Raises:
            InputError: naming the first that there is not.
        """
        return replace(self, variables={name: self[name] for name in names})

    def having(self, **variables: Variable) -> Self:
        """With further variables, or others in the place of those of the same name."""
        return replace(self, variables={**self.variables, **variables})

    def parts(self) -> dict[str, NDArray[np.int64]]:
        """The units of each part by the variable "split"; empty where there is none."""
        if "split" not in self:
            return {}
        split = self["split"]
        return {name: np.flatnonzero(split.values == place) for place, name in enumerate(split.levels)}

    def part(self, name: str) -> Self:
        """The units of one part: "train", "validation" or "test".

        Raises:
            InputError: for a part that it does not have.
        """
        parts = self.parts()
        if not len(parts.get(name, ())):
            present = [part for part, units in parts.items() if len(units)]
            raise InputError(f"{self.name} has no part {name!r}; it has {listed(present) or 'no parts'}.")
        return self.take(parts[name])

    def arguments(
        self,
        inputs: Mapping[str, Input],
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        columns: Columns | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """The tensors that a program takes: what it observes first, what it is conditioned on after it.

        Args:
            inputs: what the model declares, in its order (`ppl_vae.data.inputs`).
            dtype: of reals; PyTorch's default if None. Categories and indices are int64, masks bool, times
                float64.
            device: where they go.
            columns: which variables an input is made of, where it is not the one of its own name.

        Raises:
            InputError: naming what is missing or unfit, and what there is.
        """
        from ppl_vae.data.matching import arguments

        return arguments(self, inputs, dtype, device, columns)

    def to_xarray(self) -> xr.Dataset:
        """As an `xarray.Dataset`, whose flat attributes fit into NetCDF; arrays are shared."""
        from ppl_vae.data.convert import to_xarray

        return to_xarray(self)

    @staticmethod
    def from_xarray(data: xr.Dataset | xr.DataArray, name: str = "") -> Dataset:
        """From xarray; the first dimension of the first variable is that of the units.

        Raises:
            InputError: for variables that lack the unit dimension, or that are no numbers and no text.
        """
        from ppl_vae.data.convert import from_xarray

        return from_xarray(data, name)

    def to_pandas(self) -> pd.DataFrame:
        """As a table, one row a unit; matrices become a column a feature.

        Raises:
            InputError: for ragged variables and those of three dimensions.
        """
        from ppl_vae.data.convert import to_pandas

        return to_pandas(self)

    @staticmethod
    def from_pandas(table: pd.DataFrame | pd.Series, name: str = "") -> Dataset:
        """From a table, a variable a column; the index is left alone.

        Raises:
            InputError: for doubled columns, and those that are neither numbers, dates nor text.
        """
        from ppl_vae.data.convert import from_pandas

        return from_pandas(table, name)

    def to_netcdf(self, path: Path | str) -> None:
        """Write a NetCDF file, whole or not at all."""
        from ppl_vae.data.convert import to_netcdf

        to_netcdf(self, Path(path))

    @staticmethod
    def from_netcdf(path: Path | str) -> Dataset:
        """Read what `to_netcdf` wrote, or any NetCDF file of variables with one leading dimension.

        Raises:
            InputError: for a file that is damaged or holds something else.
        """
        from ppl_vae.data.convert import from_netcdf

        return from_netcdf(Path(path))


def _shown(variable: Variable) -> str:
    """A variable in a few words."""
    size = "ragged" if variable.is_ragged else " × ".join(map(str, variable.values.shape[1:]))
    levels = f" of {len(variable.levels)}" if variable.levels else ""
    return f"{variable.kind}{levels}" + (f" ({size})" if size else "")
