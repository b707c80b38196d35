"""Answers come back from files as they were, from those of earlier versions too."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from ppl_vae.answers.evidence import Evidence
from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.errors import InputError
from ppl_vae.base.saved import Saved, kept
from ppl_vae.diagnostics.comparison.compare import Comparison
from ppl_vae.diagnostics.latents.collapse import Collapse
from ppl_vae.diagnostics.latents.gap_parts import Gaps
from ppl_vae.diagnostics.verdict.outcome import Check
from ppl_vae.diagnostics.verdict.results import Results
from ppl_vae.inference.fitting.stopping import Stopping
from tests.base import kept_answers

# Written by the commit 856d930, from `kept_answers`.
KEPT = Path(__file__).parent / "kept"
FILES = {
    "posterior": "check-posterior-svi.nc",
    "evidence": "check-evidence-is.nc",
    "bare_evidence": "check-evidence-exact.nc",
    "calibration": "check-calibration-guide.nc",
    "comparison": "check-comparison.json",
    "predictive": "check-predictive.nc",
    "collapse": "check-collapse.nc",
    "gaps": "gaps.nc",
    "whole_gaps": "gaps-whole.nc",
}


def assert_same(found: Any, expected: Any) -> None:
    """Values of one type, one shape and one precision that are equal, NaN to NaN."""
    if isinstance(expected, xr.Dataset | xr.DataArray):
        # A reader may keep the file's attributes.
        xr.testing.assert_equal(found, expected)
        assert expected.attrs.items() <= found.attrs.items()
        assert found.name == expected.name if isinstance(expected, xr.DataArray) and expected.name else True
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    elif isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected, check_exact=True)
    elif isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(found, expected, strict=True)
    elif dataclasses.is_dataclass(expected):
        assert type(found) is type(expected)
        for field in dataclasses.fields(expected):
            if field.name != "views":
                assert_same(getattr(found, field.name), getattr(expected, field.name))
    elif isinstance(expected, Mapping):
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert_same(found[name], value)
    elif isinstance(expected, tuple):
        assert type(found) is tuple
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert type(found) is type(expected)
        assert found == expected or found != found


def indexed(answer: Any) -> Any:
    """Evidence of all units, which earlier files say by their numbers."""
    known = getattr(answer, "index", 0) is not None
    return answer if known else dataclasses.replace(answer, index=answer.units)


@pytest.mark.parametrize("kind", FILES)
def test_files_of_an_earlier_version_open_with_the_same_values(kind: str) -> None:
    expected = getattr(kept_answers, kind)()
    assert_same(type(expected).load(KEPT / FILES[kind]), indexed(expected))


def assert_same_check(found: Check, expected: Check) -> None:
    parts = ("decision", "next_step", "findings", "index", "seconds", "budget", "advice")
    for name in parts:
        assert_same(getattr(found, name), getattr(expected, name))
    # What is infinite is a very large number in JSON.
    assert_same(found.measures, dataclasses.replace(expected.measures, error=1e12))
    assert [(type(answer), name) for name, answer in found.results] == [
        (type(answer), name) for name, answer in expected.results
    ]
    for (_, one), (_, other) in zip(found.results, expected.results, strict=True):
        assert_same(one, indexed(other))


def test_a_check_of_an_earlier_version_opens_with_the_same_values() -> None:
    assert_same_check(Check.load(KEPT), kept_answers.check())


def test_a_stopping_decision_of_an_earlier_version_opens_with_the_same_values() -> None:
    expected = kept_answers.stopping()
    checks = (dataclasses.replace(expected.checks[0], gain_error=float("nan")), expected.checks[1])
    content = json.loads((KEPT / "stopping.json").read_text(encoding="utf-8"))
    assert_same(Stopping.from_json(content), dataclasses.replace(expected, checks=checks))
    assert expected.to_json() == content


@pytest.mark.parametrize("kind", FILES)
def test_answers_come_back_from_their_files(kind: str, tmp_path: Path) -> None:
    expected = getattr(kept_answers, kind)()
    path = tmp_path / FILES[kind]
    expected.save(path)
    found = type(expected).load(path)
    assert_same(found, indexed(expected))
    # The file is closed, and what was read can be written again.
    found.save(path)
    assert_same(type(expected).load(path), indexed(expected))


def test_a_check_comes_back_from_its_folder(tmp_path: Path) -> None:
    kept_answers.check().save(tmp_path)
    assert_same_check(Check.load(tmp_path), kept_answers.check())
    # What other programs read is where it was.
    for path in sorted(KEPT.glob("check*.json")):
        after = json.loads((tmp_path / path.name).read_text(encoding="utf-8"))
        assert json.loads(path.read_text(encoding="utf-8")).keys() <= after.keys()
    for path in sorted(KEPT.glob("check*.nc")):
        with xr.open_datatree(path) as before, xr.open_datatree(tmp_path / path.name) as after:
            assert before.to_dict().keys() <= after.to_dict().keys()
            for name, group in before.to_dict().items():
                assert {*group.variables} <= {*after[name].variables}
                assert group.attrs.keys() <= after[name].attrs.keys()
                assert all(group[each].dims == after[name][each].dims for each in group.variables)


# Files of 0.1.0 ------------------------------------------------------------------------------------------


def test_gaps_of_the_first_version_say_by_another_name_what_came_to_rest(tmp_path: Path) -> None:
    with xr.open_dataset(KEPT / "gaps.nc") as data:
        data.attrs["converged"] = data.attrs.pop("rested")
        data.to_netcdf(tmp_path / "gaps.nc", engine="h5netcdf")
    assert Gaps.load(tmp_path / "gaps.nc").rested == (True, False, True)


def test_collapse_of_the_first_version_knew_no_sites(tmp_path: Path) -> None:
    with xr.open_dataset(KEPT / "check-collapse.nc") as data:
        older = data.drop_vars(["site", "site_kl", "site_kl_std_error"])
        del older.attrs["kl_std_error"]
        older.to_netcdf(tmp_path / "collapse.nc", engine="h5netcdf")
    found = Collapse.load(tmp_path / "collapse.nc")
    assert (list(found.table["site"]), found.kl_std_error) == (["z", "z"], 0.0)
    assert found.table[["site_kl", "site_kl_std_error"]].isna().to_numpy().all()
    assert found.num_active == 1


# Files that hold something else --------------------------------------------------------------------------

BROKEN: dict[str, Any] = {
    "nothing": lambda content: b"",
    "a part": lambda content: content[: len(content) // 2],
    "a text": lambda content: b"dear",
    "a list": lambda content: b"[1, 2]",
    "another object": lambda content: b'{"method": "is"}',
}


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("kind", ["evidence", "posterior", "comparison"])
def test_a_file_that_holds_something_else_is_refused_in_a_sentence(
    kind: str, broken: str, tmp_path: Path
) -> None:
    path = tmp_path / FILES[kind]
    path.write_bytes(BROKEN[broken]((KEPT / path.name).read_bytes()))
    with pytest.raises(InputError, match="is damaged: ") as caught:
        type(getattr(kept_answers, kind)()).load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_file_of_another_answer_of_a_later_version_or_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "answer.nc"
    with pytest.raises(InputError, match="does not exist"):
        Evidence.load(path)
    kept_answers.gaps().save(path)
    with pytest.raises(InputError, match="holds Gaps, and Evidence was asked for"):
        Evidence.load(path)
    # Without a word of what they are, as in earlier versions, by what they lack.
    for wrong in ("gaps.nc", "check-posterior-svi.nc"):
        with pytest.raises(InputError, match="is damaged: KeyError: '"):
            Evidence.load(KEPT / wrong)
    kept_answers.evidence().to_dataset().assign_attrs(format=3).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(InputError, match="is of a later version"):
        Evidence.load(path)
    content = json.loads((KEPT / FILES["comparison"]).read_text(encoding="utf-8"))
    (tmp_path / "c.json").write_text(json.dumps({**content, "format": 3}), encoding="utf-8")
    with pytest.raises(InputError, match="is of a later version"):
        Comparison.load(tmp_path / "c.json")


@pytest.mark.parametrize(
    ("name", "value"), [("method", 3), ("unit", "row"), ("num_samples", "many"), ("seconds", "long")]
)
def test_a_value_of_another_type_is_refused(name: str, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "evidence.nc"
    kept_answers.evidence().to_dataset().assign_attrs({name: value}).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(InputError, match=f"is damaged: ValueError: {name} is {value!r}; it is "):
        Evidence.load(path)


# Answers of one's own ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Inner:
    """Part of an answer."""

    limits: tuple[float, ...] = ()
    by: str | None = "hand"


@dataclasses.dataclass(frozen=True, eq=False)
class Own(Saved):
    """An answer of a user's own, of everything that a field may be."""

    wide: xr.Dataset
    array: np.ndarray
    flags: np.ndarray
    named: np.ndarray = dataclasses.field(metadata=kept("unit", "other"))
    tensor: torch.Tensor
    inner: Inner
    several: tuple[Inner, ...]
    counts: Mapping[str, int]
    nested: Mapping[str, tuple[float, ...]]
    lines: tuple[str, ...]
    pairs: tuple[int, str]
    table: pd.DataFrame | None = None
    known: bool | None = True
    number: int | None = 3
    said: str = ""
    one: tuple[float, ...] = ()
    groups: Mapping[str, xr.Dataset] = dataclasses.field(default_factory=dict)
    size: xr.DataArray | None = None


