"""From a data set to what a fit of one model takes: found, split and preprocessed, with every step in "
"its history."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from ppl_vae.base.errors import InputError, brief
from ppl_vae.data.dataset import Columns, Dataset
from ppl_vae.data.game_joining import numbered_like, unseen_players
from ppl_vae.data.games import Games
from ppl_vae.data.inputs import Category, Features, GameInput, Input
from ppl_vae.data.matching import also, arguments, resolve
from ppl_vae.data.preprocess import binarise, dequantise, dynamic_binarise, split, standardise

if TYPE_CHECKING:
    import torch

__all__ = ["PrepareKeywords", "Prepared", "prepare"]


@dataclass(frozen=True, eq=False)
class Prepared:
    """The data of one model.

    Attributes:
        dataset: the variables that the model takes, under its inputs' names, preprocessed; and the label, if
            there is one.
        inputs: what the model declares.
        parts: units of "train", "validation" and "test"; of games "train" alone.
        grey: the data set whose features are binarised afresh for every epoch, where they are.
    """

    dataset: Dataset
    inputs: Mapping[str, Input]
    parts: Mapping[str, NDArray[np.int64]]
    grey: Dataset | None = None

    def part(self, name: str) -> Dataset:
        """The units of one part.

        Raises:
            InputError: for a part that there is not.
        """
        if name not in self.parts or not len(self.parts[name]):
            present = [part for part, units in self.parts.items() if len(units)]
            raise InputError(f"this run has no {name} rows; it has {', '.join(present) or 'none'}")
        everything = len(self.parts[name]) == self.dataset.num_units
        return self.dataset if everything else self.dataset.take(self.parts[name])

    def arguments(
        self, part: str, dtype: torch.dtype, device: torch.device | str | None = None
    ) -> tuple[torch.Tensor, ...]:
        """The program's arguments for one part, see `Dataset.arguments`."""
        return arguments(self.part(part), self.inputs, dtype, device)

    def epoch(
        self, seed: int, epoch: int, dtype: torch.dtype, device: torch.device | str | None = None
    ) -> tuple[torch.Tensor, ...]:
        """The training arguments with the features binarised afresh, a function of seed and epoch alone."""
        assert self.grey is not None
        name = _features(self.inputs)
        training = self.grey.take(self.parts["train"])
        drawn = dynamic_binarise(training[name].values, seed, epoch)
        fresh = training.having(**{name: replace(training[name], values=drawn, kind="binary")})
        return arguments(fresh, self.inputs, dtype, device)

    def alike(self, other: Dataset, raw: Dataset, settings: PrepareKeywords) -> Dataset:
        """Other data as these were prepared: standardised by these training units, with these levels.

        Args:
            other: any data that the model can take.
            raw: the data set that these were made of.
            settings: of `prepare`.

        Raises:
            InputError: for another number of features, an unknown category or player, or a step that they do
                not allow.
        """
        inputs = {
            name: replace(found, levels=self.dataset[name].levels) if isinstance(found, Category) else found
            for name, found in self.inputs.items()
        }
        if any(isinstance(found, GameInput) for found in inputs.values()):
            return resolve(self._numbered(Games.of(other, settings["columns"])).dataset, inputs)
        if other.unit == "game":
            raise InputError(f"the model needs rows of features; {other.name} is a table of games")
        ready, seed = resolve(other, inputs, settings["columns"]), settings["seed"]
        if not any(isinstance(found, Features) for found in inputs.values()):
            return ready
        name = _features(inputs)
        wide, width = ready[name].values.shape[1], self.dataset[name].values.shape[1]
        if wide != width:
            raise InputError(f"{other.name} has {wide} features; this run's data have {width}")
        if settings["dequantize"]:
            ready = _on(ready, name, lambda data: dequantise(data, seed))
        if settings["standardize"]:
            own = {key: of for key, of in inputs.items() if name in (key, of.covers(key, inputs))}
            unscaled = resolve(raw, own, _only(name, settings["columns"]))
            if settings["dequantize"]:
                unscaled = _on(unscaled, name, lambda data: dequantise(data, seed))
            training = unscaled[name].values[self.parts["train"]]
            return _on(ready, name, lambda data: _scaled(data, training))
        if settings["binarize"] != "none":
            return _on(ready, name, lambda data: binarise(data, "static", seed))
        return ready

    def _numbered(self, later: Games) -> Games:
        """Other games with the players that these have."""
        own = Games.of(self.dataset)
        found = numbered_like(later, own)
        if unknown := unseen_players(found, own.num_players):
            raise InputError(f"{later.name}: {brief(unknown[0])!r} plays in none of the games of {own.name}.")
        return found


