"""Every example runs, says something, and stays short."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
# Each pattern is a sentence in which an example reports what it found.
CONCLUSIONS = {
    "fit_vae": r"The encoder loses about -?\d+\.\d+ nats a digit",
    "ppca_against_exact": r"mean-field: (agrees|differs|cannot tell)",
    "skills_vi_against_nuts": r"full-rank: (agrees|differs|cannot tell)",
    "gap_of_a_vae": r"because of the encoder",
    "evidence_by_importance_sampling": r"prior: \d+ samples end (within|NOT within) 3 standard errors",
    "can_this_fit_be_trusted": r"centred, mean-field: do not trust[\s\S]*full-rank: (trust|reweight)",
    "own_model_eight_schools": r"AutoNormal: (agrees|differs|cannot tell)",
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs_and_reports_numbers(path, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    # One thread each: these programs are small, and xdist runs several of them side by side.
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, str(path), "--quick"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    assert re.search(CONCLUSIONS.get(path.stem, r"\d"), done.stdout), done.stdout
    assert not re.search(r"\b(nan|inf)\b", done.stdout), done.stdout
    assert not list(tmp_path.iterdir()), "an example left files behind without being asked"


def test_every_conclusion_belongs_to_an_example():
    assert CONCLUSIONS.keys() <= {path.stem for path in EXAMPLES}
    assert len(EXAMPLES) >= 5


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_short_and_says_what_it_shows(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 80
    assert text.startswith('"""')
    assert "What to look for" in " ".join(text.split('"""')[1].split())


def test_the_readmes_ten_lines_end_in_a_verdict(tmp_path):
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    block = text.split("```python\n")[1].split("```")[0]
    lines = [line for line in block.splitlines() if line.strip()]
    assert len(lines) <= 10
    # What is left of the budget would go to simulated data.
    code = block.replace("sigma, y))", "sigma, y, calibrate=False))")
    assert code != block
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=400,
        env=dict(os.environ) | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Verdict: DO NOT TRUST" in done.stdout
    assert "funnel" in done.stdout
