"""The figures of a report say what they show, and are legible on a phone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from scipy.stats import norm

from ppl_vae.answers.posterior import Posterior
from ppl_vae.inference.fitting.stopping import Stopping
from ppl_vae.inference.fitting.stopping import TailCheck as Look
from ppl_vae.report.figures.calibration import calibration_panels
from ppl_vae.report.figures.common import densities, evidence_gap, forest
from ppl_vae.report.figures.evidence import evidence_curves, worst_images
from ppl_vae.report.figures.pair import MASSES, pair_plot, pairs_to_show
from ppl_vae.report.figures.stopping import Marks, stopping_curve
from ppl_vae.report.parts.fit import fit_part
from ppl_vae.report.style import wrapped
from tests.report.made import answer, calibration, evidence


def test_a_forest_puts_the_reference_at_zero_and_one(oracles: ModuleType) -> None:
    answers = {"svi": answer([0.5, 3.0]), "nuts": answer([1.0, 1.5], method="nuts", seed=1)}
    names = list(answers["svi"].scalars())
    (axes,) = forest(answers, names, "nuts").axes
    bars = [
        np.array(each.get_segments())[:, :, 0] for each in axes.collections if hasattr(each, "get_segments")
    ]
    widths = [np.diff(each, axis=1).ravel() / (2 * norm.ppf(0.975)) for each in bars]
    # The error of a 2.5 % quantile of 4000 normal draws is 0.042 sd.
    close = oracles.z_limit(8) * 0.042 / 1.96
    np.testing.assert_allclose(widths[0], [0.5, 2.0], rtol=close)
    np.testing.assert_allclose(widths[1], [1.0, 1.0], rtol=close)
    dots = [line for line in axes.get_lines() if line.get_marker() == "s"]
    np.testing.assert_allclose(dots[0].get_xdata(), 0.0, atol=1e-12)


def test_contours_hold_the_mass_they_say(oracles: ModuleType) -> None:
    own, truth = answer([1.0, 2.0], 0.7), answer([1.0, 2.0], 0.7, "nuts", seed=1)
    names = list(own.scalars())
    figure = pair_plot(own, truth, names, ("svi", "nuts"))
    panel = next(axes for axes in figure.axes if len(axes.collections))
    draws = np.stack([own.scalars()[name].ravel() for name in names], axis=1)
    outer, inner = (path.contains_points(draws).mean() for path in panel.collections[-1].get_paths())
    # The level is a quantile over 1000 draws, and the density estimate is a little too wide.
    assert outer == pytest.approx(MASSES[1], abs=oracles.z_limit(2) * np.sqrt(0.09 / 1000) + 0.02)
    assert inner == pytest.approx(MASSES[0], abs=oracles.z_limit(2) * np.sqrt(0.25 / 1000) + 0.04)


def test_the_pair_with_the_lost_correlation_is_shown() -> None:
    own = answer([0.7, 1, 1, 1, 1], 0.0)
    truth = answer([1, 1, 1, 1, 1], 0.9, "nuts", seed=1)
    names = list(own.scalars())
    assert pairs_to_show(own, truth, names, most=2) == names[:2]
    assert pairs_to_show(own, truth, [names[0], *names[:0:-1]], most=2) == names[:2]
    assert pairs_to_show(own, truth, names[:1]) == []
    same = Posterior(truth.draws.assign(twice=-2 * truth.draws["skill"][..., 0]), "nuts", "independent")
    assert pairs_to_show(same, same, [names[0], "twice"]) == []
    assert pairs_to_show(same, same, [names[0], "twice", names[2]]) == [names[0], names[2]]


def test_divergences_are_marked_where_they_are() -> None:
    truth = answer([1.0, 1.0], method="nuts")
    flags = np.zeros((1, 4000), dtype=bool)
    flags[0, [5, 17]] = True
    truth = Posterior(
        truth.draws, "nuts", "chains", stats=xr.Dataset({"diverging": (("chain", "draw"), flags)})
    )
    names = list(truth.scalars())
    figure = pair_plot(answer([1.0, 1.0]), truth, names, ("svi", "nuts"))
    crosses = [line for axes in figure.axes for line in axes.get_lines() if line.get_marker() == "x"]
    np.testing.assert_array_equal(crosses[0].get_xdata(), truth.scalars()[names[0]][0, [5, 17]])


def stopping() -> Stopping:
    looks = [
        Look(100, 0, 0.1, 4.0, -3.2, 0.1, float("inf"), 0.0, "go on"),
        Look(200, 0, 0.1, 1.05, -3.1, 0.1, float("inf"), 0.0, "lower"),
        Look(300, 1, 0.03, 1.02, -3.0, 0.1, 0.003, 0.001, "stop"),
    ]
    return Stopping(tuple(looks), 300, True, "stopped", 0.003, 0.001, 0.01, 50.0, 0.05, "training data")


def test_the_stopping_decision_is_where_it_was_made() -> None:
    elbo = -3 - np.exp(-np.arange(300) / 40) + 0.1 * np.random.default_rng(0).normal(size=300)
    part = fit_part(["text"], elbo, np.zeros((0, 2)), 1, stopping=stopping())
    (picture,) = part.pictures
    upper, lower = picture.figure.axes
    verticals = {
        line.get_linestyle(): line.get_xdata()[0]
        for line in upper.get_lines()
        if len(set(line.get_xdata())) == 1
    }
    assert verticals == {":": 200, "-": 300}
    looks = next(line for line in lower.get_lines() if line.get_marker() == "D")
    np.testing.assert_array_equal(looks.get_xdata(), [100, 200, 300])
    np.testing.assert_array_equal(looks.get_ydata(), [4.0, 1.05, 1.02])
    assert "after step 300" in picture.caption
    assert "gain 0.003 nats" in picture.caption
    plain = fit_part([], elbo, np.zeros((0, 2)), 1).pictures[0]
    assert len(plain.figure.axes) == 1
    assert "rule" not in plain.caption


def figures() -> dict[str, Figure]:
    """Every figure of the report, with the longest names that data sets have."""
    generator = np.random.default_rng(0)
    teams = ["Milwaukee", "Toronto", "New York", "Boston", "Detroit", "Cleveland", "Baltimore"]
    pairs = [f"difference[{a} − {b}]" for a, b in itertools.combinations(teams, 2)][:12]
    draws = xr.Dataset({name: (("chain", "draw"), generator.normal(size=(1, 400))) for name in pairs})
    answers = {
        name: Posterior(draws + 0.1 * k, name, "independent") for k, name in enumerate(("svi", "nuts"))
    }
    elbo = -3 - np.exp(-np.arange(400) / 40) + 0.1 * generator.normal(size=400)
    held_out = np.array([[100, -3.3], [200, -3.2], [400, -3.1]])
    return {
        "densities": densities(answers, pairs[:6]),
        "forest": forest(answers, pairs, "nuts"),
        "pairs": pair_plot(answers["svi"], answers["nuts"], pairs[:3], ("svi", "nuts")),
        "worst": worst_images(generator.random((8, 64)), [f"{k * 100}: −123.4" for k in range(8)], (8, 8)),
        "elbo": stopping_curve(elbo, held_out, 1, marks=Marks.of(stopping())),
        "evidence": evidence_curves({name: evidence(name) for name in ("is", "ais", "prior", "bridge")}),
        "gap": evidence_gap(evidence()),
        "calibration": calibration_panels(calibration()),
    }


@pytest.fixture(scope="module")
def drawn() -> dict[str, Figure]:
    return figures()


FIGURES = (
    "densities", "forest", "pairs", "worst", "elbo", "evidence", "gap", "calibration",
)  # fmt: skip


@pytest.mark.parametrize("name", FIGURES)
def test_every_text_is_legible_on_a_phone_and_inside_its_figure(
    name: str, drawn: dict[str, Figure], legible: Callable[[Figure], None]
) -> None:
    legible(drawn[name])


def test_long_names_are_parted_at_their_bracket() -> None:
    assert wrapped("difference[Toronto − New York]", 20, 3) == "difference\n[Toronto − New York]"
    assert wrapped("z[0, 1]", 20) == "z[0, 1]"
    assert wrapped("a$b$", 20) == r"a\$b\$"
    assert wrapped("x" * 50, 10, 2) == "x" * 10 + "\n" + "x" * 9 + "…"
