"""Guides that begin as an encoder's answer: a flow behind it, and a correction for every datum."""

import math
from types import ModuleType

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from ppl_vae.base.errors import InputError
from ppl_vae.guides import AmortisedFlow, AmortisedNormal, LinearNormal, SemiAmortised, num_raw
from ppl_vae.guides.means import posterior_mean
from ppl_vae.inference import elbo, exact, importance, svi
from ppl_vae.models import PPCA
from ppl_vae.program.pair import Pair

DOUBLE = torch.float64


def encoder(latent_dim: int, covariance: str, num_features: int = 3) -> AmortisedNormal:
    torch.manual_seed(0)
    size = num_raw(latent_dim, covariance)
    network = nn.Sequential(nn.Linear(num_features, 5), nn.Tanh(), nn.Linear(5, size)).double()
    return AmortisedNormal(network, latent_dim, covariance=covariance)


def bent(guide: AmortisedFlow) -> AmortisedFlow:
    """With splines that are not the identity."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for leaf in guide.splines.parameters():
            leaf.add_(0.3 * torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype))
    return guide


def rows(count: int = 4, num_features: int = 3) -> Tensor:
    return torch.randn(count, num_features, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
@pytest.mark.parametrize("latent_dim", [1, 3])
def test_both_begin_as_the_encoders_answer(covariance: str, latent_dim: int) -> None:
    own, x = encoder(latent_dim, covariance), rows()
    answer = own.encode(x)
    z = answer.sample(torch.Size([5]))
    np.testing.assert_allclose(
        AmortisedFlow(own).encode(x).log_prob(z).detach(), answer.log_prob(z).detach(), rtol=1e-9
    )
    semi = SemiAmortised(own, len(x)).at(torch.arange(4), x)
    np.testing.assert_allclose(semi.log_prob(z).detach(), answer.log_prob(z).detach(), rtol=1e-12)


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_a_flows_density_is_that_of_its_jacobian(covariance: str) -> None:
    guide, x = bent(AmortisedFlow(encoder(3, covariance))), rows()
    for row in range(len(x)):
        one = guide.encode(x[row : row + 1])

        def pushed(noise: Tensor, one=one) -> Tensor:
            for part in one.transforms:
                noise = part(noise)
            return noise

        noise = torch.linspace(-1.5, 2, 3, dtype=DOUBLE)[None]
        z = pushed(noise)
        jacobian = torch.autograd.functional.jacobian(lambda at, f=pushed: f(at[None])[0], noise[0])
        expected = dist.Normal(0.0, 1.0).log_prob(noise).sum() - torch.linalg.slogdet(jacobian)[1]
        # At a value that was not drawn: the inverse of every part is asked.
        found = guide.encode(x).log_prob(z.detach().expand(4, 3).clone())[row].detach()
        assert float(found) == pytest.approx(float(expected.detach()), abs=1e-6)


def test_a_flow_of_one_latent_integrates_to_one() -> None:
    guide, x = bent(AmortisedFlow(encoder(1, "diagonal"))), rows(1)
    z = torch.linspace(-40, 40, 800_001, dtype=DOUBLE)
    with torch.no_grad():
        q = guide.encode(x)
        density = q.log_prob(z[:, None, None])[:, 0].exp()
        mass, mean = (float(torch.trapezoid(values, z)) for values in (density, z * density))
        spread = float(q.sample(torch.Size([1000])).std())
    # What its draws' average is compared with is by the same quadrature.
    assert mass == pytest.approx(1, abs=1e-5)
    assert abs(float(posterior_mean(q)) - mean) < 5 * spread / math.sqrt(256)


def test_a_semi_amortised_guide_is_the_answer_moved_and_stretched() -> None:
    own, x = encoder(2, "full"), rows()
    guide = SemiAmortised(own, 4)
    with torch.no_grad():
        guide.shift.copy_(torch.arange(8.0).reshape(4, 2))
        guide.log_scale.copy_(torch.linspace(-1, 1, 8).reshape(4, 2))
        index = torch.tensor([3, 1])
        found, answer = guide.at(index, x), own.encode(x[index])
        stretch = torch.diag_embed(guide.log_scale[index].exp())
    np.testing.assert_allclose(found.mean.detach(), (answer.mean + guide.shift[index]).detach())
    np.testing.assert_allclose(
        found.covariance_matrix.detach(), (stretch @ answer.covariance_matrix @ stretch).detach(), rtol=1e-12
    )


def test_corrections_close_the_amortisation_gap_and_no_more(oracles: ModuleType) -> None:
    """PPCA: log p(x) and what the best mean-field guide loses are known."""
    torch.manual_seed(0)
    model, x = PPCA(3, 2), rows(40)
    own = encoder(2, "diagonal")
    pair = Pair(model, own)
    svi.fit(pair, x, num_steps=30, lr=0.02, train="guide", progress=False)
    before = elbo(pair, x, num_particles=4000, seed=1)
    refined = Pair(model, SemiAmortised(own, len(x)))
    start = elbo(refined, x, num_particles=4000, seed=1)
    assert start.value == pytest.approx(before.value, rel=1e-9)
    svi.fit(refined, x, num_steps=1500, lr=0.05, lr_end=0.01, num_particles=8, train="guide", progress=False)
    after = elbo(refined, x, num_particles=4000, seed=1)
    best = exact.log_evidence(model, x).total - len(x) * model.mean_field_gap()
    noise = oracles.z_limit(3) * after.std_error
    assert after.value <= best + noise
    # Adam's last steps leave less than a thousandth of a nat a row.
    assert after.value >= best - noise - 0.002 * len(x)
    assert after.value - before.value > noise + oracles.z_limit(3) * before.std_error


def banana(x: Tensor) -> None:
    """z ~ N(0, I), x_n ~ N(z_2 − z_1², .3²): the posterior is bent along a parabola."""
    with pyro.plate("data", len(x)) as i:
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=DOUBLE), 1.0).to_event(1))
        mean = (z[..., 1] - z[..., 0] ** 2).unsqueeze(-1)
        pyro.sample("x", dist.Normal(mean, 0.3).to_event(1), obs=x[i])


def test_a_flow_gains_what_no_gaussian_can_and_stays_below_log_p(oracles: ModuleType) -> None:
    x = torch.linspace(-3, 1, 9, dtype=DOUBLE)[:, None]
    axis = np.linspace(-6, 6, 601)
    first, second = np.meshgrid(axis, axis, indexing="ij")
    prior = np.exp(-(first**2 + second**2) / 2) / (2 * np.pi)
    known = sum(
        np.log((prior * np.exp(-0.5 * ((value - second + first**2) / 0.3) ** 2)).sum() * 0.02**2)
        - math.log(0.3 * math.sqrt(2 * math.pi))
        for value in x[:, 0].numpy()
    )
    own = encoder(2, "full", num_features=1)
    pair = Pair(banana, own)
    options = {"num_particles": 16, "lr_end": 0.01, "train": "guide", "progress": False}
    svi.fit(pair, x, num_steps=600, lr=0.02, **options)
    before = elbo(pair, x, num_particles=4000, seed=1)
    refined = Pair(banana, AmortisedFlow(own, hidden=16))
    # The KL of a flow is drawn, that of a Normal is known.
    start = elbo(refined, x, num_particles=4000, seed=1)
    assert abs(start.value - before.value) < oracles.z_limit(2) * math.hypot(
        before.std_error, start.std_error
    )
    svi.fit(refined, x, num_steps=600, lr=0.01, **options)
    after = elbo(refined, x, num_particles=4000, seed=1)
    noise = oracles.z_limit(2) * math.hypot(before.std_error, after.std_error)
    assert after.value > before.value + noise
    assert after.value < known + noise
    # Its weights are steadier, and their mean is the same log p(x).
    found = importance.log_evidence(refined, x, num_samples=4000, progress=False)
    assert abs(found.total - known) < oracles.z_limit(1) * found.total_std_error


def test_other_guides_and_other_data_are_refused() -> None:
    linear = LinearNormal(3, 2)
    with pytest.raises(InputError, match="starts from an AmortisedNormal, not from LinearNormal"):
        AmortisedFlow(linear)
    with pytest.raises(InputError, match="corrects an AmortisedNormal, not a LinearNormal"):
        SemiAmortised(linear, 4)
    with pytest.raises(InputError, match="parameters for 4 data and was given 5"):
        SemiAmortised(encoder(2, "diagonal"), 4).check_data(rows(5))
