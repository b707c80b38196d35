"""A full disk: what was found is printed first, then the complaint; exit code 2."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.campaign.worker import Tally

# Each command on a run, and a word that its output must hold although nothing can be kept.
COMMANDS = {
    "compare RUN --against exact": "svi",
    "evidence RUN --samples 50": "log p(x)",
    "evidence RUN --samples 50 --json": '"log_evidence"',
    "gaps RUN --rows 0:4 --method is": "gap",
    "check RUN --budget 10m --no-calibrate": "Verdict",
    "check RUN --budget 10m --no-calibrate --json": '"verdict"',
}


def fill(folder: Path, fitted: Path) -> Tally:
    """Run the commands where files may hold few bytes and, where one can be mounted, on a full disk."""
    tally = Tally()
    for command, word in COMMANDS.items():
        copy = folder / "full"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(fitted, copy)
        _judge(tally, f"{command} (limit)", _run(command, copy, limit=512), word)
    with _small_disk(folder / "disk") as disk:
        for command, word in COMMANDS.items() if disk else ():
            shutil.rmtree(disk / "run", ignore_errors=True)
            (disk / "filler").unlink(missing_ok=True)
            shutil.copytree(fitted, disk / "run")
            _fill_up(disk / "filler")
            _judge(tally, f"{command} (disk)", _run(command, disk / "run"), word)
    return tally


def _run(command: str, run: Path, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit or 0, limit or 0))

    words = [str(run) if word == "RUN" else word for word in command.split()]
    return subprocess.run(
        [sys.executable, "-m", "ppl_vae", *words, "--quiet"], capture_output=True, text=True, check=False,
        preexec_fn=limited if limit else None, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip


def _judge(tally: Tally, name: str, done: subprocess.CompletedProcess[str], word: str) -> None:
    if done.returncode < 0:
        tally.add("abort", f"{name}: signal {-done.returncode}")
    elif "Traceback" in done.stderr or done.returncode == 1:
        tally.add("traceback", f"{name}: {done.stderr[-800:]}")
    elif done.returncode != 2 or word not in done.stdout or "written" not in done.stderr:
        tally.add("unequal", f"{name}: rc {done.returncode}: {done.stdout[-200:]} {done.stderr[-300:]}")
    else:
        tally.add("told")


@contextlib.contextmanager
def _small_disk(place: Path) -> Iterator[Path | None]:
    """A file system of sixteen megabytes, or None where this user may mount none."""
    place.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        print("no small disk could be mounted here; sizes of files were limited instead")
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=False)


def _fill_up(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb") as file:
        while True:
            file.write(b"\0" * 4096)
            file.flush()
