"""Evaluation and learning: the mode of every module that a program calls, however the program comes by it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

__all__ = ["called_modules", "evaluation", "held", "learning"]


class _Evaluation:
    """Switches modules to evaluation mode, and back."""

    def __init__(self) -> None:
        self.switched: list[nn.Module] = []
        self.suspended = False

    def switch(self, module: nn.Module, _inputs: Any = None) -> None:
        """Put a module and its parts into evaluation mode."""
        if module.training and not self.suspended:
            for part in module.modules():
                if part.training:
                    part.training = False
                    self.switched.append(part)

    def restore(self) -> None:
        """Put every module that was switched back into training mode."""
        while self.switched:
            self.switched.pop().training = True


# What is under way, the innermost last.
_under_way: list[_Evaluation] = []


@contextmanager
def evaluation(*programs: Callable[..., Any]) -> Iterator[None]:
    """Run a block in which every module is in evaluation mode when it is called; its mode comes back.

    Programs reach modules in many ways: they are modules, they are methods of one, they name them by
    ``pyro.module``, or they just call them. So modules are found when they are called.

    Args:
        programs: whose own modules are in evaluation mode from the start, called or not.
    """
    mode = _Evaluation()
    for program in programs:
        if (owner := _owner(program)) is not None:
            mode.switch(owner)
    hook = register_module_forward_pre_hook(mode.switch)
    _under_way.append(mode)
    try:
        yield
    finally:
        _under_way.remove(mode)
        hook.remove()
        mode.restore()


@contextmanager
def learning() -> Iterator[None]:
    """Run a block in which modules have the modes that their owner gave them, also inside an `evaluation`."""
    suspended = [mode for mode in _under_way if not mode.suspended]
    for mode in suspended:
        mode.restore()
        mode.suspended = True
    try:
        yield
    finally:
        for mode in suspended:
            mode.suspended = False


@contextmanager
def held(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Run a block in which these modules are in evaluation mode, learning or not."""
    mode = _Evaluation()
    for module in modules:
        mode.switch(module)
    try:
        yield
    finally:
        mode.restore()


@contextmanager
def called_modules() -> Iterator[list[nn.Module]]:
    """The modules that are called in a block, each once, in the order of their first calls.

    A module comes before its parts, if they are called by it.
    """
    called: list[nn.Module] = []
    known: set[int] = set()

    def note(module: nn.Module, _inputs: Any) -> None:
        if id(module) not in known:
            known.add(id(module))
            called.append(module)

    hook = register_module_forward_pre_hook(note)
    try:
        yield called
    finally:
        hook.remove()


def _owner(program: Callable[..., Any]) -> nn.Module | None:
    """The module that a program is, or is a method of."""
    while isinstance(program, partial):
        program = program.func
    owner = getattr(program, "__self__", program)
    return owner if isinstance(owner, nn.Module) else None
