"""Twenty programs that people check: the suite's own, and such as users write."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal
from torch import Tensor

from ppl_vae import PPCA, VAE, BayesianPPCA, TrueSkill
from ppl_vae.guides import LinearNormal

__all__ = ["PROGRAMS"]

Case = tuple[Callable[..., Any], Callable[..., Any], tuple[Any, ...]]

SCHOOLS = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12])
ERRORS = torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18])


def _normal(seed: int, *size: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=size)).float()


def ppca() -> Case:
    x = _normal(0, 150, 2) @ _normal(1, 2, 4) + 0.3 * _normal(2, 150, 4)
    return PPCA(4, 2), LinearNormal(4, 2, dtype=torch.float64), (x.double(),)


def bayesian_ppca() -> Case:
    x = _normal(0, 100, 2) @ _normal(1, 2, 5) + 0.5 * _normal(2, 100, 5)
    model = BayesianPPCA(5, 2)
    return model, AutoNormal(model), (x,)


def trueskill() -> Case:
    rng = np.random.default_rng(0)
    skills = rng.normal(size=20)
    pairs = np.array([rng.choice(20, 2, replace=False) for _ in range(300)])
    first = skills[pairs[:, 0]] - skills[pairs[:, 1]] + rng.normal(size=300) > 0
    model = TrueSkill(20)
    return model, AutoNormal(model), (torch.from_numpy(first.astype(float)), torch.from_numpy(pairs))


def vae() -> Case:
    x = (_normal(0, 500, 3) @ _normal(1, 3, 20) > 0).float()
    model = VAE(20, 3, hidden=(32,))
    return model, model.encoder_guide(), (x,)


def schools_centred() -> Case:
    def model(y: Tensor, sigma: Tensor) -> None:
        mu, tau = pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("school", len(y)):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("y", dist.Normal(theta, sigma), obs=y)

    return model, AutoNormal(model), (SCHOOLS, ERRORS)


def schools_non_centred() -> Case:
    def model(y: Tensor, sigma: Tensor) -> None:
        mu, tau = pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("school", len(y)):
            eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(mu + tau * eta, sigma), obs=y)

    return model, AutoNormal(model), (SCHOOLS, ERRORS)


def regression() -> Case:
    """Raw covariates of very different sizes, as people have them."""
    x = torch.stack(
        [1900.0 + torch.arange(60.0), 40 + 12 * _normal(0, 60), 5e4 * (1 + 0.3 * _normal(1, 60))], 1
    )
    y = 0.02 * (x[:, 0] - 1930) - 0.1 * x[:, 1] + 3e-5 * x[:, 2] + _normal(2, 60)

    def model(x: Tensor, y: Tensor) -> None:
        a = pyro.sample("a", dist.Normal(0.0, 100.0))
        b = pyro.sample("b", dist.Normal(torch.zeros(3), 10.0).to_event(1))
        sigma = pyro.sample("sigma", dist.HalfNormal(5.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(a + x @ b, sigma), obs=y)

    return model, AutoNormal(model), (x, y)


def logistic() -> Case:
    x = _normal(0, 300, 5)
    y = (x @ torch.tensor([1.0, -0.5, 0.0, 2.0, 0.3]) + _normal(1, 300) > 0).float()

    def model(x: Tensor, y: Tensor) -> None:
        b = pyro.sample("b", dist.Normal(torch.zeros(5), 2.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=x @ b), obs=y)

    return model, AutoMultivariateNormal(model), (x, y)


def hidden_markov() -> Case:
    y = torch.cat([_normal(0, 15) - 1, _normal(1, 15) + 2])

    @config_enumerate
    def model(y: Tensor) -> None:
        stay = pyro.sample("stay", dist.Beta(torch.tensor([5.0, 5.0]), 2.0).to_event(1))
        mean = pyro.sample("mean", dist.Normal(torch.tensor([-1.0, 1.0]), 1.0).to_event(1))
        rows = torch.stack([torch.stack([stay[..., 0], 1 - stay[..., 0]], -1),
                            torch.stack([1 - stay[..., 1], stay[..., 1]], -1)], -2)  # fmt: skip
        state: Any = 0
        for t in pyro.markov(range(len(y))):
            state = pyro.sample(f"state_{t}", dist.Categorical(rows[..., state, :]))
            pyro.sample(f"y_{t}", dist.Normal(mean[..., state], 1.0), obs=y[t])

    return model, AutoNormal(pyro.poutine.block(model, expose=["stay", "mean"])), (y,)


def garch() -> Case:
    y = 0.8 * _normal(0, 200)

    def model(y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        a0 = pyro.sample("a0", dist.HalfNormal(1.0))
        a1 = pyro.sample("a1", dist.Beta(2.0, 5.0))
        b1 = pyro.sample("b1", dist.Beta(5.0, 2.0))
        variance, scales = a0, []
        for value in y:
            scales.append(variance.sqrt())
            variance = a0 + a1 * (value - mu) ** 2 + (1 - a1) * b1 * variance
        with pyro.plate("time", len(y)):
            pyro.sample("y", dist.Normal(mu, torch.stack(scales)), obs=y)

    return model, AutoNormal(model), (y,)


def differential_equation() -> Case:
    """Predator and prey by Runge and Kutta's method, in a loop."""
    y = torch.exp(torch.stack([torch.sin(torch.arange(20.0) / 2), torch.cos(torch.arange(20.0) / 2)], 1))

    def model(y: Tensor) -> None:
        rates = pyro.sample("rates", dist.LogNormal(torch.tensor([0.0, -0.5, 0.0, -0.5]), 0.5).to_event(1))
        a, b, c, d = rates.unbind(-1)

        def slope(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            return a * u - b * u * v, d * u * v - c * v

        u, v, h = torch.ones_like(a), torch.ones_like(a), 0.1
        path = []
        for step in range(4 * len(y)):
            k1 = slope(u, v)
            k2 = slope(u + h / 2 * k1[0], v + h / 2 * k1[1])
            k3 = slope(u + h / 2 * k2[0], v + h / 2 * k2[1])
            k4 = slope(u + h * k3[0], v + h * k3[1])
            u = (u + h / 6 * (k1[0] + 2 * k2[0] + 2 * k3[0] + k4[0])).clamp(1e-3, 1e3)
            v = (v + h / 6 * (k1[1] + 2 * k2[1] + 2 * k3[1] + k4[1])).clamp(1e-3, 1e3)
            if step % 4 == 3:
                path.append(torch.stack([u, v], -1))
        pyro.sample("y", dist.LogNormal(torch.stack(path, -2).log(), 0.3).to_event(2), obs=y)

    return model, AutoNormal(model), (y,)


def gaussian_process() -> Case:
    x = torch.linspace(-2, 2, 20)
    y = torch.sin(2 * x) + 0.2 * _normal(0, 20)

    def model(x: Tensor, y: Tensor) -> None:
        width = pyro.sample("width", dist.LogNormal(0.0, 0.5))
        size = pyro.sample("size", dist.HalfNormal(1.0))
        noise = pyro.sample("noise", dist.HalfNormal(0.5))
        apart = (x.unsqueeze(-1) - x).square()
        width, size, noise = (value[..., None, None] for value in (width, size, noise))
        covariance = size**2 * torch.exp(-apart / (2 * width**2)) + (noise**2 + 1e-4) * torch.eye(len(x))
        factor = torch.linalg.cholesky(covariance)
        pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), scale_tril=factor), obs=y)

    return model, AutoNormal(model), (x, y)


