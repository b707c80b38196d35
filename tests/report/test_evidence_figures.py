"""Figures of log p(x) show what they should: read back from the axes, not from the picture."""

from dataclasses import replace

import numpy as np

from ppl_vae.answers.evidence import Evidence
from ppl_vae.report.figures.evidence import evidence_curves, worst_images


def _evidence(method: str = "is", mean: float = -3.0, ess: float = 900.0, units: int = 5) -> Evidence:
    values = mean + np.linspace(-1, 1, units)
    error = np.full(units, 0.1)
    sizes = 2.0 ** np.arange(1, 8)
    curve = np.column_stack([sizes, mean - 1 / sizes, 0.5 / np.sqrt(sizes)])
    return Evidence(
        values, method, "datum", "estimate", error, -(error**2) / 2, ess=np.full(units, ess),
        num_samples=200, curve=curve,
    )  # fmt: skip


def _exact(units: int = 5) -> Evidence:
    values = -3 + np.linspace(-1, 1, units)
    return Evidence(values, "exact", "datum", "exact", np.zeros(units), np.zeros(units))


def test_every_estimate_has_its_curve_and_its_end_and_the_exact_value_its_line() -> None:
    (axes,) = evidence_curves({"exact": _exact(), "is": _evidence()}).axes
    line, curve = axes.get_lines()
    assert set(line.get_ydata()) == {-3.0}
    np.testing.assert_allclose(curve.get_xdata(), [*(2.0 ** np.arange(1, 8)), 200])
    np.testing.assert_allclose(curve.get_ydata()[-1], -3.0)
    band = axes.collections[0].get_paths()[0].vertices
    low, high = band[band[:, 0] == 2][:, 1].min(), band[band[:, 0] == 2][:, 1].max()
    np.testing.assert_allclose([low, high], -3.5 + np.array([-1, 1]) * 2 * 0.5 / np.sqrt(2))


def test_means_of_other_units_are_left_out() -> None:
    other = replace(_evidence("ais"), index=np.arange(5) + 100)
    (legend,) = evidence_curves({"exact": _exact(), "is": _evidence(), "ais": other}).legends
    assert [text.get_text() for text in legend.get_texts()] == ["exact", "importance sampling"]


def test_a_hopeless_proposal_does_not_flatten_the_others() -> None:
    prior = _evidence("prior", mean=-900.0, ess=1.5)
    (axes,) = evidence_curves({"is": _evidence(), "prior": prior}).axes
    low, high = axes.get_ylim()
    assert low > -20
    assert high > -3


def test_images_are_shown_with_their_captions() -> None:
    images = np.random.default_rng(0).random((10, 12))
    figure = worst_images(images, [f"row {k}" for k in range(10)], (3, 4))
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == [f"row {k}" for k in range(10)]
    np.testing.assert_allclose(shown[3].images[0].get_array(), images[3].reshape(3, 4))
