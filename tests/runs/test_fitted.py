"""Runs opened in a line, tables fitted in a call, and what is exported of them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from sklearn import datasets

import ppl_vae
from ppl_vae import Evidence, InputError
from ppl_vae.base.options import differences
from ppl_vae.inference.fitting.options import FitKeywords
from ppl_vae.models.keywords import ModelKeywords
from ppl_vae.models.suite import SUITE
from ppl_vae.runs.export_files import SUFFIXES, export_table, write
from ppl_vae.runs.exports import KINDS, export
from ppl_vae.runs.fitted import PreparationKeywords, RunKeywords
from ppl_vae.runs.settings import Preparation

SHORT = {"num_steps": 60, "stop": False, "progress": False}


@pytest.fixture(scope="module")
def iris() -> pd.DataFrame:
    return datasets.load_iris(as_frame=True).data


@pytest.fixture(scope="module")
def ppca(iris: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> ppl_vae.FittedRun:
    """Of a table, standardised by default, with test rows."""
    out = tmp_path_factory.mktemp("runs") / "ppca"
    return ppl_vae.fit("ppca", iris, out=out, split=(0.8, 0.0, 0.2), seed=2, **SHORT)


@pytest.fixture(scope="module")
def games(tmp_path_factory: pytest.TempPathFactory) -> ppl_vae.FittedRun:
    return ppl_vae.fit("trueskill", "al-east-1987", out=tmp_path_factory.mktemp("runs") / "g", **SHORT)


def test_keywords_are_the_fields_of_the_options() -> None:
    assert differences(Preparation, PreparationKeywords) == []
    every = {
        **ModelKeywords.__annotations__,
        **FitKeywords.__annotations__,
        **PreparationKeywords.__annotations__,
    }
    assert every.keys() == RunKeywords.__annotations__.keys()
    declared = {name for cls in SUITE for name in cls.Options.__dataclass_fields__}
    assert declared == ModelKeywords.__annotations__.keys()


def test_a_table_becomes_a_run_that_can_be_opened_again(ppca: ppl_vae.FittedRun, iris: pd.DataFrame) -> None:
    again = ppl_vae.load(str(ppca.folder))
    for name, value in ppca.pair.state_dict().items():
        assert torch.equal(value, again.pair.state_dict()[name]), name
    assert again.data["x"].labels["feature"] == tuple(iris.columns)
    assert [len(again.tensors(split)[0]) for split in ("train", "test")] == [120, 30]
    assert again.fit.steps == 60
    assert again.fit.final.value == ppca.fit.final.value
    assert again.posterior.num_draws == 1000
    assert again.evidence == {}
    assert again.check is None
    assert repr(again).startswith("FittedRun(ppca on ")


def test_answers_that_the_shell_makes_are_there(run, ppca: ppl_vae.FittedRun) -> None:
    assert run("evidence", ppca.folder, "--method", "is,exact", "--samples", "50", "--quiet")[0] == 0
    found = ppl_vae.load(ppca.folder).evidence
    assert {*found} == {"is", "exact"}
    assert isinstance(found["exact"], Evidence)
    assert run("check", ppca.folder, "--budget", "30s", "--quiet", "--json")[0] == 0
    checked = ppl_vae.load(ppca.folder).check
    assert checked is not None
    assert checked.verdict == json.loads((ppca.folder / "check.json").read_text())["verdict"]


def test_without_a_folder_the_run_ends_with_the_object(iris: pd.DataFrame) -> None:
    fitted = ppl_vae.fit("ppca", iris.to_numpy(), latent_dim=1, **SHORT)
    folder = fitted.folder
    assert fitted.model.latent_dim == 1
    assert folder.is_dir()
    del fitted
    assert not folder.exists()


WRONG = {
    "option of another model": ({"hidden": (10,)}, "--hidden does not belong to ppca"),
    "unknown option": ({"colour": "red"}, "--colour does not belong to ppca"),
    "value of another type": ({"latent_dim": "two"}, "--latent-dim is 'two'; it is a whole number"),
    "out of range": ({"lr": -1.0}, "--lr"),
    "unknown guide": ({"guide": "laplace"}, "linear"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_fitted_is_refused_in_a_sentence(case: str, iris: pd.DataFrame) -> None:
    options, words = WRONG[case]
    with pytest.raises(InputError, match=words):
        ppl_vae.fit("ppca", iris, **{**SHORT, **options})


# Exports -----------------------------------------------------------------------------------------


def test_codes_are_the_guides_own_moments(ppca: ppl_vae.FittedRun) -> None:
    found = ppca.export("codes")
    (x,) = ppca.tensors("test")
    q = ppca.guide.encode(x)
    np.testing.assert_array_equal(found["z_mean"], q.mean.detach())
    np.testing.assert_allclose(found["z_sd"], q.variance.sqrt().detach(), rtol=1e-12)
    # Rows are numbered as in the data set.
    assert found["data"].to_numpy().tolist() == ppca.run.parts["test"].tolist()


def test_codes_of_other_guides_are_moments_of_draws(tmp_path: Path, iris: pd.DataFrame) -> None:
    """An AutoNormal puts its sites at points that it drew elsewhere."""
    data = iris[:20]
    fitted = ppl_vae.fit("ppca", data, guide="per-datum", out=tmp_path / "r", **SHORT)
    found = fitted.export("codes", num_draws=500, seed=1)
    drawn = fitted.export("draws", num_draws=4000, seed=2)["z"]
    error = drawn.std(("chain", "draw")) / np.sqrt(500)
    # A guide that knows its own rows alone also gives samples of some of them.
    assert fitted.export("samples", rows=slice(0, 3)).sizes["row"] == 3
    off = np.abs(found["z_mean"] - drawn.mean(("chain", "draw"))) / error
    assert float(off.max()) < 5.5


def test_codes_of_an_upper_layer_are_moments_of_draws_and_not_of_one_conditional(tmp_path: Path) -> None:
    """q(z2 | z1) at one draw of z1 is not q(z2 | x)."""
    greys = pd.DataFrame(np.random.default_rng(0).normal(size=(12, 3)), columns=list("abc"))
    asked = {"latent_dims": (2, 1), "hidden": (), "between": (), "likelihood": "gaussian"}
    fitted = ppl_vae.fit("hierarchical-vae", greys, out=tmp_path / "r", split=(1, 0, 0), **asked, **SHORT)
    found = fitted.export("codes", num_draws=500, seed=1)
    (x,) = fitted.tensors("train")
    first, second = (network(x).detach() for network in fitted.guide.networks[0:1]), fitted.guide.networks[1]
    (raw,) = first
    np.testing.assert_allclose(found["z1_mean"], raw[:, :2])
    # The network is linear: E[z2 | x] is its mean at E[z1 | x].
    mean, error = second(raw[:, :2])[:, :1].detach(), found["z2_sd"].to_numpy() / np.sqrt(500)
    assert (np.abs(found["z2_mean"] - mean.numpy()) < 5.5 * error).all()
    variance = torch.nn.functional.softplus(raw[:, 2:]) @ second[0].weight[0].detach().square()
    assert (found["z2_sd"].to_numpy()[:, 0] ** 2 > 0.7 * variance.numpy()).all()


def test_log_evidence_is_the_exact_one(ppca: ppl_vae.FittedRun) -> None:
    (x,) = ppca.tensors("test")
    expected = ppca.model.exact_log_evidence(x).numpy()
    np.testing.assert_allclose(ppca.export("log-evidence")["log_evidence"], expected, rtol=1e-12)
    some = ppca.export("log-evidence", rows=slice(3, 7))
    np.testing.assert_allclose(some["log_evidence"], expected[3:7], rtol=1e-12)
    assert some["data"].to_numpy().tolist() == ppca.run.parts["test"][3:7].tolist()


def test_reconstructions_are_in_the_units_of_the_data(ppca: ppl_vae.FittedRun, iris: pd.DataFrame) -> None:
    found = ppca.table("reconstructions")
    (x,) = ppca.tensors("test")
    model = ppca.model
    with torch.no_grad():
        standard = ppca.guide.encode(x).mean @ model.loadings.T + model.mean
    training = iris.to_numpy()[ppca.run.parts["train"]]
    expected = standard.numpy() * training.std(0) + training.mean(0)
    assert list(found.columns) == list(iris.columns)
    np.testing.assert_allclose(found.to_numpy(), expected, rtol=1e-10)


def test_samples_have_the_models_moments_in_the_units_of_the_data(
    ppca: ppl_vae.FittedRun, iris: pd.DataFrame, oracles
) -> None:
    draws = np.concatenate([ppca.table("samples", split="train", seed=seed).to_numpy() for seed in range(20)])
    training = iris.to_numpy()[ppca.run.parts["train"]]
    model = ppca.model
    noise = float(model.noise_scale.detach()) ** 2
    variance = ((model.loadings.detach() ** 2).sum(1).numpy() + noise) * training.var(0)
    mean = model.mean.detach().numpy() * training.std(0) + training.mean(0)
    limit = oracles.z_limit(8)
    assert (np.abs(draws.mean(0) - mean) < limit * np.sqrt(variance / len(draws))).all()
    assert (np.abs(draws.var(0) / variance - 1) < limit * np.sqrt(2 / len(draws))).all()


def test_draws_come_with_their_weights(ppca: ppl_vae.FittedRun) -> None:
    found = ppca.export("draws", num_draws=7, rows=slice(0, 3))
    assert found["z"].sizes == {"chain": 1, "draw": 7, "data": 3, "component": 2}
    assert found["log_weight"].sizes == {"chain": 1, "draw": 7, "data": 3}
    rows = export_table(found)
    assert rows.index.names == ["chain", "draw", "data"]
    assert list(rows.columns) == ["z[1]", "z[2]", "log_weight"]
    np.testing.assert_array_equal(rows["z[2]"], found["z"].isel(component=1).to_numpy().ravel())


def test_games_give_draws_of_players_and_games(games: ppl_vae.FittedRun) -> None:
    found = games.table("draws", num_draws=5)
    assert list(found.columns)[:2] == ["skill[Milwaukee]", "skill[Detroit]"] or all(
        name.startswith("skill[") for name in found.columns[:-1]
    )
    assert found.columns[-1] == "log_weight"
    assert len(games.export("samples")["outcome"]) == games.data.num_units
    with pytest.raises(InputError, match="latent per row"):
        games.export("codes")


@pytest.mark.parametrize("what", KINDS)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_shell_writes_what_python_gives(
    run, ppca: ppl_vae.FittedRun, tmp_path: Path, what: str, suffix: str
) -> None:
    path = tmp_path / f"found{suffix}"
    code, out, err = run(
        "export",
        ppca.folder,
        "--what",
        what,
        "--out",
        path,
        "--draws",
        20,
        "--rows",
        "0:4",
        "--seed",
        3,
        "--quiet",
    )
    assert (code, out.strip()) == (0, str(path)), err
    found = export(ppca.run, what, rows=slice(0, 4), num_draws=20, seed=3)
    first = next(iter(found.data_vars))
    if suffix == ".csv":
        lead = str(found.attrs["rows"]).split(",")
        pd.testing.assert_frame_equal(
            pd.read_csv(path, index_col=lead), export_table(found), check_dtype=False
        )
    elif suffix == ".npz":
        with np.load(path) as arrays:
            np.testing.assert_array_equal(arrays[first], found[first])
    else:
        xr.testing.assert_equal(xr.load_dataset(path, engine="h5netcdf")[first], found[first])


BAD = {
    "unknown kind": (
        ("--what", "colours"),
        "it is codes, draws, samples, reconstructions, imputed",
    ),
    "unknown ending": (("--what", "codes", "--out", "x.txt"), ".csv, .npz or .nc"),
    "no such rows": (("--what", "codes", "--rows", "90:99"), "none of the 30"),
    "no such split": (("--what", "codes", "--split", "validation"), "no validation rows"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_exports_are_refused_in_a_sentence(
    run, ppca: ppl_vae.FittedRun, tmp_path: Path, case: str
) -> None:
    options, words = BAD[case]
    out = () if "--out" in options else ("--out", tmp_path / "x.csv")
    code, _, err = run("export", ppca.folder, *options, *out, "--quiet")
    assert (code, err.count("\n")) == (2, 1), err
    assert words in err


def test_writing_twice_gives_the_same_file(ppca: ppl_vae.FittedRun, tmp_path: Path) -> None:
    found = ppca.export("codes")
    assert write(found, tmp_path / "a.csv").read_bytes() == write(found, tmp_path / "b.csv").read_bytes()
