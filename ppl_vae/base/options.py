"""Options declared once: what a frozen dataclass says of its fields, for keywords, the shell and files.

A field's line of help stands in the class's ``Attributes:``; its choices in its type, as a `Literal`. What
the shell calls otherwise has ``metadata={"shell": "--steps"}``; ``{"shell": None}`` keeps it from there.
"""

import dataclasses
import inspect
import re
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ppl_vae.base.errors import InputError
from ppl_vae.base.plain import from_plain

__all__ = [
    "changed",
    "choices",
    "differences",
    "docs",
    "from_shell",
    "in_shell_words",
    "shell_names",
]

Kind = TypeVar("Kind")

# A name or several of them at the start of a line, and what is said of them.
ENTRY = re.compile(r"(\w+(?:, \w+)*): (.*)")


def docs(cls: type) -> dict[str, str]:
    """What docstrings of a class and its bases say of each attribute, on one line without a full stop."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in (line for each in reversed(cls.__mro__) for line in _section(each)):
        if (entry := ENTRY.fullmatch(line)) is not None:
            names = entry[1].split(", ")
            found |= dict.fromkeys(names, entry[2])
        else:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return {name: text.removesuffix(".") for name, text in found.items()}


def _section(cls: type) -> list[str]:
    """The lines below ``Attributes:``, their common indentation removed."""
    text = inspect.cleandoc(cls.__doc__ or "")
    _, _, after = text.partition("\nAttributes:\n")
    lines = []
    for line in after.splitlines():
        if not line.startswith("    "):
            break
        lines.append(line[4:])
    return lines


def shell_names(cls: Any) -> dict[str, str]:
    """The option on the command line of each field of a dataclass that has one."""
    names = {
        f.name: f.metadata.get("shell", "--" + f.name.replace("_", "-")) for f in dataclasses.fields(cls)
    }
    return {field: name for field, name in names.items() if name is not None}


def choices(annotation: Any) -> tuple[Any, ...]:
    """The values that a type's `Literal` names, also inside a union; none for other types."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if get_origin(annotation) in (Union, UnionType):
        return tuple(value for part in get_args(annotation) for value in choices(part))
    return ()


def differences(cls: Any, keywords: type) -> list[str]:
    """Names and types in which a TypedDict is not the keywords of a dataclass, in words."""
    fields, keys = get_type_hints(cls), get_type_hints(keywords)
    found = [f"{name} is only in {cls.__name__}" for name in fields.keys() - keys.keys()]
    found += [f"{name} is only in {keywords.__name__}" for name in keys.keys() - fields.keys()]
    found += [
        f"{name} is {fields[name]} in {cls.__name__} and {keys[name]} in {keywords.__name__}"
        for name in fields.keys() & keys.keys()
        if fields[name] != keys[name]
    ]
    return sorted(found)


def in_shell_words(text: str, cls: Any) -> str:
    """A complaint of a field, and of others by ``name='value'``, under the names that the shell has."""
    names = {field: shell.partition("/")[0] for field, shell in shell_names(cls).items()}
    first = text.split(maxsplit=1)[0].partition("=")[0]
    text = names.get(first, first) + text.removeprefix(first)
    return re.sub(r"\b(\w+)='([^']*)'", lambda m: f"{names.get(m[1], m[1])} {m[2]}", text)


def changed(options: Any) -> dict[str, Any]:
    """The fields of an options object that are not at their defaults."""
    values = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
    usual = {f.name: f.default for f in dataclasses.fields(options)}
    return {name: value for name, value in values.items() if value != usual[name]}


def from_shell(cls: type[Kind], content: Mapping[str, Any]) -> Kind:
    """As `from_plain`, complaining in the shell's words.

    Raises:
        InputError: naming the option.
    """
    try:
        return from_plain(cls, content)
    except (ValueError, InputError) as error:
        raise InputError(in_shell_words(str(error), cls)) from None
