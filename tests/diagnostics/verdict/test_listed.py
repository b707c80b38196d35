"""The list of checks: one more is a function and a line; what it answers is kept and shown by its type."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ppl_vae import PPCA, Pair
from ppl_vae.base.seeds import derived
from ppl_vae.diagnostics import Check, check_pair
from ppl_vae.diagnostics.verdict import check_files
from ppl_vae.diagnostics.verdict.case import Case, Found, Listed
from ppl_vae.diagnostics.verdict.checks import (
    calibration,
    collapse,
    draws,
    prediction,
    reference,
    reweighted,
    weights,
)
from ppl_vae.diagnostics.verdict.listed import CHECKS
from ppl_vae.diagnostics.verdict.options import CheckOptions
from ppl_vae.diagnostics.verdict.rule import Finding
from ppl_vae.guides import LinearNormal
from ppl_vae.report.parts.check import check_section, write_check


def spreads(widest: float) -> Listed:
    """A check of a user's own: no latent may spread more than so much."""

    def check(case: Case) -> Found:
        z = case.posteriors["svi"].draws["z"].std(("chain", "draw"))
        table = pd.DataFrame({"sd": z.to_numpy().max(0)}, index=pd.Index(["first", "second"], name="latent"))
        most = float(table["sd"].max())
        rng = np.random.default_rng(case.seed("spreads"))
        said = f"the widest latent has an sd of {most:.2f} ({rng.integers(10)})"
        answers = {"spreads": table, "half": case.posteriors["svi"].isel({"draw": slice(0, 500)})}
        return Found(Finding("spreads", "pass" if most < widest else "fail", said), {"widest": most}, answers)

    return Listed("spreads", check)


QUICK = tuple(each for each in CHECKS if each.name in ("weights", "evidence", "draws", "collapse"))
DRAWS = tuple(each for each in CHECKS if each.name == "draws")


def checked(checks: tuple[Listed, ...]) -> Check:
    torch.manual_seed(0)
    x = torch.randn(20, 4, dtype=torch.float64)
    pair = Pair(PPCA(4, 2).set_maximum_likelihood(x), LinearNormal(4, 2, dtype=torch.float64))
    return check_pair(pair, x, budget=600.0, calibrate=False, progress=False, checks=checks, seed=3)


@pytest.mark.parametrize(("widest", "status"), [(9.0, "pass"), (0.1, "fail")])
def test_a_check_of_ones_own_is_said_saved_loaded_and_shown(
    tmp_path: Path, widest: float, status: str
) -> None:
    found = checked((*DRAWS, spreads(widest)))
    own = found.findings[-1]
    assert (own.name, own.status) == ("spreads", status)
    assert (own in found.failing) == (status == "fail")
    assert "the widest latent has an sd of" in str(found)
    (tmp_path / "check-notes.txt").write_text("a user's own", encoding="utf-8")
    (tmp_path / "check-posterior-exact.nc").write_text("an earlier check's", encoding="utf-8")
    found.save(tmp_path)
    assert (tmp_path / "check-notes.txt").exists()
    assert not (tmp_path / "check-posterior-exact.nc").exists()
    again = Check.load(tmp_path)
    assert again.findings == found.findings
    assert again.measures.others == found.measures.others != {}
    table = again.results.of(pd.DataFrame)["spreads"]
    pd.testing.assert_frame_equal(table, found.results.of(pd.DataFrame)["spreads"])
    assert again.answers["half"].num_draws == 500
    section = check_section(again, "a fit")
    assert "The widest latent has an sd of" in " ".join(each.sentence for each in section.findings)
    assert [one.frame.equals(table) for part in section.parts for one in part.tables].count(True) == 1


@pytest.mark.usefixtures("undrawn")
def test_its_sentence_and_its_table_are_on_the_page(tmp_path: Path) -> None:
    found = checked((*DRAWS, spreads(9.0)))
    page = write_check(found, tmp_path / "report.html", "a fit").read_text(encoding="utf-8")
    assert "The widest latent has an sd of" in page
    assert "Further checks" in page
    assert ">second<" in page


def test_another_check_before_them_changes_no_number() -> None:
    """A check's seed comes from its key, and not from its place."""
    plain, other = checked(QUICK), checked((Listed("first", lambda case: Found()), *QUICK))
    assert plain.measures.to_json() == other.measures.to_json()
    assert [f.sentence for f in plain.findings] == [f.sentence for f in other.findings]


def test_the_keys_of_seeds_are_their_own() -> None:
    keys = (
        weights.SEED, draws.SEED, reweighted.SEED, reference.SEED_EXACT, reference.SEED_NUTS, collapse.SEED,
        prediction.SEED, calibration.SEED,
    )  # fmt: skip
    # Those of 0.1, so that its numbers stay.
    assert keys == (1, 2, 3, 4, 5, 6, 7, 8)
    assert len({derived(0, key) for key in (*keys, "spreads")}) == len(keys) + 1


def test_a_check_of_an_earlier_version_opens(tmp_path: Path) -> None:
    """Its JSON has no list of answers, and its comparison only sentences."""
    found = checked((*QUICK, *(each for each in CHECKS if each.name == "reference")))
    assert found.comparison is not None
    found.save(tmp_path)
    for name, key in (("check.json", "answers"), ("check-comparison.json", "why")):
        content = json.loads((tmp_path / name).read_text(encoding="utf-8"))
        del content[key]
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    again = Check.load(tmp_path)
    assert {(type(answer), name) for name, answer in again.results} == {
        (type(answer), name) for name, answer in found.results
    }
    assert again.comparison is not None
    assert again.comparison.reasons == found.comparison.reasons
    said = [[reason.sentence for reason in each.comparison.about("svi")] for each in (again, found)]  # type: ignore[union-attr]
    assert said[0] == said[1]
    assert said[0]


def test_the_old_name_of_the_callback_works_with_a_warning() -> None:
    seen: list[Check] = []
    with pytest.warns(DeprecationWarning, match="callback="):
        options = CheckOptions(told=seen.append)
    assert options.callback == seen.append
    assert replace(CheckOptions(), callback=seen.append).told is None


def test_every_type_of_answer_that_is_kept_has_its_part_of_the_page() -> None:
    from ppl_vae.diagnostics.comparison.compare import Comparison
    from ppl_vae.report.parts.check import SECTIONS

    # A comparison stands beside the posteriors that it compares.
    assert {*check_files.OLDER, pd.DataFrame} - {Comparison} == {*SECTIONS}
    assert {*SECTIONS} <= {*check_files.kinds().values()}
