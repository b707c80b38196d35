"""The IWAE objective against its definition, its gradient's expectation, and stock Pyro."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import seeded
from ppl_vae.engine.graph import trace, vmap_graph
from ppl_vae.guides import LinearNormal
from ppl_vae.inference import bounds, exact, svi
from ppl_vae.inference.fitting import state as fitting_state
from ppl_vae.inference.fitting.iwae import IWAE
from ppl_vae.inference.fitting.objective import LossAndGradients
from ppl_vae.models import PPCA, VAE
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem
from ppl_vae.program.terms import layout


def _task(
    pair: Pair, x: Tensor, loss: IWAE, index: Tensor | None = None, beta: float | None = None
) -> LossAndGradients:
    shape = layout(pair, x)
    leaves = tuple(pair.parameters().values())
    return LossAndGradients(
        Problem(pair, (x,), shape), leaves, loss, index, None,
        None if beta is None else torch.tensor(beta, dtype=torch.float64), None,
    )  # fmt: skip


def _ppca() -> tuple[Pair, Tensor]:
    torch.manual_seed(1)
    x = torch.randn(12, 4, dtype=torch.float64)
    return Pair(PPCA(4, 2), LinearNormal(4, 2, covariance="diagonal", dtype=torch.float64)), x


def _by_hand(pair: Pair, x: Tensor, particles: int, index: Tensor, seed: int) -> Tensor:
    """−N/B Σ_n log 1/K Σ_k w, written out in PyTorch with the same noise."""
    rows = x[index]
    q = pair.guide.encode(rows)
    with seeded(seed):
        z = q.rsample(torch.Size([particles]))
    mean = z @ pair.model.loadings.T + pair.model.mean
    log_p = dist.Normal(mean, pair.model.noise_scale).log_prob(rows).sum(-1)
    log_w = log_p + dist.Normal(0.0, 1.0).log_prob(z).sum(-1) - q.log_prob(z)
    bound = torch.logsumexp(log_w, 0) - np.log(particles)
    return -len(x) / len(index) * bound.sum()


@pytest.mark.parametrize("particles", [1, 5])
def test_value_and_gradient_are_those_written_by_hand(particles: int) -> None:
    pair, x = _ppca()
    index = torch.tensor([3, 1, 7, 10])
    task = _task(pair, x, IWAE(particles), index)
    with seeded(4):
        found, *gradients = task()
    loss = _by_hand(pair, x, particles, index, 4)
    expected = torch.autograd.grad(loss, task.leaves)
    torch.testing.assert_close(found, loss.detach(), rtol=1e-12, atol=1e-12)
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_one_particle_is_the_elbo() -> None:
    pair, x = _ppca()
    loss = Trace_ELBO(max_plate_nesting=1)
    with seeded(2), pair.scope():
        expected = loss.differentiable_loss(pair.model, pair.guide, x).item()
    with seeded(2):
        assert _task(pair, x, IWAE(1))()[0].item() == pytest.approx(expected, rel=1e-10)


def _often(task: LossAndGradients, times: int) -> tuple[Tensor, ...]:
    """The loss and its gradients at one point under many noises, each with a leading dimension."""
    inputs = [tensor.detach() for tensor in task.tensors]
    (x,) = task.data
    batched = [tensor is x for tensor in task.tensors]
    example = [
        one.expand(times, *one.shape) if many else one for one, many in zip(inputs, batched, strict=True)
    ]
    with pyro.validation_enabled(False), seeded(0), torch.no_grad():
        return tuple(vmap_graph(trace(task, *task.tensors), batched, example)(*example))


@pytest.mark.parametrize("beta", [1.0, 0.4])
def test_doubly_reparameterised_gradients_have_the_same_mean_and_less_noise(
    beta: float, oracles: Any
) -> None:
    """Many gradients of each kind at one point: equal means; for β = 1 less variance for the guide."""
    pair, x = _ppca()
    means, errors = {}, {}
    for doubly in (False, True):
        task = _task(pair, x, IWAE(8, doubly), beta=beta)
        drawn = torch.cat([gradient.reshape(1500, -1) for gradient in _often(task, 1500)[1:]], dim=1)
        means[doubly], errors[doubly] = drawn.mean(0), drawn.std(0) / np.sqrt(1500)
    scores = (means[True] - means[False]) / (errors[True].square() + errors[False].square()).sqrt()
    assert scores.abs().max() < oracles.z_limit(len(scores))
    if beta == 1.0:
        own = {id(leaf) for leaf in pair.parameters("guide").values()}
        guides = torch.cat([torch.full((leaf.numel(),), id(leaf) in own) for leaf in task.leaves])
        torch.testing.assert_close(errors[True][~guides], errors[False][~guides])
        assert errors[True][guides].mean() < 0.7 * errors[False][guides].mean()


def test_a_warm_up_weighs_the_latents_terms() -> None:
    """β = 0 leaves the likelihood alone."""
    pair, x = _ppca()
    with seeded(3):
        found = _task(pair, x, IWAE(5), beta=0.0)()[0].item()
    with seeded(3):
        z = pair.guide.encode(x).rsample(torch.Size([5]))
    mean = z @ pair.model.loadings.T + pair.model.mean
    log_p = dist.Normal(mean, pair.model.noise_scale).log_prob(x).sum(-1)
    expected = -(torch.logsumexp(log_p, 0) - np.log(5)).sum().item()
    assert found == pytest.approx(expected, rel=1e-10)


def test_minibatches_are_unbiased(oracles: Any) -> None:
    """Over all batches of a partition, N/B-scaled losses average to the loss of all data in expectation."""
    pair, x = _ppca()
    whole = _often(_task(pair, x, IWAE(5)), 2000)[0]
    parts = [_often(_task(pair, x, IWAE(5), index), 2000)[0] for index in torch.arange(12).split(4)]
    means = torch.stack([part.mean() for part in parts])
    variance = whole.var() + sum(part.var() for part in parts) / 9
    assert abs(whole.mean() - means.mean()) < oracles.z_limit() * (variance / 2000).sqrt()


@pytest.mark.parametrize("doubly", [False, True])
def test_traced_fits_are_those_of_eager_ones(doubly: bool) -> None:
    fits = []
    for engine in ("pyro", "traced"):
        pair, x = _ppca()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fitting_state, "engine_of_fit", lambda *_, engine=engine: engine)
            found = svi.fit(
                pair, x, num_steps=40, batch_size=5, num_particles=4, objective="iwae", kl_warmup=10,
                doubly_reparameterised=doubly, progress=False,
            )  # fmt: skip
        fits.append((found.elbo, pair.state_dict()))
        assert found.engine == engine
    np.testing.assert_allclose(fits[0][0], fits[1][0], rtol=1e-8)
    for name, value in fits[0][1].items():
        torch.testing.assert_close(fits[1][1][name], value, rtol=1e-7, atol=1e-9)


def test_training_with_the_bound_raises_it_above_that_of_the_elbo() -> None:
    """A mean-field guide of a PPCA with correlated latents: IWAE(10) is higher where it was trained for."""
    loadings = torch.tensor([[2.0, 2.0], [2.0, 1.6], [1.8, 2.0], [2.4, 2.0]], dtype=torch.float64)
    reached = {}
    for objective in ("elbo", "iwae"):
        torch.manual_seed(0)
        x = torch.randn(60, 4, dtype=torch.float64) @ torch.randn(4, 4, dtype=torch.float64)
        model = PPCA(4, 2)
        with torch.no_grad():
            model.loadings.copy_(loadings)
        assert model.mean_field_gap() > 0.5
        pair = Pair(model, LinearNormal(4, 2, covariance="diagonal", dtype=torch.float64))
        fitted = svi.fit(pair, x, num_steps=1200, num_particles=10, lr=0.05, objective=objective,
                         train="guide", held_out=(x,), check_every=600, progress=False)  # fmt: skip
        reached[objective] = bounds.iwae(pair, x, num_particles=10, num_repeats=400, progress=False)
        assert fitted.converged is None, fitted.reason
        assert ("the IWAE bound rose" in fitted.reason) == (objective == "iwae")
        value = reached[objective].mean if objective == "iwae" else reached[objective].elbo.mean()
        assert fitted.held_out[-1, 1] == pytest.approx(value, abs=0.15)
    rise = reached["iwae"].log_evidence - reached["elbo"].log_evidence
    assert rise.mean() > 5 * np.hypot(reached["iwae"].mean_std_error, reached["elbo"].mean_std_error)
    assert (reached["iwae"].elbo < reached["elbo"].elbo).mean() > 0.5
    assert reached["iwae"].mean < exact.log_evidence(pair.model, x).mean


def test_autoguides_of_global_latents_are_trained(conjugate: Any) -> None:
    def model(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
        with pyro.plate("data", len(x)) as i:
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x[i])

    x = torch.linspace(0, 1, 10, dtype=torch.float64)
    for doubly in (False, True):
        pair = Pair(model, AutoNormal(model))
        svi.fit(pair, x, num_steps=800, num_particles=5, lr=0.05, objective="iwae", average=0.5,
                doubly_reparameterised=doubly, progress=False)  # fmt: skip
        # Within half a posterior sd, of which the start is one and a half off.
        off = pair.guide.quantiles([0.5])["mean"].item() - x.sum().item() / 11
        assert abs(off) < 0.5 * 11**-0.5
        with pytest.raises(InputError, match="one importance weight"):
            svi.fit(pair, x, num_steps=2, batch_size=3, objective="iwae", progress=False)


def test_fits_resume_and_use_their_bound_for_convergence(tmp_path: Any) -> None:
    options: dict[str, Any] = {
        "num_steps": 300, "batch_size": 5, "num_particles": 3, "objective": "iwae", "progress": False,
        "checkpoint_every": 100,
    }  # fmt: skip
    pair, x = _ppca()
    whole = svi.fit(pair, x, checkpoint=tmp_path / "a", **options)
    state = pair.state_dict()
    pair, x = _ppca()
    resumed = svi.fit(pair, x, checkpoint=tmp_path / "a", resume=True, **options)
    np.testing.assert_array_equal(whole.elbo, resumed.elbo)
    for name, value in pair.state_dict().items():
        assert torch.equal(value, state[name])


def _discrete() -> tuple[Callable[..., None], Callable[..., None]]:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[i])

    def guide(x: Tensor) -> None:
        chance = pyro.param("chance", torch.tensor(0.3))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(chance))

    return model, guide


def test_what_it_cannot_train_is_refused() -> None:
    pair, x = _ppca()
    with pytest.raises(InputError, match="objective='other'"):
        svi.fit(pair, x, num_steps=2, objective="other")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="exclude each other"):
        svi.fit(pair, x, num_steps=2, objective="iwae", loss=Trace_ELBO())
    with pytest.raises(InputError, match="belongs to objective='iwae'"):
        svi.fit(pair, x, num_steps=2, doubly_reparameterised=True)
    with pytest.raises(InputError, match="site z of the guide is Bernoulli"):
        svi.fit(Pair(*_discrete()), torch.randn(5), num_steps=2, objective="iwae")


def test_float32_networks_train() -> None:
    torch.manual_seed(0)
    model = VAE(16, 3, hidden=(8,))
    x = (torch.rand(50, 16) < 0.4).float()
    pair = Pair(model, model.encoder_guide())
    found = svi.fit(pair, x, num_steps=300, batch_size=25, num_particles=5, lr=5e-3, objective="iwae",
                    doubly_reparameterised=True, progress=False)  # fmt: skip
    assert found.engine == "traced"
    first, last = found.elbo[:20], found.elbo[-50:]
    error = (first.var() / 20 + last.var() / 50) ** 0.5
    assert last.mean() > first.mean() + 5 * error
