"""Files of a run: whole or not at all, in the user's mode, and taken again after a kill."""

import json
import os
import stat

import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro.infer.autoguide import AutoNormal

from ppl_vae import Pair, Posterior, guide, predictive_check
from ppl_vae.base.errors import InputError
from ppl_vae.base.files import PART, collected_errors, reading, write_bytes, write_netcdf, write_text
from ppl_vae.data import Dataset, as_dataset
from ppl_vae.runs.run import prepare_folder, settings_for
from ppl_vae.runs.settings import Settings


def full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("write", [
    lambda path: write_netcdf(path, xr.Dataset({"x": ("a", [1.0, 2.0])})),
    lambda path: write_bytes(path, b"x"),
    lambda path: write_text(path, "x"),
])  # fmt: skip
def test_files_have_the_mode_of_the_umask_and_leave_nothing_on_a_full_disk(tmp_path, monkeypatch, write):
    before = os.umask(0o027)
    try:
        write(tmp_path / "file")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    whole = (tmp_path / "file").read_bytes()
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="could not be written: No space left"):
        write(tmp_path / "file")
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == whole


def test_a_complaint_waits_for_whoever_keeps_it():
    complaints: list[InputError] = []
    with collected_errors(complaints):
        raise InputError("no room")
    assert [str(one) for one in complaints] == ["no room"]
    with pytest.raises(InputError, match="no room"), collected_errors(None):
        raise InputError("no room")


@pytest.mark.parametrize(
    "error", [KeyError("x"), TypeError("a\nb"), FileNotFoundError(2, "none"), IndexError()]
)
def test_what_a_file_holds_wrongly_is_a_sentence(error):
    with pytest.raises(InputError, match=r"fit.json is damaged") as caught, reading("fit.json"):
        raise error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "held",
    [
        [],
        [f"{PART}config.json"],
        ["config.json"],
        ["config.json", f"checkpoint/{PART}checkpoint.safetensors"],
    ],
)
@pytest.mark.parametrize("resume", [True, False])
def test_a_fit_that_had_only_begun_can_be_started_again(tmp_path, held, resume):
    settings = settings_for("ppca", "iris", {}, {})
    for name in held:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{")
    prepare_folder(tmp_path, settings, resume=resume, overwrite=False)
    assert Settings.from_json(tmp_path / "config.json") == settings
    assert not list(tmp_path.rglob(f"{PART}*.json"))


@pytest.mark.parametrize(
    "held", ["letter.txt", "checkpoint/checkpoint.safetensors", "parameters.safetensors"]
)
def test_a_folder_that_holds_something_is_not_taken(tmp_path, held):
    (tmp_path / held).parent.mkdir(exist_ok=True)
    (tmp_path / held).write_text("dear")
    with pytest.raises(InputError, match="not empty"):
        prepare_folder(tmp_path, settings_for("ppca", "iris", {}, {}), resume=False, overwrite=False)
    assert (tmp_path / held).read_text() == "dear"


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("fit", "num_steps", "abc"),
        ("fit", "num_steps", True),
        ("fit", "compile", "maybe"),
        ("preparation", "split", 5),
        ("preparation", "split", [1, 2]),
        ("options", "latent_dim", 2.5),
        ("fit", "lr", None),
        (None, "fit", []),
        (None, "options", []),
        (None, "model", 3),
        (None, "seed", "one"),
    ],
)
def test_settings_of_wrong_types_are_refused(tmp_path, part, name, value):
    path = tmp_path / "config.json"
    content = json.loads(settings_for("ppca", "iris", {}, {}).to_json())
    (content if part is None else content[part])[name] = value
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"config.json is damaged: {name} is"):
        Settings.from_json(path)
    path.write_text("[1, 2]")
    with pytest.raises(InputError, match="is damaged"):
        Settings.from_json(path)


# A run's settings as version 0.1.0 wrote them.
OLD = {
    "model": "vae", "data": "digits", "guide": "amortised", "options": {"latent_dim": 4, "hidden": [20]},
    "standardize": False, "binarize": "static", "split": [0.8, 0.1, 0.1], "steps": 300, "batch_size": 128,
    "lr": 0.002, "particles": 2, "kl_warmup": 30, "clip_norm": None, "train": "both", "seed": 3,
    "device": "cpu", "data_dir": None, "average": 0.5, "precision": "float32", "compile": "off",
    "objective": "iwae", "doubly_reparameterised": True, "dequantize": False, "stop": False,
    "engine": "pyro", "versions": {},
}  # fmt: skip


def test_settings_of_the_first_version_are_read(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(OLD))
    asked = {
        name: value
        for name, value in OLD.items()
        if name not in ("model", "data", "options", "engine", "versions")
    }
    expected = settings_for(
        "vae", "digits", {**asked, "split": (0.8, 0.1, 0.1)}, {"latent_dim": 4, "hidden": (20,)}
    )
    assert Settings.from_json(path) == expected


@pytest.mark.parametrize("missing", ["steps", "model", "lr", "guide", "options"])
def test_settings_of_the_first_version_that_lack_something_are_refused(tmp_path, missing):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({name: value for name, value in OLD.items() if name != missing}))
    with pytest.raises(InputError, match="is damaged"):
        Settings.from_json(path)


def test_names_with_slashes_survive_files(tmp_path):
    """Pyro's scopes make such sites, tables such columns; HDF5 and DataTrees refuse them."""

    def model(y):
        mean = pyro.sample("scope/mean", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("rows/all", len(y)):
            pyro.sample("scope/y", dist.Normal(mean, 1.0), obs=y)

    y = torch.arange(4.0)
    pair = Pair(model, AutoNormal(model))
    pair.initialise(y, seed=0)
    posterior = guide.draws(pair, y, num_draws=5)
    checked = predictive_check(pair, y, num_draws=60)
    for number, answer in enumerate((posterior, checked)):
        answer.save(tmp_path / f"{number}.nc")
    again = Posterior.load(tmp_path / "0.nc")
    xr.testing.assert_identical(again.draws["scope/mean"], posterior.draws["scope/mean"])
    profiles = type(checked).load(tmp_path / "1.nc")
    assert profiles.profiles.keys() == checked.profiles.keys() == {"scope/y"}
    xr.testing.assert_equal(profiles.replicates, checked.replicates)
    table = as_dataset({"a/b": [1.0, 2.0], "c": ["x/y", "z"]})
    table.to_netcdf(tmp_path / "table.nc")
    found = Dataset.from_netcdf(tmp_path / "table.nc")
    assert {name: found[name].values.tolist() for name in found.variables} == {"a/b": [1.0, 2.0], "c": [0, 1]}
    assert found["c"].levels == ("x/y", "z")
