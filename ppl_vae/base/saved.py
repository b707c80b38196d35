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
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, NamedTuple, Self, Union, get_args, get_origin

import numpy as np

from ppl_vae.base.errors import InputError
from ppl_vae.base.files import reading, with_slashes, without_slashes, write_netcdf, write_text
from ppl_vae.base.plain import Plain, from_plain, plain, types_of

__all__ = ["Saved", "kept"]

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
    """A field, and where its file has it.

    Attributes:
        name: of the field.
        at: what the file calls it.
        hint: its type, without None.
        kind: "attribute", "array", "tensor", "DataFrame", "Dataset", "DataArray", or "Datasets" by name.
        optional: whether it may be None.
        required: whether it has no default.
        dims, key: see `kept`.
    """

    name: str
    at: str
    hint: Any
    kind: str
    optional: bool
    required: bool
    dims: tuple[str, ...]
    key: str


def _place(field: Field[Any], hint: Any) -> _Place:
    parts = [part for part in get_args(hint) if part is not NoneType]
    if optional := NoneType in get_args(hint):
        hint = Union[tuple(parts)]  # noqa: UP007
    required = field.default is MISSING and field.default_factory is MISSING
    about = {**kept(), **field.metadata}
    at = about["name"] or field.name
    return _Place(field.name, at, hint, _kind(hint), optional, required, about["dims"], about["key"])


def _kind(hint: Any) -> str:
    import pandas as pd
    import xarray as xr

    # Who has a field of PyTorch's type has loaded it.
    tensor = sys.modules["torch"].Tensor if "torch" in sys.modules else None
    kinds = {np.ndarray: "array", tensor: "tensor", pd.DataFrame: "DataFrame"}
    kinds |= {xr.Dataset: "Dataset", xr.DataArray: "DataArray"}
    return "Datasets" if xr.Dataset in get_args(hint) else kinds.get(hint, "attribute")


class _Layout:
    """How a class of answers lies in NetCDF.

    Attributes:
        first: the group with the attributes.
    """

    def __init__(self, cls: type[Saved]) -> None:
        import xarray  # noqa: F401

        self.cls, hints = cls, types_of(cls)
        places = [_place(field, hints[field.name]) for field in fields(cls)]
        self.attributes = [place for place in places if place.kind == "attribute"]
        self.arrays = [place for place in places if place.kind in ("array", "tensor")]
        self.tables = [place for place in places if place not in (*self.attributes, *self.arrays)]
        groups = len(self.tables) + bool(self.arrays) + any(each.kind == "Datasets" for each in self.tables)
        self.is_flat = groups < 2
        self.first = self.group((self.tables or self.arrays or self.attributes)[0])

    def group(self, place: _Place) -> str:
        """The group that a place is in."""
        return ROOT if self.is_flat else ARRAYS if place in self.arrays else place.at.partition("/")[0]

    def pack(self, answer: Saved) -> Any:
        """An answer as a Dataset, or as a DataTree."""
        import xarray as xr

        groups: dict[str, Any] = {self.first: xr.Dataset()}
        for place in self.tables:
            groups |= _packed(place, getattr(answer, place.name), self.group(place))
        variables = dict(answer.derived())
        for place in self.arrays:
            value = getattr(answer, place.name)
            value = value.detach().cpu().numpy() if place.kind == "tensor" and value is not None else value
            # An array without entries may have none along a dimension of others.
            if value is not None and (value.size or place.required):
                dims = place.dims or tuple(f"{place.at}_{axis}" for axis in range(value.ndim))
                variables[place.at] = (dims, value)
        if variables:
            where = ROOT if self.is_flat else ARRAYS
            groups[where] = groups.get(where, xr.Dataset()).assign(variables)
        found = {place.at: _attribute(getattr(answer, place.name)) for place in self.attributes}
        about = {name: value for name, value in found.items() if value is not None}
        groups[self.first] = groups[self.first].assign_attrs({**_stamp(self.cls), **about})
        if self.is_flat:
            return groups[ROOT]
        return xr.DataTree.from_dict({name: without_slashes(group) for name, group in groups.items()})

    def unpack(self, groups: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Values by field, and all the attributes by name, of other fields and versions too."""
        first = groups[self.first].copy()
        said = {str(name): _plainly(value) for name, value in first.attrs.items()}
        own = {*_stamp(self.cls), *(place.at for place in self.attributes)}
        first.attrs = {name: value for name, value in first.attrs.items() if name not in own}
        groups = {**groups, self.first: first}
        content = dict(said)
        for place in self.attributes:
            if place.at in said:
                content[place.name] = _read(said[place.at], place.hint)
            elif place.optional and VERSION in said:
                content[place.name] = None
        for place in self.arrays:
            if place.at in (group := groups[self.group(place)]).variables:
                as_declared = sys.modules["torch"].as_tensor if place.kind == "tensor" else np.asarray
                content[place.name] = as_declared(group[place.at].to_numpy())
        for place in self.tables:
            content |= _unpacked(place, groups, self.group(place))
        return content, said


def _packed(place: _Place, value: Any, group: str) -> dict[str, Any]:
    """The groups of a table, of a Dataset or of several; none of one without entries that need not be."""
    import xarray as xr

    if value is None:
        return {}
    if place.kind == "Datasets":
        each = enumerate(value.items())
        return {f"{group}/{number}": data.assign_attrs({place.key: name}) for number, (name, data) in each}
    if place.kind == "DataFrame":
        return {group: xr.Dataset.from_dataframe(value)}
    if place.kind == "DataArray":
        return {group: value.to_dataset(name=place.at.rpartition("/")[2])}
    return {group: value} if value.data_vars or place.required else {}


def _unpacked(place: _Place, groups: Mapping[str, Any], group: str) -> dict[str, Any]:
    """The inverse of `_packed`, by the field's name."""
    if place.kind == "Datasets":
        number = len([path for path in groups if path.startswith(f"{group}/")])
        found = [groups[f"{group}/{at}"] for at in range(number)]
        return {place.name: {str(data.attrs.pop(place.key)): data for data in found}}
    if group not in groups:
        return {place.name: None} if place.optional else {}
    data = groups[group]
    if place.kind == "DataFrame":
        data = data.to_dataframe()
        # So xarray calls an index without a name.
        data = data.rename_axis(None) if data.index.name == "index" else data
    return {place.name: data[place.at.rpartition("/")[2]] if place.kind == "DataArray" else data}


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
