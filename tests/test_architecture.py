"""What ARCHITECTURE.md says is what runs: its recipes are written into a copy of the package, and used.

A block of code whose title names a file is that file; where the package has it, the block is a line more.
"""

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import lazy_loader
import numpy as np
import pytest

from ppl_vae.cli import cataloguing
from ppl_vae.models.suite import SUITE
from ppl_vae.runs import registry

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r'^```python title="([^"]+)"\n(.*?)^```$', TEXT, flags=re.DOTALL | re.MULTILINE))
MODEL = "ppl_vae/models/poisson_gamma.py"
METHOD = "ppl_vae/inference/evidence/cumulants.py"
CHECK = "ppl_vae/diagnostics/verdict/checks/conflict.py"


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A checkout with what the page adds; counts that the recipe's model can have made."""
    folder = tmp_path_factory.mktemp("recipes")
    shutil.copytree(ROOT / "ppl_vae", folder / "ppl_vae", ignore=shutil.ignore_patterns("__pycache__"))
    for name, code in BLOCKS.items():
        if name.startswith("ppl_vae/"):
            with (folder / name).open("a", encoding="utf-8") as file:
                file.write(code)
    generator = np.random.default_rng(3)
    effects = generator.gamma(2.0, 0.5, size=16)
    counts = generator.poisson(effects * np.tile([2.0, 6.0], 8))
    rows = [f"{count},{'ab'[n % 2]}" for n, count in enumerate(counts)]
    (folder / "counts.csv").write_text("\n".join(["y,label", *rows]))
    return folder


@pytest.fixture
def recipes(copy, monkeypatch):
    """The page's modules, importable from the package that is being tested."""
    for name in (MODEL, METHOD, CHECK):
        module = name.removesuffix(".py").replace("/", ".")
        spec = importlib.util.spec_from_file_location(module, copy / name)
        loaded = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, module, loaded)
        spec.loader.exec_module(loaded)


def test_what_is_added_is_one_file_each_and_one_line():
    added = [name for name in BLOCKS if name.startswith("ppl_vae/")]
    new = [name for name in added if not (ROOT / name).exists()]
    lines = {name: BLOCKS[name].splitlines() for name in added if name not in new}
    assert new == [MODEL, METHOD, CHECK]
    # The check is listed at its place in the order, which its test does.
    assert list(map(len, lines.values())) == [1, 1]


@pytest.mark.parametrize("name", [name for name in BLOCKS if name.startswith("tests/")])
@pytest.mark.usefixtures("recipes")
def test_a_recipe_keeps_to_its_oracle(name):
    space = {"__name__": name}
    exec(compile(BLOCKS[name], name, "exec"), space)
    found = [value for key, value in space.items() if key.startswith("test_")]
    assert found
    for test in found:
        test()


@pytest.mark.usefixtures("one_round", "undrawn")
def test_the_recipes_model_goes_through_every_command(copy, monkeypatch, run, oracles):
    monkeypatch.chdir(copy)

    def told(*arguments):
        code, out, err = run(*arguments, "--quiet", "--json")
        assert code == 0, err
        return json.loads(out)

    told(
        "fit",
        f"{MODEL}:PoissonGamma",
        "counts.csv",
        "--out",
        "run",
        "--steps",
        100,
        "--no-stop",
        "--shape",
        2,
    )
    exact = told("evidence", "run", "--method", "exact")
    sampled = told("evidence", "run", "--method", "defensive", "--samples", 2000)
    assert abs(sampled["log_evidence"] - exact["log_evidence"]) < oracles.z_limit() * sampled["std_error"]
    assert told("compare", "run", "--against", "exact", "--rows", "0:2", "--draws", 400)["verdict"]
    assert told("check", "run", "--budget", "6s", "--no-calibrate")["verdict"] != "not a posterior"
    told("export", "run", "--what", "codes", "--out", "codes.csv", "--draws", 50)
    told("report", "run")
    assert len((copy / "codes.csv").read_text().splitlines()) == 17
    assert (copy / "run" / "report.html").stat().st_size > 10_000


@pytest.mark.usefixtures("recipes")
def test_the_one_line_makes_them_known_by_their_names(copy, monkeypatch):
    """The copy's faces, loaded as the package loads its own."""

    def face(name):
        path = copy.joinpath(*name.split("."), "__init__.py")
        return lazy_loader.attach_stub(name, str(path))

    load, _, names = face("ppl_vae.models")
    monkeypatch.setattr(registry, "SUITE", tuple(load(name) for name in names if name != "SUITE"))
    assert registry.find_model("poisson-gamma") is load("PoissonGamma")
    assert [cls.name for cls in registry.SUITE if cls not in SUITE] == ["poisson-gamma"]
    # What the command line knows of it without loading it.
    entries = json.loads(cataloguing.made_catalogue().to_json())["models"]
    assert "shape" in json.dumps(entries["poisson-gamma"])

    load, _, names = face("ppl_vae.inference.evidence")
    assert "cumulants" in names
    assert load("cumulants").log_evidence.__doc__
