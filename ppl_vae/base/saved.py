"""Answers in files and back: one way for every frozen dataclass, by the types of its fields.

In NetCDF, numbers, texts and tuples of them are attributes, mappings and dataclasses too, as JSON; arrays are
variables; and a table of pandas, a Dataset or a DataArray is a group, or the file itself where it is the only
one. Attributes stand in the first group. `kept` says of a field what its file calls it. JSON holds what
`plain` makes of it. Every file says which answer it holds; no code is run to read one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self, get_args, get_origin

import numpy as np

from ppl_vae.base.errors import InputError
from ppl_vae.base.files import reading, with_slashes, without_slashes, write_netcdf, write_text
from ppl_vae.base.plain import Plain, from_plain, plain, types_of

__all__ = ["Saved", "kept", "load_table", "save_table"]

# Of what files hold; those of version 0.1 do not say.
FORMAT = 2
ANSWER, VERSION = "answer", "format"
ROOT, ARRAYS = "/", "arrays"


def kept(*dims: str, name: str = "", key: str = "key") -> dict[str, Any]:
    """The metadata of a field.

    Args:
        dims: dimensions of an array; one by the name of its dimension holds that one's labels.
        name: what the file calls it, where that is not the field's name: an attribute, a variable, a group,
            or GROUP/VARIABLE for a DataArray.
        key: the attribute by which each of a mapping of Datasets keeps its name.
    """
    return {"dims": dims, "name": name, "key": key}


@dataclass(frozen=True, eq=False, repr=False)
class Saved(Plain):
    """An answer that is kept in a file: a frozen dataclass of plain types, arrays, tables and Datasets.

    Attributes:
        SUFFIX: of its files: ".nc" for NetCDF, or ".json".
    """

    SUFFIX: ClassVar[str] = ".nc"

    def save(self, path: str | Path) -> None:
        """Write a file, NetCDF or JSON by `SUFFIX`, whole or not at all.

        Raises:
            InputError: if it cannot be written.
        """
        if self.SUFFIX == ".json":
            content = {**_stamp(type(self)), **self.to_json()}
            write_text(Path(path), json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))
        else:
            write_netcdf(Path(path), self.to_xarray())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote, in this version or an earlier one.

        Raises:
            InputError: if there is no such file, or it is damaged, of a later version or another answer's.
        """
        if not Path(path).exists():
            raise InputError(f"{path} does not exist")
        with reading(path):
            if cls.SUFFIX == ".json":
                content = dict(json.loads(Path(path).read_text(encoding="utf-8")))
                said = content
            else:
                content, said = _Layout(cls).unpack(_groups_of(path))
            _check_stamp(cls, path, said)
            return from_plain(cls, cls.upgraded(content), loose=True)

    def to_xarray(self) -> Any:
        """As xarray has it: a Dataset, or a DataTree where there are several groups.

        DataTrees take no names with slashes: those of Pyro's scopes have division slashes there.
        """
        return _Layout(type(self)).pack(self)

    def derived(self) -> Mapping[str, Any]:
        """Variables that follow from the others, which files hold for other readers; as xarray takes them."""
        return {}

    @classmethod
    def upgraded(cls, content: dict[str, Any]) -> dict[str, Any]:
        """What a file held, by name, in today's terms where an earlier version wrote it."""
        return content


def _stamp(cls: type) -> dict[str, Any]:
    return {"inference_library": "ppl_vae", ANSWER: cls.__name__, VERSION: FORMAT}


def _check_stamp(cls: type, path: str | Path, said: Mapping[str, Any]) -> None:
    """Refuse the file of another answer, or of a later version."""
    if said.get(ANSWER, cls.__name__) != cls.__name__:
        raise InputError(f"{path} holds {said[ANSWER]}, and {cls.__name__} was asked for")
    if int(said.get(VERSION, FORMAT)) > FORMAT:
        raise InputError(f"{path} is of a later version of ppl_vae, which can open it")


