"""What a guide lost, by which a richer one is advised."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro.infer.autoguide import AutoNormal

from ppl_vae.answers.posterior import Posterior
from ppl_vae.diagnostics.verdict.checks.family import FEW, _is_sparse
from ppl_vae.diagnostics.verdict.lost import loses_within, num_latents
from ppl_vae.inference.fitting.gaussians.target import target_of
from ppl_vae.program.pair import Pair


def answer(covariance: np.ndarray) -> Posterior:
    """Draws of a (2,) and b (2,) whose covariance is exactly this."""
    drawn = np.random.default_rng(0).normal(size=(400, 4))
    drawn -= drawn.mean(0)
    white = drawn @ np.linalg.inv(np.linalg.cholesky(np.cov(drawn.T))).T
    values = (white @ np.linalg.cholesky(covariance).T)[None]
    sites = {"a": values[..., :2], "b": values[..., 2:]}
    draws = {name: (("chain", "draw", f"{name}_dim"), each) for name, each in sites.items()}
    return Posterior(xr.Dataset(draws), "made", "independent")


@pytest.mark.parametrize(("pair", "within"), [((0, 1), True), ((2, 3), True), ((1, 2), False)])
def test_correlations_are_lost_within_sites_or_between_them(pair: tuple[int, int], within: bool) -> None:
    covariance = np.eye(4)
    covariance[pair] = covariance[pair[::-1]] = 0.8
    posteriors = {"svi": answer(np.eye(4)), "nuts": answer(covariance)}
    case: Any = SimpleNamespace(posteriors=posteriors, measures=SimpleNamespace(reference="nuts"))
    assert num_latents(case) == 4
    assert loses_within(case) is within


@pytest.mark.parametrize("chain", [True, False])
def test_a_random_walk_has_a_sparse_precision_and_a_regression_has_none(chain: bool) -> None:
    x = torch.randn(60, FEW, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def model(x: torch.Tensor) -> None:
        z = pyro.sample("z", dist.Normal(x.new_zeros(FEW), 1.0).to_event(1))
        mean = z.diff() if chain else z @ x.T
        pyro.sample("y", dist.Normal(mean, 1.0).to_event(1), obs=torch.zeros_like(mean))

    with target_of(Pair(model, AutoNormal(model)), x) as target:
        assert _is_sparse(target, target.guide.read()) is chain
