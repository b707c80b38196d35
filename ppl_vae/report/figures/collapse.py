"""The figure of posterior collapse: what each latent dimension carries."""

import numpy as np
from matplotlib.figure import Figure

from ppl_vae.diagnostics.latents.collapse import ACTIVE, Collapse
from ppl_vae.report.style import COLOURS, TEXT, panels

__all__ = ["COLLAPSE_CAPTION", "collapse_bars"]

COLLAPSE_CAPTION = (
    "What each latent dimension carries: its KL from the prior, and how much its posterior mean moves from "
    "datum to datum. Dimensions left of the dashed line are switched off."
)
ON, OFF = COLOURS["nuts"], "#999999"


def collapse_bars(collapse: Collapse, max_dims: int = 40) -> Figure:
    """KL of each latent dimension and variance of its posterior means, the strongest first.

    Of more than ``max_dims`` dimensions the first and the last are shown.
    """
    table = collapse.table.assign(number=range(1, collapse.latent_dim + 1))
    table = table.sort_values("variance_of_means", ascending=False, kind="stable")
    if len(table) > max_dims:
        shown = np.r_[: max_dims // 2, len(table) - max_dims // 2 : len(table)]
        table = table.iloc[shown]
    at = np.arange(len(table))
    figure, (left, right) = panels(1, 2, 1.1 + 0.2 * len(table))
    colours = [ON if active else OFF for active in table["active"]]
    left.barh(at, table["kl"].fillna(0.0), xerr=2 * table["kl_std_error"].fillna(0.0), color=colours)
    left.set_xlabel("KL from the prior\n(nats)")
    left.set_yticks(at, table["component"])
    right.set_yticks(at, [""] * len(at))
    for panel in (left, right):
        panel.set_ylim(len(at) - 0.5, -0.5)
    # A dimension that is exactly off has no place on a logarithmic axis but its left end.
    lowest = min(ACTIVE, float(table["variance_of_means"].max())) * 1e-2
    spread = table["variance_of_means"].clip(lower=lowest)
    for mark, active, label in (("o", True, "active"), ("X", False, "not active")):
        chosen = (table["active"] == active).to_numpy()
        if chosen.any():
            colour = ON if active else OFF
            right.plot(spread[chosen], at[chosen], mark, ms=6, color=colour, label=label)
    right.axvline(ACTIVE, color="black", linestyle="--", linewidth=1.2)
    right.set_xscale("log")
    right.set_xlim(0.6 * max(lowest, 1e-9), max(2.0, 1.5 * float(spread.max())))
    right.set_xlabel("variance of the\nposterior means")
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False, fontsize=TEXT)
    return figure
