"""The suite's models by name, and classes of a user's own by file: FILE.py:CLASS."""

from dataclasses import is_dataclass
from typing import Any, cast

from ppl_vae.base.errors import InputError
from ppl_vae.models.base import SuiteModel
from ppl_vae.models.suite import SUITE
from ppl_vae.program.user_program import is_program, load_program

__all__ = ["find_model", "suite_models"]

# What a class must have to be fitted by its name alone.
NEEDED = (
    "name",
    "inputs",
    "data_type",
    "Options",
    "defaults",
    "guides",
    "unit",
    "oracle",
    "from_data",
    "check_data",
)


def suite_models() -> dict[str, type[SuiteModel]]:
    """The suite's models by their names on the command line."""
    return {cls.name: cls for cls in SUITE}


def find_model(name: str) -> type[SuiteModel]:
    """The model of that name, or the class that a file of the user's holds.

    Raises:
        InputError: naming the models that there are, or what the class lacks.
    """
    if is_program(name):
        return _checked(name, load_program(name))
    known = suite_models()
    if name not in known:
        raise InputError(f"there is no model {name!r}; there are {', '.join(sorted(known))}")
    return known[name]


def _checked(name: str, found: Any) -> type[SuiteModel]:
    if not isinstance(found, type):
        raise InputError(
            f"{name} is no class: a model to fit by name is one (see ARCHITECTURE.md, adding a model)"
        )
    if missing := [part for part in NEEDED if not hasattr(found, part)]:
        raise InputError(f"{name} lacks {', '.join(missing)}: see ARCHITECTURE.md, adding a model")
    model = cast(type[SuiteModel], found)
    if not is_dataclass(model.Options):
        raise InputError(f"{name} has Options that are no dataclass: see ARCHITECTURE.md, adding a model")
    return model
