"""What can be fitted, and how, without loading it: read from a file that `ppl_vae.cli.cataloguing` writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from ppl_vae.base.plain import from_plain, plain

__all__ = ["FILE", "Catalogue", "Entry", "Kind", "Option", "catalogue"]

FILE = "catalogue.json"
Kind = Literal["int", "float", "str", "bool", "ints", "floats"]


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        name: of the field that declares it.
        flag: as it is typed; ``--on/--off`` for both ways of a switch.
        kind: of its values; "ints" and "floats" are several, with commas between.
        help: a sentence.
        default: in words.
    """

    name: str
    flag: str
    kind: Kind
    help: str
    default: str


@dataclass(frozen=True)
class Entry:
    """A model, described.

    Attributes:
        name: on the command line.
        summary: the first line of its docstring.
        inputs: what it takes, in words.
        unit: over what log p(x) factorises: "datum" or "data set".
        guides: names, the default first.
        exact: what it knows exactly: "posterior", "log p(x)".
        oracle: what its inference is tested against.
        options: its own.
        defaults: of the options that all models have, in words, where they are its own.
    """

    name: str
    summary: str
    inputs: str
    unit: str
    guides: tuple[str, ...]
    exact: tuple[str, ...]
    oracle: str
    options: tuple[Option, ...]
    defaults: Mapping[str, str]


@dataclass(frozen=True)
class Catalogue:
    """Options of every fit and of other commands, the models, and the names of the data sets."""

    fit: tuple[Option, ...]
    commands: Mapping[str, tuple[Option, ...]]
    models: Mapping[str, Entry]
    datasets: tuple[str, ...]

    def to_json(self) -> str:
        """As the file holds it."""
        return json.dumps(plain(self), indent=1, ensure_ascii=False) + "\n"


@cache
def catalogue() -> Catalogue:
    """The catalogue that came with the package."""
    content = json.loads(files("ppl_vae.cli").joinpath(FILE).read_text(encoding="utf-8"))
    return from_plain(Catalogue, content)
