"""Guides by the name of their family: of the family, for flat priors too, and with their own correlations."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import Tensor
from torch.distributions import MultivariateNormal, constraints

from ppl_vae.base.errors import InputError
from ppl_vae.guides.named import GUIDES, BlockNormal, named_guide
from ppl_vae.inference import laplace, svi
from ppl_vae.inference.fitting.choice import fit
from ppl_vae.inference.fitting.started import load_guide
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem
from ppl_vae.program.terms import has_log_density

Y = torch.tensor([0.3, -1.2, 2.0, 0.8, 1.1], dtype=torch.float64)


def flat(y: Tensor) -> None:
    """y_n ~ N(mu_n, s_n²) with flat priors on all of them."""
    positive = constraints.independent(constraints.positive, 1)
    scales = pyro.sample("scales", dist.ImproperUniform(positive, (), (len(y),)))
    with pyro.plate("data", len(y)) as i:
        mu = pyro.sample("mu", dist.ImproperUniform(constraints.real, (len(y),), ()))
        pyro.sample("y", dist.Normal(mu, scales + 0.1), obs=y[i])


def test_names_make_guides_of_their_family() -> None:
    assert isinstance(named_guide("full-rank", flat), AutoMultivariateNormal)
    ranked = named_guide("low-rank:2", flat)
    Pair(flat, ranked).initialise(Y)
    assert ranked.cov_factor.shape == (10, 2)
    with pytest.raises(InputError, match="'low-rank:x' is not known; there are mean-field, block, low-rank"):
        named_guide("low-rank:x", flat)
    with pytest.raises(InputError, match="is 0; it must be at least 1"):
        named_guide("low-rank:0", flat)
    with pytest.raises(InputError, match=r"mixture, or FILE.py:NAME"):
        load_guide("fullrank", flat)


def test_pyros_own_guides_have_no_start_under_flat_priors_and_a_sentence_says_what_has() -> None:
    with pytest.raises(InputError, match=r"ImproperUniform.* has no draw to start at; .*named_guide"):
        fit(Pair(flat, AutoMultivariateNormal(flat)), Y, progress=False)


@pytest.mark.parametrize("name", GUIDES)
def test_flat_priors_have_a_start_and_a_density(name: str) -> None:
    if name == "spline-flow":
        pytest.importorskip("zuko")
    pair = Pair(flat, named_guide(name, flat))
    svi.fit(pair, Y, num_steps=2, progress=False)
    assert has_log_density(pair, Y)
    assert Problem.of(pair, Y).terms(4).log_weights.isfinite().all()


def test_a_support_that_a_structured_guide_cannot_take_is_named() -> None:
    def model(y: Tensor) -> None:
        pyro.sample("scales", dist.ImproperUniform(constraints.positive, (), (2,)))
        pyro.sample("y", dist.Normal(y, 1.0).to_event(1), obs=y)

    with pytest.raises(InputError, match="the support of site scales"):
        Pair(model, named_guide("structured", model)).initialise(Y)


def test_laplace_with_a_flat_prior_is_the_exact_posterior() -> None:
    def model(y: Tensor) -> None:
        mu = pyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
        with pyro.plate("data", len(y)) as i:
            pyro.sample("y", dist.Normal(mu, 2.0), obs=y[i])

    found = laplace.approximation(model, Y)[0].guide.get_posterior()
    np.testing.assert_allclose(found.mean.detach(), [Y.mean()], atol=1e-6)
    np.testing.assert_allclose(found.covariance_matrix.detach(), [[4 / len(Y)]], rtol=1e-6)


def test_a_flow_serves_more_latents_than_it_has_hidden_units() -> None:
    y = torch.ones(20, dtype=torch.float64)
    pair = Pair(flat, named_guide("flow", flat)).initialise(y)
    assert Problem.of(pair, y).terms(2).log_q.isfinite().all()


def test_a_block_is_one_normal_a_site() -> None:
    def model(y: Tensor) -> None:
        pyro.sample("a", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
        with pyro.plate("data", len(y)) as i:
            pyro.sample("b", dist.Normal(y[i], 1.0))
            pyro.sample("y", dist.Normal(y[i], 1.0), obs=y[i])

    pair = Pair(model, BlockNormal(model)).initialise(Y)
    for leaf in pair.parameters("guide").values():
        leaf.data += 0.3 * torch.rand_like(leaf)
    found, expected = Problem.of(pair, Y).terms(3), torch.zeros(3).double()
    for part, name in zip(pair.guide, "ab", strict=True):
        own: MultivariateNormal = part.get_posterior()
        expected += own.log_prob(found.draws[name])
    np.testing.assert_allclose(found.log_q.detach()[:, 0], expected.detach(), rtol=1e-10)


@pytest.mark.parametrize("name", ["mean-field", "low-rank", "block"])
def test_a_site_that_is_summed_out_is_none_of_the_guides(name: str) -> None:
    def model(y: Tensor) -> None:
        high = pyro.sample("high", dist.Bernoulli(y.new_tensor(0.3)), infer={"enumerate": "parallel"})
        mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 1.0))
        with pyro.plate("data", len(y)) as i:
            pyro.sample("y", dist.Normal(mu + 2 * high, 1.0), obs=y[i])

    pair = Pair(model, named_guide(name, model))
    layout = Problem.of(pair, Y).layout
    assert (list(layout.latents), layout.summed) == (["mu"], ("high",))
