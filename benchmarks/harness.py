"""What a row is, timing two sides in turn, and running a row in a process of its own."""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "Measured",
    "Outcome",
    "Row",
    "fresh",
    "in_turn",
    "less",
    "measure",
    "per_step",
    "run_row",
    "same_loss",
    "seconds",
]

ROOT = Path(__file__).parents[1]
# The last line of a child's output that begins with this is its answer.
MARK = "measured: "


@dataclass(frozen=True)
class Measured:
    """What both sides took, repeat by repeat.

    Attributes:
        ours, peer: one number a repeat, in the same unit; a peer that is too slow to repeat has one,
            and a row without a peer (an exponent, a gap) none.
        unit: "s", "ESS/s", "MiB", "nats" or "".
        note: whatever else the reader must know, such as compile times.
    """

    ours: list[float]
    peer: list[float]
    unit: str = "s"
    note: str = ""

    @property
    def ratio(self) -> float:
        """Median of ours over median of the peer's; without a peer, the median of ours."""
        ours = statistics.median(self.ours)
        return ours / statistics.median(self.peer) if self.peer else ours

    @property
    def spread(self) -> tuple[float, float]:
        """The smallest and the largest ratio of any one repeat."""
        peer = self.peer or [1.0]
        ratios = [ours / peer[k % len(peer)] for k, ours in enumerate(self.ours)]
        return min(ratios), max(ratios)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: on the command line.
        work, against: what is timed, and the peer.
        target: of the ratio, or of the measured number where there is no peer.
        measure: "module:function" under ``benchmarks``; the function takes the number of repeats.
        at_least: whether the target is a lower bound.
        repeats: in a full run.
        timeout: of the whole row, in seconds.
    """

    name: str
    work: str
    against: str
    target: float
    measure: str
    at_least: bool = False
    repeats: int = 5
    timeout: float = 600.0

    def met(self, measured: Measured) -> bool:
        """Whether the ratio of medians meets the target."""
        return measured.ratio >= self.target if self.at_least else measured.ratio <= self.target


@dataclass(frozen=True)
class Outcome:
    """A row with what was measured, or with the reason why nothing was.

    Attributes:
        seconds: that the whole row took.
        others: the share of the cores that other programs took meanwhile; a busy machine distorts ratios.
    """

    row: Row
    measured: Measured | None
    failure: str
    seconds: float
    others: float


def seconds(job: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def same_loss(one: np.ndarray, other: np.ndarray, limit: float = 5.0) -> None:
    """Two samples of losses at the same parameters have the same mean.

    Raises:
        AssertionError: naming the difference and its error.
    """
    error = np.hypot(*(losses.std(ddof=1) / len(losses) ** 0.5 for losses in (one, other)))
    difference = one.mean() - other.mean()
    assert abs(difference) < limit * error, f"the losses differ by {difference:.3g} ± {error:.2g}"


def per_step(run: Callable[[int], object], short: int, long: int) -> float:
    """Seconds a step: a long run less a short one, so that set-up and compilation cancel."""
    before = seconds(lambda: run(short))
    return less(before, seconds(lambda: run(long))) / (long - short)


def less(short: float, long: float) -> float:
    """What a long run takes beyond a short one.

    Raises:
        RuntimeError: if it is nothing: the machine is too busy for a difference of two times.
    """
    if long <= short:
        raise RuntimeError(f"a long run took {long:.3g} s and a short one {short:.3g} s: too busy to tell")
    return long - short


def in_turn(
    ours: Callable[[], float], peer: Callable[[], float], repeats: int, unit: str = "s", note: str = ""
) -> Measured:
    """Measure both sides alternately, after one unrecorded measurement of each.

    Which side goes first changes from repeat to repeat: a machine that slows down then slows both.
    """
    ours(), peer()
    found: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats):
        for side in (0, 1) if repeat % 2 == 0 else (1, 0):
            found[side].append((ours, peer)[side]())
    return Measured(*found, unit=unit, note=note)


def measure(row: Row, repeats: int) -> None:
    """The child's side of `run_row`: measure and print the answer."""
    module, function = row.measure.split(":")
    measured = getattr(import_module(f"benchmarks.{module}"), function)(repeats)
    print(MARK + json.dumps(asdict(measured)), flush=True)


def run_row(row: Row, repeats: int, env: Mapping[str, str]) -> Outcome:
    """Measure a row in a fresh Python process, so that rows cannot disturb each other."""
    measured, failure = None, ""
    start, busy, own = time.perf_counter(), _busy_seconds(), _own_seconds()
    command = ["benchmarks", "--measure", row.name, "--repeats", str(repeats)]
    try:
        measured = Measured(**child(command, row.timeout, env))
    except (RuntimeError, TimeoutError) as error:
        failure = str(error)
    took = time.perf_counter() - start
    others = (_busy_seconds() - busy) - (_own_seconds() - own)
    return Outcome(row, measured, failure, took, max(0.0, others) / (took * (os.cpu_count() or 1)))


def _busy_seconds() -> float:
    """Processor time that all programs have used, where the system tells (Linux)."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _idle, _wait, *rest = map(int, fields)
    return (user + nice + system + sum(rest[:2])) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def fresh(*job: str, timeout: float = 600.0, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run one job of `benchmarks.fresh` in a fresh Python process and return its answer."""
    return child(["benchmarks.fresh", *job], timeout, env or {})


def child(arguments: list[str], timeout: float, env: Mapping[str, str]) -> dict[str, Any]:
    """Run ``python -m …`` in a process group of its own and read the answer off its output.

    Raises:
        TimeoutError: if it took longer; the whole group (compilers, worker processes) is ended.
        RuntimeError: if it failed, with the last line of what it said.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **env},
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise TimeoutError(f"stopped after {timeout:.0f} s") from None
    answers = [line for line in out.splitlines() if line.startswith(MARK)]
    if process.returncode or not answers:
        raise RuntimeError(_last_error(err) or f"exit code {process.returncode}")
    return dict(json.loads(answers[-1].removeprefix(MARK)))


def _last_error(text: str) -> str:
    """The last line of the form ``SomeError: …``, without the paths of this machine."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Untraceable): ", line)]
    last = (errors or lines or [""])[-1]
    return re.sub(r"(/[\w.+-]+){2,}", "…", last)[:200]
