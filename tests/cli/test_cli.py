"""The command line: one sentence and exit code 2 for bad input, one JSON object for scripts."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from rich.cells import cell_len

from ppl_vae.models import SUITE


def rows_file(folder: Path, text: str) -> Path:
    path = folder / "data.csv"
    path.write_text(text)
    return path


BAD_FITS = {
    "missing file": (("ppca", "nowhere.csv"), "nowhere.csv"),
    "no model": (("--steps", "3"), "fit needs a model and data"),
    "unknown model": (("pca", "iris"), ", ".join(sorted(model.name for model in SUITE))),
    "unknown data set": (("ppca", "irises"), "al-east-1987"),
    "unknown guide": (("ppca", "iris", "--guide", "laplace"), "linear-mean-field"),
    "unknown link": (("trueskill", "al-east-1987", "--link", "cauchit"), "probit or logistic"),
    "unknown likelihood": (("vae", "digits", "--likelihood", "gamma"), "bernoulli, gaussian"),
    "option of another model": (("ppca", "iris", "--hidden", "10"), "--latent-dim"),
    "option of another link": (
        ("trueskill", "al-east-1987", "--link", "logistic", "--performance-sd", "1"),
        "probit",
    ),
    "games to a model of rows": (("ppca", "al-east-1987"), "rows of features"),
    "rows to a model of games": (("trueskill", "iris"), "games"),
    "reals to a Bernoulli": (
        ("vae", "iris"),
        "iris cannot be binarised: its values are not all in [0, 1], as probabilities are; a bernoulli "
        "likelihood takes no other values: take --likelihood gaussian, gaussian-fixed, gaussian-pixel, "
        "gaussian-heteroscedastic, laplace, student-t",
    ),
    "reals to a conditional Bernoulli": (
        ("conditional-vae", "iris", "--column", "condition=label"),
        "take --likelihood gaussian, gaussian-fixed",
    ),
    "reals to a hierarchical Bernoulli": (("hierarchical-vae", "iris"), "take --likelihood gaussian, g"),
    "greys to a Bernoulli": (("vae", "digits", "--binarize", "none"), "gaussian"),
    "zero latent dimension": (("ppca", "iris", "--latent-dim", "0"), "at least 1"),
    "negative latent dimension": (("vae", "digits", "--latent-dim", "-1"), "at least 1"),
    "latent dimension at the rank": (("ppca", "iris", "--latent-dim", "4"), "rank of the data, 4"),
    "zero steps": (("ppca", "iris", "--steps", "0"), "at least 1"),
    "negative learning rate": (("ppca", "iris", "--lr", "-1"), "positive"),
    "infinite learning rate": (("ppca", "iris", "--lr", "inf"), "positive"),
    "zero batch": (("vae", "digits", "--batch-size", "0"), "at least 1"),
    "zero epochs": (("vae", "digits", "--epochs", "0"), "positive"),
    "steps and epochs": (("vae", "digits", "--epochs", "1", "--steps", "1"), "exclude"),
    "bad widths": (("vae", "digits", "--hidden", "ten"), "200,200"),
    "unknown binarisation": (("vae", "digits", "--binarize", "often"), "static, dynamic or none"),
    "unknown device": (("ppca", "iris", "--device", "tpu"), "cpu, cuda"),
    "negative seed": (("ppca", "iris", "--seed", "-1"), "at least 0"),
    "unknown option through --set": (("ppca", "iris", "--set", "depth=3"), "--latent-dim"),
    "fractions that do not sum to one": (("ppca", "iris", "--split", "0.5,0.1,0.1"), "1"),
}


@pytest.mark.parametrize(("arguments", "words"), BAD_FITS.values(), ids=BAD_FITS.keys())
def test_a_bad_fit_ends_in_one_sentence_and_leaves_nothing(run, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("fit", *arguments, "--out", "run")
    assert code == 2
    assert words in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_cuda_device_where_there_is_none_is_refused(run, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    code, _, err = run("fit", "ppca", "iris", "--device", "cuda", "--out", tmp_path / "run")
    assert code == 2
    assert "0 CUDA devices" in err


def test_a_constant_feature_is_fitted_and_named_once(run, tmp_path):
    path = rows_file(tmp_path, "a,b,c\n1,2,5\n2,2,3\n3,2,9\n4,2,1\n")
    code, _, err = run("fit", "ppca", path, "--latent-dim", 1, "--steps", 5, "--out", tmp_path / "run")
    assert code == 0
    assert err.count("constant features") == 1
    assert "b" in err


def test_json_is_one_object_with_the_promised_keys(run, fitted, tmp_path):
    code, out, _ = run("fit", "ppca", "iris", "--steps", 20, "--out", tmp_path / "run", "--json")
    fit = json.loads(out)
    assert code == 0
    assert {"elbo", "elbo_std_error", "reconstruction", "kl", "steps", "seconds", "converged", "out"} <= set(
        fit
    )
    assert fit["elbo"] == pytest.approx(fit["reconstruction"] - fit["kl"])

    _, out, _ = run("evidence", fitted, "--samples", 50, "--json")
    evidence = json.loads(out)
    promised = {
        "method", "num_samples", "unit", "num_units", "log_evidence", "std_error", "log_evidence_mean",
        "elbo", "ess", "pareto_k",
    }  # fmt: skip
    assert promised <= set(evidence)
    assert set(evidence["ess"]) == set(evidence["pareto_k"]) == {"min", "median", "max"}
    assert evidence["unit"] == "datum"
    assert evidence["log_evidence_mean"] == pytest.approx(evidence["log_evidence"] / 150)

    _, out, _ = run("compare", fitted, "--against", "exact", "--rows", "2:4", "--json")
    comparison = json.loads(out)
    assert {"reference", "reference_ok", "rows", "verdict", "reasons"} <= set(comparison)
    assert [row["name"] for row in comparison["rows"]] == ["z[2, 1]", "z[2, 2]", "z[3, 1]", "z[3, 2]"]
    promised = {
        "name", "mean_svi", "mean_reference", "sd_svi", "sd_reference", "mean_error_in_sd", "sd_ratio",
        "wasserstein", "mcse",
    }  # fmt: skip
    assert promised <= set(comparison["rows"][0])
    for command in ("models", "datasets"):
        assert json.loads(run(command, "--json")[1])


def test_compare_says_cannot_tell_when_nuts_is_too_short(run, fitted):
    code, out, _ = run(
        "compare", fitted, "--rows", "0:1", "--draws", 10, "--warmup", 10, "--chains", 2, "--json"
    )
    comparison = json.loads(out)
    assert code == 0
    assert comparison["reference"] == "nuts"
    assert comparison["verdict"] == "cannot tell"
    assert not comparison["reference_ok"]


def test_compare_takes_draws_that_others_wrote(run, fitted, tmp_path):
    code, out, _ = run("compare", fitted, "--against", "exact", "--rows", "0:2", "--json")
    assert code == 0
    mine = json.loads(out)
    tree = xr.open_datatree(fitted / "posterior-exact.nc").load()
    # As ArviZ lays out what other samplers gave it: dimensions numbered, labels from zero.
    values = tree["posterior"]["z"].transpose("chain", "draw", "data", "component").to_numpy()
    other = xr.Dataset(
        {"z": (("chain", "draw", "z_dim_0", "z_dim_1"), values.reshape(4, -1, *values.shape[2:]))}
    )
    xr.DataTree.from_dict({"posterior": other}).to_netcdf(tmp_path / "stan.nc", engine="h5netcdf")
    code, out, err = run("compare", fitted, "--against", tmp_path / "stan.nc", "--rows", "0:2", "--json")
    assert code == 0, err
    theirs = json.loads(out)
    assert theirs["reference"] not in ("nuts", "exact")
    code, _, err = run("report", fitted)
    assert code == 0, err
    assert f"the draws of {theirs['reference']}" in (fitted / "report.html").read_text(encoding="utf-8")
    for one, two in zip(mine["rows"], theirs["rows"], strict=True):
        assert one["name"] == two["name"]
        assert two["mean_reference"] == pytest.approx(one["mean_reference"])


def test_reference_of_other_parameters_is_refused(run, fitted, tmp_path):
    other = xr.Dataset({"theta": (("chain", "draw"), np.zeros((4, 100)))})
    xr.DataTree.from_dict({"posterior": other}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    code, _, err = run("compare", fitted, "--against", tmp_path / "other.nc")
    assert code == 2
    assert "theta" in err
    assert "z" in err


def test_other_guides_stand_beside_the_runs_own(run, fitted):
    code, out, err = run(
        "compare", fitted, "--against", "exact", "--rows", "0:2", "--guides", "laplace,mean-field", "--json"
    )
    assert code == 0, err
    found = json.loads(out)
    assert set(found["verdicts"]) == {"svi", "reweighted", "laplace", "mean-field"}
    # The posterior of PPCA is Gaussian, and so is Laplace's answer.
    assert found["verdicts"]["laplace"] == "agrees"
    assert {cost["answer"] for cost in found["costs"]} == {*found["verdicts"], "exact"}


def test_the_report_is_one_file_without_outside_links(run, fitted):
    run("evidence", fitted, "--samples", 50)
    run("compare", fitted, "--against", "exact")
    code, out, _ = run("report", fitted)
    page = (fitted / "report.html").read_text()
    assert code == 0
    assert out.strip() == str(fitted / "report.html")
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
    assert page.count("data:image/") >= 4
    assert len(page) < 1e6


def test_the_tables_fit_a_narrow_terminal(run, fitted, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    _, out, _ = run("evidence", fitted, "--samples", 50)
    assert max(map(cell_len, out.splitlines())) <= 60


BAD_RUNS = {
    "no such run": (("evidence", "nowhere"), "does not exist"),
    "unknown method": (("evidence", "RUN", "--method", "is,magic"), "'magic' is not known"),
    "too few chains": (("evidence", "RUN", "--method", "ais", "--chains", "1"), "--chains is 1"),
    "an unknown start": (("evidence", "RUN", "--method", "ais", "--start", "end"), "guide or prior"),
    "a bridge for every row": (("evidence", "RUN", "--method", "bridge"), "one for each row"),
    "no rows": (("evidence", "RUN", "--rows", "900:"), "none of the 150"),
    "no such evidence": (("gaps", "RUN", "--method", "magic"), "ais or is"),
    "too few samples": (("evidence", "RUN", "--samples", "0"), "at least 2"),
    "no such split": (("evidence", "RUN", "--split", "dev"), "train, validation or test"),
    "an absent split": (("evidence", "RUN", "--split", "test"), "no test rows"),
    "other data of another width": (("evidence", "RUN", "--data", "wine"), "13 features"),
    "a defensive mixture of one": (("evidence", "RUN", "--defensive", "1"), "[0, 1)"),
    "unknown reference": (("compare", "RUN", "--against", "laplace"), "nuts, exact, or a file"),
    "no such rows": (("compare", "RUN", "--rows", "150:160"), "none of the 150"),
    "rows that are no rows": (("compare", "RUN", "--rows", "1-2"), "FIRST:LAST"),
    "zero chains": (("compare", "RUN", "--chains", "0"), "at least 1"),
    "zero draws": (("compare", "RUN", "--draws", "0"), "at least 4"),
}


@pytest.mark.parametrize(("arguments", "words"), BAD_RUNS.values(), ids=BAD_RUNS.keys())
def test_a_bad_question_to_a_run_ends_in_one_sentence(run, fitted, arguments, words):
    command = [str(fitted) if part == "RUN" else part for part in arguments]
    code, _, err = run(*command, "--quiet")
    assert code == 2
    assert words in err
    assert err.count("\n") == 1


def test_evidence_of_other_data_uses_the_training_rows_scale(run, fitted, tmp_path):
    from sklearn.datasets import load_iris

    path = tmp_path / "same.npy"
    np.save(path, load_iris().data[:40])
    _, out, _ = run("evidence", fitted, "--method", "exact", "--data", path, "--json")
    other = json.loads(out)["log_evidence"]
    run("evidence", fitted, "--method", "exact")
    from ppl_vae import Evidence

    own = Evidence.load(fitted / "evidence-exact.nc")
    assert other == pytest.approx(own.log_evidence[:40].sum(), rel=1e-12)


def test_a_folder_with_another_run_needs_resume_or_overwrite(run, tmp_path):
    first = ("fit", "ppca", "iris", "--steps", 5, "--out", tmp_path / "run")
    assert run(*first)[0] == 0
    code, _, err = run(*first)
    assert code == 2
    assert "--resume" in err
    code, _, err = run("fit", "ppca", "iris", "--steps", 6, "--out", tmp_path / "run", "--resume")
    assert code == 2
    assert "steps=5" in err
    assert run(*first, "--overwrite")[0] == 0
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "thesis.tex").write_text("years of work")
    code, _, err = run("fit", "ppca", "iris", "--steps", 5, "--out", tmp_path / "else", "--overwrite")
    assert code == 2
    assert (tmp_path / "else" / "thesis.tex").read_text() == "years of work"


def test_the_same_command_with_the_same_seed_gives_the_same_numbers(run, tmp_path):
    results = []
    for name in ("a", "b"):
        run("fit", "trueskill", "al-east-1987", "--steps", 15, "--seed", 3, "--out", tmp_path / name)
        _, out, _ = run("evidence", tmp_path / name, "--samples", 100, "--json")
        results.append({key: value for key, value in json.loads(out).items() if key != "seconds"})
    assert results[0] == results[1]
    run("fit", "trueskill", "al-east-1987", "--steps", 15, "--seed", 4, "--out", tmp_path / "c")
    _, out, _ = run("evidence", tmp_path / "c", "--samples", 100, "--json")
    assert json.loads(out)["log_evidence"] != results[0]["log_evidence"]


def test_a_damaged_checkpoint_and_damaged_parameters_are_named(run, tmp_path):
    folder = tmp_path / "run"
    command = ("fit", "ppca", "iris", "--steps", 5, "--out", folder)
    run(*command)
    path = folder / "checkpoint" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    code, _, err = run(*command, "--resume")
    assert code == 2
    assert "checkpoint.safetensors is damaged" in err
    parameters = folder / "parameters.safetensors"
    parameters.write_bytes(b"not tensors")
    code, _, err = run("evidence", folder)
    assert code == 2
    assert "parameters.safetensors is damaged" in err
    (folder / "config.json").write_text("{")
    code, _, err = run("evidence", folder)
    assert code == 2
    assert "config.json is damaged" in err


def test_a_full_disk_is_one_sentence_and_leaves_the_last_whole_file(run, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    run("fit", "ppca", "iris", "--steps", 5, "--out", folder)
    run("evidence", folder, "--samples", 20)
    before = (folder / "evidence.json").read_text()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, _, err = run("evidence", folder, "--samples", 30, "--quiet")
    assert code == 2
    assert "No space left on device" in err
    assert err.count("\n") == 1
    assert (folder / "evidence.json").read_text() == before
    assert not list(folder.glob(".part-*"))


SMALL_VAE = (
    "vae", "digits", "--binarize", "dynamic", "--hidden", "16", "--latent-dim", "2", "--steps", "1100",
    "--kl-warmup", "700",
)  # fmt: skip


def test_a_fit_killed_and_resumed_ends_with_the_numbers_of_an_unbroken_one(run, tmp_path, plain_seeds):
    command = [sys.executable, "-m", "ppl_vae", "fit", *SMALL_VAE, "--out", str(tmp_path / "broken")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "broken" / "checkpoint" / "checkpoint.safetensors"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the fit must still have been running"
    assert not (tmp_path / "broken" / "parameters.safetensors").exists()
    assert run("evidence", tmp_path / "broken")[0] == 2

    assert run("fit", *SMALL_VAE, "--out", tmp_path / "broken", "--resume")[0] == 0
    assert run("fit", *SMALL_VAE, "--out", tmp_path / "unbroken")[0] == 0
    for name in ("parameters.safetensors", "elbo.csv", "held-out.csv"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()
    fits = [json.loads((tmp_path / name / "fit.json").read_text()) for name in ("broken", "unbroken")]
    for fit in fits:
        del fit["seconds"], fit["out"]
    assert fits[0] == fits[1]


def test_an_interrupt_is_no_traceback(run, tmp_path, monkeypatch):
    def interrupt(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

    monkeypatch.setattr("ppl_vae.inference.fitting.svi.fit", interrupt)
    code, _, err = run("fit", "ppca", "iris", "--out", tmp_path / "run")
    assert code == 130
    assert "--resume" in err
