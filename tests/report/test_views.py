"""Every kind of view is drawn whatever is in it, and refuses in a sentence what does not fit together."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from ppl_vae.base.errors import InputError
from ppl_vae.report.figures.views import DRAWERS, MOST_NAMES, draw
from ppl_vae.report.parts.views import views_part
from ppl_vae.views import Bars, Contours, ImageGrid, Intervals, Matrix, Scatter, Score, TableView, View

LONG = 'a name that is much too long for any axis or legend, with <b>, $x$ and "quotes" in it'
CAPTION = "What there is to see."


def make(kind: type[View], values: np.ndarray, name: str = "a") -> View:
    """A view of a kind with these values, shape (n,), and everything in it called by one name."""
    count, names = len(values), [f"{name} {k}" for k in range(len(values))]
    options: dict[type[View], dict[str, Any]] = {
        ImageGrid: {"rows": {name: np.tile(values[:, None], 6)}, "image_shape": (2, 3)},
        Matrix: {"values": np.outer(values, np.ones(3)), "row_names": names, "column_names": [name] * 3,
                 "row_label": "rows", "column_label": "columns"},
        Intervals: {"names": names, "answers": {name: np.tile(values[:, None], 3)}, "label": "value (m)"},
        Scatter: {"groups": {name: np.column_stack([values, values]), "b": np.zeros((0, 2))},
                  "x_label": "x", "y_label": "y", "legend": "group", "levels": {name: float(values.sum())}},
        Bars: {"names": names, "panels": {name: values, "b": -values}, "label": "value (m)"},
        Contours: {"x": [0.0, 1, 2], "y": [0.0, 1],
                   "layers": {name: np.full((3, 2), values[0] if count else 0.0)},
                   "levels": {name: [0.1, 0.5]}, "x_label": "x", "y_label": "y", "filled": name},
    }  # fmt: skip
    return kind(caption=CAPTION, **options[kind])


VALUES = {
    "none": np.zeros(0),
    "one": np.array([0.7]),
    "constant": np.full(4, 2.0),
    "zeros": np.zeros(4),
    "missing": np.array([np.nan, 0.3, np.inf, -0.2]),
    "nothing known": np.full(3, np.nan),
    "huge": np.array([1e30, -1e30, 1e-30]),
}


@pytest.mark.parametrize("kind", DRAWERS)
@pytest.mark.parametrize("values", VALUES)
def test_every_kind_is_drawn_whatever_is_in_it(
    kind: type[View], values: str, legible: Callable[[Figure], None]
) -> None:
    figure = draw(make(kind, VALUES[values], LONG))
    assert figure is not None
    figure.draw_without_rendering()
    if values in ("one", "missing"):
        legible(figure)


@pytest.mark.parametrize("kind", DRAWERS)
def test_of_very_much_a_part_is_shown_and_the_figure_says_so(kind: type[View]) -> None:
    figure = draw(make(kind, np.linspace(0, 1, 1000)))
    assert figure is not None
    assert figure.get_figheight() < 15
    if kind in (Matrix, Intervals, Bars):
        labels = [text for axes in figure.axes for text in (axes.get_xlabel(), axes.get_ylabel())]
        assert any(f"first {MOST_NAMES} of 1000" in label.replace("\n", " ") for label in labels)


NAMED = {"names": ["a"], "label": ""}
AXES = {"x_label": "", "y_label": ""}
PLANE = {"x": [0.0, 1.0], "y": [0.0, 1.0], "layers": {}, "levels": {}, **AXES}
WRONG = {
    "pixels": (ImageGrid, {"rows": {"a": np.zeros((2, 5))}, "image_shape": (2, 3)}, "shape (2, 5)"),
    "image shape": (ImageGrid, {"rows": {}, "image_shape": (2,)}, "(height, width)"),
    "names of rows": (
        Matrix,
        {"values": np.zeros((2, 2)), "row_names": ["a"], "column_names": ["a", "b"]},
        "shape (2, 2); it must be (1, 2)",
    ),
    "limits": (
        Matrix,
        {"values": [[1.0]], "row_names": ["a"], "column_names": ["a"], "limits": (1.0, 1.0)},
        "must be below",
    ),
    "two ends": (
        Intervals,
        {**NAMED, "answers": {"svi": [[0.0, 1.0]]}},
        "intervals of 'svi' of shape (1, 2); it must be (1, 3)",
    ),
    "three coordinates": (Scatter, {"groups": {"a": np.zeros((4, 3))}, **AXES}, "(any, 2)"),
    "bars": (Bars, {**NAMED, "panels": {"p": [1.0, 2.0]}}, "bars 'p' of shape (2,)"),
    "text": (Bars, {**NAMED, "panels": {"p": ["much"]}}, "that are no numbers"),
    "falling grid": (Contours, {**PLANE, "x": [1.0, 0.0]}, "x that do not rise"),
    "layer": (Contours, {**PLANE, "layers": {"a": np.zeros((2, 3))}}, "heights 'a' of shape (2, 3)"),
    "unknown layer": (Contours, {**PLANE, "filled": "b"}, "names 'b'"),
    "no title": (Score, {"value": 1.0}, "no title"),
    "cells": (TableView, {"names": ["a"], "columns": {"c": [1, 2]}}, "2 cells under 'c' for 1 rows"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused_in_a_sentence(case: str) -> None:
    kind, options, words = WRONG[case]
    with pytest.raises(InputError) as refused:
        kind(caption=CAPTION, **options)
    assert words in str(refused.value)
    assert kind.__name__ in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_tensor_that_is_learnt_is_taken() -> None:
    view = Bars(caption=CAPTION, names=["a"], panels={"p": torch.ones(1, requires_grad=True)}, label="")
    assert view.panels["p"].tolist() == [1.0]
    images = ImageGrid(caption=CAPTION, rows={"a": torch.rand(2, 1, 4, 5)}, image_shape=(4, 5, 1))
    assert images.rows["a"].shape == (2, 4, 5)


# What is drawn is read back from the axes.


def test_intervals_end_where_they_end() -> None:
    ends = np.array([[0.0, 1.0, 3.0], [np.nan, 2.0, 2.5]])
    figure = draw(
        Intervals(caption=CAPTION, names=["a", "b"], answers={"svi": ends, "nuts": ends + 1}, label="m")
    )
    (axes,) = figure.axes
    across = [
        [np.reshape(line, (-1, 2))[:, 0].tolist() for line in c.get_segments()] for c in axes.collections
    ]
    # An interval of which an end is missing is not drawn; its value is.
    assert [[line for line in lines if len(line)] for lines in across] == [[[0.0, 3.0]], [[1.0, 4.0]]]
    assert [line.get_xdata().tolist() for line in axes.get_lines()] == [[1.0, 2.0], [2.0, 3.0]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["guide", "NUTS"]
    assert axes.get_xlabel() == "m"


def test_a_matrix_has_its_numbers_where_there_is_room() -> None:
    names = ["ann", "bob"]
    shares = Matrix(
        caption=CAPTION, values=[[np.nan, 0.82], [0.18, np.nan]], row_names=names, column_names=names,
        limits=(0, 1), percent=True,
    )  # fmt: skip
    (axes,) = draw(shares).axes
    written = {(text.get_position(), text.get_text()) for text in axes.texts}
    assert written == {((1, 0), "82"), ((0, 1), "18")}
    wide = Matrix(caption=CAPTION, values=np.eye(30), row_names=range(30), column_names=range(30))
    axes, bar = draw(wide).axes
    assert not axes.texts
    assert axes.images[0].get_clim() == (-1, 1)
    assert bar.get_ylim() == (-1, 1)


def test_points_stand_where_they_are_and_groups_past_the_last_are_counted() -> None:
    groups = {str(k): np.array([[k, 2.0 * k]]) for k in range(30)}
    figure = draw(Scatter(caption=CAPTION, groups=groups, x_label="x", y_label="y", legend="class"))
    (axes,) = figure.axes
    assert [(*line.get_xdata(), *line.get_ydata()) for line in axes.get_lines()] == [
        (k, 2 * k) for k in range(30)
    ]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [*map(str, range(19)), "11 more"]
    assert figure.legends[0].get_title().get_text() == "class"


def test_images_stand_in_their_rows() -> None:
    images = np.linspace(0, 1, 12).reshape(2, 6)
    name = "interpolation of the first two (decoder's mean)"
    rows = {name: images, "b": np.tile(images[:1] + 0.5, (40, 1))}
    figure = draw(ImageGrid(caption=CAPTION, rows=rows, image_shape=(2, 3)))
    assert [strip.texts[0].get_text() for strip in figure.subfigs] == [name, "b (the first 12 of 40)"]
    shown = [
        np.asarray(axes.images[0].get_array())
        for axes in figure.findobj(match=type(figure.axes[0]))
        if axes.images
    ]
    np.testing.assert_array_equal(shown[1], images[1].reshape(2, 3))
    np.testing.assert_array_equal(shown[2], images[0].reshape(2, 3) + 0.5)


def test_contours_lie_at_their_levels() -> None:
    x = np.linspace(-3, 3, 121)
    heights = np.exp(-0.5 * (x[:, None] ** 2 + x**2 / 0.25))
    figure = draw(
        Contours(caption=CAPTION, x=x, y=x, layers={"guide": heights}, levels={"guide": [np.exp(-0.5), 2.0]},
                 x_label="x", y_label="y", marks={"guide": (0.0, 0.0)})
    )  # fmt: skip
    (axes,) = figure.axes
    (path,) = [path for each in axes.collections for path in each.get_paths() if len(path.vertices)]
    # The grid's step is 0.05: interpolation is far closer.
    np.testing.assert_allclose(path.vertices.max(0), [1.0, 0.5], atol=0.01)
    assert axes.get_lines()[0].get_xydata().tolist() == [[0, 0]]


def test_scores_stand_in_one_table_and_captions_under_their_pictures() -> None:
    found = views_part(
        [
            Score(caption="Low is good.", title="Brier score", value=0.12345, std_error=0.0021),
            TableView(caption=CAPTION, title="Counts", names=["a"], columns={"n": [3]}, row_label="group"),
            Bars(caption=CAPTION, title="Sizes", names=["a"], panels={"": [1.0]}, label="m"),
            Score(caption="High is good.", title="IoU", value=math.nan, unit="%"),
        ]
    )
    scores, counts = found.tables
    brier, iou = ("Brier score", ["0.1235 ± 0.0021", "Low is good."]), ("IoU", ["– %", "High is good."])
    assert scores.rows == [brier, iou]
    assert counts.caption == f"Counts: {CAPTION}"
    assert (counts.columns, counts.rows) == (["group", "n"], [("a", ["3"])])
    assert [picture.caption for picture in found.pictures] == [f"Sizes: {CAPTION}"]
    assert not views_part([])
