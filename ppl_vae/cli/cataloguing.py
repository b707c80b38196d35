"""The catalogue of models and options, from the classes that declare them.

``python -m ppl_vae.cli.cataloguing`` writes it into the package.
"""

import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ppl_vae.base.options import docs, shell_names
from ppl_vae.cli.catalogue import FILE, Catalogue, Entry, Kind, Option
from ppl_vae.data.inputs import Features, Input
from ppl_vae.data.named import names
from ppl_vae.inference.fitting.options import FitOptions
from ppl_vae.models.base import SuiteModel, defaults_of
from ppl_vae.program.abilities import ExactEvidence, ExactPosterior
from ppl_vae.runs.check_jobs import CheckedOptions
from ppl_vae.runs.evidence_jobs import EvidenceOptions
from ppl_vae.runs.jobs import ReferenceOptions
from ppl_vae.runs.registry import suite_models
from ppl_vae.runs.settings import Preparation, Settings

__all__ = ["declared", "default_in_words", "entry_of", "made_catalogue"]


def entry_of(cls: type[SuiteModel], name: str | None = None) -> Entry:
    """A model's description for help texts and lists.

    Args:
        cls: the model.
        name: on the command line, if it is not the model's own.
    """
    exact = {"posterior": ExactPosterior, "log p(x)": ExactEvidence}
    return Entry(
        name=name or cls.name,
        summary=(cls.__doc__ or "").partition("\n")[0],
        inputs=", ".join(_input_in_words(name, what) for name, what in cls.inputs.items()),
        unit=cls.unit,
        guides=tuple(cls.guides),
        exact=tuple(words for words, ability in exact.items() if isinstance(cls, ability)),
        oracle=cls.oracle,
        options=declared(cls.Options),
        defaults=_defaults_in_words(cls),
    )


def _input_in_words(name: str, what: Input) -> str:
    """An input as a list shows it: ``x: features``, ``label: category, conditioned on``."""
    kind = type(what).__name__.lower()
    kinds = (
        f" ({', '.join(what.kinds)})" if isinstance(what, Features) and what.kinds != Features().kinds else ""
    )
    return f"{name}: {kind}{kinds}{'' if what.observed else ', conditioned on'}"


def made_catalogue() -> Catalogue:
    """The catalogue as the code has it now; `ppl_vae.cli.catalogue` reads what was written of it."""
    about = {option.name: option for option in declared(Settings)}
    epochs = Option(
        "epochs", "--epochs", "float", "Passes over the training data, instead of --steps.", "none"
    )
    fit = (
        about["guide"],
        epochs,
        *declared(FitOptions),
        *declared(Preparation),
        about["seed"],
        about["device"],
    )
    entries = {name: entry_of(cls) for name, cls in suite_models().items()}
    commands = {
        "evidence": declared(EvidenceOptions),
        "compare": declared(ReferenceOptions),
        "check": declared(CheckedOptions),
    }
    return Catalogue(fit, commands, entries, tuple(names()))


def declared(cls: type[Any]) -> tuple[Option, ...]:
    """The options that a dataclass declares for the command line, with the first sentence of each one's help.

    A line of help may end with its default in words, ``(default: …)``, where None stands for another.
    """
    lines, hints, flags = docs(cls), get_type_hints(cls), shell_names(cls)
    options = (field for field in fields(cls) if field.metadata.get("shell", "") is not None)
    return tuple(_option(field, hints[field.name], lines.get(field.name, ""), flags) for field in options)


def _option(field: Field[Any], hint: Any, line: str, names: Mapping[str, str]) -> Option:
    kind = _kind(hint)
    usual = field.name.replace("_", "-")
    both = kind == "bool" and field.default is not False
    flag = field.metadata.get("shell", f"--{usual}/--no-{usual}" if both else f"--{usual}")
    text, _, default = line.partition(" (default: ")
    default = default.removesuffix(")")
    # The first sentence, with fields under the names that the command line has for them.
    text = re.split(r"\.\s+(?=[A-Z])", text)[0]
    text = re.sub(r"``(\w+)``", lambda word: names.get(word[1], word[0]).partition("/")[0], text).replace(
        "``", ""
    )
    usual_value = None if field.default is MISSING else field.default
    help_text = f"{text[:1].upper()}{text[1:]}." if text else f"The model's {usual}."
    return Option(field.name, flag, kind, help_text, default or default_in_words(usual_value))


def _kind(hint: Any) -> Kind:
    """The kind of an option's values by the type of its field."""
    if get_origin(hint) in (Union, UnionType):
        parts = [part for part in get_args(hint) if part is not NoneType]
        hint = str if any(get_origin(part) is Literal for part in parts) else parts[0]
    if get_origin(hint) is Literal:
        return "str"
    if get_origin(hint) is tuple:
        return "ints" if get_args(hint)[0] is int else "floats"
    kinds: dict[Any, Kind] = {int: "int", float: "float", str: "str", bool: "bool"}
    # Anything else is read as a text, and judged when the options are made of it.
    return kinds.get(hint, "str")


def default_in_words(value: object) -> str:
    """A default as a help text shows it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(map(default_in_words, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _defaults_in_words(cls: type[SuiteModel]) -> dict[str, str]:
    """A model's own defaults of the options of every fit, by field."""
    usual = defaults_of(cls, cls.Options())
    warmup = "0"
    if usual.kl_warmup:
        steps = round(usual.kl_warmup * usual.num_steps)
        warmup = f"{steps}, or {usual.kl_warmup:.0%} of the steps with --no-stop"
    return {
        "guide": next(iter(cls.guides)),
        "num_steps": f"{usual.max_steps}; {usual.num_steps} with --no-stop",
        "batch_size": default_in_words(usual.batch_size or "all"),
        "lr": default_in_words(usual.lr),
        "num_particles": default_in_words(usual.num_particles),
        "kl_warmup": warmup,
        "stop": "on, off with --average",
        "precision": "float32",
        "standardize": default_in_words(usual.standardize),
        "binarize": usual.binarize,
        "split": default_in_words(usual.split),
    }


def main() -> None:
    """Write the catalogue into the package."""
    (Path(__file__).parent / FILE).write_text(made_catalogue().to_json(), encoding="utf-8")


if __name__ == "__main__":
    main()
