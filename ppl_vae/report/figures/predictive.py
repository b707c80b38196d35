"""Figures of posterior predictive checks: the data among their replicates, by the kind of data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ppl_vae.diagnostics.prediction.predictive import Predictive
from ppl_vae.report.page import Picture
from ppl_vae.report.style import COLOURS, SMALL, TEXT, WIDTH, blank, panels, wrapped

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["mean_images", "predictive_figures", "predictive_profile", "statistic_histograms"]

DATA, REPLICATED = COLOURS["svi"], COLOURS["nuts"]
IMAGES = (
    "Mean image of the data, of replicated data, and their difference in standard deviations of the "
    "replicates: a pattern in the third picture is something that the model misses."
)


def predictive_figures(predictive: Predictive, image_shape: tuple[int, ...] | None = None) -> list[Picture]:
    """Every figure of a check with the sentence that belongs under it.

    Args:
        predictive: the check.
        image_shape: (height, width) or (height, width, 3) where the features are pixels.
    """
    caption = (
        "Test statistics of the data (line) among those of data replicated from the model (bars), the most "
        "surprising first: a line outside the bars is something that the model cannot reproduce."
    )
    found = [Picture(statistic_histograms(predictive), caption)]
    for site, kind in predictive.kinds.items():
        pixels = 0 if image_shape is None else int(np.prod(image_shape))
        if (
            image_shape is not None
            and kind == "binary"
            and predictive.profiles[site].sizes["feature"] == pixels
        ):
            found.append(Picture(mean_images(predictive.profiles[site], image_shape), IMAGES, "images"))
        found.append(Picture(predictive_profile(predictive, site), _caption(predictive, site)))
    return found


def statistic_histograms(predictive: Predictive, max_panels: int = 6) -> Figure:
    """Replicated values of the most surprising statistics, the data's own value marked."""
    rows = predictive.table.head(max_panels)
    figure, grid = _grid(len(rows), 1.5)
    for panel, (_, row) in zip(grid, rows.iterrows(), strict=False):
        values = predictive.values(row)
        low, high, own = float(values.min()), float(values.max()), float(row["observed"])
        if high - low <= 1e-9 * max(abs(low), abs(high)):
            # One value in all replicates is a thin bar, with room for the data's beside it.
            room = abs(own - low) or abs(low) or 1.0
            bins = [low - 0.02 * room, high + 0.02 * room]
            panel.set_xlim(min(low, own) - 0.3 * room, max(high, own) + 0.3 * room)
        else:
            bins = _bins(values, low, high)
        panel.hist(values, bins=bins, color=REPLICATED, alpha=0.75, label="replicated")
        panel.axvline(own, color=DATA, linewidth=2.5, label="data")
        site = f", {row['site']}" if len(predictive.kinds) > 1 else ""
        panel.set_title(wrapped(f"{row['statistic']}{site}", 24), fontsize=TEXT)
        panel.set_xlabel(f"p = {_p(row['p_value'])} (adjusted {_p(row['p_adjusted'])})", fontsize=SMALL)
        panel.set_yticks([])
        panel.locator_params(axis="x", nbins=4)
        panel.spines["left"].set_visible(False)
    _legend(figure, grid[0])
    return figure


def predictive_profile(predictive: Predictive, site: str, max_panels: int = 4) -> Figure:
    """The data of one site beside its replicates, in the form that suits its kind.

    Real data: histograms of the features that fit worst. Counts: a hanging rootogram (Kleiber and Zeileis
    2016). Binary data: ones a row. Categories: their shares. Others: the levels that their model shows.
    """
    profile = predictive.profiles[site]
    kind = predictive.kinds[site]
    if kind == "real":
        return _densities(profile, _worst_panels(predictive, site, max_panels))
    if kind == "counts":
        return _rootogram(profile)
    if "label" in profile.attrs or kind == "categories":
        return _intervals(profile, profile.attrs.get("label", "share"))
    if profile.sizes["feature"] > 1:
        return _ones(profile)
    return _intervals(profile, "share of ones")