def _groups_of(path: str | Path) -> dict[str, Any]:
    """The groups of a NetCDF file that hold anything, in memory, by path: the root's is a slash."""
    import xarray as xr

    with xr.open_datatree(path, engine="h5netcdf") as tree:
        groups = {name: with_slashes(group) for name, group in tree.load().to_dict().items()}
    return {name.removeprefix(ROOT) or ROOT: group for name, group in groups.items()}


class _Place(NamedTuple):
    """A field, its type without None, and where its file has it."""

    field: Field[Any]
    hint: Any
    optional: bool

    @property
    def name(self) -> str:
        return self.field.metadata.get("name") or self.field.name

    @property
    def group(self) -> str:
        return self.name.partition("/")[0]

    @property
    def key(self) -> str:
        return str(self.field.metadata.get("key", "key"))

    @property
    def required(self) -> bool:
        return self.field.default is MISSING and self.field.default_factory is MISSING

    @property
    def is_table(self) -> bool:
        import pandas as pd
        import xarray as xr

        return self.is_several or self.hint in (pd.DataFrame, xr.Dataset, xr.DataArray)

    @property
    def is_several(self) -> bool:
        import xarray as xr

        return xr.Dataset in get_args(self.hint)

    @property
    def is_array(self) -> bool:
        return self.hint is np.ndarray or self.is_tensor

    @property
    def is_tensor(self) -> bool:
        # Who has a field of this type has loaded PyTorch.
        return "torch" in sys.modules and self.hint is sys.modules["torch"].Tensor


