"""SVI in white coordinates: the same draws, gradients without noise at the posterior, the evidence."""

from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import (
    AutoGuideList,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from torch import Tensor

from ppl_vae import InputError
from ppl_vae.inference import svi
from ppl_vae.inference.fitting.whitening import Whitened
from ppl_vae.program.pair import Pair

SD, PRIOR = 18.0, 100.0


def model(x: Tensor, y: Tensor) -> None:
    weights = pyro.sample("weights", dist.Normal(torch.zeros(4).to(x), PRIOR).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal((weights * x).sum(-1), SD), obs=y)


@pytest.fixture(scope="module")
def rows() -> tuple[Tensor, Tensor]:
    """Unstandardised, and correlated: an intercept, a ~ N(100, 15²), b binary, and their product."""
    random = np.random.default_rng(1)
    a, b = random.normal(100, 15, 200), 1.0 * (random.random(200) < 0.5)
    x = np.stack([np.ones(200), a, b, a * b], 1)
    y = x @ [25, 0.6, -10, 0.2] + random.normal(0, SD, 200)
    return torch.from_numpy(x), torch.from_numpy(y)


def evidence(x: Tensor, y: Tensor) -> float:
    """log p(y) by formula."""
    covariance = PRIOR**2 * x @ x.T + SD**2 * torch.eye(len(x)).to(x)
    return float(dist.MultivariateNormal(torch.zeros(len(x)).to(x), covariance).log_prob(y))


def test_an_unstandardised_regression_gets_to_the_evidence_soon(
    rows: tuple[Tensor, Tensor],
) -> None:
    pair = Pair(model, AutoMultivariateNormal(model))
    found = svi.fit(pair, *rows, whiten=True, lr=0.05, num_steps=6000, stop=True, progress=False)
    assert found.converged
    assert found.steps < 3000
    assert found.distance is not None
    assert found.distance.upper <= 0.05
    assert abs(found.final.value - evidence(*rows)) <= 0.05 + 3 * found.final.std_error


def covariance(guide: Any) -> Tensor:
    return guide.get_posterior().covariance_matrix.detach().double()


@pytest.mark.usefixtures("from_the_mode")
@pytest.mark.parametrize("kind", [AutoMultivariateNormal, AutoLowRankMultivariateNormal])
def test_the_steps_guide_is_the_pairs_in_other_coordinates(kind: Any, rows: tuple[Tensor, Tensor]) -> None:
    pair = Pair(model, kind(model))
    white = Whitened(pair, rows, 0)
    own = white.own.guide
    torch.testing.assert_close(covariance(own), covariance(pair.guide), rtol=1e-4, atol=0)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for leaf in own.parameters():
            leaf += 0.3 * torch.randn(leaf.shape, generator=generator)
    white.write()
    torch.testing.assert_close(covariance(own), covariance(pair.guide), rtol=1e-4, atol=0)
    torch.testing.assert_close(own.get_posterior().loc, pair.guide.get_posterior().loc, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("from_the_mode")
def test_gradients_have_no_noise_where_the_guide_is_the_posterior(rows: tuple[Tensor, Tensor]) -> None:
    """Exact to the rounding of a float32 guide, in coordinates of the posterior's own sds."""
    own = Whitened(Pair(model, AutoMultivariateNormal(model)), rows, 0).own
    own.initialise(*rows)
    with own.scope():
        loss = Trace_ELBO().differentiable_loss(own.model, own.guide, *rows)
        gradients = torch.autograd.grad(loss, list(own.parameters().values()))
    assert max(float(gradient.abs().max()) for gradient in gradients) < 0.01


@pytest.mark.usefixtures("from_the_mode")
def test_a_killed_fit_goes_on_to_the_same_numbers(rows: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    def fitted(**options: Any) -> Tensor:
        pair = Pair(model, AutoMultivariateNormal(model))
        svi.fit(
            pair, *rows, whiten=True, num_steps=16, checkpoint_every=4, checkpoint=tmp_path, progress=False,
            **options,
        )  # fmt: skip
        return covariance(pair.guide)

    def kill(state: svi.State) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(observers=[svi.Callback(kill, 10)])
    resumed = fitted(resume=True)
    assert torch.equal(resumed, fitted())


REFUSED = {
    "another guide": (svi.fit, AutoNormal, {}, "whiten is for Pyro's AutoMultivariateNormal or"),
    "blocks": (svi.fit, AutoGuideList, {}, "this guide is AutoGuideList: natural.fit or fixed_noise.fit"),
    "another bound": (svi.fit, AutoMultivariateNormal, {"objective": "iwae"}, "whiten is for the ELBO"),
    "a loop of one's own": (svi.init, AutoMultivariateNormal, {}, r"whiten is for svi\.fit"),
}


@pytest.mark.usefixtures("from_the_mode")
@pytest.mark.parametrize("case", REFUSED)
def test_what_it_is_not_for_is_refused(case: str, rows: tuple[Tensor, Tensor]) -> None:
    method, kind, options, words = REFUSED[case]
    with pytest.raises(InputError, match=words):
        method(Pair(model, kind(model)), *rows, whiten=True, **options)
