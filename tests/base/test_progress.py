"""Progress on stderr: a bar on a terminal, a line a stage through a pipe, and silence on request."""

import io
import json
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pyro
import pyro.distributions as dist
import pytest
import torch

from ppl_vae.base.progress import progress_bar, stage
from ppl_vae.inference import nuts


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


def _line(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


@pytest.mark.parametrize("columns", [40, 60, 80])
@pytest.mark.parametrize("sampler", ["nutpie", "pyro", "hmc"])
def test_chains_show_our_bar_at_any_width_and_none_of_their_own(monkeypatch, columns, sampler):
    monkeypatch.setenv("COLUMNS", str(columns))
    with terminal() as screen:
        nuts.sample(_line, torch.ones(3), num_draws=4, warmup=20, chains=2, sampler=sampler)
    # On a slow machine a stage is said before there is a bar: a sentence, which may be longer than a line.
    lines = [line for line in re.split(r"[\r\n]", screen.shown) if line.strip() and "NUTS: " not in line]
    assert any(("HMC" if sampler == "hmc" else "NUTS") in line for line in lines)
    assert all(len(line) <= columns for line in lines)
    # Pyro's bar and nutpie's table name their chains' phases.
    assert not re.search(r"Warmup|Sample:|it/s|Progress", screen.shown)


@pytest.mark.parametrize("name", ["run", "two words", "[red] run's"])
def test_a_fit_ends_with_its_path_and_a_next_command_that_can_be_pasted(run, tmp_path, name):
    out = tmp_path / name
    code, said, _ = run("fit", "ppca", "iris", "--steps", 3, "--out", out)
    assert code == 0
    path, following = said.splitlines()[-2:]
    assert path == f"Run: {out}"
    assert shlex.split(following) == ["Next:", "ppl-vae", "check", str(out)]


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


@pytest.mark.usefixtures("one_search", "undrawn")
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
