"""Discrete latents: summed out, or refused by name."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import (
    AutoNormal,
    init_to_value,
)
from scipy import integrate, stats
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.guides import Prior
from ppl_vae.inference import guide, importance, svi
from ppl_vae.inference.evidence.elbo import elbo
from ppl_vae.program.pair import Pair
from ppl_vae.program.terms import layout, terms
from tests.normal_mean import Program, fixed

# Discrete latents -----------------------------------------------------------------------------------------


def _mixture_log_evidence(x: np.ndarray, weight: float = 0.3) -> float:
    return float(np.log((1 - weight) * stats.norm(-1, 1).pdf(x) + weight * stats.norm(1, 1).pdf(x)).sum())


def _bernoulli(x: Tensor) -> None:
    with pyro.plate("data", len(x)) as i:
        z = pyro.sample("z", dist.Bernoulli(0.3))
        pyro.sample("x", dist.Normal(2 * z - 1, 1.0), obs=x[i])


def _categorical(x: Tensor) -> None:
    with pyro.plate("data", len(x)) as i:
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.7, 0.3])))
        pyro.sample("x", dist.Normal(2.0 * z - 1, 1.0), obs=x[i])


def _same_z(family: str) -> Program:
    def program(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            if family == "bernoulli":
                pyro.sample("z", dist.Bernoulli(torch.full((len(x),), 1e-6)))
            else:
                pyro.sample("z", dist.Categorical(torch.tensor([1 - 1e-6, 1e-6]).expand(len(x), 2)))

    return program


def _nothing(*_: Any) -> None:
    """The guide of a model whose latents are all summed out."""


DISCRETE = {
    "bernoulli, unmarked": (_bernoulli, _same_z("bernoulli")),
    "categorical, unmarked": (_categorical, _same_z("categorical")),
    "marked in the model": (config_enumerate(_categorical), _same_z("categorical")),
    "marked in the guide": (_categorical, config_enumerate(_same_z("categorical"))),
    "in the model alone": (config_enumerate(_categorical), _nothing),
}


@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_latents_are_summed_out_of_the_evidence(name: str) -> None:
    """The guides never draw the second component: a mean over their draws would be far off and sure of it."""
    x = torch.tensor([1.5, -0.5, 0.2, -2.0])
    model, program = DISCRETE[name]
    found = importance.log_evidence(Pair(model, program), x, num_samples=50, progress=False)
    assert found.total == pytest.approx(_mixture_log_evidence(x.numpy()), abs=1e-4)


def test_the_kl_of_a_bernoulli_is_that_of_its_formula() -> None:
    x = torch.tensor([1.5, -0.5, 0.2, -2.0])

    def program(x: Tensor) -> None:
        p = torch.tensor([0.9, 0.2, 0.5, 0.1])
        with pyro.plate("data", len(x)) as i:
            pyro.sample("z", dist.Bernoulli(p[i]))

    p = np.array([0.9, 0.2, 0.5, 0.1])
    kl = (p * np.log(p / 0.3) + (1 - p) * np.log((1 - p) / 0.7)).sum()
    found = elbo(Pair(_bernoulli, program), x, num_particles=50)
    assert found.kl == pytest.approx(kl, rel=1e-5)
    assert found.kl_is_analytic


def _gaussian_mixture(x: Tensor) -> None:
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("component", 2):
        loc = pyro.sample("loc", dist.Normal(0.0, 3.0))
    with pyro.plate("data", len(x)) as i:
        z = pyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
        mean = torch.where(z == 0, loc[..., 0:1], loc[..., 1:2])
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x[i])


def _outside(x: Tensor) -> None:
    """A site outside the plate is summed after the plate's product."""
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    k = pyro.sample("k", dist.Categorical(torch.tensor([0.4, 0.6])), infer={"enumerate": "parallel"})
    with pyro.plate("data", len(x)) as i:
        z = pyro.sample("z", dist.Bernoulli(0.2 + 0.5 * k), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(shift + z + 2 * k, 1.0), obs=x[i])


def _chain(x: Tensor) -> None:
    """``pyro.markov`` recycles dimensions: a plain log-sum-exp over them would be wrong."""
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    z: Any = 0
    for t in pyro.markov(range(len(x))):
        stay = torch.tensor([[0.8, 0.2], [0.3, 0.7]])
        z = pyro.sample(f"z_{t}", dist.Categorical(stay[z]), infer={"enumerate": "parallel"})
        pyro.sample(f"x_{t}", dist.Normal(shift + 2.0 * z, 1.0), obs=x[t])


