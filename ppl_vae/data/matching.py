"""Which variables of a data set are which inputs of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ppl_vae.base.errors import InputError, brief, listed
from ppl_vae.data.columns import as_number, judged, missing
from ppl_vae.data.dataset import Columns, Dataset, Variable
from ppl_vae.data.precision import held_exactly
from ppl_vae.data.ragged import grouped

if TYPE_CHECKING:
    import torch

    from ppl_vae.data.inputs import Input

__all__ = ["NUMERIC", "Search", "also", "arguments", "features_of", "resolve", "stacked"]

# Kinds of variables that are features.
NUMERIC = ("real", "grey", "binary", "count", "image")
# Names under which files hold what an input is called.
_ALSO = {
    "x": ("X", "data", "Y"), "label": ("labels", "y"), "condition": ("c", "label", "labels", "y")
}  # fmt: skip


def also(name: str) -> tuple[str, ...]:
    """Other names under which files hold what an input is called."""
    return _ALSO.get(name, ())


class Search:
    """The variables of a data set, those that the user named for an input, and those that inputs have taken.

    Args:
        dataset: where variables are looked up.
        columns: by input, the variable or variables that it is made of.
        inputs: all that the model declares.
    """

    def __init__(self, dataset: Dataset, columns: Columns | None, inputs: Mapping[str, Input]) -> None:
        self.dataset, self.inputs = dataset, inputs
        self.columns = {name: [of] if isinstance(of, str) else [*of] for name, of in (columns or {}).items()}
        for name in self.columns:
            if name not in inputs and name != "unit" and not any(of.takes(name) for of in inputs.values()):
                raise InputError(
                    f"There is no input {name!r} to take a column for: the model takes {listed(inputs)}."
                )
        self.found: dict[str, Variable] = {}
        self.taken: set[str] = {"split"}
        self.warnings: list[str] = []
        self.history: list[str] = []
        # What several inputs read the data set as, by its name: made once.
        self.views: dict[str, Any] = {}

    def named(self, name: str) -> list[str]:
        """The names of the variables that an input is made of by name alone; empty where there is none."""
        if name in self.columns:
            names = self.columns[name]
        else:
            names = [held for held in (name, *also(name)) if held in self.dataset][:1]
        for held in names:
            self.dataset[held]  # refuses by name what is not there
        self.taken.update(names)
        return names

    def one(self, name: str) -> Variable:
        """The one variable of that input.

        Raises:
            InputError: naming what is missing, and what there is.
        """
        names = self.named(name)
        if not names:
            raise InputError(
                f"{self.dataset.name} has no column {name!r}, which the model takes: it has "
                f"{listed(self.offered())}; name the one that it is (--column {name}=NAME, or "
                f"columns={{{name!r}: NAME}})."
            )
        if len(names) > 1:
            raise InputError(f"The input {name!r} is one column, not {len(names)} ({listed(names)}).")
        return self.dataset[names[0]]

    def offered(self) -> list[str]:
        """What the data set has to offer: its variables but for masks."""
        return [name for name, found in self.dataset.variables.items() if found.kind != "mask"]

    def rest(self) -> list[str]:
        """The numeric columns that nobody has taken, in order.

        Raises:
            InputError: for a column of numbers with a word among them; columns of words are named in a
                warning.
        """
        left, text = [], []
        for name, variable in self.dataset.variables.items():
            if name in self.taken or variable.is_ragged or variable.values.ndim > 1:
                continue
            if variable.kind in NUMERIC:
                left.append(name)
            elif variable.kind == "category":
                # One word among numbers is a fault of the file; a column of words is something else.
                if variable.fault and any(as_number(level) is not None for level in variable.levels):
                    raise InputError(variable.fault)
                text.append(name)
        if text:
            self.warnings.append(f"columns that hold no numbers are left out: {listed(text)}")
        self.taken.update(left)
        return left

    @property
    def masked(self) -> set[str]:
        """The inputs whose missing values the model masks."""
        return {found.covers(name, self.inputs) for name, found in self.inputs.items()} - {""}

    def check_whole(self, name: str, variable: Variable) -> Variable:
        """Refuse missing values, unless the model masks them.

        Raises:
            InputError: with the place of the first.
        """
        if name in self.masked or (absent := missing(variable)) is None:
            return variable
        place = [int(axis[0]) for axis in np.nonzero(absent)]
        label = next((names[place[-1]] for names in variable.labels.values()), name)
        where = f"{self.dataset.name}, {self.dataset.unit} {place[0] + 1}, {brief(label)!r}"
        said = variable.fault or f"{where}: the value is missing."
        if said.endswith(("is empty.", "is missing.")):
            said = f"{said[:-1]}, and the model takes no missing values."
        raise InputError(said)


def resolve(dataset: Dataset, inputs: Mapping[str, Input], columns: Columns | None = None) -> Dataset:
    """The data set that a model takes: a variable for each of its inputs, under the input's name, and the
    split.

    What is resolved once is resolved again to the same.

    Args:
        dataset: any.
        inputs: what the model declares.
        columns: see `Dataset.arguments`; "unit" names the column of a table by which its lines are grouped.

    Raises:
        InputError: naming what is missing or unfit, and what there is.
    """
    if columns and "unit" in columns:
        dataset = grouped(dataset, str(columns["unit"]))
    search = Search(dataset, columns, inputs)
    # Features take what is left, and masks are of what was found.
    for name, found in sorted(inputs.items(), key=lambda entry: entry[1].turn):
        if (variable := found.prepare(name, search)) is not None:
            search.found[name] = variable
    kept = {name: search.found[name] for name in inputs if name in search.found}
    if "split" in dataset and "split" not in kept:
        kept["split"] = dataset["split"]
    new = tuple(words for words in search.warnings if words not in dataset.warnings)
    history = (*dataset.history, *search.history)
    return replace(dataset, variables=kept, history=history, warnings=dataset.warnings + new)


def arguments(
    dataset: Dataset,
    inputs: Mapping[str, Input],
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    columns: Columns | None = None,
) -> tuple[torch.Tensor, ...]:
    """See `Dataset.arguments`."""
    import torch

    ready = resolve(dataset, inputs, columns)
    reals = dtype or torch.get_default_dtype()
    order = sorted(inputs.items(), key=lambda entry: not entry[1].observed)
    tensors = [found.tensor(ready[name], dataset.name, reals) for name, found in order if name in ready]
    return tuple(values if device is None else values.to(device) for values in tensors)


def stacked(dataset: Dataset, names: list[str]) -> Variable:
    """Numeric columns as one matrix of float64.

    Raises:
        InputError: for columns that are no numbers, or whole ones that float64 does not hold.
    """
    values = np.empty((dataset.num_units, len(names)))
    for place, name in enumerate(names):
        values[:, place] = _column(dataset, name)
    faults = [dataset[name].fault for name in names if dataset[name].fault]
    return Variable(
        values, judged(values), labels={"feature": tuple(names)}, fault=faults[0] if faults else ""
    )


def features_of(dataset: Dataset) -> tuple[set[str], Variable]:
    """The names of the variables that are features, and the matrix that they make, with missing values in it.

    Raises:
        InputError: where there are none.
    """
    from ppl_vae.data.inputs import Features, Mask

    features = Features()
    search = Search(dataset, None, {"x": features, "x_observed": Mask()})
    found = features.prepare("x", search)
    return search.taken - {"split"}, found


def _column(dataset: Dataset, name: str) -> NDArray[np.float64]:
    variable = dataset[name]
    if variable.kind not in NUMERIC or variable.values.ndim != 1 or variable.is_ragged:
        raise InputError(
            variable.fault
            or f"{dataset.name}: the column {brief(name)!r} is {variable.kind} and no column of numbers."
        )
    column = variable.values.astype(np.float64)
    if variable.values.dtype.kind in "iu" and not held_exactly(variable.values):
        raise InputError(
            f"{dataset.name}, column {brief(name)!r}: its whole numbers are too long for features."
        )
    return column