class PrepareKeywords(TypedDict):
    """The keywords of `prepare`."""

    seed: int
    fractions: tuple[float, float, float]
    standardize: bool
    binarize: str
    dequantize: bool
    columns: Columns | None


def prepare(
    dataset: Dataset,
    inputs: Mapping[str, Input],
    *,
    seed: int = 0,
    fractions: tuple[float, float, float] = (1.0, 0.0, 0.0),
    standardize: bool = False,
    binarize: str = "none",
    dequantize: bool = False,
    columns: Columns | None = None,
) -> Prepared:
    """Find what a model takes, split the units, and preprocess the features.

    Args:
        dataset: any.
        inputs: what the model declares.
        seed: of the split, of binarisation and of dequantisation.
        fractions: of training, validation and test units; an official test part is kept.
        standardize: whether features are centred and scaled by the training units.
        binarize: what greys become: "static", drawn once; "dynamic", drawn for every epoch; or "none".
        dequantize: whether features get uniform noise of one step of their grid.
        columns: which variables an input is made of, where it is not the one of its own name.

    Raises:
        InputError: for data that the model cannot take, or a step that they do not allow.
    """
    if standardize and binarize != "none":
        raise InputError("--standardize and --binarize exclude each other: standardised values are no greys")
    games = any(isinstance(found, GameInput) for found in inputs.values())
    if dataset.unit == "game" and not games:
        raise InputError(f"the model needs rows of features; {dataset.name} is a table of games")
    ready = _with_label(resolve(dataset, inputs, columns), dataset)
    parts = {"train": np.arange(ready.num_units)} if games else split(ready, fractions, seed)
    if not (standardize or dequantize or binarize != "none"):
        return Prepared(ready, inputs, parts)
    name = _features(inputs)
    if dequantize:
        ready = _on(ready, name, lambda data: dequantise(data, seed))
    if standardize:
        return Prepared(
            _on(ready, name, lambda data: standardise(data, fit_on=parts["train"])), inputs, parts
        )
    if binarize == "none" or ready[name].kind == "binary":
        return Prepared(ready, inputs, parts)
    static = _on(ready, name, lambda data: binarise(data, "static", seed))
    return Prepared(static, inputs, parts, ready if binarize == "dynamic" else None)


def _features(inputs: Mapping[str, Input]) -> str:
    """The name of the input that preprocessing is of.

    Raises:
        InputError: where the model takes no features.
    """
    name = next((name for name, found in inputs.items() if isinstance(found, Features)), None)
    if name is None:
        raise InputError(
            "the model takes no matrix of features that could be standardised, binarised or dequantised"
        )
    return name


def _only(name: str, columns: Columns | None) -> Columns | None:
    return {name: columns[name]} if columns and name in columns else None


def _scaled(dataset: Dataset, training: NDArray[Any]) -> Dataset:
    """The matrix x standardised by other units."""
    x = dataset["x"]
    both = replace(x, values=np.concatenate([training, x.values]), kind="real")
    after = standardise(replace(dataset, variables={"x": both}), fit_on=np.arange(len(training)))
    return after.take(slice(len(training), None))


def _on(dataset: Dataset, name: str, change: Callable[[Dataset], Dataset]) -> Dataset:
    """A data set with one of its matrices changed."""
    after = change(replace(dataset, variables={"x": dataset[name]}))
    changed = {**dataset.variables, name: after["x"]}
    return replace(dataset, variables=changed, history=after.history, warnings=after.warnings)


def _with_label(ready: Dataset, dataset: Dataset) -> Dataset:
    """With the label that reports colour by, where the model does not take it and it is one value a unit."""
    found = next((dataset[name] for name in ("label", *also("label")) if name in dataset), None)
    if found is None or "label" in ready or not found.levels or found.num_units != ready.num_units:
        return ready
    return ready.having(label=found)
