"""The commands that list what there is."""

from dataclasses import asdict
from typing import Annotated

import typer

from ppl_vae.cli.catalogue import Entry, catalogue
from ppl_vae.cli.common import JSON, print_json

__all__ = ["datasets", "known_model", "models"]


def datasets(json_: JSON = False) -> None:
    """List the named data sets, with their shapes and sources."""
    from ppl_vae.data.named import names

    known = names()
    if json_:
        print_json({name: asdict(info) for name, info in known.items()})
        return
    from ppl_vae.cli.tables import console, plain_table

    rows = [
        (name, info.kind, info.shape, f"{info.source} ({info.reference})") for name, info in known.items()
    ]
    console().print(plain_table("Data sets", ("name", "kind", "shape", "source"), rows))


def models(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="One of them, in full.")] = None,
    json_: JSON = False,
) -> None:
    """List the models, or say of one what it takes, its guides, its options and what it is tested against."""
    known = catalogue().models
    if model is not None:
        _one_model(known_model(model), json_)
        return
    if json_:
        print_json({name: asdict(entry) for name, entry in known.items()})
        return
    from ppl_vae.cli.tables import console, plain_table

    rows = [
        (
            name,
            entry.summary,
            ", ".join(entry.guides),
            ", ".join(f"{option.flag} {option.default}" for option in entry.options),
        )
        for name, entry in known.items()
    ]
    columns = ("name", "model", "guides (first is default)", "options and defaults")
    console().print(plain_table("Models", columns, rows))


def known_model(model: str) -> Entry:
    """A model's entry.

    Raises:
        InputError: if there is none of that name.
    """
    known = catalogue().models
    if model in known:
        return known[model]
    from ppl_vae.cli.cataloguing import entry_of
    from ppl_vae.runs.registry import find_model

    return entry_of(find_model(model), model)


def _one_model(entry: Entry, as_json: bool) -> None:
    if as_json:
        print_json(asdict(entry))
        return
    from ppl_vae.cli.tables import console, plain_table

    facts = [
        ("model", entry.summary),
        ("takes", entry.inputs),
        ("unit of log p(x)", entry.unit),
        ("guides", ", ".join(entry.guides)),
        ("exact answers", ", ".join(entry.exact) or "none"),
        ("tested against", entry.oracle),
        *((option.flag, f"{option.help} (default: {option.default})") for option in entry.options),
    ]
    console().print(plain_table(entry.name, ("", ""), facts))
