"""What a figure of replicated data needs: means by feature and histograms, with their spread over draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ppl_vae.diagnostics.prediction.replicated import Observed
from ppl_vae.diagnostics.prediction.statistics import MAX_FEATURES

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Profile"]

NUM_BINS = 30
MAX_UNIT_BINS = 40
QUANTILES = (0.025, 0.25, 0.5, 0.75, 0.975)


@dataclass(eq=False)
class Profile:
    """Collects replicates of one site, chunk by chunk.

    Args:
        site: what was observed.
        names: of its features; of categories for categories; of the levels that the model shows.
    """

    site: Observed
    names: Sequence[str]
    _levels: list[Tensor] = field(default_factory=list)
    _counts: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._edges = _edges(self.site)

    def add(self, values: Tensor) -> None:
        """Take in replicates of shape (draws, rows, features)."""
        self._levels.append(self._level(values).cpu())
        self._counts.append(_histogram(_binned(self.site, values), self._edges).cpu())

    def feature_levels(self) -> tuple[Tensor, Tensor]:
        """Means by feature (or the model's levels), replicated of shape (draws, features), and observed."""
        return torch.cat(self._levels), self._level(self.site.values[None])[0].cpu()

    def dataset(self) -> xr.Dataset:
        """By feature: ``observed`` and ``replicated`` means (or levels), with quantiles over draws.

        By bin: ``frequency`` and quantiles of its replicates; the outer bins are open.
        """
        import xarray as xr

        levels, level = (values.numpy() for values in self.feature_levels())
        counts = torch.cat(self._counts).double().numpy()
        band = np.quantile(counts, QUANTILES, axis=0)
        own = _histogram(_binned(self.site, self.site.values[None]), self._edges)[0].double()
        panels = list(self.names) if self.site.kind == "real" and len(own) == len(self.names) else ["all"]
        return xr.Dataset(
            {
                "observed": ("feature", level),
                "replicated": ("feature", levels.mean(0)),
                "replicated_sd": ("feature", levels.std(0, ddof=1)),
                "replicated_quantile": (("quantile", "feature"), np.quantile(levels, QUANTILES, axis=0)),
                "frequency": (("panel", "bin"), own.cpu().numpy()),
                "replicated_frequency": (("quantile", "panel", "bin"), band),
                "lower": (("panel", "bin"), self._edges[:, :-1].cpu().numpy()),
                "upper": (("panel", "bin"), self._edges[:, 1:].cpu().numpy()),
            },
            coords={"feature": list(self.names), "panel": panels, "quantile": list(QUANTILES)},
            attrs={"kind": self.site.kind, "rows": len(self.site.values)} | self._said(),
        )

    def _said(self) -> dict[str, str]:
        own = self.site.own
        return {} if own is None else {"label": own.label, "caption": own.caption}

    def _level(self, values: Tensor) -> Tensor:
        if self.site.own is not None:
            return self.site.own.levels(values)
        if self.site.kind == "categories":
            flat = values.flatten(1)
            return torch.stack([(flat == k).double().mean(1) for k in range(len(self.names))], dim=1)
        return values.mean(1)


def _binned(site: Observed, values: Tensor) -> Tensor:
    """What is counted: (draws, numbers, panels). Real features each for itself, ones a row, pooled counts."""
    if site.kind == "real" and values.shape[2] <= MAX_FEATURES:
        return values
    if site.kind == "binary" and values.shape[2] > 1:
        return values.sum(2, keepdim=True)
    return values.reshape(len(values), -1, 1)


def _edges(site: Observed) -> Tensor:
    """Bins around what was observed, shape (panels, bins + 1)."""
    own = _binned(site, site.values[None])[0]
    if site.kind == "real":
        lowest, highest = own.amin(0), own.amax(0)
        margin = 0.2 * torch.where(highest > lowest, highest - lowest, 1 + highest.abs())
        steps = torch.linspace(0, 1, NUM_BINS + 1, dtype=torch.float64, device=own.device)
        return (lowest - margin)[:, None] + (highest - lowest + 2 * margin)[:, None] * steps
    top = int(own.max())
    if site.kind == "counts":
        top += max(2, top // 3)
    low = int(own.min()) if site.kind == "counts" else 0
    width = max(1, -(-(top + 1 - low) // MAX_UNIT_BINS))
    number = -(-(top + 1 - low) // width)
    edges = low + width * torch.arange(number + 1, device=own.device) - 0.5
    return edges[None].double()


def _histogram(values: Tensor, edges: Tensor) -> Tensor:
    """Numbers in each bin, shape (draws, panels, bins); what lies outside is in the outer bins."""
    draws, _, panels = values.shape
    bins = edges.shape[1] - 1
    width = (edges[:, 1] - edges[:, 0]).clamp(min=1e-300)
    place = ((values - edges[:, 0]) / width).floor().clamp(0, bins - 1).long()
    which = torch.arange(draws * panels, device=values.device).reshape(draws, 1, panels)
    return torch.bincount((which * bins + place).flatten(), minlength=draws * panels * bins).reshape(
        draws, panels, bins
    )
