"""The command line on log p(x): several methods, tolerances, resuming, gaps, and what it refuses."""

import json
import os
import signal

import numpy as np
import pytest

from ppl_vae.answers.evidence import Evidence


def test_several_methods_are_compared_and_pictured(run, fitted, oracles):
    code, out, _ = run(
        "evidence", fitted, "--method", "all", "--rows", "0:20", "--samples", 200, "--temperatures", 50,
        "--worst", 3, "--json",
    )  # fmt: skip
    assert code == 0
    found = json.loads(out)
    assert list(found["methods"]) == ["exact", "is", "defensive", "prior", "iwae", "ais"]
    assert found["best"] == ("exact" if found["trusted"] else None)
    assert any(flag.startswith("prior") for flag in found["flags"])
    exact, annealed = found["methods"]["exact"], found["methods"]["ais"]
    error = annealed["std_error_mean"]
    off = abs(annealed["log_evidence_mean"] - exact["log_evidence_mean"])
    assert off < oracles.z_limit() * error + abs(annealed["bias"])
    _trusted_but_for_chance(found, oracles)
    assert found["simulated"]["ok"] is True
    assert found["simulated"]["width_mean"] < 0.5
    assert len(found["worst"]) == 3
    values = [row["log_evidence"] for row in found["worst"]]
    assert values == sorted(values)
    for name in ("exact", "is", "prior", "ais", "bdmc"):
        assert Evidence.load(fitted / f"evidence-{name}.nc").units.tolist() == list(range(20))
    assert (fitted / "evidence.png").read_bytes()[:4] == b"\x89PNG"
    code, out, _ = run("evidence", fitted, "--method", "exact,is", "--rows", "0:20", "--samples", 200)
    assert code == 0
    assert "Believe: exact (no contradiction" in out
    assert "log p(x) of the first 20 of the 150 train rows (nats a row)" in out
    assert {each["chosen_rows"] for each in found["methods"].values()} == {"0:20"}
    assert {each["num_rows"] for each in found["methods"].values()} == {150}


def _trusted_but_for_chance(found, oracles):
    sizes = oracles.contradictions(found["flags"])
    assert found["trusted"] is not bool(sizes)
    # Weights without a third moment may be off by twice the limit (see `agreement`).
    assert max(sizes, default=0.0) < 2 * oracles.z_limit(200)


def test_a_tolerance_is_met_or_given_up_in_words(run, fitted):
    _, out, _ = run("evidence", fitted, "--samples", 20, "--tolerance", 0.002, "--json")
    found = json.loads(out)
    assert found["std_error_mean"] <= 0.002
    assert found["num_samples"] > 20
    code, out, _ = run("evidence", fitted, "--samples", 20, "--tolerance", 1e-7)
    assert code == 0
    assert "cannot be brought to" in " ".join(out.split())