def mixture() -> Case:
    x = torch.cat([_normal(0, 60) - 2, 0.7 * _normal(1, 40) + 2])

    @config_enumerate
    def model(x: Tensor) -> None:
        share = pyro.sample("share", dist.Beta(2.0, 2.0))
        mean = pyro.sample("mean", dist.Normal(torch.tensor([-2.0, 2.0]), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            part = pyro.sample("part", dist.Bernoulli(share)).long()
            pyro.sample("x", dist.Normal(torch.where(part == 1, mean[..., 1:], mean[..., :1]), 1.0), obs=x)

    return model, AutoNormal(pyro.poutine.block(model, expose=["share", "mean"])), (x,)


def flat_priors() -> Case:
    x = 1.5 + _normal(0, 40)

    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0).mask(False))
        scale = pyro.sample("scale", dist.HalfNormal(2.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, scale), obs=x)

    return model, AutoNormal(model), (x,)


def rows_without_index() -> Case:
    x = _normal(0, 200) * 1.4

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.tensor(0.1))
        scale = pyro.param("scale", torch.tensor(0.5), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x, scale))

    return model, guide, (x,)


def missing_data() -> Case:
    x = 1.0 + _normal(0, 60)
    seen = torch.arange(60) % 3 > 0

    def model(x: Tensor, seen: Tensor) -> None:
        mu, scale = pyro.sample("mu", dist.Normal(0.0, 3.0)), pyro.sample("scale", dist.HalfNormal(3.0))
        with pyro.plate("data", len(x)), pyro.poutine.mask(mask=seen):
            pyro.sample("x", dist.Normal(mu, scale), obs=x)

    return model, AutoNormal(model), (x, seen)


def horseshoe() -> Case:
    x = _normal(0, 80, 12)
    y = 2 * x[:, 0] - x[:, 1] + _normal(1, 80)

    def model(x: Tensor, y: Tensor) -> None:
        tau = pyro.sample("tau", dist.HalfCauchy(0.3))
        local = pyro.sample("local", dist.HalfCauchy(torch.ones(12)).to_event(1))
        b = pyro.sample("b", dist.Normal(0.0, tau.unsqueeze(-1) * local).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal((x @ b.unsqueeze(-1)).squeeze(-1), 1.0), obs=y)

    return model, AutoNormal(model), (x, y)


def random_effects() -> Case:
    group = torch.arange(120) % 12
    y = torch.from_numpy(np.random.default_rng(0).poisson(3.0, size=120)).float()

    def model(group: Tensor, y: Tensor) -> None:
        mu, sd = pyro.sample("mu", dist.Normal(0.0, 2.0)), pyro.sample("sd", dist.HalfNormal(1.0))
        with pyro.plate("group", 12):
            effect = pyro.sample("effect", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Poisson(torch.exp(mu + sd * effect[..., group])), obs=y)

    return model, AutoNormal(model), (group, y)


def point_guide() -> Case:
    x = 1.0 + _normal(0, 30)

    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    return model, AutoDelta(model), (x,)


def slow_program() -> Case:
    """Half a second of matrix products a run on an idle core."""
    big = _normal(0, 600, 600) / 25

    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        state = big
        for _ in range(20):
            state = torch.tanh(state @ big)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu + state.mean(), 1.0), obs=x)

    return model, AutoNormal(model), (1.0 + _normal(1, 20),)


PROGRAMS: dict[str, Callable[[], Case]] = {
    made.__name__.replace("_", "-"): made
    for made in (
        ppca,
        bayesian_ppca,
        trueskill,
        vae,
        schools_centred,
        schools_non_centred,
        regression,
        logistic,
        hidden_markov,
        garch,
        differential_equation,
        gaussian_process,
        mixture,
        flat_priors,
        rows_without_index,
        missing_data,
        horseshoe,
        random_effects,
        point_guide,
        slow_program,
    )
}
