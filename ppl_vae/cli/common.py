"""What commands share: their common options, and numbers in texts."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppl_vae.base.errors import InputError

if TYPE_CHECKING:
    from ppl_vae.engine.graph import Compile

__all__ = [
    "JSON",
    "Compiled",
    "Quiet",
    "RunFolder",
    "RunFolders",
    "Seed",
    "Split",
    "assignments",
    "column_words",
    "compile_word",
    "numbers",
    "print_json",
    "rows_slice",
    "say_complaints",
]

JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr; notes and errors remain.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `ppl-vae fit` made.")]
RunFolders = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN...", help="A folder that `ppl-vae fit` made; several, to compare their models."
    ),
]
Compiled = Annotated[
    str, typer.Option("--compile", help="auto (by the size of the work), on, or off for stock Pyro.")
]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random. (default: 0, or the run's)")]
Split = Annotated[
    str | None, typer.Option(help="train, validation or test rows. (default: test where there are any, else train)")
]  # fmt: skip


def say_complaints(complaints: list[InputError]) -> None:
    """Say what could not be written, once everything that was found is on the screen."""
    if complaints:
        raise complaints[0]


def compile_word(text: str) -> "Compile":
    """The value of --compile.

    Raises:
        InputError: unless it is auto, on or off.
    """
    from ppl_vae.engine.graph import check_compile

    try:
        return check_compile(text)
    except InputError:
        raise InputError(f"--compile is {text!r}; it is auto, on or off") from None


def print_json(content: dict[str, Any]) -> None:
    """The one object that ``--json`` prints."""
    print(json.dumps(content, allow_nan=False, default=float))


def numbers(name: str, text: str | None, kind: Callable[[str], Any]) -> tuple[Any, ...] | None:
    """Several numbers, with commas between; whole numbers, such as widths, may be none at all.

    Raises:
        InputError: for anything else, naming the option.
    """
    if text is None:
        return None
    if kind is int and text == "none":
        return ()
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        such = "such as 200,200, or none" if kind is int else "such as 0.8,0.1,0.1"
        raise InputError(f"{name} is {text!r}; it is numbers with commas between, {such}") from None


def column_words(texts: Sequence[str] | None) -> dict[str, Any]:
    """The values of --column: a name, or several.

    Raises:
        InputError: for one without an equals sign.
    """
    found: dict[str, Any] = {}
    for text in texts or ():
        name, equals, columns = text.partition("=")
        if not equals:
            raise InputError(f"--column {text!r} is no INPUT=COLUMN")
        several = [column.strip() for column in columns.split(",")]
        found[name.strip()] = several if len(several) > 1 else several[0]
    return found


def rows_slice(text: str | None) -> slice | None:
    """The value of --rows.

    Raises:
        InputError: unless it is FIRST:LAST.
    """
    if text is None:
        return None
    try:
        first, last = (int(part) if part else None for part in text.split(":"))
    except ValueError:
        raise InputError(f"--rows is {text!r}; it is FIRST:LAST, such as 0:8") from None
    return slice(first, last)


def assignments(texts: list[str]) -> dict[str, Any]:
    """The values of --set, by name: Python's literals, else texts.

    Raises:
        InputError: for one without an equals sign.
    """
    import ast

    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text!r} is no NAME=VALUE")
        try:
            found[name.strip().replace("-", "_")] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name.strip().replace("-", "_")] = value
    return found
