"""Rows of features, a reader of data sets: what models of vectors take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ppl_vae.base.errors import InputError
from ppl_vae.data.columns import category_codes, with_masks
from ppl_vae.data.dataset import Columns, Dataset, Variable
from ppl_vae.data.inputs import Features, Input, Mask
from ppl_vae.data.matching import also, resolve
from ppl_vae.data.precision import merged_columns

if TYPE_CHECKING:
    import torch

__all__ = [
    "PARTS",
    "Floats",
    "IncompleteRows",
    "Integers",
    "Kind",
    "Rows",
    "kind_of",
    "labels_of",
    "split_variable",
]

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]
Kind = Literal["real", "grey", "binary"]
# The levels of the variable "split".
PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of numeric features, with where they came from and what was done to them.

    A view of a `Dataset` that has a matrix of features: `Rows.of(dataset)` reads it, `rows.dataset` gives it
    back. They share their arrays.

    Attributes:
        name: the data set's name, or the file's.
        values: shape (num_rows, num_features); float64, or float32 for images.
        feature_names: one per feature.
        kind: "binary" when every value is 0 or 1, "grey" for intensities in [0, 1], else "real".
        image_shape: how a row folds into an image, (height, width) or (height, width, channels);
            None where rows are no images.
        labels: shape (num_rows,), or None.
        splits: the official splits as arrays of row indices; empty if there are none.
        history: what was done to the values, in order.
        warnings: what the user should know about it, one sentence each.

    Raises:
        ValueError: the shapes do not agree.
    """

    inputs: ClassVar[Mapping[str, Input]] = {"x": Features()}

    name: str
    values: Floats
    feature_names: tuple[str, ...]
    kind: Kind
    image_shape: tuple[int, ...] | None = None
    labels: Integers | None = None
    splits: Mapping[str, Integers] = field(default_factory=dict)
    history: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.values.ndim != 2:
            raise ValueError(f"values must have 2 dimensions (rows, features), not {self.values.ndim}.")
        num_rows, num_features = self.values.shape
        if len(self.feature_names) != num_features:
            raise ValueError(f"{len(self.feature_names)} feature names for {num_features} features.")
        if self.image_shape is not None and np.prod(self.image_shape) != num_features:
            raise ValueError(f"{num_features} features do not fold into images of shape {self.image_shape}.")
        if self.labels is not None and self.labels.shape != (num_rows,):
            raise ValueError(f"labels of shape {self.labels.shape} for {num_rows} rows.")

    @classmethod
    def of(cls, dataset: Dataset, columns: Columns | None = None) -> Self:
        """The features of a data set, its labels if it has any, and its splits.

        Args:
            dataset: with a matrix x, or columns of numbers, of which all are features.
            columns: see `Dataset.arguments`.

        Raises:
            InputError: where there are no features, or values that are missing.
        """
        ready = resolve(dataset, cls.inputs, columns)
        x = ready["x"]
        # Images stay as small as they are; what is computed with other features is worth float64.
        narrow = x.image_shape is not None and x.values.dtype == np.float32
        values = x.values if narrow else x.values.astype(np.float64, copy=False)
        if "x_observed" in ready:
            values = np.where(ready["x_observed"].values, values, np.nan)
        return cls(
            dataset.name,
            values,
            next(iter(x.labels.values())),
            x.kind if x.kind in ("real", "grey", "binary") else kind_of(values),
            image_shape=x.image_shape,
            labels=labels_of(dataset),
            splits={name: units for name, units in dataset.parts().items() if len(units)},
            history=ready.history,
            warnings=ready.warnings,
        )

    @property
    def dataset(self) -> Dataset:
        """The data set that these rows are a view of: x, and label and split where there are any."""
        labels = {"feature": self.feature_names}
        variables = {"x": Variable(self.values, self.kind, labels=labels, image_shape=self.image_shape)}
        if self.labels is not None:
            codes, levels = category_codes(self.labels)
            variables["label"] = Variable(codes, "category", levels=levels)
        if self.splits:
            variables["split"] = split_variable(self.splits, self.num_rows)
        return Dataset(self.name, variables, history=self.history, warnings=self.warnings)

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return int(self.values.shape[0])

    @property
    def num_features(self) -> int:
        """The number of features of a row."""
        return int(self.values.shape[1])

    def tensors(self, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        """The data as a program receives them: one tensor of shape (num_rows, num_features).

        It shares memory with `values` where the dtype allows, so that large images are held once.

        Raises:
            InputError: for float32 that could not hold a feature's values apart.
        """
        import torch

        if dtype == torch.float32 and len(merged := merged_columns(self.values)):
            raise InputError(
                f"{self.name}, feature {self.feature_names[merged[0]]}: its values differ by less than "
                "float32, in which this model computes, can hold; standardise the features (--standardize)."
            )

        # torch warns about read-only arrays and refuses negative strides.
        values = np.require(self.values, requirements=["C", "W"])
        return (torch.as_tensor(values, dtype=dtype),)

    def take(self, index: Integers | slice) -> Rows:
        """The rows at `index`, in its order; the official splits, which count all rows, are dropped."""
        labels = None if self.labels is None else self.labels[index]
        return replace(self, values=self.values[index], labels=labels, splits={})


@dataclass(frozen=True, eq=False)
class IncompleteRows(Rows):
    """Rows of which some values may be missing: NaN."""

    inputs: ClassVar[Mapping[str, Input]] = {"x": Features(), "x_observed": Mask(optional=True)}

    @property
    def dataset(self) -> Dataset:
        """See `Rows.dataset`; with the mask x_observed where values are missing."""
        complete = super().dataset
        return replace(complete, variables=with_masks(complete.variables))

    def tensors(self, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        """See `Rows.tensors`; where values are missing, a second tensor says which are there.

        Returns:
            x, and then booleans of its shape.
        """
        (x,) = super().tensors(dtype)
        missing = x.isnan()
        return (x, ~missing) if missing.any() else (x,)


def split_variable(parts: Mapping[str, Integers], num_units: int) -> Variable:
    """The variable "split" that says of each unit to which part it belongs."""
    codes = np.full(num_units, -1, dtype=np.int64)
    for name, units in parts.items():
        codes[units] = PARTS.index(name)
    return Variable(codes, "category", levels=PARTS)


def labels_of(dataset: Dataset) -> Integers | None:
    """Its labels as whole numbers, where it has any: themselves where they are such, else their positions in
    the levels."""
    found = next((dataset[name] for name in ("label", *also("label")) if name in dataset), None)
    if found is None or found.values.ndim != 1 or found.is_ragged:
        return None
    if not found.levels:
        # Numbers in a table of columns are features.
        beside = any(variable.values.ndim > 1 for variable in dataset.variables.values())
        return found.values.astype(np.int64) if beside and found.values.dtype.kind in "iub" else None
    try:
        return np.array([*map(int, found.levels), -1], dtype=np.int64)[found.values]
    except (ValueError, OverflowError):
        return found.values


def kind_of(values: Floats) -> Kind:
    """Judge what rows hold: "binary" if all are 0 or 1, "grey" if all lie in [0, 1], else "real"."""
    if values.size == 0 or values.min() < 0 or values.max() > 1:
        return "real"
    return "binary" if bool(np.all((values == 0) | (values == 1))) else "grey"
