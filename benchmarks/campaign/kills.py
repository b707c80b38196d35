"""Fits that are killed at random moments, and go on to the numbers of the unbroken one."""

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.campaign.worker import Tally
from ppl_vae.base import files
from ppl_vae.base.errors import InputError
from ppl_vae.inference import svi
from ppl_vae.runs.fit_job import fit_run
from ppl_vae.runs.run import settings_for

# Steps between checkpoints, so that a short fit has many.
EVERY = 20
STEPS = 400
COMPARED = ("parameters.safetensors", "elbo.csv", "held-out.csv")


def fit(out: Path, resume: bool) -> None:
    """The fit that is killed: small, in minibatches, with validation rows and many checkpoints."""
    given = {"steps": STEPS, "stop": False, "batch_size": 32, "split": (0.8, 0.2, 0.0), "compile": "off"}
    fit_run(settings_for("ppca", "iris", given, {}), out, resume=resume, progress=False)


def kill_all(folder: Path, seed: int, count: int) -> Tally:
    """Kill ``count`` fits: a third by the clock, a third within the first second, a third inside a write."""
    svi.FitOptions.__init__.__kwdefaults__["checkpoint_every"] = EVERY
    unbroken = folder / "unbroken"
    start = time.perf_counter()
    _child(lambda: fit(unbroken, False))
    whole = time.perf_counter() - start
    tally = Tally()
    for number in range(count):
        generator = random.Random(f"{seed} kill {number}")
        out = folder / "killed"
        shutil.rmtree(out, ignore_errors=True)
        how = ("clock", "first second", "write")[number % 3]
        limit = whole
        if how == "write":
            at, before = generator.randrange(STEPS // EVERY + 5), generator.choice((0, 1, 2))
            ended = _child(lambda: (_dying_write(at, before), fit(out, False)))  # noqa: B023
        else:
            limit = generator.uniform(0, whole if how == "clock" else min(1.0, whole))
            ended = _child(lambda: fit(out, False), limit)  # noqa: B023
        _place(tally, out, ended, how == "write", limit)
        _judge(tally, f"{number} ({how}, {ended})", out, unbroken)
    return tally


def _place(tally: Tally, out: Path, ended: str, in_write: bool, limit: float) -> None:
    """Count where a kill fell: what was half written lies beside the file that it was to become."""
    if ended != f"signal {int(signal.SIGKILL)}":
        tally.places["fits that ended before they were to be killed"] += 1
        return
    if list((out / "checkpoint").glob(f"{files.PART}*")):
        tally.places["kills inside the write of a checkpoint"] += 1
    elif list(out.glob(f"{files.PART}*")):
        tally.places["kills inside the write of another file"] += 1
    elif in_write:
        tally.places["kills before the first byte of a write"] += 1
    if not in_write and limit < 1.0:
        tally.places["kills within the first second"] += 1


def _judge(tally: Tally, name: str, out: Path, unbroken: Path) -> None:
    """Resume a killed fit and compare it; a fit that had not begun is also taken by the same command."""
    begun = out.exists() and (out / "checkpoint" / "checkpoint.safetensors").exists()
    ended = _child(lambda: fit(out, resume=begun))
    if ended != "0":
        tally.add("stuck", f"kill {name}: the fit does not go on ({ended})")
        return
    for file in COMPARED:
        if (out / file).read_bytes() != (unbroken / file).read_bytes():
            tally.add("unequal", f"kill {name}: {file} differs")
            return
    left = [path.name for path in out.rglob(f"{files.PART}*")]
    tally.add("equal" if begun else "begun anew", f"kill {name}: {left} is left" if left else "")


def _dying_write(at: int, place: int) -> None:
    """Let this process die in its write number ``at``: before, in the middle of, or after the bytes."""
    count = 0

    def whole(path: Path, write: Callable[[Path], object]) -> None:
        nonlocal count
        count += 1
        if count <= at:
            real(path, write)
            return

        def half(beside: Path) -> None:
            if place:
                write(beside)
                content = beside.read_bytes()
                beside.write_bytes(content[: len(content) // 2] if place == 1 else content)
            os.kill(os.getpid(), signal.SIGKILL)

        real(path, half)

    real = files.write_whole
    files.write_whole = whole


def _child(work: Callable[[], object], limit: float | None = None) -> str:
    """Run it in a forked process, killed after ``limit`` seconds; says how it ended."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except InputError as error:
            print(f"ppl-vae: {error}", file=sys.stderr, flush=True)
            os._exit(2)
        except BaseException as error:
            print(f"kills: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if limit is not None:
        time.sleep(limit)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else str(os.WEXITSTATUS(status))
