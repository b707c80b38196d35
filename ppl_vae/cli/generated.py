"""Options of commands from the catalogue, which the classes that declare them were written into."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import typer

from ppl_vae.cli.catalogue import Option, catalogue
from ppl_vae.cli.common import numbers

__all__ = ["given_values", "parameter", "with_options"]

TYPES: dict[str, type] = {"int": int, "float": float, "str": str, "bool": bool, "ints": str, "floats": str}
# What every command has at the end of its help text.
LAST = ("seed", "quiet", "json_")
SEVERAL: dict[str, Callable[[str], Any]] = {"ints": int, "floats": float}


def parameter(option: Option, default: str | None = None, panel: str | None = None) -> inspect.Parameter:
    """A function's parameter that Typer makes the option of; None where it is not given.

    Args:
        option: as the catalogue has it.
        default: in words, where it is not the option's own.
        panel: the heading in the help text that it stands under.
    """
    text = f"{option.help} (default: {option.default if default is None else default})"
    declared = typer.Option(option.flag, help=text, rich_help_panel=panel)
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=None,
        annotation=Annotated[TYPES[option.kind] | None, declared],
    )  # fmt: skip


def given_values(options: Iterable[Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given of these options, several numbers as a tuple.

    Raises:
        InputError: where something else than numbers was given for them.
    """
    found = {}
    for option in options:
        value = given[option.name]
        if value is not None and option.kind in SEVERAL:
            value = numbers(option.flag, value, SEVERAL[option.kind])
        if value is not None:
            found[option.name] = value
    return found


def with_options(command: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command's function the options that the catalogue has for it.

    They come to it as one mapping, ``asked``, of those that were given.
    """
    options = catalogue().commands[command]

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        def run(**given: Any) -> None:
            rest = {name: value for name, value in given.items() if name not in {o.name for o in options}}
            function(**rest, asked=given_values(options, given))

        own = [p for p in inspect.signature(function).parameters.values() if p.name != "asked"]
        by_name = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        needed = [p for p in by_name if p.default is inspect.Parameter.empty]
        ends = [p for p in by_name if p.name in LAST]
        others = [p for p in by_name if p not in needed and p not in ends]
        run.__signature__ = inspect.Signature([*needed, *others, *map(parameter, options), *ends])  # type: ignore[attr-defined]
        run.__name__, run.__doc__ = function.__name__, function.__doc__
        return run

    return decorate
