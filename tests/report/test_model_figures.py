"""Figures of predictive checks, collapse, skills and loadings, read back from the axes."""

from dataclasses import replace
from types import ModuleType

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure
from sklearn import datasets
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.data import Rows
from ppl_vae.diagnostics.latents.collapse import Collapse
from ppl_vae.diagnostics.prediction.predictive import Predictive, predictive_check
from ppl_vae.guides import LinearNormal, Prior
from ppl_vae.guides.means import means_view
from ppl_vae.models import PPCA, VAE, TrueSkill
from ppl_vae.models.axes import axes_views, principal_axes
from ppl_vae.program.pair import Pair
from ppl_vae.program.shown import ViewContext, views_of
from ppl_vae.report.figures.collapse import collapse_bars
from ppl_vae.report.figures.predictive import predictive_figures, predictive_profile, statistic_histograms
from ppl_vae.report.figures.views import draw
from ppl_vae.report.style import SMALL


def _legible(figure: Figure) -> None:
    """No text is smaller than the smallest that a phone keeps legible."""
    figure.canvas.draw()
    texts = [
        text for axes in figure.axes for text in axes.findobj(match=lambda one: hasattr(one, "get_fontsize"))
    ]
    assert min(text.get_fontsize() for text in texts if text.get_text()) >= SMALL


@pytest.fixture(scope="module")
def images() -> tuple[Predictive, np.ndarray]:
    x = torch.as_tensor(datasets.load_digits().data[:200] > 8, dtype=torch.float32)
    torch.manual_seed(0)
    model = VAE(64, 2, hidden=(8,))
    return predictive_check(Pair(model, model.encoder_guide()), x, num_draws=50), x.numpy()


def test_the_datas_statistic_stands_among_the_replicated_ones(images: tuple[Predictive, np.ndarray]) -> None:
    found, _ = images
    figure = statistic_histograms(found, max_panels=5)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == 5
    for panel, (_, row) in zip(panels, found.table.iterrows(), strict=False):
        (line,) = panel.get_lines()
        assert line.get_xdata()[0] == row["observed"]
        assert sum(patch.get_height() for patch in panel.patches) == 50
    _legible(figure)


@pytest.mark.parametrize("observed", [0.0, 0.25, -7.0])
def test_one_value_in_every_replicate_is_a_thin_bar(
    images: tuple[Predictive, np.ndarray], observed: float
) -> None:
    found = replace(images[0], table=images[0].table.head(1).assign(observed=observed))
    site, statistic = found.table[["site", "statistic"]].iloc[0]
    constant = found.replicates.copy(deep=True)
    constant[site].loc[{f"{site}_statistic": statistic}] = 0.0
    (panel,) = statistic_histograms(replace(found, replicates=constant)).axes
    (bar,), (low, high) = panel.patches, panel.get_xlim()
    assert bar.get_x() < 0 < bar.get_x() + bar.get_width() < 0.1 * (high - low)
    assert low < min(observed, 0) <= max(observed, 0) < high


def test_images_are_shown_beside_their_replicates(images: tuple[Predictive, np.ndarray]) -> None:
    found, x = images
    _, (figure, kind), (ones, _) = ((each.figure, each.kind) for each in predictive_figures(found, (8, 8)))
    assert kind == "images"
    shown = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    np.testing.assert_allclose(shown[0], x.mean(0).reshape(8, 8), atol=1e-6)
    np.testing.assert_allclose(shown[1], found.profiles["x"]["replicated"].to_numpy().reshape(8, 8))
    # The untrained decoder lights half of all pixels: margins are far too bright in its replicates.
    assert shown[2][0, 0] < -3
    _legible(figure)
    assert not any(axes.images for axes in ones.axes)
    assert [each.kind for each in predictive_figures(found)] == ["chart", "chart"]


def test_counts_hang_from_what_the_model_expects() -> None:
    def model(x: Tensor) -> None:
        rate = pyro.sample("rate", dist.Gamma(torch.tensor(500.0), 250.0))
        with pyro.plate("data", len(x)) as i:
            pyro.sample("x", dist.Poisson(rate), obs=x[i])

    x = torch.tensor([0.0] * 20 + [1] * 30 + [2] * 25 + [4] * 9 + [7])
    found = predictive_check(Pair(model, Prior(model)), x)
    statistics, profile = predictive_figures(found)
    assert "line outside the bars" in statistics.caption
    figure, rootogram = statistics.figure, profile.figure
    (axes,) = rootogram.axes
    heights = [bar.get_height() for bar in axes.containers[0].patches]
    np.testing.assert_allclose(heights[:5], np.sqrt([20, 30, 25, 0, 9]))
    tops = [bar.get_y() + bar.get_height() for bar in axes.containers[0].patches]
    np.testing.assert_allclose(tops, axes.get_lines()[0].get_ydata())
    _legible(rootogram)
    _legible(figure)