def own(**other: Any) -> Own:
    values: dict[str, Any] = {
        "wide": xr.Dataset({"a/b": ("x", [1.5, 2.5])}, coords={"x": ["p", "q"]}, attrs={"by": "hand"}),
        "array": np.arange(6, dtype="int8").reshape(2, 3),
        "flags": np.array([True, False]),
        "named": kept_answers.numbers(2, 2).astype("float32"),
        "tensor": torch.tensor([[1.0, math.nan]], dtype=torch.float32),
        "inner": Inner((1.5, math.inf, math.nan), None),
        "several": (Inner(), Inner((2.0,))),
        "counts": {"a": 1, "ü": 2},
        "nested": {"a": (1.0, -math.inf), "b": ()},
        "lines": ("two\nlines", "", "[1]"),
        "pairs": (1, "a"),
    }
    return Own(**{**values, **other})


OWN: dict[str, dict[str, Any]] = {
    "as it is": {},
    "with all": {
        "table": pd.DataFrame({"a": [1, 2], "b": [True, False], "c": ["x", "ü"]}),
        "groups": {"g/h": xr.Dataset({"v": ("x", [1.0])}), "i": xr.Dataset({"w": ((), 2)})},
        "size": xr.DataArray([1.0, 2.0], dims=("x",)),
        "said": "[not JSON",
        "one": (2.5,),
    },
    "without": {"known": None, "number": None, "lines": ("[a",), "said": "null"},
    "numbers of NumPy": {"number": np.int64(7), "known": np.bool_(False), "lines": ()},
}


