"""Whether a library that this machine's compiler makes can be loaded and run here.

A library that cannot takes the whole process with it: where the compiler's standard library of C++ is not
PyTorch's, or it makes instructions that the processor lacks, the system ends the process by a signal, and no
exception is raised. So the first graph on a machine is compiled, loaded and run in a process of its own
(`compile_apart`), and what became of that is kept beside the libraries.
"""

import hashlib
import platform
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

from ppl_vae.base.errors import InputError
from ppl_vae.base.fallback import Untraceable
from ppl_vae.base.files import write_text

__all__ = ["Crash", "is_proven", "keep", "processor", "refuse_crashing"]

# What was found in this process, or read by it, by `_key`: 0, or the number of the signal that ended it.
known: dict[str, int] = {}


class Crash(Untraceable):
    """Compiled code ends the process that loads or runs it here."""

    def __init__(self, compiler: str, number: int, folder: Path) -> None:
        super().__init__(
            f"code that {compiler} makes ends the process that loads it here (signal {number}); delete "
            f"{_place(folder, compiler)} to try again"
        )


@cache
def processor() -> str:
    """What the processor can do: machines of different ones may share the folder of libraries."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            can = next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:  # not on every system
        can = ""
    return f"{platform.machine()} {can or platform.processor()}"


def is_proven(folder: Path, compiler: str) -> bool:
    """Whether this compiler's code is known to run here.

    Args:
        folder: where libraries are kept.
        compiler: its path.
    """
    return _found(folder, compiler) == 0


def refuse_crashing(folder: Path, compiler: str) -> None:
    """Refuse a compiler whose code was seen to end its process.

    Raises:
        Crash: if it was.
    """
    if number := _found(folder, compiler):
        raise Crash(compiler, number, folder)


def keep(folder: Path, compiler: str, number: int = 0) -> None:
    """Keep what a trial found: nothing, or the signal that ended it.

    Where it cannot be written, on a full disk for one, this process knows it all the same.
    """
    if _found(folder, compiler) == number:
        return
    known[_key(compiler)] = number
    with suppress(InputError):
        write_text(_place(folder, compiler), str(number))


def _found(folder: Path, compiler: str) -> int | None:
    key = _key(compiler)
    if key not in known:
        try:
            known[key] = int(_place(folder, compiler).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # never tried, or damaged on disk
            return None
    return known[key]


def _place(folder: Path, compiler: str) -> Path:
    return folder / f"{_key(compiler)}.tried"


def _key(compiler: str) -> str:
    """Of the compiler, by its file; of PyTorch, Python and the processor."""
    path = Path(compiler).resolve()
    about = path.stat() if path.exists() else None
    file = f"{path} {about.st_size} {about.st_mtime_ns}" if about else str(path)
    everything = "\n".join([file, torch.__version__, sys.version, processor()])
    return hashlib.sha256(everything.encode()).hexdigest()[:40]