def _caption(predictive: Predictive, site: str) -> str:
    kind, profile = predictive.kinds[site], predictive.profiles[site]
    if kind == "real":
        return (
            "The features whose statistics are most surprising: the data's histogram (line) should run "
            "inside the band that holds 95 % of the replicated ones."
        )
    if kind == "counts":
        return (
            "Square roots of the counts' frequencies, the data's bars hung from what the model expects: bars "
            "should end near zero, within the band of 95 % of the replicates."
        )
    if "caption" in profile.attrs:
        return str(profile.attrs["caption"])
    if kind == "categories":
        return "Share of each category (diamonds) and central 95 % of the shares in replicated data."
    if profile.sizes["feature"] > 1:
        return "How many ones a row has: the data's line should run inside the band of the replicates."
    return "Share of ones in the data (diamond) and central 95 % of the shares in replicated data."


def _worst_panels(predictive: Predictive, site: str, max_panels: int) -> list[int]:
    """Panels in the order in which their features first come up in the table."""
    labels = [str(label) for label in predictive.profiles[site]["panel"].to_numpy()]
    order: list[int] = []
    for statistic in predictive.table.loc[predictive.table["site"] == site, "statistic"]:
        for place, label in enumerate(labels):
            if place not in order and str(statistic).endswith(f" of {label}"):
                order.append(place)
    order += [place for place in range(len(labels)) if place not in order]
    return order[:max_panels]


def _densities(profile: xr.Dataset, chosen: list[int]) -> Figure:
    figure, grid = _grid(len(chosen), 1.7)
    for panel, place in zip(grid, chosen, strict=False):
        one = profile.isel(panel=place)
        edges = np.append(one["lower"].to_numpy(), one["upper"].to_numpy()[-1])
        low, middle, high = (
            one["replicated_frequency"].sel(quantile=q).to_numpy() for q in (0.025, 0.5, 0.975)
        )
        panel.stairs(
            high, edges, baseline=low, fill=True, color=REPLICATED, alpha=0.3, label="replicated, 95 %"
        )
        panel.stairs(middle, edges, color=REPLICATED, linewidth=1)
        panel.stairs(one["frequency"].to_numpy(), edges, color=DATA, linewidth=2, label="data")
        label = str(one["panel"].to_numpy())
        panel.set_title("all features together" if label == "all" else wrapped(label, 24), fontsize=TEXT)
        panel.set_ylabel("rows" if label != "all" else "values")
        panel.locator_params(nbins=4)
    _legend(figure, grid[0])
    return figure


def _rootogram(profile: xr.Dataset) -> Figure:
    figure, axes = blank(2.6)
    one = profile.isel(panel=0)
    centre = 0.5 * (one["lower"] + one["upper"]).to_numpy()
    width = float(one["upper"][0] - one["lower"][0])
    low, middle, high = (
        np.sqrt(one["replicated_frequency"].sel(quantile=q).to_numpy()) for q in (0.025, 0.5, 0.975)
    )
    own = np.sqrt(one["frequency"].to_numpy())
    axes.bar(centre, own, 0.8 * width, bottom=middle - own, color=DATA, alpha=0.6, label="data, hanging")
    axes.plot(centre, middle, "o-", ms=4, color=REPLICATED, label="model")
    # Where a bar's foot should be: the model's middle less the data's root stays within these.
    axes.fill_between(centre, middle - high, middle - low, color="0.6", alpha=0.4, label="95 %", step="mid")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="count (the last bin is open)", ylabel="√ frequency")
    axes.legend(frameon=False, fontsize=TEXT)
    return figure