def _inner_plate(x: Tensor) -> None:
    """A local site, with observations in a plate inside its own."""
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 2, dim=-2):
        k = pyro.sample("k", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        with pyro.plate("columns", 3, dim=-1):
            pyro.sample("x", dist.Normal(shift + 2 * k, 1.0), obs=x[:6].reshape(2, 3))


ENUMERATED = {
    "mixture": _gaussian_mixture,
    "outside a plate": _outside,
    "chain": _chain,
    "inner plate": _inner_plate,
}


@pytest.mark.parametrize("name", ENUMERATED)
def test_enumerated_models_have_trace_enum_elbos_loss(name: str) -> None:
    """At one draw of the guide, given to both."""
    x = torch.tensor([0.3, 2.1, -0.4, 1.9, 2.5, 0.1])
    model = ENUMERATED[name]
    auto = AutoNormal(poutine.block(model, hide_fn=lambda site: site["infer"].get("enumerate") == "parallel"))
    pair = Pair(model, auto)
    shape = layout(pair, x)
    assert shape.summed
    with torch.no_grad():
        drawn = terms(pair, x, layout=shape, num_particles=6)
    nesting = 2 if name == "inner plate" else 1
    for p in range(6):
        fixed = {k: v[p].detach() for k, v in drawn.draws.items()}
        with pair.scope():
            conditioned = poutine.condition(model, data=fixed)
            with torch.no_grad():
                loss = TraceEnum_ELBO(max_plate_nesting=nesting).loss(conditioned, _nothing, x)
        assert float(drawn.log_p[p].sum()) == pytest.approx(-loss, rel=1e-5)


def test_the_chain_is_the_forward_algorithms(x20: Tensor) -> None:
    x = x20[:5]
    model = _chain
    pair = Pair(model, fixed(0.3, 0.5, "shift"))
    shape = layout(pair, x)
    drawn = terms(pair, x, layout=shape, num_particles=3)
    stay = np.array([[0.8, 0.2], [0.3, 0.7]])
    for p, shift in enumerate(drawn.draws["shift"].numpy()):
        alpha = stay[0] * stats.norm(shift + 2 * np.arange(2), 1).pdf(x[0].item())
        for value in x[1:].numpy():
            alpha = (alpha @ stay) * stats.norm(shift + 2 * np.arange(2), 1).pdf(value)
        expected = np.log(alpha.sum()) + stats.norm(0, 1).logpdf(shift)
        assert float(drawn.log_p[p]) == pytest.approx(expected, rel=1e-5)


def test_the_evidence_of_a_site_outside_a_plate_is_quadratures() -> None:
    x = torch.tensor([0.3, 2.1, -0.4, 1.9])
    pair = Pair(_outside, fixed(-0.3, 0.7, "shift"))
    found = importance.log_evidence(pair, x, num_samples=4000, progress=False)

    def joint(shift: float) -> float:
        total = 0.0
        for k, weight in ((0, 0.4), (1, 0.6)):
            one = stats.norm(shift + 2 * k + 1, 1).pdf(x.numpy())
            zero = stats.norm(shift + 2 * k, 1).pdf(x.numpy())
            p = 0.2 + 0.5 * k
            total += weight * np.prod(p * one + (1 - p) * zero)
        return total * stats.norm(0, 1).pdf(shift)

    exact = math.log(integrate.quad(joint, -8, 8)[0])
    assert abs(found.total - exact) < 5 * found.total_std_error


def test_enumerated_models_are_fitted_by_svi_and_their_minibatches_are_scaled() -> None:
    x = torch.cat([torch.randn(30) - 3, torch.randn(30) + 3])
    model = _gaussian_mixture
    auto = AutoNormal(
        poutine.block(model, hide=["z"]), init_loc_fn=init_to_value(values={"loc": torch.tensor([-2.0, 2.0])})
    )
    pair = Pair(model, auto)
    fit = svi.fit(pair, x, num_steps=250, lr=0.05, num_particles=4, progress=False)
    draws = guide.draws(pair, x, num_draws=500).draws["loc"].mean(("chain", "draw")).to_numpy()
    np.testing.assert_allclose(np.sort(draws), [x[:30].mean(), x[30:].mean()], atol=0.4)
    found = importance.log_evidence(pair, x, num_samples=2000, progress=False)
    assert fit.final.value - 4 * fit.final.std_error < found.total


def _poisson_latent(x: Tensor) -> None:
    with pyro.plate("data", len(x)) as i:
        z = pyro.sample("z", dist.Poisson(2.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[i])


def _poisson_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Poisson(1.0).expand([len(x)]))


def _branching(x: Tensor) -> None:
    z = pyro.sample("z", dist.Bernoulli(0.4), infer={"enumerate": "parallel"})
    mean = 1.0 if float(z) > 0.5 else -1.0
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)) as i:
        pyro.sample("x", dist.Normal(mu + mean, 1.0), obs=x[i])


