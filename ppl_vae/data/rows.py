"""Rows of features: the data of PPCA, the VAE and their kin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ppl_vae.data.precision import merged_columns
from ppl_vae.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = ["Floats", "Integers", "Kind", "Rows", "kind_of"]

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]
Kind = Literal["real", "grey", "binary"]


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of numeric features, with where they came from and what was done to them.

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

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return int(self.values.shape[0])

    @property
    def num_features(self) -> int:
        """The number of features of a row."""
        return int(self.values.shape[1])

    def tensors(self, dtype: torch.dtype) -> tuple[torch.Tensor]:
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


def kind_of(values: Floats) -> Kind:
    """Judge what rows hold: "binary" if all are 0 or 1, "grey" if all lie in [0, 1], else "real"."""
    if values.size == 0 or values.min() < 0 or values.max() > 1:
        return "real"
    return "binary" if bool(np.all((values == 0) | (values == 1))) else "grey"
