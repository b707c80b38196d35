"""A progress bar on stderr that falls silent where stderr is no terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(
    description: str, total: int, *, start: int = 0, show: bool = True
) -> Iterator[Callable[[int, str], None]]:
    """Yield ``advance(n, text)``, which moves the bar by n steps and shows a short text beside it.

    Args:
        description: what is going on, shown at the left.
        total: number of steps.
        start: steps already done, for a resumed job.
        show: False for no bar at all.
    """
    if not (show and sys.stderr.isatty()):
        yield _nothing
        return

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total, completed=start, text="")

        def advance(n: int, text: str) -> None:
            bar.update(task, advance=n, text=text)

        yield advance


def _nothing(n: int, text: str) -> None:
    """No terminal, no bar."""