class _Layout:
    """How a class of answers lies in NetCDF."""

    def __init__(self, cls: type[Saved]) -> None:
        import xarray  # noqa: F401

        self.cls, hints = cls, types_of(cls)
        self.places = [_place(field, hints[field.name]) for field in fields(cls)]
        self.tables = [place for place in self.places if place.is_table]
        self.arrays = [place for place in self.places if place.is_array]
        self.attributes = [place for place in self.places if not (place.is_table or place.is_array)]

    @cached_property
    def is_flat(self) -> bool:
        several = any(place.is_several for place in self.tables)
        return not several and len(self.tables) + bool(self.arrays) < 2

    def group(self, place: _Place) -> str:
        return ROOT if self.is_flat else ARRAYS if place.is_array else place.group

    @property
    def first(self) -> str:
        """The group with the attributes."""
        return self.group((self.tables or self.arrays)[0]) if self.tables or self.arrays else ROOT

    def pack(self, answer: Saved) -> Any:
        import xarray as xr

        groups: dict[str, Any] = {self.first: xr.Dataset()}
        for place in self.tables:
            groups |= _packed(place, getattr(answer, place.field.name), self.group(place))
        variables = dict(answer.derived())
        for place in self.arrays:
            value = getattr(answer, place.field.name)
            value = value.detach().cpu().numpy() if place.is_tensor and value is not None else value
            # An array without entries may have none along a dimension of others.
            if value is not None and (value.size or place.required):
                variables[place.name] = (_dims(place, value), value)
        if variables:
            where = ROOT if self.is_flat else ARRAYS
            groups[where] = groups.get(where, xr.Dataset()).assign(variables)
        found = {place.name: _attribute(getattr(answer, place.field.name)) for place in self.attributes}
        about = {name: value for name, value in found.items() if value is not None}
        groups[self.first] = groups[self.first].assign_attrs({**_stamp(self.cls), **about})
        if self.is_flat:
            return groups[ROOT]
        return xr.DataTree.from_dict({name: without_slashes(group) for name, group in groups.items()})

    def unpack(self, groups: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Values by field, and all the attributes by name, of other fields and versions too."""
        first = groups[self.first]
        said = {str(name): _plainly(value) for name, value in first.attrs.items()}
        own = {*_stamp(self.cls), *(place.name for place in self.attributes)}
        rest = first.copy()
        rest.attrs = {name: value for name, value in first.attrs.items() if name not in own}
        groups = {**groups, self.first: rest}
        content = dict(said)
        for place in self.attributes:
            if place.name in said:
                content[place.field.name] = _read(said[place.name], place.hint)
            elif place.optional and VERSION in said:
                content[place.field.name] = None
        for place in self.arrays:
            if place.name in (group := groups[self.group(place)]).variables:
                as_declared = sys.modules["torch"].as_tensor if place.is_tensor else np.asarray
                content[place.field.name] = as_declared(group[place.name].to_numpy())
        for place in self.tables:
            content |= _unpacked(place, groups, self.group(place))
        return content, said


def _place(field: Field[Any], hint: Any) -> _Place:
    parts = get_args(hint)
    without = [part for part in parts if part is not type(None)]
    optional = len(without) == len(parts) - 1
    return _Place(field, without[0] if optional and len(without) == 1 else hint, optional)


def _dims(place: _Place, value: np.ndarray) -> tuple[str, ...]:
    return place.field.metadata.get("dims") or tuple(f"{place.name}_{axis}" for axis in range(value.ndim))


def _packed(place: _Place, value: Any, group: str) -> dict[str, Any]:
    """The groups of a table, of a Dataset or of several; none of one without entries that need not be."""
    import pandas as pd
    import xarray as xr

    if value is None:
        return {}
    if place.is_several:
        each = enumerate(value.items())
        return {f"{group}/{number}": data.assign_attrs({place.key: name}) for number, (name, data) in each}
    if isinstance(value, pd.DataFrame):
        return {group: xr.Dataset.from_dataframe(value)}
    if isinstance(value, xr.DataArray):
        return {group: value.to_dataset(name=_variable(place))}
    return {group: value} if value.data_vars or place.required else {}


def _variable(place: _Place) -> str:
    return place.name.rpartition("/")[2]


def _unpacked(place: _Place, groups: Mapping[str, Any], group: str) -> dict[str, Any]:
    """The inverse of `_packed`, by the field's name."""
    import pandas as pd
    import xarray as xr

    name = place.field.name
    if place.is_several:
        number = len([path for path in groups if path.startswith(f"{group}/")])
        found = [groups[f"{group}/{at}"] for at in range(number)]
        return {name: {str(data.attrs.pop(place.key)): data for data in found}}
    if group not in groups:
        return {name: None} if place.optional else {}
    data = groups[group]
    if place.hint is pd.DataFrame:
        return {name: _table(data)}
    return {name: data[_variable(place)] if place.hint is xr.DataArray else data}


def _table(data: Any) -> Any:
    """A table of pandas; xarray calls an index without a name so."""
    table = data.to_dataframe()
    return table.rename_axis(None) if table.index.name == "index" else table


def _attribute(value: Any) -> Any:
    """A value as NetCDF's attributes hold it; None where it is to be left out."""
    value = _plainly(value)
    if isinstance(value, bool):
        return int(value)
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, tuple) and all(isinstance(each, bool | int | float) for each in value) and value:
        return [int(each) if isinstance(each, bool) else each for each in value]
    text = "\n".join(value) if isinstance(value, tuple) and all(isinstance(e, str) for e in value) else "["
    # Sentences are lines, which others can read, where the lines are the sentences.
    return text if _lines(text) == value else json.dumps(plain(value), ensure_ascii=False)


def _lines(text: str) -> Any:
    return None if text.startswith("[") else tuple(line for line in text.split("\n") if line)


def _plainly(value: Any) -> Any:
    """An attribute of NumPy's as Python's own type."""
    return value.tolist() if hasattr(value, "tolist") else value


def _read(value: Any, hint: Any) -> Any:
    """The inverse of `_attribute` for a type."""
    if (kind := get_origin(hint)) is tuple:
        if not isinstance(value, str):
            return value if isinstance(value, list) else [value]
        return json.loads(value) if (lines := _lines(value)) is None else lines
    is_json = is_dataclass(hint) or (isinstance(kind, type) and issubclass(kind, Mapping))
    return json.loads(value) if is_json else value


def save_table(table: Any, path: Path) -> None:
    """Write a table of pandas as NetCDF.

    Raises:
        InputError: if it cannot be written.
    """
    import xarray as xr

    write_netcdf(path, xr.Dataset.from_dataframe(table))


def load_table(path: Path) -> Any:
    """Read what `save_table` wrote.

    Raises:
        InputError: if it is damaged.
    """
    with reading(path):
        return _table(_groups_of(path)[ROOT])
