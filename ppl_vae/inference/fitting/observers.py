"""What looks at a fit between its steps: observers, one class each, and the loop that asks them."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from ppl_vae.base.arguments import check_whole
from ppl_vae.base.clock import OutOfTime, check_time, time_left
from ppl_vae.base.errors import InputError
from ppl_vae.base.files import write_text
from ppl_vae.base.seeds import derived, seeded
from ppl_vae.inference.fitting.state import State

__all__ = ["Callback", "Finishing", "Keeping", "Log", "Observer", "observed"]


class Observer(Protocol):
    """Looks at a fit after some of its steps.

    Random numbers that an observer of a user's draws come from a generator of its own, by the fit's seed and
    the step: the fit is the same with it and without.
    """

    def after(self, step: int) -> int:
        """The first step after ``step`` at which it looks: a fixed function, wherever a fit is resumed."""
        ...

    def look(self, state: State) -> bool | None:
        """Look; True ends the fit."""
        ...


@runtime_checkable
class Finishing(Protocol):
    """An observer that has something to do when the fit has ended."""

    def finish(self, state: State) -> None:
        """Do it, after the last step and the last look."""
        ...


@runtime_checkable
class Keeping(Protocol):
    """An observer whose state is kept with the fit's checkpoints, under its name."""

    name: str

    def tensors(self) -> dict[str, Tensor]:
        """Its state, by name."""
        ...

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` gave; called before the first step where a checkpoint has it."""
        ...


def observed(state: State, observers: Sequence[Observer], until: int, *, may_end: bool) -> bool:
    """Take steps until a number of them is done or an observer ends it, inside ``state.running()``.

    Args:
        state: the fit.
        observers: asked in this order.
        until: the number of steps.
        may_end: whether a deadline ends the fit in order; otherwise `OutOfTime` is raised.

    Returns:
        Whether a deadline ended it.
    """
    if state.step >= until:
        return False
    late = ended = False
    while not ended:
        wanted = [observer.after(state.step) for observer in observers]
        stop = min([until, *wanted])
        with suppress(OutOfTime) if may_end else nullcontext():
            state.advance(stop - state.step)
        for observer, at in zip(observers, wanted, strict=True):
            if at <= state.step:
                with suppress(OutOfTime) if may_end else nullcontext():
                    ended = bool(observer.look(state)) or ended
        if not may_end:
            check_time()
        late = may_end and time_left() <= 0
        ended = ended or late or state.step == until
    for observer in observers:
        if isinstance(observer, Finishing):
            observer.finish(state)
    return late


def next_multiple(period: int, step: int) -> int:
    """The first multiple of a period after a step."""
    return (step // period + 1) * period


# A user's -----------------------------------------------------------------------------------------


class Callback:
    """Calls a function of the fit's state every so many steps; where it returns True, the fit ends.

    Args:
        function: of the `State`.
        every: steps between calls.
    """

    def __init__(self, function: Callable[[State], bool | None], every: int = 100) -> None:
        check_whole(1, every=every)
        self.function, self.every = function, every

    def after(self, step: int) -> int:
        """The next multiple of ``every``."""
        return next_multiple(self.every, step)

    def look(self, state: State) -> bool | None:
        """Call the function."""
        return self.function(state)


class Log:
    """Writes the course of the objective into a CSV file: its mean over every so many steps.

    Args:
        path: of the file, with the columns ``step`` and ``elbo`` (nats for the whole data).
        every: steps a row.
    """

    def __init__(self, path: Path, every: int = 100) -> None:
        check_whole(1, every=every)
        self.path, self.every = Path(path), every

    def after(self, step: int) -> int:
        """The next multiple of ``every``."""
        return next_multiple(self.every, step)

    def look(self, state: State) -> None:
        """Write every row so far: the file is whole at any moment, also after resuming."""
        rows = state.step // self.every
        means = state.elbo[: rows * self.every].reshape(rows, self.every).mean(1)
        lines = [f"{(row + 1) * self.every},{mean!r}" for row, mean in enumerate(means.tolist())]
        write_text(self.path, "\n".join(["step,elbo", *lines]) + "\n")


class Guarded:
    """A user's observer, with random numbers of its own.

    Args:
        observer: the user's.
        number: its place among those that look at the same fit.
    """

    def __init__(self, observer: Observer, number: int) -> None:
        self.observer, self.number = observer, number

    def after(self, step: int) -> int:
        """The user's, and always ahead: a step that is over would hold the fit for ever."""
        at = self.observer.after(step)
        check_whole(step + 1, **{f"after({step})": at})
        return at

    def look(self, state: State) -> bool | None:
        """Look with a generator of the fit's seed, the observer's number and the step."""
        with seeded(derived(state.seed, 4, self.number, state.step)):
            return self.observer.look(state)

    def finish(self, state: State) -> None:
        """Finish likewise, where the user's does."""
        if isinstance(self.observer, Finishing):
            with seeded(derived(state.seed, 5, self.number, state.step)):
                self.observer.finish(state)


def keeping(observers: Iterable[Observer]) -> dict[str, Keeping]:
    """Those observers whose state is kept, by name; a user's under ``observer/``.

    Raises:
        InputError: if two have one name.
    """
    found: dict[str, Keeping] = {}
    for observer in observers:
        mine = observer.observer if isinstance(observer, Guarded) else observer
        if isinstance(mine, Keeping):
            name = f"observer/{mine.name}" if mine is not observer else mine.name
            if name in found:
                raise InputError(
                    f"two observers are named {mine.name!r}: their states could not be told apart"
                )
            found[name] = mine
    return found