def mean_images(profile: xr.Dataset, image_shape: tuple[int, ...]) -> Figure:
    """The pixels' means in data and replicates, and their difference."""
    figure, grid = panels(1, 3, 0.9 + WIDTH / 3 * image_shape[0] / image_shape[1])
    own, other = profile["observed"].to_numpy(), profile["replicated"].to_numpy()
    for panel, title, values in zip(grid, ("data", "replicates"), (own, other), strict=False):
        panel.imshow(values.reshape(image_shape), cmap="gray_r", vmin=0, vmax=1)
        panel.set_title(f"mean of\n{title}", fontsize=TEXT)
    # A pixel that no replicate lights has no spread; one row more or less is its resolution.
    spread = np.maximum(profile["replicated_sd"].to_numpy(), 1 / int(profile.attrs["rows"]))
    away = ((own - other) / spread).reshape(image_shape)
    away = away.mean(-1) if len(image_shape) == 3 else away
    limit = max(3.0, float(np.abs(away).max()))
    shown = grid[2].imshow(away, cmap="PuOr", vmin=-limit, vmax=limit)
    grid[2].set_title("difference,\nin sd", fontsize=TEXT)
    bar = figure.colorbar(shown, ax=grid, location="bottom", shrink=0.5, aspect=30)
    bar.ax.tick_params(labelsize=TEXT)
    for panel in grid:
        panel.set(xticks=[], yticks=[])
        panel.set_frame_on(False)
    return figure


def _ones(profile: xr.Dataset) -> Figure:
    """Rows by their number of ones, with the band of the replicates."""
    figure, axes = blank(2.4)
    one = profile.isel(panel=0)
    edges = np.append(one["lower"].to_numpy(), one["upper"].to_numpy()[-1])
    own = one["frequency"].to_numpy()
    low, high = (one["replicated_frequency"].sel(quantile=q).to_numpy() for q in (0.025, 0.975))
    axes.stairs(high, edges, baseline=low, fill=True, color=REPLICATED, alpha=0.35, label="replicated")
    axes.stairs(own, edges, color=DATA, linewidth=1.8, label="data")
    axes.set(xlabel="ones in a row", ylabel="rows")
    axes.set_ylim(0, 1.5 * max(high.max(), own.max()))
    axes.locator_params(nbins=5)
    axes.legend(frameon=False, fontsize=SMALL, loc="upper right", borderaxespad=0)
    return figure


def _intervals(profile: xr.Dataset, what: str, max_rows: int = 25) -> Figure:
    """Central 50 % and 95 % of the replicates and the data's own value, those furthest out kept."""
    own, middle = profile["observed"].to_numpy(), profile["replicated"].to_numpy()
    away = np.abs(own - middle) / np.maximum(profile["replicated_sd"].to_numpy(), 1e-12)
    kept = np.sort(np.argsort(-away, kind="stable")[:max_rows])
    kept = kept[np.argsort(-own[kept], kind="stable")]
    figure, axes = blank(0.9 + 0.24 * len(kept))
    at = np.arange(len(kept))
    for low, high, line in ((0.025, 0.975, 2.0), (0.25, 0.75, 5.0)):
        left, right = (profile["replicated_quantile"].sel(quantile=q).to_numpy()[kept] for q in (low, high))
        label = "replicated (95 %, 50 %)" if line < 5 else "_bars"
        axes.hlines(at, left, right, color=REPLICATED, linewidth=line, alpha=0.6, label=label)
    axes.plot(own[kept], at, "D", ms=5, color=DATA, label="data")
    names = profile["feature"].to_numpy()[kept]
    axes.set_yticks(at, [wrapped(str(name), 18, 1) for name in names] if len(own) > 1 else [""])
    axes.set_ylim(len(kept) - 0.4, -0.6)
    some = f" (the {len(kept)} of {len(own)} furthest out)" if len(kept) < len(own) else ""
    axes.set_xlabel(what + some)
    _legend(figure, axes)
    return figure


def _grid(number: int, height: float) -> tuple[Figure, list[Axes]]:
    columns = min(2, number)
    lines = -(-number // columns)
    figure, grid = panels(lines, columns, height * lines + 0.3)
    for panel in grid[number:]:
        panel.set_visible(False)
    return figure, grid


def _bins(values: np.ndarray, low: float, high: float) -> list[float]:
    """Whole numbers have bins of their own as long as there are few."""
    whole = np.array_equal(values, values.round()) and high - low <= 40
    return (np.arange(low - 0.5, high + 1) if whole else np.linspace(low, high, 25)).tolist()


def _p(value: float) -> str:
    return f"{value:.2f}" if value >= 0.095 else f"{value:.1g}"


def _legend(figure: Figure, panel: Axes) -> None:
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper right", ncols=len(labels), frameon=False, fontsize=SMALL
    )
