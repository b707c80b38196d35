"""Progress on stderr: a bar on a terminal, a line a stage through a pipe, and silence on request."""

import io
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ppl_vae.progress import progress_bar, stage


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    @property
    def shown(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())


@contextmanager
def terminal() -> Iterator[Terminal]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "xterm")
        patch.setattr(sys, "stderr", screen := Terminal())
        yield screen


def test_a_stage_is_a_line_through_a_pipe(capsys):
    stage("SVI")
    with progress_bar("SVI", 10) as advance:
        advance(10, "ELBO -1.0")
    stage("NUTS: sampling")
    assert capsys.readouterr() == ("", "SVI\nNUTS: sampling\n")


def test_a_stage_is_silent_on_request(capsys):
    stage("SVI", show=False)
    assert capsys.readouterr() == ("", "")


def test_a_stage_renames_the_bar_on_a_terminal():
    with terminal() as screen:
        with progress_bar("NUTS: tracing", 10) as advance:
            stage("NUTS: sampling")
            advance(3, "")
        assert "NUTS: sampling" in screen.shown
        assert "NUTS: sampling\n" not in screen.shown
        stage("SVI")
        assert screen.shown.endswith("SVI\n")


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_an_open_ended_bar_promises_nothing(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    with terminal() as screen, progress_bar("SVI", 20_000, start=500, open_ended=True) as advance:
        advance(1000, "ELBO -1.0")
    assert "/20" not in screen.shown
    assert ":" not in screen.shown
    if columns == 80:
        assert "step 1,500, at most 20,000" in screen.shown
    assert all(len(line) <= columns for line in re.split(r"[\r\n]", screen.shown))


@pytest.mark.parametrize("name", ["/ann [/b]", "[red]", "a[/]"])
def test_names_beside_a_bar_are_text(name):
    with terminal() as screen, progress_bar(name, 10) as advance:
        advance(1, name)
    assert name in screen.shown


STAGES = {
    "compare": (
        ("--against", "exact", "--rows", "0:2"),
        {"draws of the guide", "distances", "importance weights"},
    ),
    "evidence": (("--method", "exact,is", "--rows", "0:2"), {"log p(x) by exact", "log p(x) by is"}),
    "gaps": (("--rows", "0:2", "--method", "is"), {"the best guides of each row"}),
    "report": ((), {"the page"}),
}


@pytest.mark.parametrize("command", STAGES)
def test_commands_say_a_line_a_stage_through_a_pipe_unless_quiet(run, fitted, command):
    options, stages = STAGES[command]
    code, out, err = run(command, fitted, *options, "--json")
    assert code == 0
    assert set(err.splitlines()) == stages
    json.loads(out)
    code, _, err = run(command, fitted, *options, "--json", "--quiet")
    assert (code, err) == (0, "")


def test_a_fit_says_its_stage_through_a_pipe_unless_quiet(run, tmp_path):
    for quiet, said in (((), "SVI\n"), (("--quiet",), "")):
        code, out, err = run(
            "fit", "ppca", "iris", "--steps", 5, *quiet, "--json", "--overwrite", "--out", tmp_path / "r"
        )
        assert (code, err) == (0, said)
        json.loads(out)
