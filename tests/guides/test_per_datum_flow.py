import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import seeded
from ppl_vae.engine.graph import Compile, check_graph, trace
from ppl_vae.guides import PerDatumFlow, PerDatumNormal
from ppl_vae.inference import svi
from ppl_vae.program.pair import Pair
from ppl_vae.program.terms import has_log_density, layout, terms

DOUBLE = torch.float64


def _bent(num_data: int = 3, latent_dim: int = 2, num_layers: int = 2, size: float = 0.4) -> PerDatumFlow:
    """A flow at random parameters of a size, far from a Gaussian."""
    with seeded(1), torch.no_grad():
        flow = PerDatumFlow(num_data, latent_dim, num_layers=num_layers, dtype=DOUBLE)
        for leaf in flow.parameters():
            leaf.add_(size * torch.randn_like(leaf))
    return flow


def _model(x: Tensor) -> None:
    with pyro.plate("data", len(x)) as i:
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
        mean = torch.stack([z[..., 0].exp(), z.sum(-1)], dim=-1)
        pyro.sample("x", dist.Normal(mean, 0.7).to_event(1), obs=x[i])


@pytest.fixture
def x() -> Tensor:
    return torch.as_tensor(np.random.default_rng(0).normal(1, 1, (3, 2)))


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_the_density_integrates_to_one(num_layers: int) -> None:
    # Larger parameters can put a spike between the grid's points.
    q = _bent(num_layers=num_layers, size=0.2).at(torch.tensor([0, 2]))
    with torch.no_grad():
        # Substituting z = sinh(t) lets one grid reach the heavy tails; the trapezoidal rule then has
        # spectral accuracy.
        t = torch.linspace(-9, 9, 901, dtype=DOUBLE)
        first, second = torch.meshgrid(t, t, indexing="ij")
        grid = torch.stack([first.sinh(), second.sinh()], dim=-1)
        log_weight = (first.cosh() * second.cosh()).log() + 2 * (t[1] - t[0]).log()
        total = (q.log_prob(grid[:, :, None]) + log_weight[..., None]).exp().sum((0, 1))
    np.testing.assert_allclose(total, 1.0, atol=1e-6)


def test_the_inverse_undoes_the_draw_and_gives_its_density() -> None:
    q = _bent().at(torch.arange(3))
    z = q.rsample(torch.Size([50]))
    own = q.log_prob(z)
    # A new object with the same values misses the transforms' caches.
    np.testing.assert_allclose(q.log_prob(z.clone()).detach(), own.detach(), rtol=1e-8, atol=1e-8)
    again = z.clone()
    for part in reversed(q.transforms):
        again = part.inv(again)
    for part in q.transforms:
        again = part(again)
    np.testing.assert_allclose(again.detach(), z.detach(), rtol=1e-8, atol=1e-8)


def test_the_log_determinant_is_that_of_the_jacobian() -> None:
    q = _bent(num_data=1).at(torch.tensor([0]))

    def flow(noise: Tensor) -> Tensor:
        for part in q.transforms:
            noise = part(noise)
        return noise

    noise = torch.tensor([[0.3, -1.2]], dtype=DOUBLE)
    jacobian = torch.autograd.functional.jacobian(flow, noise).reshape(2, 2)
    expected = q.base_dist.log_prob(noise) - torch.linalg.slogdet(jacobian).logabsdet
    np.testing.assert_allclose(q.log_prob(flow(noise)).detach(), expected.detach(), rtol=1e-10)


def test_it_starts_as_the_gaussian_it_is_given() -> None:
    normal = PerDatumNormal(3, 2, covariance="full", dtype=DOUBLE)
    with torch.no_grad():
        normal.raw.add_(torch.randn(normal.raw.shape, dtype=DOUBLE))
    index = torch.arange(3)
    z = 2 * torch.randn(20, 3, 2, dtype=DOUBLE)
    found = PerDatumFlow.from_normal(normal).at(index).log_prob(z)
    np.testing.assert_allclose(found.detach(), normal.at(index).log_prob(z).detach(), rtol=1e-10)


def test_it_works_under_particles_at_given_latents_and_for_some_units(x: Tensor) -> None:
    pair = Pair(_model, _bent())
    shape = layout(pair, x)
    assert shape.vectorized
    assert has_log_density(pair, x)
    drawn = terms(pair, x, layout=shape, num_particles=7)
    given = terms(pair, x, layout=shape, num_particles=7, latents=drawn.draws)
    torch.testing.assert_close(given.log_weights, drawn.log_weights, rtol=1e-8, atol=1e-8)
    some = terms(
        pair, x, layout=shape, num_particles=7, index=torch.tensor([2]),
        latents={"z": drawn.draws["z"][:, 2:]},
    )  # fmt: skip
    torch.testing.assert_close(some.log_q, drawn.log_q[:, 2:], rtol=1e-8, atol=1e-8)


def test_gradients_reach_every_parameter(x: Tensor) -> None:
    pair = Pair(_model, _bent())
    shape = layout(pair, x)
    leaves = pair.parameters("guide")
    assert len(leaves) == 4
    loss = -terms(pair, x, layout=shape, num_particles=4).log_weights.mean()
    for name, gradient in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
        assert (gradient != 0).all(), name


def test_the_traced_density_is_the_eager_one(x: Tensor) -> None:
    flow = _bent()
    leaves = list(flow.parameters())
    z = torch.randn(5, 3, 2, dtype=DOUBLE)

    def function(*_: Tensor) -> tuple[Tensor, ...]:
        q = flow.at(torch.arange(3))
        drawn = q.rsample(torch.Size([5]))
        loss = (q.log_prob(z) + q.log_prob(drawn)).sum()
        return loss, *torch.autograd.grad(loss, leaves)

    def other(leaf: Tensor) -> Tensor:
        return leaf + 0.1 * torch.randn_like(leaf)

    with pyro.validation_enabled(False):
        graph = trace(function, *leaves, z)
        check_graph(graph, function, *leaves, z, vary=[(leaf, other) for leaf in (*leaves, z)])


def test_a_traced_fit_is_the_stock_fit(x: Tensor) -> None:
    def fitted(compile: Compile, engine: str) -> list[Tensor]:
        pair = Pair(_model, _bent())
        found = svi.fit(
            pair, x, num_steps=100, num_particles=3, train="guide", compile=compile, progress=False
        )
        assert found.engine == engine
        return list(pair.parameters().values())

    for a, b in zip(fitted(False, "pyro"), fitted("auto", "traced"), strict=True):
        # A hundred steps of Adam in float64.
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_what_it_cannot_do_is_refused(x: Tensor) -> None:
    with pytest.raises(InputError, match="num_layers is 0"):
        PerDatumFlow(3, 2, num_layers=0)
    with pytest.raises(InputError, match="covariance='full'"):
        PerDatumFlow.from_normal(PerDatumNormal(3, 2))
    with pytest.raises(InputError, match="parameters for 2 data and was given 3"):
        PerDatumFlow(2, 2).check_data(x)
