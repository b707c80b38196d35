"""Funnels are found where they are, and nowhere else."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from ppl_vae.answers.posterior import Posterior
from ppl_vae.diagnostics.latents.funnels import funnel

SIZE = 4000


def posterior(**values: np.ndarray) -> Posterior:
    data = xr.Dataset(
        {
            name: (("chain", "draw", *(f"{name}_dim" for _ in range(value.ndim - 1))), value[None])
            for name, value in values.items()
        }
    )
    return Posterior(data, "exact", "independent")


def test_neals_funnel_is_named():
    rng = np.random.default_rng(0)
    neck = rng.normal(0, 3, SIZE)
    wide = rng.normal(size=(SIZE, 9)) * np.exp(neck / 2)[:, None]
    found = funnel(posterior(v=neck, x=wide, other=rng.normal(size=SIZE)))
    assert found is not None
    assert found.neck == "v"
    assert found.correlation > 0.6
    assert "other" not in found.spread
    assert "larger v is" in found.sentence


def test_hierarchy_of_a_known_scale_is_found_in_the_scale_itself():
    rng = np.random.default_rng(1)
    tau = np.abs(rng.standard_cauchy(SIZE)) + 0.01
    theta = 4 + tau[:, None] * rng.normal(size=(SIZE, 8))
    found = funnel(posterior(tau=tau, theta=theta))
    assert found is not None
    assert found.neck == "tau"
    assert "theta" in found.spread


@pytest.mark.parametrize("seed", range(5))
def test_correlated_gaussian_is_no_funnel(seed):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(6, 6))
    assert funnel(posterior(z=rng.normal(size=(SIZE, 6)) @ mix)) is None


def test_scale_of_a_normal_sample_is_no_funnel():
    # The posterior of mean and sd given 30 data: the mean spreads with the sd, and not by much.
    rng = np.random.default_rng(2)
    sd = np.sqrt(30 / rng.chisquare(29, SIZE))
    assert funnel(posterior(mean=rng.normal(size=SIZE) * sd / np.sqrt(30), sd=sd)) is None


def test_functions_of_each_other_and_constants_are_left_alone():
    rng = np.random.default_rng(3)
    z = rng.normal(size=SIZE)
    assert funnel(posterior(z=z, twice=2 * z, constant=np.ones(SIZE))) is None
    assert funnel(posterior(z=z)) is None


def test_a_few_draws_repeated_are_no_evidence():
    rng = np.random.default_rng(4)
    neck = rng.normal(0, 3, SIZE)
    whole = posterior(v=neck, x=rng.normal(size=(SIZE, 9)) * np.exp(neck / 2)[:, None])
    assert funnel(whole) is not None
    assert funnel(replace(whole, effective_size=xr.DataArray(12.0))) is None


def test_gaussians_reweighted_by_few_heavy_draws_are_no_funnels() -> None:
    """Of thousands of pairs some correlate: five of six would be funnels by all draws, one in thirty is."""
    assert sum(_is_funnel_of_chains(seed) for seed in range(6)) <= 2


def _is_funnel_of_chains(seed: int) -> bool:
    """Chains of skills, of whose common part the guide is too sure."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(3, 1000, 20))
    steps[:, :, 1:] *= 0.3
    drawn = posterior(skill=steps.cumsum(2).transpose(1, 0, 2).reshape(1000, -1))
    common = steps[:, :, 0].sum(0) / 3**0.5
    # Its sd in the posterior is 3.5 times that in the guide.
    weights = xr.DataArray((0.46 * common**2)[None], dims=("chain", "draw"))
    return funnel(replace(drawn, log_weights=weights).resampled(seed)) is not None


def test_one_draw_and_its_copies_are_no_funnel():
    """Their mean is rounded, so that their sd need not be zero; a warning here is an error."""
    copies = {name: np.full(7, value) for name, value in {"a": 0.1, "b": -40.3, "c": 1 / 3}.items()}
    assert any(values.std() > 0 for values in copies.values())
    assert funnel(posterior(**copies)) is None
