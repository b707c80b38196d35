"""What a model has to show, as plain values: the report draws each kind of view and knows no model.

Arrays may be tensors or lists. A number that is not finite is left out of the picture, and a view of nothing
is allowed: it says so where it would be drawn.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppl_vae.base.errors import InputError

__all__ = ["Bars", "Contours", "ImageGrid", "Intervals", "Matrix", "Scatter", "Score", "TableView", "View"]

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """What all kinds have in common. Wrong shapes raise `InputError`.

    Attributes:
        caption: the sentence under it, which says what to see; it is also what a screen reader says.
        title: a few words before the caption.
    """

    caption: str
    title: str = ""

    def _take(self, name: str, values: object) -> None:
        object.__setattr__(self, name, values)

    def _refuse(self, text: str) -> InputError:
        called = f" {self.title!r}" if self.title else ""
        return InputError(f"the view{called} ({type(self).__name__}) {text}")

    def _numbers(self, name: str, values: Any, *shape: int | None) -> Array:
        """Values as float64 of a shape, where None stands for any length; NaN where they are not finite."""
        try:
            plain = values.detach().cpu() if hasattr(values, "detach") else values
            found = np.asarray(plain, dtype=np.float64)
        except (TypeError, ValueError):
            raise self._refuse(f"has {name} that are no numbers") from None
        fits = [wanted in (None, size) for wanted, size in zip(shape, found.shape, strict=False)]
        if found.ndim != len(shape) or not all(fits):
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise self._refuse(f"has {name} of shape {found.shape}; it must be ({wanted})")
        return np.where(np.isfinite(found), found, np.nan)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageGrid(View):
    """Rows of images.

    Attributes:
        rows: by the name of the row, arrays of shape (images, pixels) or (images, *image_shape). Values are
            intensities in [0, 1]; what lies outside is cut.
        image_shape: (height, width), or (height, width, 3) for colours.
    """

    rows: Mapping[str, Array]
    image_shape: tuple[int, ...]

    def __post_init__(self) -> None:
        shape = tuple(self.image_shape)
        if len(shape) not in (2, 3) or min(shape) < 1 or shape[2:] not in ((), (1,), (3,)):
            raise self._refuse(f"has image_shape {shape}; it must be (height, width) or (height, width, 3)")
        shape = shape[:2] if shape[2:] == (1,) else shape
        self._take("image_shape", shape)
        self._take("rows", {name: self._images(name, found, shape) for name, found in self.rows.items()})

    def _images(self, name: str, values: Any, shape: tuple[int, ...]) -> Array:
        """The images of a row, one behind the other."""
        pixels = math.prod(shape)
        found = values.detach().cpu() if hasattr(values, "detach") else np.asarray(values)
        flat = found.reshape(len(found), -1) if found.ndim > 1 and len(found) else found
        if not len(found):
            return np.zeros((0, *shape))
        return self._numbers(f"images {name!r}", flat, None, pixels).reshape(-1, *shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class Matrix(View):
    """Numbers by row and column, as colours and, where there is room, as digits.

    Attributes:
        values: shape (rows, columns).
        row_names, column_names: their names.
        row_label, column_label: what rows and columns are.
        limits: the values at the ends of the colours; by default the same on both sides of zero.
        percent: whether the values are shares, to be written as whole per cents.
    """

    values: Array
    row_names: Sequence[str]
    column_names: Sequence[str]
    row_label: str = ""
    column_label: str = ""
    limits: tuple[float, float] | None = None
    percent: bool = False

    def __post_init__(self) -> None:
        size = (len(self.row_names), len(self.column_names))
        self._take("values", self._numbers("values", self.values, *size))
        if self.limits is not None and not self.limits[0] < self.limits[1]:
            raise self._refuse(f"has limits {self.limits}; the first must be below the second")


@dataclass(frozen=True, kw_only=True, eq=False)
class Intervals(View):
    """A value with an interval for each of some names, several answers side by side.

    Attributes:
        names: from top to bottom.
        answers: by the answer's name, arrays of shape (names, 3): lower end, value, upper end.
        label: what is shown, what the interval is, and its unit.
    """

    names: Sequence[str]
    answers: Mapping[str, Array]
    label: str

    def __post_init__(self) -> None:
        checked = {
            answer: self._numbers(f"intervals of {answer!r}", values, len(self.names), 3)
            for answer, values in self.answers.items()
        }
        self._take("answers", checked)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scatter(View):
    """Points in a plane.

    Attributes:
        groups: by the group's name, arrays of shape (points, 2): across and up. The name "" is not shown.
        x_label, y_label: what the axes are, and their units.
        legend: what the groups are.
        joined: whether a line runs through all points in their order.
        hollow: names of groups whose points are hollow.
        levels: horizontal lines, by name.
        outlines: curves in a group's colour, by its name, shape (points, 2).
    """

    groups: Mapping[str, Array]
    x_label: str
    y_label: str
    legend: str = ""
    joined: bool = False
    hollow: Collection[str] = ()
    levels: Mapping[str, float] = field(default_factory=dict)
    outlines: Mapping[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked = {
            name: self._numbers(f"points {name!r}", values, None, 2) for name, values in self.groups.items()
        }
        if unknown := [*(self.outlines.keys() - checked.keys())]:
            raise self._refuse(f"has an outline of {unknown[0]!r}, which is none of its groups")
        curves = {name: self._numbers("outlines", each, None, 2) for name, each in self.outlines.items()}
        self._take("groups", checked)
        self._take("outlines", curves)
        self._take("levels", {name: float(value) for name, value in self.levels.items()})


@dataclass(frozen=True, kw_only=True, eq=False)
class Bars(View):
    """Bars from zero, one for each name; several panels side by side.

    Attributes:
        names: from top to bottom.
        panels: by the panel's name, arrays of shape (names,).
        label: what is shown, and its unit.
    """

    names: Sequence[str]
    panels: Mapping[str, Array]
    label: str

    def __post_init__(self) -> None:
        checked = {
            name: self._numbers(f"bars {name!r}", values, len(self.names))
            for name, values in self.panels.items()
        }
        self._take("panels", checked)


@dataclass(frozen=True, kw_only=True, eq=False)
class Contours(View):
    """Functions of two variables, as lines of equal height.

    Attributes:
        x, y: where they were computed, rising, shapes (nx,) and (ny,), at least two each.
        layers: by name, heights of shape (nx, ny); what lies later is drawn over it. The names "prior",
            "likelihood", "posterior" and "guide" have colours of their own.
        levels: by the same names, the heights of the lines.
        x_label, y_label: what the axes are, and their units.
        filled: the layer whose inside is filled.
        marks: points (x, y), each by the name of the layer that it belongs to.
    """

    x: Array
    y: Array
    layers: Mapping[str, Array]
    levels: Mapping[str, Sequence[float]]
    x_label: str
    y_label: str
    filled: str = ""
    marks: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("x", "y"):
            grid = self._numbers(name, getattr(self, name), None)
            if len(grid) < 2 or not (np.diff(grid) > 0).all():
                raise self._refuse(f"has {name} that do not rise; they must be at least two rising numbers")
            self._take(name, grid)
        size = (len(self.x), len(self.y))
        layers = {name: self._numbers(f"heights {name!r}", z, *size) for name, z in self.layers.items()}
        if unknown := [*({*self.levels, *filter(None, [self.filled]), *self.marks} - layers.keys())]:
            raise self._refuse(f"names {unknown[0]!r}, which is none of its layers: {', '.join(layers)}")
        levels = {name: self._numbers("levels", self.levels.get(name, ()), None) for name in layers}
        self._take("layers", layers)
        self._take("levels", {name: np.unique(found[~np.isnan(found)]) for name, found in levels.items()})


@dataclass(frozen=True, kw_only=True, eq=False)
class Score(View):
    """One number that says how good a model is at something; its title is its name.

    Attributes:
        value: the number.
        std_error: its standard error; NaN where none is known.
        unit: of both; "" for a pure number.
    """

    value: float
    std_error: float = math.nan
    unit: str = ""

    def __post_init__(self) -> None:
        if not self.title:
            raise self._refuse("has no title, which is the score's name")
        for name in ("value", "std_error"):
            self._take(name, float(self._numbers(name, getattr(self, name))))


@dataclass(frozen=True, kw_only=True, eq=False)
class TableView(View):
    """Cells of text and numbers, a row for each name.

    Attributes:
        names: of the rows.
        columns: by heading, one cell a row.
        row_label: what the rows are.
    """

    names: Sequence[str]
    columns: Mapping[str, Sequence[object]]
    row_label: str = ""

    def __post_init__(self) -> None:
        for heading, cells in self.columns.items():
            if len(cells) != len(self.names):
                raise self._refuse(f"has {len(cells)} cells under {heading!r} for {len(self.names)} rows")
