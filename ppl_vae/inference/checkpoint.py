"""Checkpoints of a fit: tensors as safetensors, the rest as JSON; loading one executes no code."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ppl_vae.errors import InputError
from ppl_vae.files import write_whole
from ppl_vae.program import Pair

__all__ = ["Checkpoint", "load_parameters", "save_parameters"]


class Checkpoint:
    """One folder that always holds a whole checkpoint.

    Everything of a step is one file, written beside and renamed over the last one: a process killed
    at any moment leaves either the old checkpoint or the new one.

    Args:
        folder: made if missing.
        pair: an initialised pair.
        optimizer: an optimiser over its parameters.
    """

    def __init__(self, folder: Path, pair: Pair, optimizer: torch.optim.Optimizer) -> None:
        self.path = folder / "checkpoint.safetensors"
        self.pair, self.optimizer = pair, optimizer

    def save(
        self,
        step: int,
        seconds: float,
        history: np.ndarray,
        checks: list[tuple[float, float]],
        earlier: Tensor | None,
    ) -> None:
        """Write the state after ``step`` steps, the random generator's included."""
        tensors = {f"parameter/{name}": value for name, value in self.pair.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            for name, value in state.items():
                tensors[f"optimizer/{number}/{name}"] = value.detach().clone()
        tensors["rng"] = torch.get_rng_state()
        tensors["elbo"] = torch.from_numpy(history[:step].copy())
        tensors["held_out"] = torch.tensor(checks, dtype=torch.float64).reshape(-1, 2)
        if earlier is not None:
            tensors["earlier"] = earlier
        if torch.cuda.is_initialized():
            tensors["rng_cuda"] = torch.cuda.get_rng_state()
        about = {"step": str(step), "seconds": repr(seconds)}
        _save(tensors, self.path, about)

    def load(self, num_steps: int) -> tuple[int, float, np.ndarray, list[tuple[float, float]], Tensor | None]:
        """Put the saved state back and return what `save` was given; zeros where nothing is saved yet.

        Raises:
            InputError: if the file is damaged, is another pair's, or is past ``num_steps``.
        """
        history = np.full(num_steps, np.nan)
        if not self.path.exists():
            return 0, 0.0, history, [], None
        tensors, about = _load(self.path)
        try:
            step, seconds = int(about["step"]), float(about["seconds"])
            parameters = {
                name.removeprefix("parameter/"): value
                for name, value in tensors.items()
                if name.startswith("parameter/")
            }
            if step > num_steps:
                raise InputError(f"the checkpoint is at step {step}, past the {num_steps} asked for")
            self.pair.load_state_dict(parameters)
            self._load_optimizer(tensors)
            torch.set_rng_state(tensors["rng"])
            if "rng_cuda" in tensors and torch.cuda.is_available():
                torch.cuda.set_rng_state(tensors["rng_cuda"])
            history[:step] = tensors["elbo"].numpy()
            checks = [(row[0], row[1]) for row in tensors["held_out"].tolist()]
        except (KeyError, ValueError, RuntimeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"the checkpoint {self.path} is damaged: {error}") from error
        return step, seconds, history, checks, tensors.get("earlier")

    def _load_optimizer(self, tensors: dict[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer/"):
                _, number, key = name.split("/")
                state.setdefault(int(number), {})[key] = value
        own = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": state, "param_groups": own["param_groups"]})


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

    def write(beside: Path) -> None:
        try:
            save_file(contiguous, beside, about)
        except SafetensorError as error:
            raise OSError(str(error)) from error

    write_whole(path, write)


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
