"""Open layers settled over the training data: against PyTorch run layer by layer, and after a fit."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.inference import svi
from ppl_vae.inference.evidence.elbo import elbo
from ppl_vae.inference.fitting import steps
from ppl_vae.inference.fitting.fixed_data import FixedData
from ppl_vae.inference.fitting.settling import Settling, settle
from ppl_vae.models.networks.norms import BatchNorm
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem


def _encoder() -> nn.Sequential:
    parts = (nn.Linear(3, 5), BatchNorm(5), nn.ReLU(), nn.Linear(5, 4), BatchNorm(4, affine=False), nn.Tanh())
    return nn.Sequential(*parts, nn.Linear(4, 2)).double()


class _Model(PyroModule):  # type: ignore[misc]
    """A decoder with batch norm, and q = 2."""

    def __init__(self) -> None:
        super().__init__("model")
        self.decoder = nn.Sequential(nn.Linear(2, 4), BatchNorm(4), nn.ReLU(), nn.Linear(4, 3)).double()

    def forward(self, x: Tensor) -> None:
        zero = x.new_zeros(2)
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x[i])


class _Guide(PyroModule):  # type: ignore[misc]
    """An encoder with two batch norms, one after the other."""

    def __init__(self) -> None:
        super().__init__("guide")
        self.encoder = _encoder()

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            pyro.sample("z", dist.Normal(self.encoder(x[i]), 0.5).to_event(1))


@pytest.fixture
def x() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 4 + 3 * torch.randn(24, 3, dtype=torch.float64, generator=generator)


@pytest.fixture
def pair() -> Pair:
    torch.manual_seed(0)
    return Pair(_Model(), _Guide())


def _one_pass(encoder: nn.Sequential, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Moments of what comes to each batch norm, all data at once and every layer before settled."""
    found = []
    with torch.no_grad():
        for layer in encoder:
            if isinstance(layer, BatchNorm):
                mean, variance = x.mean(0), x.var(0, correction=0)
                found.append((mean, variance))
                x = (x - mean) / (variance + layer.epsilon).sqrt()
                x = x if layer.weight is None else x * layer.weight + layer.bias
            else:
                x = layer(x)
    return found


def _statistics(*networks: nn.Module) -> list[Tensor]:
    return [value.clone() for network in networks for value in network.buffers()]


@pytest.mark.parametrize("part", [200, 2**18])
def test_stacked_layers_have_the_moments_of_one_pass_over_all_data(pair: Pair, x: Tensor, part: int) -> None:
    Settling(Problem.of(pair, x), seed=0, part=part)()
    norms = [layer for layer in pair.guide.encoder if isinstance(layer, BatchNorm)]
    for norm, (mean, variance) in zip(norms, _one_pass(pair.guide.encoder, x), strict=True):
        torch.testing.assert_close((norm.mean, norm.variance), (mean, variance))


def test_a_decoders_moments_are_those_of_its_latents_whatever_the_size_of_a_part(
    pair: Pair, x: Tensor
) -> None:
    found = []
    for part in (200, 2**18):
        task = Settling(Problem.of(pair, x), seed=3, part=part)
        task()
        found.append(_statistics(pair.model))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])
    # z = μ(x) + ε/2, of which W z + b has the mean of W μ + b, to Monte Carlo error.
    with torch.no_grad(), pair.scope():
        first = pair.model.decoder[0]
        expected = first(pair.guide.encoder.eval()(x)).mean(0)
        error = 0.5 * first.weight.norm(dim=1) / (len(x) * task.particles) ** 0.5
    mean = pair.model.decoder[1].mean
    assert ((mean - expected).abs() < 5 * error).all()


def test_layers_that_their_owner_evaluates_keep_their_statistics(pair: Pair, x: Tensor) -> None:
    pair.initialise(x)
    with pair.scope():
        assert len(pair.open_layers()) == 3
    frozen = pair.guide.encoder[1].eval()
    Settling(Problem.of(pair, x), seed=0)()
    assert not frozen.mean.any()
    assert bool(pair.guide.encoder[4].mean.any())


def test_settling_changes_buffers_and_nothing_else(pair: Pair, x: Tensor) -> None:
    pair.initialise(x)
    before = {name: leaf.detach().clone() for name, leaf in pair.parameters().items()}
    generator = torch.get_rng_state()
    settle(pair, x)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(leaf, before[name]) for name, leaf in pair.parameters().items())
    assert pair.model.training
    assert pair.model.decoder[1].training
    assert len(Settling(Problem.of(pair, x), seed=0, train="guide").layers) == 2


@pytest.mark.parametrize("traced", [False, True])
def test_what_the_stopping_rule_judges_is_settled_and_leaves_no_trace(
    pair: Pair, x: Tensor, traced: bool
) -> None:
    """For any parameters of the moment, before which the layers were settled for others."""
    settling = Settling(Problem.of(pair, x), seed=0)
    judged = FixedData(Problem.of(pair, x), 0, None, most_particles=8, traced=traced, settling=settling)
    judged.log_weights()
    with torch.no_grad():
        pair.guide.encoder[0].weight.mul_(3)
    before = _statistics(pair.model, pair.guide)
    found = judged.log_weights()
    assert all(torch.equal(a, b) for a, b in zip(before, _statistics(pair.model, pair.guide), strict=True))
    settling()
    again = FixedData(Problem.of(pair, x), 0, None, most_particles=8).log_weights()
    torch.testing.assert_close(found, again)


@pytest.mark.parametrize("compile", [False, "auto"])
def test_a_fit_ends_with_settled_layers(
    pair: Pair, x: Tensor, compile: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "TRACED", 10)
    fit = svi.fit(pair, x, num_steps=20, batch_size=12, compile=compile, progress=False)
    assert fit.engine == ("pyro" if compile is False else "traced")
    norms = [layer for layer in pair.guide.encoder if isinstance(layer, BatchNorm)]
    for norm, (mean, variance) in zip(norms, _one_pass(pair.guide.encoder, x), strict=True):
        torch.testing.assert_close((norm.mean, norm.variance), (mean, variance))


def test_held_out_checks_see_settled_layers(pair: Pair, x: Tensor) -> None:
    """The last one is of the last parameters: the ELBO that evaluation finds then, with the same draws."""
    fit = svi.fit(
        pair, x, num_steps=20, held_out=(x,), check_every=15, lr=0.02, compile=False, progress=False
    )
    last = fit.held_out[-1, 1]
    assert last == pytest.approx(elbo(pair, x, num_particles=4).mean, rel=1e-9)
    pair.guide.encoder[1].variance.mul_(2)
    assert last != pytest.approx(elbo(pair, x, num_particles=4).mean, rel=1e-3)


@pytest.mark.parametrize("kind", [BatchNorm, nn.BatchNorm1d])
def test_a_fit_of_the_guide_alone_leaves_the_models_layers(
    pair: Pair, x: Tensor, kind: type[nn.Module]
) -> None:
    pair.model.decoder[1] = kind(4).double()
    pair.model.decoder[1].bias.data.fill_(0.5)
    settle(pair, x)
    before = _statistics(pair.model)
    norm = pair.guide.encoder[1]
    was = norm.mean.clone()
    svi.fit(pair, x, num_steps=10, train="guide", compile=False, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, _statistics(pair.model), strict=True))
    assert not torch.equal(norm.mean, was)
    assert pair.model.decoder[1].training