def _two_unmarked(x: Tensor) -> None:
    with pyro.plate("data", len(x)) as i:
        a = pyro.sample("a", dist.Bernoulli(0.4))
        b = pyro.sample("b", dist.Bernoulli(0.4))
        pyro.sample("x", dist.Normal(a + b, 1.0), obs=x[i])


def _two_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        for name in "ab":
            pyro.sample(name, dist.Bernoulli(torch.full((len(x),), 0.5)))


def _after(x: Tensor) -> None:
    z = pyro.sample("z", dist.Bernoulli(0.4))
    pyro.sample("mu", dist.Normal(z, 1.0))


def _before(x: Tensor) -> None:
    z = pyro.sample("z", dist.Bernoulli(0.4), infer={"enumerate": "parallel"})
    mu = pyro.sample("mu", dist.Normal(z, 1.0))
    with pyro.plate("data", len(x)) as i:
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x[i])


REFUSALS = {
    "infinitely many values": (_poisson_latent, _poisson_guide, "site z is discrete with infinitely many"),
    "control flow": (_branching, fixed(0.0, 1.0), "the discrete site z cannot be enumerated"),
    "two that nobody marked": (_two_unmarked, _two_guide, "site a, b is discrete; mark it with infer="),
    "a density that depends on the draw": (_before, _after, "the guide draws mu after the discrete site z"),
    "missing and unmarked": (_bernoulli, _nothing, "misses the model's latent sites z; z can be summed out"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_discrete_latents_that_cannot_be_summed_out_are_refused_by_name(name: str) -> None:
    model, program, words = REFUSALS[name]
    with pytest.raises(InputError, match=words):
        importance.log_evidence(Pair(model, program), torch.tensor([1.5, -0.5, 0.2]), progress=False)


# Programs that widen under a plate of particles ---------------------------------------------------------


def _chain_of_states(y: Tensor) -> None:
    rows, state = torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor(0)
    mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    for t in range(len(y)):
        state = pyro.sample(
            f"state_{t}", dist.Categorical(rows.expand(*mean.shape[:-1], 2, 2)[..., state, :])
        )
        pyro.sample(f"y_{t}", dist.Normal(mean[..., state], 1.0), obs=y[t])


def _walk_that_widens(y: Tensor) -> None:
    x = pyro.sample("x_0", dist.Normal(0.0, 1.0))
    for t in range(1, len(y)):
        x = pyro.sample(f"x_{t}", dist.Normal(x[..., None] * torch.ones(x.shape or 1), 1.0)).squeeze()
        pyro.sample(f"y_{t}", dist.Normal(x, 1.0), obs=y[t].expand(x.shape))


def _table_by_every_state(y: Tensor) -> None:
    level = pyro.sample("level_0", dist.Bernoulli(0.5))
    for t in range(1, len(y)):
        table = torch.tensor([0.2, 0.8]).expand(*level.shape, 2)
        level = pyro.sample(f"level_{t}", dist.Bernoulli(table[..., level.long()]))
    pyro.sample("y", dist.Normal(level, 1.0), obs=y[0].expand(level.shape))


@pytest.mark.parametrize("model", [_chain_of_states, _walk_that_widens, _table_by_every_state])
def test_programs_whose_draws_widen_are_run_one_by_one(model: Program) -> None:
    """Three particles would be 3⁶⁰ numbers after sixty steps."""
    widest = []

    def watched(y: Tensor) -> None:
        with poutine.trace() as seen:
            model(y)
        widest.append(max(site["value"].numel() for site in seen.trace.nodes.values()))

    found = layout(Pair(watched, Prior(watched)), torch.zeros(60))
    assert not found.vectorized
    assert max(widest) < 100
