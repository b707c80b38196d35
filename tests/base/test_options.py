"""Options declared once: dataclass, keywords, docstrings and the shell's names say the same."""

import ast
import dataclasses
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypedDict

import pytest

from ppl_vae.base.errors import InputError
from ppl_vae.base.options import choices, differences, docs, shell_names
from ppl_vae.inference.fitting.options import FitKeywords, FitOptions


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What is drawn.

    Attributes:
        size: how many,
            at least one: always.
        low, high: the ends.
        shade: of grey.

    Something else: that is no attribute.
    """

    size: int = 1
    low: float = 0.0
    high: float = dataclasses.field(default=1.0, metadata={"shell": None})
    shade: Literal["dark", "light"] | None = dataclasses.field(default=None, metadata={"shell": "--grey"})


class Keywords(TypedDict, total=False):
    size: int
    low: int
    shade: Literal["dark", "light"] | None
    more: bool


def test_docs_are_the_attributes_lines() -> None:
    assert docs(Drawn) == {
        "size": "how many, at least one: always",
        "low": "the ends",
        "high": "the ends",
        "shade": "of grey",
    }


def test_names_and_choices_of_the_shell_come_from_the_fields() -> None:
    assert shell_names(Drawn) == {"size": "--size", "low": "--low", "shade": "--grey"}
    assert choices(Literal["dark", "light"] | None) == ("dark", "light")
    assert choices(int | None) == choices(str) == ()


def test_every_difference_of_keywords_is_named() -> None:
    found = differences(Drawn, Keywords)
    assert found == [
        "high is only in Drawn",
        "low is <class 'float'> in Drawn and <class 'int'> in Keywords",
        "more is only in Keywords",
    ]


def test_a_fits_options_are_its_keywords_and_each_has_its_line() -> None:
    assert differences(FitOptions, FitKeywords) == []
    assert not FitKeywords.__required_keys__
    names = [field.name for field in dataclasses.fields(FitOptions)]
    assert list(docs(FitOptions)) == names
    assert list(FitKeywords.__annotations__) == names


def test_a_fits_options_on_the_command_line() -> None:
    names = shell_names(FitOptions)
    assert (names["num_steps"], names["num_particles"]) == ("--steps", "--particles")
    assert names["kl_warmup"] == "--kl-warmup"
    assert "lr_end" not in names


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("precision", "float16", "precision='float16' is not known; it is 'float32' or 'bfloat16'"),
        ("train", "model", "train='model' is not known; it is 'both' or 'guide'"),
        ("objective", "mle", "objective='mle' is not known; it is 'elbo'"),
        ("compile", "yes", "compile='yes' is not known; it is 'auto', 'on' or 'off'"),
        ("kl_warmup", -1, "kl_warmup is -1; it must be at least 0"),
        ("doubly_reparameterised", True, "doubly_reparameterised belongs to objective='iwae'"),
    ],
)
def test_options_out_of_range_are_refused_when_they_are_given(option: str, value: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        FitOptions(**{option: value})


def test_a_wrong_keyword_is_the_usual_type_error() -> None:
    with pytest.raises(TypeError, match="steps"):
        FitOptions(steps=3)  # type: ignore[call-arg]


# Where more than ten things can be said, they are fields of a dataclass and keywords of the same names.
DECLARED = {
    "ppl_vae.inference.evidence.importance": ("ImportanceOptions", "ImportanceKeywords"),
    "ppl_vae.inference.evidence.annealing": ("AnnealingOptions", "AnnealingKeywords"),
    "ppl_vae.inference.samplers.nuts": ("NutsOptions", "NutsKeywords"),
    "ppl_vae.inference.fitting.gaussians.gaussian_fit": ("GaussianOptions", "GaussianKeywords"),
    "ppl_vae.inference.samplers.pathfinder": ("PathfinderOptions", "PathfinderKeywords"),
    "ppl_vae.diagnostics.calibration.options": ("CalibrationOptions", "CalibrationKeywords"),
    "ppl_vae.diagnostics.latents.best_guides": ("SearchOptions", "SearchKeywords"),
    "ppl_vae.diagnostics.verdict.options": ("CheckOptions", "CheckKeywords"),
    "ppl_vae.runs.jobs": ("ReferenceOptions", "ReferenceKeywords"),
}


@pytest.mark.parametrize("name", DECLARED)
def test_keywords_are_the_fields_of_their_dataclass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(name)
    # What is only imported for types.
    monkeypatch.setattr(module, "xr", importlib.import_module("xarray"), raising=False)
    options, keywords = (getattr(module, part) for part in DECLARED[name])
    assert differences(options, keywords) == []
    assert docs(options).keys() == {field.name for field in dataclasses.fields(options)}


def _public_functions() -> Iterator[tuple[str, list[str]]]:
    """Every public function and method of the package, with what it can be told."""
    root = Path(__file__).parents[2] / "ppl_vae"
    # A command's options come from the classes that declare them, as one mapping.
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                told = node.args
                names = [a.arg for a in (*told.posonlyargs, *told.args, *told.kwonlyargs)]
                names += [told.vararg.arg] if told.vararg else []
                yield f"{path.name}: {node.name}", [n for n in names if n not in ("self", "cls")]


def test_no_public_function_has_more_than_ten_parameters() -> None:
    # What a command was asked is generated for it.
    found = {name: [n for n in told if n != "asked"] for name, told in _public_functions()}
    assert {name: len(told) for name, told in found.items() if len(told) > 10} == {}


def test_an_option_that_there_is_not_is_a_type_error() -> None:
    nuts = importlib.import_module("ppl_vae.inference.samplers.nuts")
    with pytest.raises(TypeError, match="num_drawz"):
        nuts.sample(lambda: None, num_drawz=3)
