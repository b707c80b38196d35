"""Processes that run one task after another, each within its time.

A task that hangs or aborts costs itself alone.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

__all__ = ["Lost", "each"]

Task = TypeVar("Task")
Result = TypeVar("Result")
SPAWN = get_context("spawn")
# The first task of a process imports everything.
START = 120.0


class Lost(Exception):
    """A task that gave no result: its process ended, or its time did."""


class _Worker(Generic[Task, Result]):
    """One process and the task that it has."""

    def __init__(self, function: Callable[[Task], Result]) -> None:
        self.pipe, theirs = SPAWN.Pipe()
        self.process: BaseProcess = SPAWN.Process(target=_serve, args=(theirs, function), daemon=True)
        self.process.start()
        theirs.close()
        self.task: Task | None = None
        self.deadline = 0.0
        self.fresh = True

    def give(self, task: Task, seconds: float) -> None:
        self.task, self.deadline = task, time.monotonic() + seconds + START * self.fresh
        self.fresh = False
        self.pipe.send(task)

    def take(self) -> Result | Lost:
        """The result; called when something has arrived or the time is over."""
        try:
            if self.pipe.poll():
                found: Result = self.pipe.recv()
                return found
        except (EOFError, OSError):
            self.process.join(5)
            return Lost(f"the process ended with exit code {self.process.exitcode}")
        self.end()
        return Lost("it was ended at its time limit")

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Connection, function: Callable[[Task], Result]) -> None:
    while (task := pipe.recv()) is not None:
        pipe.send(function(task))


def each(
    function: Callable[[Task], Result], tasks: Sequence[Task], *, workers: int, seconds: float
) -> Iterator[tuple[Task, Result | Lost]]:
    """Run tasks in so many processes; give each with its result as it comes.

    Args:
        function: importable by name; what it raises ends its process, and the task is lost.
        tasks: in the order in which they are begun.
        workers: number of processes.
        seconds: a task's time limit, on the wall clock.
    """
    waiting = deque(tasks)
    running: list[_Worker[Task, Result]] = []
    try:
        while waiting and len(running) < workers:
            running.append(_begun(_Worker(function), waiting, seconds))
        while running:
            left = max(0.0, min(one.deadline for one in running) - time.monotonic())
            ready = connection.wait([one.pipe for one in running], left)
            for one in list(running):
                if one.pipe not in ready and time.monotonic() < one.deadline:
                    continue
                task, found = one.task, one.take()
                assert task is not None
                yield task, found
                running.remove(one)
                if isinstance(found, Lost):
                    one = _Worker(function) if waiting else one
                if waiting:
                    running.append(_begun(one, waiting, seconds))
                else:
                    one.end()
    finally:
        for one in running:
            one.end()


def _begun(
    worker: "_Worker[Task, Result]", waiting: "deque[Task]", seconds: float
) -> "_Worker[Task, Result]":
    worker.give(waiting.popleft(), seconds)
    return worker
