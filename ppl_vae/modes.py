"""Evaluation mode for every module that a program calls, however the program comes by it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

__all__ = ["evaluation"]


@contextmanager
def evaluation() -> Iterator[None]:
    """Run a block in which every module is in evaluation mode when it is called; its mode comes back.

    Programs reach modules in many ways: they are modules, they name them by ``pyro.module``, or they just
    call them. So modules are found when they are called.
    """
    switched: list[nn.Module] = []

    def switch(module: nn.Module, _inputs: Any) -> None:
        if module.training:
            for part in module.modules():
                if part.training:
                    part.training = False
                    switched.append(part)

    hook = register_module_forward_pre_hook(switch)
    try:
        yield
    finally:
        hook.remove()
        for part in switched:
            part.training = True
