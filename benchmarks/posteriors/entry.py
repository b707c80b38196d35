"""What one posterior is: a Pyro program, its data, and draws from the posterior that others made."""

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.reference import folder
from ppl_vae.program.pair import Program

__all__ = ["Arguments", "Entry", "Settings", "columns", "design", "own_draws", "parameters", "same"]

Floats = NDArray[np.floating[Any]]
Sites = Mapping[str, Floats]
Arguments = Callable[[Mapping[str, Any]], tuple[Any, ...]]
KEPT = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Settings:
    """How long our NUTS runs for 4 Monte Carlo errors to be a sharp test."""

    num_draws: int = 2000
    warmup: int = 1000
    target_accept: float = 0.9
    mass: Literal["diagonal", "low-rank"] = "diagonal"
    sampler: Literal["nutpie", "pyro"] = "nutpie"


def same(draws: xr.Dataset) -> xr.Dataset:
    """Draws that are in the reference's parameters already."""
    return draws


def _same_sites(values: Sites) -> Sites:
    return values


@dataclass(frozen=True)
class Entry:
    """One posterior.

    Attributes:
        name: posteriordb's, "data-model".
        family: of models.
        program: the Pyro program with Stan's flat priors as they are (True), or with wide normals in their
            place, which can be drawn from (False).
        arguments: its data, from posteriordb's; arrays of integers stay integers.
        improper: whether the two forms of the program differ.
        identifiable: draws of the sites in the reference's parameters.
        sites: the reference's parameters as our sites: the inverse.
        settings: of our chains.
        thin: our own reference draws are every so many of a chain's, where posteriordb has none.
        decentred: a site whose standardised form chains move better in, and that site from draws of this
            form, ``NAME_decentered``.
    """

    name: str
    family: str
    program: Callable[[bool], Program]
    arguments: Arguments
    improper: bool = False
    identifiable: Callable[[xr.Dataset], xr.Dataset] = same
    sites: Callable[[Sites], Sites] = _same_sites
    settings: Settings = field(default_factory=Settings)
    thin: int = 0
    decentred: tuple[str, Callable[[xr.Dataset], xr.DataArray]] | None = None

    @property
    def short(self) -> str:
        """The model's name, or the data's where several posteriors have the model."""
        data, model = self.name.split("-")
        return data if model == "nes" else model

    @property
    def model(self) -> Program:
        """The program with the priors of the Stan program."""
        return self.program(True)

    @property
    def proper(self) -> Program:
        """The program with priors that can be drawn from: guides are made from it."""
        return self.program(False)

    @property
    def folder(self) -> Path:
        """Where posteriordb's files lie."""
        return folder() / "data" / "posteriordb" / self.name

    @property
    def draws_file(self) -> Path:
        """Where its reference draws lie: posteriordb's, or our own."""
        return own_draws() / f"{self.name}.npz" if self.thin else self.folder / "reference_draws.npz"

    @property
    def present(self) -> bool:
        """Whether they do."""
        return self.draws_file.is_file()

    def data(self, values: Mapping[str, Any] | None = None) -> tuple[Tensor, ...]:
        """The program's arguments, real numbers in float64.

        Args:
            values: in the form of posteriordb's ``data.json``, which is read by default.
        """
        return tuple(_tensor(argument) for argument in self.arguments(values or self.values()))

    def values(self) -> Mapping[str, Any]:
        """Posteriordb's data as they are: beside this file, or in the shared folder."""
        kept = KEPT / f"{self.name.split('-')[0]}.json.zip"
        if not kept.is_file():
            return dict(json.loads((self.folder / "data.json").read_text()))
        with zipfile.ZipFile(kept) as archive:
            return dict(json.loads(archive.read(archive.namelist()[0])))

    def reference_draws(self) -> dict[str, Floats]:
        """Reference draws by parameter, each of shape (10, 1000, *parameter).

        Raises:
            FileNotFoundError: where they are not.
        """
        with np.load(self.draws_file) as stored:
            draws, names = stored["draws"], [str(name) for name in stored["names"]]
        parts: dict[str, list[Floats]] = {}
        for k, name in enumerate(names):
            parts.setdefault(name.split("[")[0], []).append(draws[..., k])
        scalar = {name for name in parts if name in names}
        return {name: part[0] if name in scalar else np.stack(part, -1) for name, part in parts.items()}


def own_draws() -> Path:
    """The folder of reference draws of our own: PPL_VAE_POSTERIORS, or ``posteriors`` in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ppl_vae" / "posteriors"
    return Path(os.environ.get("PPL_VAE_POSTERIORS", cache))


def _tensor(argument: Any) -> Tensor:
    whole = isinstance(argument, np.ndarray) and argument.dtype.kind == "i"
    return torch.as_tensor(argument, dtype=torch.int64 if whole else torch.float64)


def columns(*names: str) -> Arguments:
    """Arguments that are the data's own."""
    return lambda data: tuple(data[name] for name in names)


def design(y: str, *names: str) -> Arguments:
    """A design matrix (rows, 1 + columns) whose first column is 1, and the response."""

    def arguments(data: Mapping[str, Any]) -> tuple[Any, ...]:
        values = [np.asarray(data[name], dtype=float) for name in names]
        return np.stack([np.ones(len(data[y])), *values], -1), data[y]

    return arguments


def parameters(values: Mapping[str, Floats]) -> dict[str, Floats]:
    """Scalars under Stan's names, such as ``theta[1]``, each of shape (chains, draws)."""
    found = {}
    for name, array in values.items():
        for place in np.ndindex(array.shape[2:]):
            inside = ",".join(str(k + 1) for k in place)
            found[f"{name}[{inside}]" if inside else name] = array[(..., *place)]
    return found