@pytest.mark.parametrize("case", OWN)
def test_an_answer_of_ones_own_comes_back_without_code_of_its_own(case: str, tmp_path: Path) -> None:
    expected = own(**OWN[case])
    expected.save(tmp_path / "own.nc")
    found = Own.load(tmp_path / "own.nc")
    if case == "numbers of NumPy":
        expected = dataclasses.replace(expected, number=7, known=False)
    assert_same(found, expected)
    assert found.wide.attrs == {"by": "hand"}
    assert torch.equal(found.tensor.isnan(), expected.tensor.isnan())


def test_a_check_keeps_an_answer_of_ones_own(tmp_path: Path) -> None:
    found = dataclasses.replace(kept_answers.check(), results=Results([("mine", own())]))
    found.save(tmp_path)
    again = Check.load(tmp_path).results.of(Own)
    assert list(again) == ["mine"]
    assert_same(again["mine"], own())
    assert (tmp_path / "check-own-mine.nc").exists()
    kept_answers.check().save(tmp_path)
    assert not (tmp_path / "check-own-mine.nc").exists()


def test_what_no_file_can_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="of type object cannot be kept"):
        own(counts={"a": object()}).save(tmp_path / "own.nc")
    assert not list(tmp_path.iterdir())


def test_a_posterior_keeps_attributes_that_are_not_the_files(tmp_path: Path) -> None:
    answer = kept_answers.posterior()
    answer = answer.map(answer.draws.assign_attrs(by="me"))
    answer.save(tmp_path / "p.nc")
    assert Posterior.load(tmp_path / "p.nc").draws.attrs == {"by": "me"}
