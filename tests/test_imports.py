"""What the first minute loads: heavy packages come when they are used, and not before."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("matplotlib", "sklearn", "scipy.stats", "pandas", "xarray", "arviz_stats", "nutpie")

LOADED = "import json, sys; print(json.dumps([name for name in {heavy} if name in sys.modules]))"


def loaded_by(code: str, heavy: tuple[str, ...] = HEAVY) -> list[str]:
    """Which of the packages a fresh process holds after this code."""
    whole = f"{code}\n{LOADED.format(heavy=heavy)}"
    result = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def test_the_command_line_itself_loads_no_torch() -> None:
    assert loaded_by("import ppl_vae, ppl_vae.cli", (*HEAVY, "torch", "pyro")) == []


def test_only_models_the_demo_and_the_faces_name_a_model() -> None:
    from ppl_vae.models import SUITE

    package = Path(sys.modules["ppl_vae"].__file__).parent
    words = {word for cls in SUITE for word in (cls.__name__, cls.Options.__name__, cls.__module__)}
    known = [*(rf"\b{re.escape(word)}\b" for word in words), *(f'"{cls.name}"' for cls in SUITE)]
    found = {
        path.relative_to(package): re.findall("|".join(known), path.read_text(encoding="utf-8"))
        for path in package.rglob("*.py")
    }
    naming = {path for path, names in found.items() if names}
    elsewhere = {Path("cli/demo.py"), Path("moved.py")}
    own = {path for path in naming if path.parts[0] == "models" or path in elsewhere}
    assert len(own) > len(SUITE)
    assert naming - own == set()


@pytest.mark.parametrize(
    "code",
    [
        "from ppl_vae.inference import svi, nuts, importance, annealing, bridge",
        "import ppl_vae; ppl_vae.Pair, ppl_vae.PPCA, ppl_vae.VAE, ppl_vae.TrueSkill, ppl_vae.svi",
        "from ppl_vae.data import load; load('wine'); load('iris'); load('digits')",
        "from ppl_vae.data import load_dataset, prepare, inputs as i; t = {'x': i.Features(), 'label': "
        "i.Category()}; prepare(load_dataset('iris'), t, standardize=True).part('train').arguments(t)",
    ],
)
def test_methods_models_and_data_load_nothing_heavy(code: str) -> None:
    assert loaded_by(code) == []


def test_whole_fits_load_nothing_that_judges_or_draws(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from ppl_vae.runs.fit_job import fit_run
from ppl_vae.runs.run import settings_for
for name, data, steps in (("ppca", "iris", 700), ("trueskill", "al-east-1987", 300), ("vae", "digits", 300),
                          ("bayesian-ppca", "iris", 300)):
    found = fit_run(settings_for(name, data, {{"steps": steps}}, {{}}), Path({str(tmp_path)!r}, name))
    assert found["engine"] == "traced" and (steps < 700 or found["stopping"]["checks"]), found
"""
    # Tracing the steps and the stopping rule's ELBOs needs no compiler.
    assert loaded_by(code, (*HEAVY, "torch._inductor", "torch._dynamo")) == []
