"""Runs whose guide was fitted by another method than SVI: what the folder keeps, and who opens it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import ppl_vae
from ppl_vae import InputError, natural
from ppl_vae.inference.fitting.fit_result import Choice
from ppl_vae.models.mixture_em import EMRun, em
from ppl_vae.runs.fit_job import converged_of, was_cut
from ppl_vae.runs.run import settings_for


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> ppl_vae.FittedRun:
    out = tmp_path_factory.mktemp("runs") / "chosen"
    return ppl_vae.fit("trueskill", "al-east-1987", out=out, method="auto", progress=False)


def test_the_folder_keeps_the_method_and_why(chosen: ppl_vae.FittedRun) -> None:
    again = ppl_vae.load(chosen.folder)
    kept = json.loads((chosen.folder / "fit.json").read_text())
    assert again.fit.method == kept["method"] == "natural gradients"
    assert again.fit.choice == Choice.from_json(kept["choice"])
    assert again.fit.choice is not None
    assert "by quadrature" in again.fit.choice.reason
    assert again.fit.converged is True
    # The parameters in the folder are those of the fit: their ELBO by quadrature is the one that it reports.
    found = natural.quadrature_elbo(again.pair, *again.tensors()).value
    assert found == pytest.approx(again.fit.final.value, abs=1e-9)


def test_a_page_says_which_method_it_was(run, chosen: ppl_vae.FittedRun) -> None:
    code, _, err = run("report", chosen.folder)
    assert code == 0, err
    assert "Natural gradients took" in (chosen.folder / "report.html").read_text()


def test_a_comparison_says_what_fitted_the_guide(run, chosen: ppl_vae.FittedRun) -> None:
    code, out, err = run("compare", chosen.folder, "--draws", 10, "--warmup", 10, "--chains", 2, "--quiet")
    assert code == 0, err
    said = " ".join(out.split())
    assert "fitted by natural gradients, against NUTS" in said
    assert "svi" not in said.lower()
    kept = json.loads((chosen.folder / "compare.json").read_text())
    assert (kept["guide"], kept["fitted_by"]) == ("mean-field", "natural gradients")


def test_em_of_a_mixture_runs_once_and_not_again_where_the_run_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []

    def counted(*given: Any) -> EMRun:
        runs.append(em(*given))
        return runs[-1]

    monkeypatch.setattr("ppl_vae.models.mixture_em.em", counted)
    options = {"num_components": 3, "num_starts": 4}
    made = ppl_vae.fit(
        "gaussian-mixture", "iris", out=tmp_path / "em", method="em", progress=False, **options
    )
    assert len(runs) == 4
    again = ppl_vae.load(tmp_path / "em")
    assert len(runs) == 4
    assert torch.equal(again.model.means, made.model.means)
    # Of features divided by their standard deviations. The greatest may be singular, and is rejected then.
    found = again.fit.elbo[-1] + 150 * float(again.model.scale.log().sum())
    assert any(found == pytest.approx(float(run.log_likelihood[-1]), rel=1e-9) for run in runs)


def test_folders_without_the_fields_are_svis(chosen: ppl_vae.FittedRun) -> None:
    kept = json.loads((chosen.folder / "fit.json").read_text())
    new = ("method", "distance", "choice")
    old = {name: value for name, value in kept.items() if name not in new}
    assert converged_of(kept) is True
    assert converged_of(old) is None
    assert was_cut({**old, "converged": False}, 20_000)
    assert not was_cut({**kept, "converged": False}, 20_000)


def test_options_of_svi_go_with_no_other_method() -> None:
    def method(**given: object) -> str:
        return settings_for("trueskill", "al-east-1987", given, {}).fit.method

    assert method() == "svi"
    assert method(method="auto") == "auto"
    assert method(method="auto", steps=100) == "svi"
    assert method(method="auto", epochs=3.0) == "svi"
    with pytest.raises(InputError, match="lr belongs to SVI; method='natural' does not know it"):
        method(method="natural", lr=0.1)
