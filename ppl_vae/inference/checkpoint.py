"""Checkpoints of a fit: tensors as safetensors, the rest as JSON; loading one executes no code."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ppl_vae.errors import InputError
from ppl_vae.files import write_bytes
from ppl_vae.program import Pair

__all__ = ["Checkpoint", "Progress", "load_parameters", "save_parameters"]


@dataclass
class Progress:
    """How far a fit has come.

    Attributes:
        step: steps done.
        seconds: spent before this process.
        history: ELBO of every step of the whole fit, NaN where not yet done.
        checks: step and held-out ELBO per unit of every check.
        earlier: log weights three quarters through, for the convergence test.
        state: Adam's moments.
        averaged: the running average of the parameters, and
        num_averaged: over how many iterates.
        rule: tensors of the stopping rule's state, and
        rule_about: the rest of it as JSON; empty where there is no rule.
    """

    step: int
    seconds: float
    history: np.ndarray
    checks: list[tuple[float, float]]
    earlier: Tensor | None
    state: dict[str, Tensor]
    averaged: list[Tensor]
    num_averaged: int
    rule: dict[str, Tensor] = field(default_factory=dict)
    rule_about: str = ""

    @classmethod
    def at_start(cls, num_steps: int) -> "Progress":
        """Nothing done yet."""
        return cls(0, 0.0, np.full(num_steps, np.nan), [], None, {}, [], 0)

    def add_to_average(self, leaves: list[Tensor]) -> None:
        """Take the parameters as they are into the average."""
        self.num_averaged += 1
        if not self.averaged:
            self.averaged = [leaf.detach().clone() for leaf in leaves]
            return
        for mean, leaf in zip(self.averaged, leaves, strict=True):
            mean.add_((leaf.detach() - mean) / self.num_averaged)

    def write_average(self, leaves: list[Tensor]) -> None:
        """Put the average into the parameters, if there is one."""
        with torch.no_grad():
            for mean, leaf in zip(self.averaged, leaves, strict=False):
                leaf.copy_(mean)


class Checkpoint:
    """One folder that always holds a whole checkpoint.

    Everything of a step is one file, written beside and renamed over the last one: a process killed
    at any moment leaves either the old checkpoint or the new one.

    Args:
        folder: made if missing.
        pair: an initialised pair.
    """

    def __init__(self, folder: Path, pair: Pair) -> None:
        self.path = folder / "checkpoint.safetensors"
        self.pair = pair

    def save(self, at: Progress, seconds: float) -> None:
        """Write a fit's state, the random generator's included, and this process's seconds."""
        tensors = {f"parameter/{name}": value for name, value in self.pair.state_dict().items()}
        tensors |= {f"optimizer/{name}": value for name, value in at.state.items()}
        tensors |= {f"average/{number}": value for number, value in enumerate(at.averaged)}
        tensors |= {f"rule/{name}": value for name, value in at.rule.items()}
        tensors["rng"] = torch.get_rng_state()
        tensors["elbo"] = torch.from_numpy(at.history[: at.step].copy())
        tensors["held_out"] = torch.tensor(at.checks, dtype=torch.float64).reshape(-1, 2)
        if at.earlier is not None:
            tensors["earlier"] = at.earlier
        if torch.cuda.is_initialized():
            tensors["rng_cuda"] = torch.cuda.get_rng_state()
        about = {
            "step": str(at.step),
            "seconds": repr(at.seconds + seconds),
            "num_averaged": str(at.num_averaged),
            "rule": at.rule_about,
        }
        _save(tensors, self.path, about)

    def load(self, num_steps: int) -> Progress:
        """Put the saved parameters and generator back and return the rest; a start where nothing is saved.

        Raises:
            InputError: if the file is damaged, is another pair's, or is past ``num_steps``.
        """
        at = Progress.at_start(num_steps)
        if not self.path.exists():
            return at
        tensors, about = _load(self.path)
        try:
            at.step, at.seconds = int(about["step"]), float(about["seconds"])
            if at.step > num_steps:
                raise InputError(f"the checkpoint is at step {at.step}, past the {num_steps} asked for")
            self.pair.load_state_dict(_under("parameter/", tensors))
            at.state = _under("optimizer/", tensors)
            averaged = _under("average/", tensors)
            at.averaged = [averaged[str(number)] for number in range(len(averaged))]
            at.num_averaged = int(about["num_averaged"])
            at.rule, at.rule_about = _under("rule/", tensors), about.get("rule", "")
            torch.set_rng_state(tensors["rng"])
            if "rng_cuda" in tensors and torch.cuda.is_available():
                torch.cuda.set_rng_state(tensors["rng_cuda"])
            at.history[: at.step] = tensors["elbo"].numpy()
            at.checks = [(row[0], row[1]) for row in tensors["held_out"].tolist()]
            at.earlier = tensors.get("earlier")
        except (KeyError, ValueError, RuntimeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"the checkpoint {self.path} is damaged: {error}") from error
        return at


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


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
