"""Answers for pages and figures to show."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ppl_vae.answers.evidence import Evidence
from ppl_vae.answers.posterior import Posterior
from ppl_vae.diagnostics.calibration.sbc import Calibration

NASTY = '<b>"New York" & $x$</b>'


def answer(scales: list[float], correlation: float = 0.0, method: str = "guide", seed: int = 0) -> Posterior:
    """Normal draws of a vector whose first two entries are correlated."""
    generator = np.random.default_rng(seed)
    z = generator.normal(size=(1, 4000, len(scales)))
    z[..., 1] = correlation * z[..., 0] + np.sqrt(1 - correlation**2) * z[..., 1]
    labels = [f"player {k} {NASTY}" for k in range(len(scales))]
    draws = xr.Dataset({"skill": (("chain", "draw", "player"), z * scales)}, coords={"player": labels})
    return Posterior(draws, method, "independent", seconds=0.5)


def evidence(method: str = "is") -> Evidence:
    values, error = -3 + np.linspace(-1, 1, 12), np.full(12, 0.1)
    sizes = 2.0 ** np.arange(1, 8)
    curve = np.column_stack([sizes, -3 - 1 / sizes, 0.5 / np.sqrt(sizes)])
    return Evidence(
        values, method, "datum", "estimate", error, -(error**2) / 2, ess=np.full(12, 150.0),
        elbo=values - 0.2, num_samples=200, curve=curve,
    )  # fmt: skip


def calibration() -> Calibration:
    generator = np.random.default_rng(0)
    ranks = np.stack([generator.integers(0, 100, 200), 25 + generator.integers(0, 50, 200)], axis=1)
    names = ["log-likelihood", "difference[Milwaukee − New York]"]
    return Calibration(
        xr.Dataset({"rank": (("simulation", "quantity"), ranks)}, coords={"quantity": names}), 99, "guide"
    )
