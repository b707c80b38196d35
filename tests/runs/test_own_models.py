"""A model that another file holds is fitted, asked and exported from the shell like those of the suite.

Nothing outside its file knows it: labels, conditions, sequences, sets of points and groups are columns.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ppl_vae

HERE = Path(__file__).parents[1]
FILE = HERE / "own_models.py"
SCALE = 0.8
# What two of them have to show of themselves.
SHOWN = {
    "Series": ("<figcaption>Where each series lies.</figcaption>",),
    "Grouped": ("<figcaption>Where the groups lie.</figcaption>", "How far the groups are apart."),
}


@dataclass(frozen=True)
class Case:
    """Data in a file, how the command line is told of them, and log p(x) given the learnt parameters."""

    name: str
    arguments: tuple[str, ...]
    # Observed numbers of each unit, and the mean of its latent before them.
    units: list[np.ndarray]
    means: Any


def _case(name: str, folder: Path) -> Case:
    generator = np.random.default_rng(5)
    x, c = generator.normal(size=(12, 2)), generator.normal(size=(12, 3))
    label = np.array(["b", "a", "c"])[generator.integers(0, 3, 12)]
    if name == "Labelled":
        lines = [f"{a!r},{b!r},{kind}" for (a, b), kind in zip(x.tolist(), label, strict=True)]
        (folder / "d.csv").write_text("\n".join(["u,v,species", *lines]))
        return Case(
            name, ("d.csv", "--column", "label=species"), list(x), np.searchsorted(["a", "b", "c"], label)
        )
    if name == "Grouped":
        lines = [f"{a!r},{kind}" for (a, _), kind in zip(x.tolist(), label, strict=True)]
        (folder / "d.csv").write_text("\n".join(["x,site", *lines]))
        groups = [x[label == kind, 0] for kind in "abc"]
        return Case(name, ("d.csv", "--column", "group=site"), [g for g in groups if len(g)], 0.0)
    arrays = {
        "Conditioned": {"x": x, "c": c},
        "Series": {"y": x.reshape(12, 2)},
        "Clouds": {"points": c.reshape(6, 3, 2)},
    }[name]
    np.savez(folder / "d.npz", **arrays)
    units = (
        list(x - c.sum(1, keepdims=True))
        if name == "Conditioned"
        else [u.ravel() for u in next(iter(arrays.values()))]
    )
    return Case(name, ("d.npz",), units, 0.0)


def _exact(values: np.ndarray, mean: float) -> float:
    """log p of numbers that share one latent N(mean, 1) and have noise of a known scale."""
    covariance = np.ones((len(values),) * 2) + SCALE**2 * np.eye(len(values))
    off = values - mean
    return -0.5 * (off @ np.linalg.solve(covariance, off) + np.linalg.slogdet(2 * np.pi * covariance)[1])


@pytest.mark.parametrize("name", ["Labelled", "Conditioned", "Series", "Clouds", "Grouped"])
def test_a_model_of_ones_own_runs_from_the_shell(name, tmp_path, monkeypatch, run, oracles):
    case = _case(name, tmp_path)
    monkeypatch.chdir(tmp_path)
    code, _, err = run(
        "fit",
        f"{FILE}:{name}",
        *case.arguments,
        "--out",
        "run",
        "--noise-scale",
        SCALE,
        "--no-stop",
        "--quiet",
    )
    assert code == 0, err
    fitted = ppl_vae.load("run")
    means = np.broadcast_to(case.means, len(case.units))
    if name == "Labelled":
        means = fitted.model.offset.detach().numpy()[case.means]
    exact = np.array([_exact(values, mean) for values, mean in zip(case.units, means, strict=True)])

    code, out, err = run("evidence", "run", "--samples", "2000", "--quiet", "--json")
    assert code == 0, err
    found = json.loads(out)
    # The guide is as good as exact; what remains is the noise of its weights.
    assert abs(found["log_evidence"] - exact.sum()) < oracles.z_limit() * found["std_error"] + 1e-4

    for what in ("draws", "samples", *(("codes", "reconstructions") if name != "Grouped" else ())):
        assert (
            run("export", "run", "--what", what, "--out", f"{what}.npz", "--draws", "20", "--quiet")[0] == 0
        )
    with np.load("samples.npz") as samples:
        assert all(np.isfinite(samples[key]).all() for key in samples.files if samples[key].dtype.kind == "f")
    code, _, err = run("report", "run", "--quiet")
    assert code == 0, err
    page = Path("run/report.html").read_text()
    for words in SHOWN.get(name, ()):
        assert words in page


def test_a_model_with_labels_is_judged_like_the_suites(tmp_path, monkeypatch, run):
    """Every command that asks a run, and `check` from the class and its data."""
    _case("Labelled", tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.csv").write_text((tmp_path / "d.csv").read_text().replace("species", "label"))
    asked = ("--budget", "12s", "--no-calibrate", "--out", "run", "--quiet", "--json")
    code, out, err = run("check", f"{FILE}:Labelled", "d.csv", *asked)
    assert code == 0, err
    # The family contains the posterior; what a slow machine cannot judge in the time is no fault of it.
    assert json.loads(out)["verdict"] != "do not trust"
    code, out, err = run(
        "compare", "run", "--rows", "0:2", "--draws", "50", "--warmup", "50", "--quiet", "--json"
    )
    assert code == 0, err
    code, out, err = run(
        "gaps", "run", "--rows", "0:2", "--samples", "100", "--method", "is", "--quiet", "--json"
    )
    assert code == 0, err
    assert run("models", f"{FILE}:Labelled")[0] == 0


def test_a_label_from_a_data_frame_and_a_class(tmp_path):
    import pandas as pd

    from ppl_vae.program.user_program import load_program

    case = _case("Labelled", tmp_path)
    frame = pd.read_csv(tmp_path / "d.csv")
    labelled = load_program(f"{FILE}:Labelled")
    fitted = ppl_vae.fit(
        labelled,
        frame,
        columns={"label": "species"},
        num_steps=50,
        stop=False,
        progress=False,
        out=tmp_path / "run",
    )
    again = ppl_vae.load(tmp_path / "run")
    for one in (fitted, again):
        assert one.data["label"].levels == ("a", "b", "c")
        assert one.tensors()[1].tolist() == case.means.tolist()
    assert again.model.offset.tolist() == fitted.model.offset.tolist()


BAD = {
    "no such class": ("own_models.py:Nothing", "has no 'Nothing'"),
    "no class": ("own_models.py:dataclass", "is no class"),
    "no model": ("own_models.py:Options", "lacks name, inputs"),
    "no file": ("nowhere.py:Model", "there is no file"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_model_is_refused_in_a_sentence(case, run, tmp_path):
    model, words = BAD[case]
    code, _, err = run("fit", f"{HERE}/{model}", "iris", "--out", tmp_path / "run")
    assert (code, err.count("\n")) == (2, 1)
    assert words in err


@pytest.mark.parametrize(
    ("options", "words"),
    [("class Options:\n    pass", "no dataclass"), ("@dataclass\nclass Options:\n    width: int = 3", None)],
)
def test_options_without_help_are_shown_and_those_that_are_none_refused(run, tmp_path, options, words):
    imports = f"import sys\nsys.path.insert(0, {str(HERE)!r})\nfrom dataclasses import dataclass\n"
    own = f"from own_models import Series\n{options}\nclass Mine(Series):\n    Options = Options\n"
    (tmp_path / "mine.py").write_text(imports + own)
    code, out, err = run("models", f"{tmp_path}/mine.py:Mine")
    assert (code == 0) == (words is None)
    assert words in err if words else "--width" in out


def test_a_changed_file_is_not_run_when_its_run_is_opened(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _case("Series", tmp_path)
    own = tmp_path / "mine.py"
    own.write_text(FILE.read_text())
    assert run("fit", "mine.py:Series", "d.npz", "--out", "run", "--steps", 2, "--no-stop", "--quiet")[0] == 0
    assert run("export", "run", "--what", "codes", "--out", "c.csv", "--draws", 5)[0] == 0
    own.write_text(FILE.read_text() + "\nraise SystemExit('it was run')\n")
    code, _, err = run("evidence", "run")
    assert code == 2
    assert "has changed since" in err
    assert "damaged" not in err
    assert "it was run" not in err
    # Nor is a file that came with the folder, whatever the settings say of it.
    (tmp_path / "run" / "mine.py").write_text(FILE.read_text())
    config = (
        (tmp_path / "run" / "config.json").read_text().replace(str(own), str(tmp_path / "run" / "mine.py"))
    )
    (tmp_path / "run" / "config.json").write_text(config)
    code, _, err = run("evidence", "run")
    assert (code, "lies in the run's" in err) == (2, True)
