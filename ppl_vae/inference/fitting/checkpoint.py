"""Checkpoints of a fit: tensors as safetensors, the rest as JSON; loading one executes no code."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.base.files import write_bytes
from ppl_vae.inference.fitting.observers import Keeping, next_multiple
from ppl_vae.inference.fitting.state import State, under
from ppl_vae.program.pair import Pair

__all__ = ["Checkpoint", "load_parameters", "save_parameters"]

# Of what a checkpoint holds; version 0.1.0 wrote none.
FORMAT = "2"


class Checkpoint:
    """Writes the state of a fit and of its observers into a folder that always holds a whole checkpoint.

    Everything of a step is one file, written beside and renamed over the last one: a process killed
    at any moment leaves either the old checkpoint or the new one.

    Args:
        folder: made if missing.
        every: steps between checkpoints; there is one at the end too.
        observers: whose states are kept, by name.
    """

    def __init__(self, folder: Path, every: int, observers: Mapping[str, Keeping]) -> None:
        self.path = folder / "checkpoint.safetensors"
        self.every, self.observers, self.saved = every, observers, -1

    def after(self, step: int) -> int:
        """The next multiple of ``every``."""
        return next_multiple(self.every, step)

    def look(self, state: State) -> None:
        """Write the state as it is."""
        tensors = state.tensors()
        for name, observer in self.observers.items():
            tensors |= {f"{name}/{key}": value for key, value in observer.tensors().items()}
        about = {
            "format": FORMAT,
            "step": str(state.step),
            "seconds": repr(state.seconds),
            "observers": json.dumps(list(self.observers)),
        }
        _save(tensors, self.path, about)
        self.saved = state.step

    def finish(self, state: State) -> None:
        """Write the end."""
        if self.saved != state.step:
            self.look(state)

    def load(self, state: State) -> None:
        """Put the saved state back into a fit before its first step; nothing where nothing is saved.

        Raises:
            InputError: if the file is damaged, is another pair's, or is past ``num_steps``; if the fit was to
                stop by itself and the saved one was not.
        """
        if not self.path.exists():
            return
        tensors, about = _load(self.path)
        if "step" in about and about.get("format") != FORMAT:
            raise InputError(f"the checkpoint {self.path} is of another version: fit from the start")
        try:
            state.load(tensors)
            state.seconds_before = float(about["seconds"])
            kept = json.loads(about["observers"])
        except (KeyError, ValueError, RuntimeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"the checkpoint {self.path} is damaged: {error}") from error
        self.saved = state.step
        for name, observer in self.observers.items():
            _restore(observer, name, under(f"{name}/", tensors), name in kept)


def _restore(observer: Keeping, name: str, tensors: dict[str, Tensor], is_kept: bool) -> None:
    """Put an observer's state back; one that the saved fit did not have begins anew."""
    if not is_kept:
        if name == "rule":
            raise InputError(
                "the checkpoint is of a fit of a fixed number of steps; resume it with stop=False"
            )
        return
    try:
        observer.load(tensors)
    except (KeyError, ValueError, TypeError) as error:
        what = "stopping rule" if name == "rule" else f"state of {name}"
        raise InputError(f"the checkpoint's {what} is damaged: {error}") from error


def save_parameters(pair: Pair, path: Path) -> None:
    """Write a pair's parameters and buffers as safetensors, whole or not at all."""
    _save(pair.state_dict(), path, {})


def load_parameters(pair: Pair, path: Path) -> None:
    """Read what `save_parameters` wrote into an initialised pair.

    Raises:
        InputError: if the file is missing or damaged, or is another pair's.
    """
    tensors, _ = _load(path)
    pair.load_state_dict(tensors)


def _save(tensors: dict[str, Tensor], path: Path, about: dict[str, str]) -> None:
    contiguous = {name: value.contiguous().cpu() for name, value in tensors.items()}
    # Through memory, so that a full disk is Python's to report and the file has the user's mode.
    write_bytes(path, save(contiguous, about))


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.exists():
        raise InputError(f"{path} does not exist")
    try:
        tensors = load_file(path)
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        return tensors, header.get("__metadata__", {})
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} is damaged and cannot be read: {error}") from error
