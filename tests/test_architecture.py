"""What ARCHITECTURE.md says is what runs: its recipes are written into a copy of the package, and used.

A block of code whose title names a file is that file; where the package has it, the block is a line more.
"""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

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
    # With what Python has compiled of it, which is half of the time to import a copy.
    shutil.copytree(ROOT / "ppl_vae", folder / "ppl_vae")
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


def test_in_the_package_they_are_known_by_their_names(copy):
    code = (
        "import sys\n"
        "from ppl_vae.cli import cataloguing, main\n"
        "sys.argv = ['cataloguing']\n"
        "cataloguing.main()\n"
        "from ppl_vae.inference.evidence import cumulants\n"
        "from ppl_vae.models import SUITE, PoissonGamma\n"
        "assert PoissonGamma in SUITE and cumulants.log_evidence\n"
        "sys.argv = ['ppl-vae', 'models', 'poisson-gamma']\n"
        "main()\n"
    )
    environment = {"PATH": "", "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "HOME": str(copy)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=copy, env=environment, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert "--shape" in done.stdout
    assert "poisson-gamma" in (copy / "ppl_vae" / "cli" / "catalogue.json").read_text()
