"""What stands on a terminal: names as they are, at any width and in any encoding."""

import io
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray as xr
from rich.cells import cell_len

from ppl_vae import Posterior, compare
from ppl_vae.base.letters import plain_letters
from ppl_vae.cli.tables import (
    answers_table,
    comparison_table,
    console,
    fit_table,
    say_warnings,
    sentences,
    worst_table,
)
from ppl_vae.diagnostics.comparison.reasons import Reason

NAMES = ["[/ann]", "/bob", "[red]", "[bold]cy", ":smile:", "ann, bob", "a[/y]", "\\[x"]


@pytest.fixture(scope="module")
def compared():
    """Two answers that differ by little, of quantities with the names."""
    generator = np.random.default_rng(0)

    def answer(method):
        draws = xr.Dataset(
            {"skill": (("chain", "draw", "player"), generator.normal(size=(4, 250, len(NAMES))))}
        )
        return Posterior(draws.assign_coords(player=NAMES), method, "independent")

    return compare({"svi": answer("svi")}, reference=answer("exact"))


def printed(monkeypatch, capsys, width, *things):
    monkeypatch.setenv("COLUMNS", str(width))
    screen = console()
    for thing in things:
        screen.print(thing)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 80, 100])
def test_names_are_text_and_stand_whole_at_any_width(monkeypatch, capsys, compared, width):
    tables = comparison_table(compared, "[/run]", width=width), answers_table(compared, width=width)
    out = printed(monkeypatch, capsys, width, *tables)
    assert "[/run]" in out
    assert all(f"skill[{name}]" in out for name in NAMES), out
    assert max(map(cell_len, out.splitlines())) <= width


@pytest.mark.parametrize("name", NAMES)
def test_runs_features_and_notes_are_text(monkeypatch, capsys, name):
    numbers = ("elbo_mean", "elbo_std_error", "reconstruction", "kl", "seconds")
    fit = {**dict.fromkeys(numbers, 0.0), "num_units": 1, "steps": 1, "converged": True}
    row = {"row": 0, "log_evidence": 0.0, "std_error": 0.0, "oddest": f"{name} (2.0 sd)"}
    out = printed(monkeypatch, capsys, 80, fit_table([(name, fit)]), worst_table([row]))
    assert out.count(name) == 2
    say_warnings([f"constant features: {name}"])
    assert f"features: {name}" in capsys.readouterr().err


def test_letters_that_a_terminal_lacks_become_plain_ones(monkeypatch):
    for encoding in ("ascii", "latin-1", "cp1252", "utf-8"):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
        monkeypatch.setattr(sys, "stdout", streams[0])
        monkeypatch.setattr(sys, "stderr", streams[1])
        plain_letters()
        print("−1 ± 2 … k̂ ≥ 0.7: José, 李娜, \udcff")
        streams[0].flush()
        text = streams[0].buffer.getvalue().decode(encoding)
        assert text.endswith("\n")
        if encoding == "ascii":
            assert text == "-1 +- 2 ... k >= 0.7: Jose, ??, ?\n"
        if encoding == "utf-8":
            assert text == "−1 ± 2 … k̂ ≥ 0.7: José, 李娜, ?\n"


@pytest.mark.parametrize("width", [60, 80])
def test_an_ascii_terminal_loses_no_digits(monkeypatch, capsys, compared, width):
    monkeypatch.setattr("ppl_vae.cli.tables.sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    table = comparison_table(compared, "run", width=width)
    monkeypatch.undo()
    out = printed(monkeypatch, capsys, width, table)
    assert "─" not in out
    assert all(f"{row['mean']:.2f} ({row['sd']:.2f})" in out for row in compared.table.to_dict("records"))


@pytest.mark.parametrize("command", ["fit", "evidence", "check", "compare", "gaps"])
def test_an_interrupt_names_its_command(run, monkeypatch, command):
    def interrupt(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

    monkeypatch.setattr("ppl_vae.runs.run.Run.open", interrupt)
    monkeypatch.setattr("ppl_vae.runs.run.find_model", interrupt)
    arguments = {"fit": ("ppca", "iris", "--out", "run")}.get(command, ("run",))
    code, _, err = run(command, *arguments)
    assert code == 130
    assert f"`{command}` was interrupted" in err
    assert ("--resume" in err) == (command in ("fit", "evidence"))
    assert err.count("\n") == 1


def test_a_reader_that_leaves_is_no_error():
    command = f"{sys.executable} -m ppl_vae datasets | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("answer", "words", "sentence"),
    [
        ("", "the nuts reference fails R-hat < 1.01", "The nuts reference fails R-hat < 1.01."),
        ("svi", "all 4 means are within 0.3 sd", "All 4 means are within 0.3 sd."),
        ("svi", "7 of 9 sd ratios are off", "7 of 9 sd ratios are off."),
        ("svi", "étendue", "Étendue."),
    ],
)
def test_reasons_are_sentences(answer, words, sentence):
    assert sentences([Reason(criterion="said", answer=answer, who=words)]) == [sentence]
