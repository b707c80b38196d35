"""``python -m benchmarks.campaign``: damaged inputs, kills and a full disk, counted."""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.campaign.disk import fill
from benchmarks.campaign.inputs import parts
from benchmarks.campaign.kills import kill_all
from benchmarks.campaign.worker import Tally, run_all
from ppl_vae import cli


def main() -> int:
    """Run the campaign; the exit code is 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--only", help="tables, arrays, options, run folders, kills or disk")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    folder = Path(tempfile.mkdtemp(prefix="campaign-"))
    os.environ["PPL_VAE_CACHE"] = str(folder / "cache")
    os.chdir(folder)
    print(f"seed {asked.seed}")
    bad = 0
    try:
        if asked.only in (None, "kills"):
            bad += _told("kills", lambda: kill_all(folder, asked.seed, asked.kills))
        if asked.only != "kills":
            fitted = _fitted(folder)
            for name, job, count in parts(folder, fitted, asked.seed, asked.inputs):
                if asked.only in (None, name):
                    bad += _told(name, lambda job=job, count=count: run_all(job, count))
            if asked.only in (None, "disk"):
                bad += _told("disk", lambda: fill(folder, fitted))
    finally:
        os.chdir("/")
        shutil.rmtree(folder, ignore_errors=True)
    print("nothing failed" if not bad else f"{bad} failed")
    return int(bad > 0)


def _fitted(folder: Path) -> Path:
    """A small run that was compared, estimated and taken apart: its folder holds every kind of file."""
    run = folder / "run"
    for command in (
        f"fit ppca iris --steps 300 --no-stop --out {run}",
        f"compare {run} --against exact --rows 0:2",
        f"evidence {run} --method exact,is --rows 0:8",
        f"gaps {run} --rows 0:8 --method is",
    ):
        if os.waitpid(_started(command), 0)[1]:
            raise RuntimeError(f"{command} failed")
    return run


def _started(command: str) -> int:
    """A forked process that runs a command of the suite."""
    child = os.fork()
    if child:
        return child
    sys.argv = ["ppl-vae", *command.split(), "--json", "--quiet"]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    code = 1
    try:
        cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        os._exit(code)


def _told(name: str, work) -> int:  # type: ignore[no-untyped-def]
    start = time.perf_counter()
    tally: Tally = work()
    counts = ", ".join(f"{count} {how}" for how, count in sorted(tally.ended.items()))
    print(f"{name}: {counts} ({time.perf_counter() - start:.0f} s)", flush=True)
    for place, count in sorted(tally.places.items()):
        print(f"  {count} {place}", flush=True)
    for words in tally.failures[:12]:
        print(f"  {words}", flush=True)
    return tally.bad


if __name__ == "__main__":
    sys.exit(main())
