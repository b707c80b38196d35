"""The two doors at the root, and what is and is not installed."""

import importlib
import os
import re
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest

from ppl_vae import nuts

ROOT = Path(__file__).parents[1]
DOORS = ("models", "inference")
NOT_INSTALLED = ("models", "inference", "tests", "examples", "benchmarks")


def run(code, cwd):
    """Run code in a fresh interpreter in a folder, with no more on its path than that folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, encoding="utf-8"
    )


def test_in_the_checkout_the_doors_open_on_the_package():
    code = (
        "from models import PPCA\n"
        "import ppl_vae, models, inference\n"
        "assert PPCA is ppl_vae.models.PPCA\n"
        "for door, home in ((models, ppl_vae.models), (inference, ppl_vae.inference)):\n"
        "    assert door.__all__ == home.__all__\n"
        "    assert all(getattr(door, name) is getattr(home, name) for name in home.__all__)\n"
    )
    done = run(code, ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", NOT_INSTALLED)
def test_elsewhere_the_top_level_name_is_not_claimed(name, tmp_path):
    code = f"import importlib.util, ppl_vae\nassert importlib.util.find_spec({name!r}) is None"
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy so that the checkout stays as it is."""
    setuptools = pytest.importorskip("setuptools", minversion="77", reason="setuptools>=77 builds the wheel")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "*.nc", "*.png")
    source.mkdir()
    for name in ("ppl_vae", *NOT_INSTALLED):
        shutil.copytree(ROOT / name, source / name, ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = "import sys\nfrom setuptools import build_meta\nbuild_meta.build_wheel(sys.argv[1])"
    built = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=source, capture_output=True, encoding="utf-8"
    )
    assert built.returncode == 0, f"setuptools {setuptools.__version__}: {built.stderr}"
    (built_file,) = folder.glob("*.whl")
    return built_file


@pytest.fixture(scope="module")
def wheel_files(wheel):
    """What it holds."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheel_claims_no_top_level_name_but_ours(wheel_files):
    top = {name.split("/")[0] for name in wheel_files}
    assert {name for name in top if not name.endswith(".dist-info")} == {"ppl_vae"}
    assert not top & set(NOT_INSTALLED)


def test_wheel_holds_the_whole_package(wheel_files):
    package = ROOT / "ppl_vae"
    wanted = [
        *package.rglob("*.py"),
        *package.rglob("*.pyi"),
        *(package / "cli").glob("*.json"),
        *(package / "engine").glob("*.cpp"),
        *(package / "data").glob("*.csv"),
        *(package / "report").glob("*.html"),
        package / "py.typed",
    ]
    missing = {path.relative_to(ROOT).as_posix() for path in wanted} - wheel_files
    assert not missing


@pytest.mark.parametrize("door", DOORS)
def test_catalogue_has_an_entry_for_every_name(door):
    names = importlib.import_module(f"ppl_vae.{door}").__all__
    text = (ROOT / door / "README.md").read_text(encoding="utf-8")
    headings = " ".join(re.findall(r"^#+ .*$", text, flags=re.MULTILINE))
    assert names
    assert [name for name in names if not re.search(rf"`{name}`", headings)] == []


@pytest.mark.parametrize("door", DOORS)
def test_catalogue_links_lead_somewhere(door):
    text = (ROOT / door / "README.md").read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", prose) if not link.startswith("http")]
    assert [link for link in links if not (ROOT / door / link).exists()] == []


@pytest.mark.parametrize("door", DOORS)
def test_catalogue_usage_runs(door, tmp_path, monkeypatch):
    text = (ROOT / door / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    # The same programs with fewer steps: this is about names and arguments, not about the answers.
    code = re.sub(r"(num_steps|num_draws|num_samples|warmup)=\d+", r"\1=20", "\n".join(blocks))
    code = code.replace("chains=4", "chains=1")
    short = {"num_draws": 20, "warmup": 20, "chains": 1, "max_tree_depth": 3}
    monkeypatch.setattr(nuts.sample, "__kwdefaults__", {**nuts.sample.__kwdefaults__, **short})
    monkeypatch.chdir(tmp_path)
    assert blocks
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(code, f"{door}/README.md", "exec"), {"__name__": "__main__"})


def test_importing_the_package_leaves_heavy_libraries_alone(tmp_path):
    code = (
        "import sys, ppl_vae\n"
        "assert 'torch' not in sys.modules\n"
        "ppl_vae.PPCA, ppl_vae.svi, ppl_vae.nuts, ppl_vae.importance, ppl_vae.Pair\n"
        "heavy = {'torchvision', 'matplotlib', 'arviz', 'sklearn'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_wheel_runs_outside_a_checkout(wheel, tmp_path):
    """Unpacked into a folder that stands for site-packages, from a folder that has nothing of ours."""
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    env = {**os.environ, "PYTHONPATH": str(site)}

    def done(*arguments):
        words = [sys.executable, *arguments]
        found = subprocess.run(words, cwd=elsewhere, env=env, capture_output=True, encoding="utf-8")
        assert found.returncode == 0, found.stderr
        return found.stdout

    assert str(site) in done("-c", "import ppl_vae; print(ppl_vae.__file__)")
    assert "--latent-dim" in done("-m", "ppl_vae", "fit", "ppca", "--help")
    done("-m", "ppl_vae", "fit", "ppca", "iris", "--out", "run", "--steps", "5", "--no-stop", "--quiet")
    assert "al-east-1987" in done("-m", "ppl_vae", "datasets")
    done("-m", "ppl_vae", "export", "run", "--what", "codes", "--out", "codes.csv", "--draws", "5", "--quiet")
    done("-m", "ppl_vae", "report", "run", "--quiet")
    assert (elsewhere / "run" / "report.html").stat().st_size > 10_000
