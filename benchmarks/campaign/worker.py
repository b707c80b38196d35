"""Many small jobs in forked processes, so that one that dies takes nothing with it."""

import os
import select
import signal
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

Job = Callable[[int], str]


@dataclass
class Tally:
    """What became of the jobs: how many ended how, what else was counted, and the failures in words."""

    ended: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def bad(self) -> int:
        """How many failed."""
        return sum(
            count for how, count in self.ended.items() if how in ("traceback", "abort", "unequal", "stuck")
        )

    def add(self, how: str, words: str = "") -> None:
        """Count one, with the words that say how to repeat it."""
        self.ended[how] += 1
        if words:
            self.failures.append(words)


def run_all(job: Job, count: int, patience: float = 20.0) -> Tally:
    """Run jobs 0 to ``count - 1`` one after another in a child, and in another one when it dies.

    A job says in a word how it ended; an exception is a traceback, a signal an abort, and one that takes
    longer than ``patience`` seconds of its processor's time, or twenty times as long by the clock, is ended
    and counted as long: on a busy machine the clock alone would end every job.
    """
    tally, number = Tally(), 0
    while number < count:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _work(job, number, count, writer)
        os.close(writer)
        number = _follow(reader, child, number, count, patience, tally)
        os.close(reader)
    return tally


def _work(job: Job, first: int, count: int, writer: int) -> None:
    for number in range(first, count):
        try:
            how = job(number)
        except BaseException:
            how = f"traceback\x1f{number}: {traceback.format_exc()[-2500:]}"
        os.write(writer, how.replace("\x1e", " ").encode(errors="replace") + b"\x1e")
    os._exit(0)


def _follow(reader: int, child: int, number: int, count: int, patience: float, tally: Tally) -> int:
    """Count what a child says until it ends; gives the number of the next job."""
    unread = b""
    while True:
        ready = _waited(reader, child, patience)
        said = os.read(reader, 2**16) if ready else b""
        *whole, unread = (unread + said).split(b"\x1e")
        for text in whole:
            how, _, words = text.decode(errors="replace").partition("\x1f")
            tally.add(how, words)
            number += 1
        if not ready:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            tally.add("long", f"{number}: ended after its patience")
            return number + 1
        if not said:
            _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status):
                tally.add("abort", f"{number}: signal {os.WTERMSIG(status)}")
                return number + 1
            if number < count:
                # It ended in the middle of a job without a word: going on with the same one would never end.
                tally.add("abort", f"{number}: exit code {os.WEXITSTATUS(status)}")
                return number + 1
            return number


def _waited(reader: int, child: int, patience: float) -> bool:
    """Wait for a word of a child; False once it has worked, or been waited for, too long."""
    before, waited = _worked(child), 0.0
    while waited < 20 * patience:
        if select.select([reader], [], [], 1.0)[0]:
            return True
        waited += 1.0
        if _worked(child) - before > patience:
            return False
    return False


def _worked(child: int) -> float:
    """Seconds of processor time that a process has used; nothing is known where there is no /proc."""
    try:
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
