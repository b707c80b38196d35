"""Merging two Normals is multiplying their densities."""

import numpy as np
import torch
from pyro.distributions import Normal

from ppl_vae.guides.layered import merged


def test_merged_normals_have_the_product_of_the_densities() -> None:
    one = Normal(torch.tensor([1.0, -2.0]).double(), torch.tensor([0.5, 2.0]).double()).to_event(1)
    two = Normal(torch.tensor([0.0, 3.0]).double(), torch.tensor([1.5, 1.0]).double()).to_event(1)
    found = merged(one, two)
    z = torch.randn(50, 2, dtype=torch.float64)
    # The product's log density is the sum, less the same constant everywhere.
    constant = one.log_prob(z) + two.log_prob(z) - found.log_prob(z)
    np.testing.assert_allclose(constant, constant[0].expand(50), rtol=1e-10)


def test_what_says_nothing_changes_nothing() -> None:
    prior = Normal(torch.tensor([1.0, -2.0]).double(), torch.tensor([0.5, 2.0]).double()).to_event(1)
    vague = Normal(torch.zeros(2).double(), torch.full((2,), 1e8).double()).to_event(1)
    for found in (merged(vague, prior), merged(prior, vague)):
        np.testing.assert_allclose(found.mean, prior.mean, rtol=1e-12)
        np.testing.assert_allclose(found.variance, prior.variance, rtol=1e-12)
