"""Draws as xarray: dimensions named by plates and by the model, with real coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ppl_vae.program.abilities import Labelled
from ppl_vae.program.pair import Program

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["to_dataset"]


def to_dataset(
    draws: Mapping[str, Tensor],
    plates: Mapping[str, tuple[str, ...]],
    model: Program,
    coords: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Label draws of shape (chain, draw, *plates, *event).

    Args:
        draws: by site.
        plates: the names of each site's plates, from the left.
        model: asked for names if it is `Labelled`; event dimensions are else ``site_dim_0``, ….
        coords: more coordinates, such as the indices of the data that the draws belong to.
    """
    import xarray as xr

    names: Mapping[str, Sequence[str]] = model.event_dims() if isinstance(model, Labelled) else {}
    labels = {**(model.coords() if isinstance(model, Labelled) else {}), **(coords or {})}
    variables = {}
    for site, value in draws.items():
        num_event = value.dim() - 2 - len(plates[site])
        event = tuple(names.get(site, [f"{site}_dim_{k}" for k in range(num_event)]))
        variables[site] = (("chain", "draw", *plates[site], *event), value.cpu().numpy())
    data = xr.Dataset(variables)
    sizes = data.sizes
    fitting = {dim: np.asarray(label) for dim, label in labels.items() if sizes.get(dim) == len(label)}
    ranges = {dim: np.arange(sizes[dim]) for dim in ("chain", "draw") if dim in sizes}
    return data.assign_coords({**ranges, **fitting})
