"""Results by part of a long estimate, kept on disk so that an interrupted one goes on."""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.base.files import write_bytes
from ppl_vae.program.problem import Problem

__all__ = ["Partial", "fingerprint"]

# Seconds between two writes: what an interruption can lose.
_PERIOD = 5.0


class Partial:
    """Tensors of finished parts by name, in one safetensors file.

    Args:
        path: of the file, or None to keep nothing.
        about: everything that determines the numbers; parts of another estimate are refused.
        resume: whether to go on from the file, if there is one; else it is replaced.

    Raises:
        InputError: if the file is damaged, or of another estimate.
    """

    def __init__(self, path: Path | None, about: Mapping[str, Any], resume: bool) -> None:
        self.path, self.about = path, json.dumps(about, sort_keys=True, default=str)
        self._parts: dict[str, dict[str, Tensor]] = {}
        self._written = time.monotonic()
        if path is not None and resume and path.exists():
            self._load(path)

    def get(self, name: str) -> dict[str, Tensor] | None:
        """The tensors of a part, if it is finished."""
        return self._parts.get(name)

    def put(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep the tensors of a finished part."""
        self._parts[name] = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        if self.path is not None and time.monotonic() - self._written > _PERIOD:
            self._write(self.path)

    def finish(self) -> None:
        """Everything is done: the file goes."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _write(self, path: Path) -> None:
        # Tensors that share memory cannot be saved together.
        flat = {
            f"{part}/{key}": tensor.clone()
            for part, tensors in self._parts.items()
            for key, tensor in tensors.items()
        }
        write_bytes(path, save(flat, {"about": self.about}))
        self._written = time.monotonic()

    def _load(self, path: Path) -> None:
        try:
            with safe_open(path, "pt") as file:
                about = (file.metadata() or {}).get("about")
                for name in file.keys():  # noqa: SIM118
                    part, _, key = name.rpartition("/")
                    self._parts.setdefault(part, {})[key] = file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path} is damaged: {error}; remove it to begin anew") from error
        if about != self.about:
            self._parts = {}
            raise InputError(
                f"{path} holds parts of an estimate with other options, data or parameters; resume with the "
                "same ones, or begin anew"
            )


def fingerprint(problem: Problem) -> str:
    """A hash of the parameters, of the data and of the units meant."""
    found, pair = hashlib.sha256(), problem.pair
    held = [*pair.parameters().values(), *pair.buffers().values(), problem.index, *problem.data]
    for value in held:
        if isinstance(value, Tensor):
            found.update(f"{value.dtype}{tuple(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            found.update(repr(value).encode())
    return found.hexdigest()
