"""Ten thousand inputs that are almost right: each is used, or refused in a sentence."""

import contextlib
import inspect
import io
import json
import random
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pyro
import pyro.distributions as dist
import typer

from benchmarks.campaign.mutate import array, damaged, json_of_a_run, options, table
from benchmarks.campaign.worker import Job
from ppl_vae import cli
from ppl_vae.base.errors import InputError
from ppl_vae.cli import commands
from ppl_vae.cli import tables as terminal
from ppl_vae.cli.catalogue import catalogue
from ppl_vae.cli.check import check
from ppl_vae.data import load
from ppl_vae.data.user_data import read_arguments
from ppl_vae.runs import check_jobs, evidence_jobs, fit_job, jobs, summary

# Loaded here, before jobs are forked: a child that dies would else cost the next one two seconds.
LOADED = (check_jobs, evidence_jobs, fit_job, jobs, summary, terminal)
# Share of `check` and `gaps` that are run to their end.
WHOLE = 0.02
COMMANDS = ("fit", "evidence", "compare", "gaps", "check", "report")
# Options that would turn a small job into a large one, or leave the folder of the campaign.
LEFT_OUT = (
    "--out",
    "--data-dir",
    "--budget",
    "--json",
    "--quiet",
    "--steps",
    "--temperatures",
    "--calibrate",
)


def one(x: Any) -> None:
    """A model of one argument."""
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("n", len(x)):
        pyro.sample("x", dist.Normal(z, 1.0).expand(x.shape[1:]).to_event(x.dim() - 1), obs=x)


def two(x: Any, y: Any) -> None:
    """A model of two arguments by name, the first an index."""
    a = pyro.sample("a", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(a[..., x], 1.0), obs=y)


def tables(folder: Path, seed: int) -> Job:
    """Tables, read as rows, as games, and as the arguments of models."""

    def job(number: int) -> str:
        generator = random.Random(f"{seed} table {number}")
        path = folder / "t.csv"
        path.write_bytes(table(generator))
        return _sentences(
            lambda: load(str(path)),
            lambda: load(str(path), games=True),
            lambda: read_arguments([str(path)], one),
            lambda: read_arguments([str(path)], two),
        )

    return job


def arrays(folder: Path, seed: int) -> Job:
    """Arrays, read as rows and as the arguments of models."""

    def job(number: int) -> str:
        generator = random.Random(f"{seed} array {number}")
        ending, content = array(generator)
        path = folder / f"a{ending}"
        path.write_bytes(content)
        return _sentences(
            lambda: load(str(path)),
            lambda: read_arguments([str(path)], one),
            lambda: read_arguments([str(path), str(path)], two),
        )

    return job


def runs(folder: Path, fitted: Path, seed: int) -> Job:
    """Copies of a run with one file of it damaged, opened again by the commands."""
    files = sorted(
        path.relative_to(fitted)
        for path in fitted.rglob("*")
        if path.suffix in (".json", ".nc", ".csv", ".safetensors")
    )

    def job(number: int) -> str:
        generator = random.Random(f"{seed} run {number}")
        copy = folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(fitted, copy)
        path = copy / generator.choice(files)
        if generator.random() < 0.1:
            path.unlink()
        else:
            change = json_of_a_run if path.suffix == ".json" else damaged
            path.write_bytes(change(generator, path.read_bytes()))
        # By their costs: a page is two seconds, gaps are ten.
        command = generator.choices(
            (
                ("evidence", copy, "--samples", 10, "--rows", "0:2"),
                ("compare", copy, "--against", "exact", "--rows", "0:1", "--draws", 4),
                ("report", copy),
                ("gaps", copy, "--rows", "8:9"),
            ),
            weights=(74, 10, 15, 1),
        )[0]
        return _command(*command)

    return job