def test_an_interrupted_estimate_is_resumed(run, fitted, monkeypatch):
    from ppl_vae.inference import importance
    from ppl_vae.inference.evidence import partial

    monkeypatch.setattr(partial, "_PERIOD", -1.0)
    monkeypatch.setattr(importance, "CHUNK", 2**15)
    options = ("evidence", fitted, "--samples", 300, "--seed", 5, "--json")
    whole = json.loads(run(*options)[1])
    calls = []
    honest = importance.LogWeights.__call__

    def interrupted(self, *arguments, **options):
        calls.append(arguments)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return honest(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(importance.LogWeights, "__call__", interrupted)
        code, _, err = run(*options)
    assert code == 130
    assert "--resume" in err
    assert (fitted / "evidence-is.partial").exists()
    resumed = json.loads(run(*options, "--resume")[1])
    assert not (fitted / "evidence-is.partial").exists()
    assert {**resumed, "seconds": 0} == {**whole, "seconds": 0}


def test_gaps_are_tabled_and_pictured(run, fitted):
    code, out, _ = run("gaps", fitted, "--rows", "0:10", "--json")
    assert code == 0
    found = json.loads(out)
    rows = {row["name"]: row for row in found["rows"]}
    assert found["evidence_method"] == "exact"
    parts = rows["approximation gap"]["mean"] + rows["amortisation gap"]["mean"]
    assert parts == pytest.approx(rows["gap"]["mean"], abs=1e-9)
    # PPCA's family contains the posterior.
    assert abs(rows["gap, best full covariance"]["mean"]) < 2e-3
    assert (fitted / "gaps.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.usefixtures("one_search")
def test_gaps_are_printed(run, fitted):
    code, out, _ = run("gaps", fitted, "--rows", "0:10")
    assert code == 0
    assert "amortisation gap" in out


def test_a_skill_model_is_bridged_and_has_no_rows(run, tmp_path, oracles):
    games = tmp_path / "games.csv"
    games.write_text("winner,loser\n" + "a,b\n" * 5 + "b,a\n" * 3)
    folder = tmp_path / "run"
    run(
        "fit",
        "trueskill",
        games,
        "--link",
        "logistic",
        "--guide",
        "full-rank",
        "--steps",
        600,
        "--out",
        folder,
    )
    code, out, _ = run("evidence", folder, "--method", "is,ais,bridge", "--temperatures", 200, "--json")
    assert code == 0
    found = json.loads(out)
    for value in found["methods"].values():
        # The two-player table: -6.113104 by quadrature.
        assert abs(value["log_evidence"] + 6.113104) < oracles.z_limit(3) * value["std_error"]
    _trusted_but_for_chance(found, oracles)
    # One unit, the data set: the gap has no parts, and is shown all the same.
    code, out, _ = run("gaps", folder, "--json")
    gap = json.loads(out)
    assert code == 0
    assert [row["name"] for row in gap["rows"]] == ["log p(x)", "ELBO, own guide", "gap"]
    assert "not taken apart" in gap["notes"][0]
    assert run("evidence", folder, "--rows", "0:5")[0] == 2


def test_training_with_the_iwae_bound(run, tmp_path):
    folder = tmp_path / "run"
    code, out, _ = run(
        "fit", "ppca", "iris", "--steps", 100, "--objective", "iwae", "--particles", 5,
        "--doubly-reparameterised", "--out", folder, "--json",
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["objective"] == "iwae"
    assert json.loads((folder / "config.json").read_text())["fit"]["doubly_reparameterised"] is True
    for arguments, words in (
        (("--objective", "magic"), "elbo, mean-field or iwae"),
        (("--doubly-reparameterised",), "belongs to --objective iwae"),
    ):
        code, _, err = run("fit", "ppca", "iris", *arguments, "--out", tmp_path / "other")
        assert code == 2
        assert words in err


def test_densities_of_grey_values_are_explained_and_dequantised(run, tmp_path):
    """A density that is multiplied by its cells' volume: both ways give about the same bits."""
    bits = {}
    for name, more in (("grid", ()), ("noise", ("--dequantize",))):
        folder = tmp_path / name
        code, _, err = run(
            "fit",
            "ppca",
            "digits",
            "--latent-dim",
            8,
            "--steps",
            300,
            "--no-standardize",
            *more,
            "--out",
            folder,
        )
        assert code == 0, err
        _, out, _ = run("evidence", folder, "--method", "exact", "--json")
        found = json.loads(out)
        bits[name] = found["bits_per_dim"]
        assert ("--dequantize" in " ".join(found["notes"])) == (name == "grid")
        volume = 64 * np.log(1 / 16 if name == "grid" else 1 / 17)
        assert bits[name] == pytest.approx(-(found["log_evidence_mean"] + volume) / (64 * np.log(2)))
    assert bits["grid"] == pytest.approx(bits["noise"], rel=0.1)
    code, _, err = run("fit", "ppca", "iris", "--dequantize", "--out", tmp_path / "iris")
    assert code == 2
    assert "grid" in err


def test_everything_that_applies_leaves_out_what_does_not_with_its_reason(run, tmp_path):
    games = tmp_path / "games.csv"
    games.write_text("winner,loser\na,b\nb,c\na,c\n")
    folder = tmp_path / "run"
    run("fit", "trueskill", games, "--draw-margin", 1, "--steps", 100, "--out", folder)
    options = ("evidence", folder, "--samples", 3, "--temperatures", 10, "--method")
    code, out, _ = run(*options, "all", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["simulated"]["num_units"] == 1
    assert [reason.partition(" ")[0] for reason in found["left_out"]] == ["defensive"]
    # What was found before is kept.
    assert (folder / "evidence-is.nc").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_prior_that_never_meets_the_data_is_reported_and_not_a_traceback(run, tmp_path):
    folder = tmp_path / "run"
    run("fit", "bayesian-ppca", "iris", "--steps", 30, "--out", folder)
    code, out, err = run("evidence", folder, "--method", "is,prior", "--samples", 50, "--json")
    assert code == 0, err
    prior = json.loads(out)["methods"]["prior"]
    assert prior["num_alarms"] == 1
    assert prior["smoothed_mean"] <= prior["log_evidence_mean"]
    assert run("evidence", folder, "--method", "is,prior", "--samples", 50)[0] == 0
    assert run("report", folder)[0] == 0