def test_real_data_show_the_features_that_fit_worst() -> None:
    x = datasets.load_wine().data
    # The noise keeps rounded values off the edges of the bins.
    noise = np.random.default_rng(0).normal(0, 1e-3, x.shape)
    x = torch.as_tensor((x - x.mean(0)) / x.std(0) + noise)
    model = PPCA(13, 2).set_maximum_likelihood(x)
    names = datasets.load_wine().feature_names
    pair = Pair(model, LinearNormal(13, 2, dtype=torch.float64))
    found = predictive_check(pair, x, feature_names=names, num_draws=50)
    figure = predictive_profile(found, "x", max_panels=3)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    worst = list(
        dict.fromkeys(s.split(" of ")[1] for s in found.table["statistic"] if s.endswith(tuple(names)))
    )
    assert [axes.get_title().replace("\n", " ") for axes in panels] == worst[:3]
    own = panels[0].patches[-1].get_data()
    assert own.values.sum() == 178
    column = x[:, names.index(worst[0])]
    # The outer bins are open and hold nothing of the data here.
    counts, _ = np.histogram(column, own.edges)
    np.testing.assert_array_equal(counts, own.values)
    _legible(figure)


def test_wins_stand_in_their_intervals(oracles: ModuleType) -> None:
    games = oracles.won([[0, 1]] * 12 + [[1, 0]] * 5 + [[2, 0]] * 7)
    model = TrueSkill(3, players=("a", "b", "c"))
    figure = predictive_profile(predictive_check(Pair(model, Prior(model)), *games), "win")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "c", "b"]
    assert axes.get_lines()[0].get_xdata().tolist() == [12, 7, 5]
    _legible(figure)


def test_dimensions_that_are_off_look_off() -> None:
    table = pd.DataFrame(
        {
            "component": [f"z[{k}]" for k in (1, 2, 3)],
            "kl": [0.0, 1.2, 0.4],
            "kl_std_error": 0.0,
            "variance_of_means": [0.0, 0.9, 0.3],
            "mean_variance": [1.0, 0.1, 0.7],
            "active": [False, True, True],
        }
    )
    figure = collapse_bars(Collapse(table, 1.6, 1.0, 0.1, 50, True))
    bars, means = figure.axes
    assert [patch.get_width() for patch in bars.patches] == [1.2, 0.4, 0.0]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["z[2]", "z[3]", "z[1]"]
    on, off, limit = means.get_lines()
    assert on.get_xdata().tolist() == [0.9, 0.3]
    assert off.get_xdata()[0] < limit.get_xdata()[0] == 0.01
    _legible(figure)


# Models ------------------------------------------------------------------------------------------


def test_the_planes_posterior_has_the_exact_moments(oracles: ModuleType) -> None:
    """The 50 % and 90 % contours of a correlated posterior enclose the skills' exact means symmetrically."""
    model = TrueSkill(2, link="logistic", players=("Ann", "Bob"))
    games = oracles.won([[0, 1]] * 7 + [[1, 0]] * 2)
    truth = oracles.skills([tuple(g) for g in games[1].tolist()], 2, oracles.logistic, 0.0, 1.0)
    # Four draws of mean (0.4, −0.4) and covariance diag(0.4, 0.2).
    own, scale = np.array([0.4, -0.4]), np.sqrt([0.4 * 0.75, 0.2 * 0.75])
    draws = own + scale * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    skill = xr.Dataset({"skill": (("chain", "draw", "player"), draws[None])})
    context = ViewContext(Pair(model, Prior(model)), games, games, {"svi": skill})
    board, wins, plane = model.views(context)
    assert board.names == ["Ann", "Bob"]
    np.testing.assert_allclose(board.answers["svi"][:, 1], own)
    np.testing.assert_allclose(np.ptp(board.answers["svi"], axis=1), 4 * np.sqrt([0.4, 0.2]))
    chance = np.exp([oracles.logistic(a - b) for a, b in draws]).mean()
    np.testing.assert_allclose(wins.values, [[np.nan, chance], [1 - chance, np.nan]])
    figure = draw(plane)
    (axes,) = figure.axes
    prior, likelihood, posterior, guide = [one for one in axes.collections if not one.get_fill()][-4:]
    outer = posterior.get_paths()[0].vertices
    middle = 0.5 * (outer.max(0) + outer.min(0))
    np.testing.assert_allclose(middle, truth.mean, atol=0.12)
    # The ridge: the outer contour is longer along the diagonal than across it.
    assert np.ptp(outer @ [1, 1]) > 1.5 * np.ptp(outer @ [1, -1])
    radius = np.sqrt(-2 * np.log(0.1))
    ring = guide.get_paths()[0].vertices
    np.testing.assert_allclose(ring.max(0), own + radius * np.sqrt([0.4, 0.2]), rtol=1e-2)
    np.testing.assert_allclose(prior.get_paths()[0].vertices.max(0), [radius, radius], rtol=1e-2)
    ridge = likelihood.get_paths()[0].vertices @ [1, -1]
    heights, top = (7 * oracles.logistic(d) + 2 * oracles.logistic(-d) for d in (ridge, np.log(7 / 2)))
    np.testing.assert_allclose(heights - top, np.log(0.1), atol=0.02)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("skill of Ann", "skill of Bob")
    _legible(figure)


