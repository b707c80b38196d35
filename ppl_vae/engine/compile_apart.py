"""Compile a graph in a process of its own, which can be ended at any moment with everything that it began.

Compiling takes ten seconds and more, most of it in a C++ compiler, and no loop of ours that could look at
the clock. Within a deadline it therefore runs apart, begins only where it is expected to leave most of the
time for what it is for, and is ended where that turns out otherwise. A check also begins it ahead of its
need, beside the fit (`ahead`). The process also loads and runs what it made: see `proven`.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.fx import GraphModule

from ppl_vae.base.clock import check_time, time_left
from ppl_vae.base.fallback import Untraceable

__all__ = ["Signalled", "TooSlow", "ahead", "begin", "build_in_time"]

# Seconds that graphs of up to so many operations take on an idle processor: coarse, so that a decision that
# rests on them hardly ever depends on the moment.
EXPECTED = ((300, 15.0), (1500, 30.0), (5000, 90.0), (sys.maxsize, 300.0))
# Of the time that is left, what may be expected, and what is waited for at most.
WORTH, PATIENCE = 1 / 3, 1 / 2
PAUSE = 0.02
# What the code of a graph may use in the other process, and what stands in every graph's names unused.
NAMES = {"torch", "device", "inf", "nan", "NoneType", "fx_pytree", "pytree"}
# Signals by which the system ends a process for what its code does; others come from outside.
CRASHES = {getattr(signal, name, None) for name in ("SIGSEGV", "SIGILL", "SIGABRT", "SIGFPE", "SIGBUS")}
SCRIPT = Path(__file__).with_name("compile_child.py")


class TooSlow(Untraceable):
    """There is no time for compiling; the uncompiled graph is the thing to run."""


class Signalled(Untraceable):
    """The process made its library, and was ended by a signal when it ran it."""

    def __init__(self, number: int) -> None:
        super().__init__(f"the process that ran a compiled graph was ended by signal {number}")
        self.number = number


class _Build:
    """One compilation under way."""

    def __init__(self, module: GraphModule, inputs: Sequence[Tensor], path: Path) -> None:
        code = module.graph.python_code("self")
        if strange := sorted(code.globals.keys() - NAMES):
            raise TooSlow(f"a graph that uses {', '.join(strange)} cannot be sent to another process")
        self.path = path
        self.work = tempfile.TemporaryDirectory(dir=path.parent)
        folder = Path(self.work.name)
        shapes = [(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for tensor in inputs]
        sent = {"code": code.src, "threads": torch.get_num_threads(), "inputs": shapes}
        (folder / "graph.json").write_text(json.dumps(sent), encoding="utf-8")
        # Compiling in helpers of its own is not worth their start.
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
               "TORCHINDUCTOR_COMPILE_THREADS": "1"}  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(SCRIPT), str(folder)], env=env, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def wait(self, seconds: float) -> bool:
        """Whether it ends within so many seconds."""
        end = time.perf_counter() + seconds
        while self.process.poll() is None:
            if time.perf_counter() > end:
                return False
            check_time()
            time.sleep(PAUSE)
        return True

    def place(self) -> None:
        """Move what was compiled to its place.

        Raises:
            Untraceable: if it failed; `Signalled` where that was in running it.
        """
        folder = Path(self.work.name)
        built = folder / "graph.so"
        number = -(self.process.returncode or 0)
        if number in CRASHES and (folder / "made").exists():
            raise Signalled(number)
        if self.process.returncode or not built.exists():
            said = folder / "error.txt"
            why = said.read_text(encoding="utf-8") if said.exists() else "its process ended early"
            raise Untraceable(f"compilation failed: {why}")
        # Operations without a C interface are listed beside the library, under its name.
        for listed in folder.glob("*.wrapper.json"):
            os.replace(listed, self.path.with_suffix(".json"))
        os.replace(built, self.path)

    def end(self) -> None:
        """End its process, and the compiler that it called."""
        if self.process.poll() is None:
            with suppress(ProcessLookupError, PermissionError):
                if hasattr(os, "killpg"):
                    os.killpg(self.process.pid, signal.SIGKILL)
                else:
                    self.process.kill()
            self.process.wait()
        with suppress(OSError):
            self.work.cleanup()


@dataclass(frozen=True)
class _Ahead:
    """What was begun ahead of its need, and when the time for everything ends."""

    builds: dict[Path, _Build]
    end: float


_ahead: ContextVar[_Ahead | None] = ContextVar("ppl_vae_ahead", default=None)


@contextmanager
def ahead(seconds: float) -> Iterator[None]:
    """Let `begin` compile beside whatever a block does; what is not finished with the block is ended.

    Args:
        seconds: that the block may take.
    """
    begun = _Ahead({}, time.perf_counter() + seconds)
    token = _ahead.set(begun)
    try:
        yield
    finally:
        _ahead.reset(token)
        for build in begun.builds.values():
            build.end()


def begin(module: GraphModule, inputs: Sequence[Tensor], path: Path, size: int) -> None:
    """Begin compiling what will be wanted at ``path``, inside `ahead`; elsewhere nothing happens.

    Nor where the time that is left is too short for a graph of so many operations.
    """
    begun = _ahead.get()
    if begun is None or path in begun.builds or path.exists():
        return
    if expected(size) <= WORTH * (begun.end - time.perf_counter()):
        begun.builds[path] = _Build(module, inputs, path)


def build_in_time(module: GraphModule, inputs: Sequence[Tensor], path: Path, size: int) -> None:
    """Compile a graph of so many operations within the deadline that is in force.

    Raises:
        TooSlow: if it is not worth beginning, or not done in its share of the time.
        Untraceable: if it fails; `Signalled` where running what it made ends the process.
        OutOfTime: if the deadline passes.
    """
    left = time_left()
    begun = _ahead.get()
    build = None if begun is None else begun.builds.pop(path, None)
    if build is None:
        if (needed := expected(size)) > WORTH * left:
            raise TooSlow(
                f"compiling takes about {needed:.0f} s, and {max(0.0, left):.0f} s are left for everything"
            )
        build = _Build(module, inputs, path)
    try:
        if not build.wait(PATIENCE * left):
            raise TooSlow("compiling had not ended in its share of the time")
        build.place()
    finally:
        build.end()


def expected(size: int) -> float:
    """About how many seconds it takes to compile a graph of so many operations."""
    return crowding() * next(seconds for most, seconds in EXPECTED if size <= most)


def crowding() -> float:
    """How many processes want each processor, as a power of two, at least 1."""
    try:
        waiting = os.getloadavg()[0] / (os.cpu_count() or 1)
    except (AttributeError, OSError):  # not on every system
        return 1.0
    found = 1.0
    while waiting > 1.5 * found:
        found *= 2.0
    return found
