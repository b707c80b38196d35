"""Dataclasses as JSON holds them, and back, by the types of their fields."""

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Self, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from ppl_vae.base.errors import InputError

__all__ = ["Plain", "from_plain", "plain", "types_of"]

Kind = TypeVar("Kind")

# Numbers that JSON lacks, as words.
NUMBERS = {word: float(word) for word in ("nan", "inf", "-inf")}
# What modules that load these late call them in annotations.
LATE = {"np": "numpy", "pd": "pandas", "xr": "xarray"}
WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", dict: "a mapping"}
_OTHER = object()


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Plain:
    """A frozen dataclass that becomes JSON, and comes of it.

    Attributes:
        INFINITE: what stands for ∞ there; see `plain`.
    """

    INFINITE: ClassVar[float | Literal["a word"] | None] = "a word"

    def to_json(self) -> dict[str, Any]:
        """As JSON has it: null for NaN."""
        return _by_field(self, self.INFINITE)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote; what is missing has its default.

        Raises:
            InputError: if it is something else.
        """
        try:
            return from_plain(cls, content, loose=True)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"these are not the contents of a {cls.__name__}: {error}") from error


def plain(value: Any, infinite: float | Literal["a word"] | None = "a word") -> Any:
    """A value as JSON holds it: dataclasses and tables of pandas by name, tuples as lists, NaN as null.

    Args:
        value: of plain types, or made of dataclasses, mappings, tuples, arrays and tables of them.
        infinite: what stands for ∞ and, with the other sign, for −∞: a number, None, or words.

    Raises:
        TypeError: for a value of another type.
    """
    if isinstance(value, Plain):
        return value.to_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _by_field(value, infinite)
    if isinstance(value, Mapping):
        return {str(name): plain(each, infinite) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each, infinite) for each in value]
    if _is_table(type(value)):
        return {str(name): plain(value[name].tolist(), infinite) for name in value}
    if hasattr(value, "tolist"):
        return plain(value.tolist(), infinite)
    if isinstance(value, float) and not math.isfinite(value):
        return _not_finite(value, infinite)
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"a value of type {type(value).__name__} cannot be kept")


def _by_field(value: Any, infinite: float | Literal["a word"] | None) -> dict[str, Any]:
    return {field.name: plain(getattr(value, field.name), infinite) for field in dataclasses.fields(value)}


def _not_finite(value: float, infinite: float | Literal["a word"] | None) -> float | str | None:
    if value != value or infinite is None:
        return None
    return str(value) if infinite == "a word" else math.copysign(infinite, value)


def _is_table(hint: Any) -> bool:
    """Whether a type is pandas' table: where it was not loaded, none is."""
    return "pandas" in sys.modules and hint is sys.modules["pandas"].DataFrame


def types_of(cls: Any) -> dict[str, Any]:
    """The types of a dataclass's fields, of libraries too that its module names without loading them."""
    late = {short: sys.modules[name] for short, name in LATE.items() if name in sys.modules}
    return get_type_hints(cls, localns=late)


def from_plain(cls: type[Kind], content: Mapping[str, Any], *, loose: bool = False) -> Kind:
    """A dataclass from values by name, as JSON or a shell gives them.

    Lists become tuples, and mappings dataclasses. What is not among the fields is left out, and what is
    missing has its default.

    Args:
        cls: the dataclass.
        content: values by the names of its fields.
        loose: whether a number may be null (NaN) or a word, and a boolean 0 or 1, as files have them.

    Raises:
        ValueError: naming the first field whose value is of another type, or no choice of its.
        KeyError: for a field that is missing and has no default.
    """
    hints = types_of(cls)
    values = {}
    for field in dataclasses.fields(cast(Any, cls)):
        if field.name in content:
            values[field.name] = _fitting(field.name, content[field.name], hints[field.name], loose)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise KeyError(field.name)
    return cls(**values)


def _fitting(name: str, value: Any, hint: Any, loose: bool) -> Any:
    """A value as its field's type has it.

    Raises:
        ValueError: if it is of another.
    """
    found = _as(value, hint, loose)
    if found is _OTHER:
        parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        raise ValueError(f"{name} is {value!r}; it is {_accepted(parts)}")
    return found


def _as(value: Any, hint: Any, loose: bool) -> Any:
    """A value as a type has it; `_OTHER` where it is none of it."""
    kind, parts = get_origin(hint), get_args(hint)
    if hint is Any or (value is None and NoneType in (hint, *parts)):
        return value
    if kind in (Union, UnionType):
        found = (_as(value, part, loose) for part in parts)
        return next((each for each in found if each is not _OTHER), _OTHER)
    if kind is Literal:
        return value if any(value == v and type(value) is type(v) for v in parts) else _OTHER
    if kind is tuple:
        return _as_tuple(value, parts, loose)
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return _as_mapping(value, parts, loose)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_plain(cast(type, hint), value, loose=loose)
    if loose:
        value = _loosened(value, hint)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    # A boolean is an integer to Python, and to nobody else.
    is_it = (
        isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    )
    return value if is_it else _OTHER


def _loosened(value: Any, hint: Any) -> Any:
    """A value in the place of what a file lacks: a number that is none, a boolean, a table."""
    if hint is float and value is None:
        return math.nan
    if hint is float and isinstance(value, str):
        return NUMBERS.get(value, value)
    if hint is bool and type(value) is int and value in (0, 1):
        return bool(value)
    if _is_table(hint) and isinstance(value, Mapping):
        return hint({name: _column(column) for name, column in value.items()})
    return value


def _column(values: Sequence[Any]) -> list[Any]:
    """A column of a table; words for numbers are numbers where the others are, which no text is."""
    if any(isinstance(value, str) and value not in NUMBERS for value in values):
        return list(values)
    return [math.nan if value is None else NUMBERS.get(value, value) for value in values]


def _as_tuple(value: Any, hints: tuple[Any, ...], loose: bool) -> Any:
    if not isinstance(value, list | tuple):
        return _OTHER
    each = [hints[0]] * len(value) if hints[-1] is Ellipsis else list(hints)
    if len(each) != len(value):
        return _OTHER
    found = tuple(_as(part, hint, loose) for part, hint in zip(value, each, strict=True))
    return _OTHER if any(part is _OTHER for part in found) else found


def _as_mapping(value: Any, hints: tuple[Any, ...], loose: bool) -> Any:
    if not isinstance(value, Mapping):
        return _OTHER
    found = {name: _as(each, hints[1], loose) for name, each in value.items()}
    return _OTHER if any(each is _OTHER for each in found.values()) else found


def _accepted(hints: Sequence[Any]) -> str:
    """What types accept, in words."""
    words: list[str] = []
    for hint in hints:
        if get_origin(hint) is Literal:
            words += [str(value) for value in get_args(hint) if not isinstance(value, bool)]
        elif get_origin(hint) is tuple:
            several = get_args(hint)[-1] is Ellipsis
            words.append("several numbers" if several else f"{len(get_args(hint))} numbers")
        elif hint in WORDS or dataclasses.is_dataclass(hint):
            words.append(WORDS.get(hint, WORDS[dict]))
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