def combinations(folder: Path, fitted: Path, seed: int) -> Job:
    """Commands with options drawn at random, of values that may or may not be theirs."""
    known = {name: _options(name) for name in COMMANDS}

    def job(number: int) -> str:
        generator = random.Random(f"{seed} options {number}")
        name = generator.choice(COMMANDS)
        out = folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        model = generator.choice(
            (("ppca", "iris"), ("trueskill", "al-east-1987"), ("vae", "digits"), ("ppca", "x"))
        )
        fixed = {
            "fit": (*model, "--out", out, "--steps", 2, "--no-stop"),
            "check": (fitted, "--budget", "1s"),
            "compare": (fitted, "--against", "exact", "--rows", "0:1", "--draws", 4),
            "evidence": (fitted, "--samples", 4, "--rows", "0:2", "--temperatures", 2),
        }.get(name, (fitted,))
        # Most options are judged before anything is computed, which takes these commands ten seconds.
        whole = generator.random() < WHOLE
        with contextlib.nullcontext() if whole else _nothing_computed():
            return _command(name, *fixed, *options(generator, known[name]))

    return job


@contextlib.contextmanager
def _nothing_computed() -> Iterator[None]:
    """`check` and `gaps` up to where their work begins."""
    with (
        mock.patch("ppl_vae.runs.jobs.gaps", side_effect=InputError("left out")),
        mock.patch("ppl_vae.runs.check_jobs.check_pair", side_effect=InputError("left out")),
    ):
        yield


def _options(name: str) -> list[tuple[str, bool]]:
    """The options of a command, and whether each is a flag; those of `fit` are of every model together."""
    if name == "fit":
        known = catalogue()
        every = [*known.fit, *(option for entry in known.models.values() for option in entry.options)]
        found = {(flag, option.kind == "bool") for option in every for flag in option.flag.split("/")}
        found |= {("--set", False), ("--resume", True), ("--overwrite", True), ("--quiet", True)}
        return sorted(option for option in found if option[0] not in LEFT_OUT)
    function = check if name == "check" else getattr(commands, name)
    found_here = []
    for parameter in inspect.signature(function).parameters.values():
        declared = getattr(parameter.annotation, "__metadata__", ())
        info = next((one for one in declared if isinstance(one, typer.models.OptionInfo)), None)
        if info is None:
            continue
        flag = "--" + parameter.name.rstrip("_").replace("_", "-")
        flags = [text for text in info.param_decls or () if text.startswith("--")] or [flag]
        is_flag = "bool" in str(parameter.annotation)
        found_here += [(text, is_flag) for text in flags[0].split("/") if text not in LEFT_OUT]
    return found_here


def _sentences(*reads: Callable[[], object]) -> str:
    """Each is done or refused."""
    done = 0
    for read in reads:
        try:
            read()
            done += 1
        except InputError as error:
            _check_sentence(str(error))
    return "used" if done else "refused"


def _check_sentence(text: str) -> None:
    if not text or "\n" in text.strip() or len(text) > 1500:
        raise AssertionError(f"not a sentence: {text[:300]!r}")


def _command(*arguments: object) -> str:
    """Run the command line in this process; its exit code is 0, or 2 with a sentence."""
    sys.argv = ["ppl-vae", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    said = err.getvalue()
    if code not in (0, 2) or "Traceback" in said or "Warning" in said or "divide by zero" in said:
        raise AssertionError(f"{json.dumps(sys.argv)} ended in {code}: {said[-600:]}")
    return "used" if code == 0 else "refused"


def parts(folder: Path, fitted: Path, seed: int, count: int) -> Sequence[tuple[str, Job, int]]:
    """The parts of the campaign: name, job and number."""
    return (
        ("tables", tables(folder, seed), count * 45 // 100),
        ("arrays", arrays(folder, seed), count * 35 // 100),
        ("options", combinations(folder, fitted, seed), count * 15 // 100),
        ("run folders", runs(folder, fitted, seed), count - count * 95 // 100),
    )
