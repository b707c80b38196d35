"""What goes on while long work runs, on stderr: a bar on a terminal, one line a stage elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ppl_vae.base.clock import check_time

__all__ = ["progress_bar", "stage"]

# What renames the bars that are on the screen, the innermost last.
_shown: list[Callable[[str], None]] = []


def stage(text: str, *, show: bool = True) -> None:
    """Say which stage of long work begins.

    On a terminal with a bar the bar is renamed; otherwise the text is a line on stderr, so that whoever reads
    it through a pipe knows what the silence after it is spent on.

    Args:
        text: such as "NUTS: sampling"; one line, without a full stop.
        show: False for nothing at all, as `progress_bar` has it.
    """
    if not show:
        return
    # Bars stand on terminals alone; beneath one, stderr is Rich's, whose older versions say it is none.
    if _shown:
        _shown[-1](text)
        return
    print(text, file=sys.stderr, flush=True)


@contextmanager
def progress_bar(
    description: str, total: int, *, start: int = 0, open_ended: bool = False, show: bool = True
) -> Iterator[Callable[[int, str], None]]:
    """Yield ``advance(n, text)``, which moves the bar by n steps and shows a short text beside it.

    Where stderr is no terminal there is no bar. ``advance`` raises `OutOfTime` after the deadline that is in
    force (`clock.deadline`), which ends the work there.

    Args:
        description: what is going on, shown at the left.
        total: number of steps.
        start: steps already done, for a resumed job.
        open_ended: whether ``total`` is only the most: the bar then promises neither it nor a time.
        show: False for no bar at all.
    """
    if not (show and sys.stderr.isatty()):
        yield _silent
        return

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    def plain(text: str) -> TextColumn:
        # Names of data are text, never markup.
        return TextColumn(text, markup=False, table_column=Column(no_wrap=True))

    length = (
        (plain("step {task.completed:,.0f}, at most {task.fields[most]:,}"),)
        if open_ended
        else (MofNCompleteColumn(), TimeRemainingColumn())
    )
    columns = (plain("{task.description}"), BarColumn(20), *length, plain("{task.fields[text]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(
            description, total=None if open_ended else total, completed=start, text="", most=total
        )
        done = start

        def advance(n: int, text: str) -> None:
            nonlocal done
            done += n
            bar.update(task, completed=done, text=text)
            check_time()

        _shown.append(lambda name: bar.update(task, description=name))
        try:
            yield advance
        finally:
            _shown.pop()


def _silent(n: int, text: str) -> None:
    """No terminal, no bar."""
    check_time()