def test_principal_axes_do_not_depend_on_the_rotation(oracles: ModuleType) -> None:
    weights = np.random.default_rng(0).normal(size=(6, 2))
    axes = principal_axes(weights)
    np.testing.assert_allclose(axes @ axes.T, weights @ weights.T, atol=1e-12)
    product = axes.T @ axes
    assert abs(product[0, 1]) < 1e-12
    assert product[0, 0] > product[1, 1]
    np.testing.assert_allclose(principal_axes(-weights @ oracles.rotation(70.0).numpy()), axes, atol=1e-6)


def test_loadings_are_bars_or_a_matrix() -> None:
    weights = np.random.default_rng(1).normal(size=(5, 2))
    axes = principal_axes(weights)
    x = torch.as_tensor(np.random.default_rng(2).normal(size=(60, 50)))
    bars, _ = axes_views(weights, 0.1, x[:, :5], list("abcde"), "the model's")
    order = np.argsort(-axes[:, 0])
    assert list(bars.names) == [list("abcde")[k] for k in order]
    np.testing.assert_allclose(np.stack(list(bars.panels.values()), axis=1), axes[order])
    figure = draw(bars)
    for column, panel in enumerate(figure.axes):
        np.testing.assert_allclose([bar.get_width() for bar in panel.patches], axes[order, column])
    _legible(figure)
    matrix, _ = axes_views(np.random.default_rng(1).normal(size=(50, 3)), 0.1, x, (), "the model's")
    assert matrix.values.shape == (30, 3)
    assert (np.diff(matrix.values[:, 0]) < 0).all()
    _legible(draw(matrix))


def test_the_scree_plot_marks_what_is_kept_and_the_noise() -> None:
    # Orthogonal columns, whose 1/N covariance is diagonal.
    columns = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])[:, 1:]
    x = torch.as_tensor(np.tile(columns, (2, 1)) * np.sqrt([0.3, 4.0, 2.0]))
    _, scree = axes_views(np.eye(3)[:, :2], 0.2, x, (), "the model's")
    figure = draw(scree)
    _, kept, left, noise = figure.axes[0].get_lines()
    np.testing.assert_allclose(kept.get_ydata(), [4.0, 2.0])
    np.testing.assert_allclose(left.get_ydata(), [0.3])
    assert noise.get_ydata()[0] == 0.2
    assert kept.get_label() == "kept (95% of the variance)"
    _legible(figure)


def test_the_plane_shows_the_components_that_vary_most() -> None:
    points = np.random.default_rng(0).normal(size=(200, 12)) * ([0.01] * 9 + [1, 0.01, 2])
    model = VAE(4, 2)
    context = ViewContext(Pair(model, model.encoder_guide()), (), (), part="test")
    plane = means_view(dist.Normal(torch.as_tensor(points), 1.0).to_event(1), context)
    assert (plane.x_label, plane.y_label) == ("E[z₁₂ | x]", "E[z₁₀ | x]")
    np.testing.assert_array_equal(plane.groups[""], points[:, [11, 9]])
    assert "test rows" in plane.caption
    rows = Rows("r", np.eye(3), ("a", "b", "c"), "real", labels=np.array([7, 2, 7])).dataset
    labelled = ViewContext(context.pair, (), (), dataset=rows)
    plane = means_view(dist.Normal(torch.as_tensor(points[:3, :1]), 1.0).to_event(1), labelled)
    assert {name: found.tolist() for name, found in plane.groups.items()} == {
        "2": [[points[1, 0], 0]], "7": [[points[0, 0], 0], [points[2, 0], 0]],
    }  # fmt: skip


def test_images_come_with_reconstructions_and_samples() -> None:
    x = (datasets.load_digits().data[:12] > 8).astype(np.float32)
    rows = Rows("digits", x, tuple(map(str, range(64))), "binary", image_shape=(8, 8))
    model = VAE(64, 2, hidden=(8,))
    guide = model.encoder_guide()
    data = (torch.as_tensor(x),)
    context = ViewContext(Pair(model, guide), data, data, part="test", dataset=rows.dataset)
    grid, plane = views_of(context, seed=3)
    own, again, mean, drawn, line = grid.rows.values()
    assert next(iter(grid.rows)) == "test data"
    np.testing.assert_array_equal(own, x[:8].reshape(8, 8, 8))
    exact = model.decode(guide.encode(data[0][:8]).mean).detach().numpy().reshape(8, 8, 8)
    np.testing.assert_allclose(again, exact, rtol=1e-6)
    np.testing.assert_allclose(line[[0, -1]], exact[:2], rtol=1e-5)
    assert set(np.unique(drawn)) <= {0, 1}
    same, _ = views_of(context, seed=3)
    np.testing.assert_array_equal(mean, same.rows["sample from the prior (decoder's mean)"])
    assert plane.groups[""].shape == (12, 2)
    without = ViewContext(Pair(model, guide), data, data)
    assert [type(view).__name__ for view in views_of(without)] == ["Scatter"]
    model.views = lambda context: ["a picture"]
    with pytest.raises(InputError, match="the views of the model hold a str"):
        views_of(context)
