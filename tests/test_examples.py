"""Every example runs, says something, and stays short."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
# Each pattern is a sentence in which an example reports what it found.
CONCLUSIONS = {
    "conv_vae_of_sign_digits": r"new images: \d\.\d+ bits per dimension, beside 4\.09",
    "league_season": r"walk-forward: Log loss \d\.\d+ ± \d\.\d+ nats an event over 132 later events"
    r"[\s\S]*1,000 draws are worth \d+ by their weights",
    "chess_club": r"\d of 7 pairs of neighbours are in no sure order"
    r"[\s\S]*Can this be trusted\? (trust|reweight)",
    "mixture_of_irises": r"from EM's: [+−-]\d\.\d+ nats, within 0\.05",
    "digits_by_class": r"right in 0?1?\.\d+ ± 0?\.\d+ of \d+ digits",
    "fit_vae": r"The encoder loses about -?\d+\.\d+ nats a digit",
    "ppca_against_exact": r"mean-field: (agrees|differs|cannot tell)",
    "ppca_with_missing_values": r"\d+% of the removed values lie in their 90 % intervals",
    "skills_of_a_league": r"Skills by sparse-precision: (agrees|differs|cannot tell); sds are \d\.\d+ of",
    "skills_vi_against_nuts": r"full-rank: (agrees|differs|cannot tell)",
    "gap_of_a_vae": r"because of the encoder",
    "evidence_by_importance_sampling": r"prior: \d+ samples end (within|NOT within) 3 standard errors",
    "can_this_fit_be_trusted": r"centred, mean-field: do not trust[\s\S]*full-rank: (trust|reweight|do not)",
    "refined_encoder": r"semi-amortised: ELBO -?\d+\.\d+, \+\d+\.\d+ in \d+\.\d+ standard errors",
    "likelihoods_of_counts": r"the negative binomial is ahead by \d+\.\d+ ± \d+\.\d+ nats a row",
    "own_loop": r"\d+ steps, held-out ELBO -?\d+\.\d+, log p\(x\) -?\d+\.\d+",
    "two_layers_of_latents": r"Ladder less bottom-up: [+-]\d+\.\d+ ± \d+\.\d+ nats a digit",
    "own_model_eight_schools": r"AutoNormal: (agrees|differs|cannot tell)",
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
@pytest.mark.usefixtures("one_round")
def test_example_runs_and_reports_numbers(path, tmp_path, monkeypatch, capsys):
    # In this process, where PyTorch and Pyro are loaded; a warning is an error.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path), "--quick"])
    runpy.run_path(str(path), run_name="__main__")
    _reports_numbers(path.stem, capsys.readouterr().out)
    assert not list(tmp_path.iterdir()), "an example left files behind without being asked"


def test_an_example_runs_in_a_process_of_its_own(tmp_path):
    (path,) = [path for path in EXAMPLES if path.stem == "fit_vae"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
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
    _reports_numbers(path.stem, done.stdout)


def _reports_numbers(name, said):
    assert re.search(CONCLUSIONS.get(name, r"\d"), said), said
    assert not re.search(r"\b(nan|inf)\b", said), said


def test_every_conclusion_belongs_to_an_example():
    assert CONCLUSIONS.keys() <= {path.stem for path in EXAMPLES}
    assert len(EXAMPLES) >= 5


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_short_and_says_what_it_shows(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 80
    assert text.startswith('"""')
    assert "What to look for" in " ".join(text.split('"""')[1].split())


# A longer reference finds the funnel's neck and gives another reason for the same verdict.
@pytest.mark.usefixtures("one_round")
def test_the_readmes_ten_lines_end_in_a_verdict(capsys):
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    block = text.split("```python\n")[1].split("```")[0]
    lines = [line for line in block.splitlines() if line.strip()]
    assert len(lines) <= 10
    # What is left of the budget would go to simulated data.
    code = block.replace("sigma, y))", "sigma, y, calibrate=False))")
    assert code != block
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    said = capsys.readouterr().out
    assert "Verdict: DO NOT TRUST" in said
    assert "the posterior is a funnel: theta spreads more widely the larger tau is" in said
    assert "Next step: write the model in a non-centred form, and fit again" in said
