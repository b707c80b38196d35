"""What Gaussian guides' own methods refuse, and that they arrive from far away."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import (
    AutoDelta,
    AutoMultivariateNormal,
    AutoNormal,
)
from pyro.infer.autoguide.initialization import init_to_value
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.inference import fixed_noise, natural
from ppl_vae.inference.fitting.fit_result import Fit
from ppl_vae.program.pair import Pair

FITS: dict[str, Callable[..., Fit]] = {"natural": natural.fit, "fixed noise": fixed_noise.fit}
FAR = {"z": torch.tensor([1.0, -1.0, 2.0])}


class _Once(torch.autograd.Function):
    """x², which can be differentiated once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * slope


def once(y: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(y.new_zeros(()), 1.0))
    square = _Once.apply(z)
    pyro.sample("y", dist.Normal(square, 2.0), obs=y)


@pytest.mark.usefixtures("from_the_mode")
@pytest.mark.filterwarnings("ignore:.*through stock Pyro")
def test_without_second_derivatives_there_is_l_bfgs_which_the_reason_says() -> None:
    y = torch.tensor(0.5, dtype=torch.float64)
    found = fixed_noise.fit(Pair(once, AutoNormal(once)), y, tolerance=0.05)
    assert "L-BFGS (no second derivatives: autograd's second derivatives are not those of" in found.reason
    # Gradients alone are enough here.
    assert natural.fit(Pair(once, AutoNormal(once)), y, tolerance=0.05).final.value == pytest.approx(
        found.final.value, abs=0.15
    )


@pytest.mark.usefixtures("from_the_mode")
@pytest.mark.filterwarnings("ignore:.*through stock Pyro")
def test_distances_by_products_need_second_derivatives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppl_vae.inference.fitting.fixed_noise.MOST_JUDGED", 0)
    y = torch.tensor(0.5, dtype=torch.float64)
    with pytest.raises(InputError, match=r"needs second derivatives, and autograd has none .*svi\.fit"):
        fixed_noise.fit(Pair(once, AutoNormal(once)), y)


def _flat(y: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(y.new_zeros(()), 1.0).mask(False))
    pyro.sample("y", dist.Normal(0 * z, 1.0), obs=y)


def _tilted(y: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(y.new_zeros(()), 1.0).mask(False))
    pyro.factor("up", z)
    pyro.sample("y", dist.Normal(y.new_zeros(()), 1.0), obs=y)


def _coin(y: Tensor) -> None:
    z = pyro.sample("z", dist.Bernoulli(y.new_tensor(0.3)))
    pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def _many(dim: int) -> Callable[[Tensor], None]:
    def model(y: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(y.new_zeros(dim), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(z.sum(-1), 1.0), obs=y)

    return model


def _moving(y: Tensor) -> None:
    top = pyro.sample("top", dist.Gamma(y.new_tensor(2.0), 1.0))
    z = pyro.sample("z", dist.Uniform(y.new_zeros(()), top))
    pyro.sample("y", dist.Normal(z, 1.0), obs=y)


@pytest.mark.parametrize("method", FITS)
def test_bad_input_gets_one_sentence(method: str) -> None:
    fit, y = FITS[method], torch.tensor(0.5, dtype=torch.float64)
    with pytest.raises(InputError, match=r"normal in unconstrained space: Pyro's AutoNormal, .*is AutoDelta"):
        fit(Pair(once, AutoDelta(once)), y)
    with pytest.raises(InputError, match="support of a latent site depends on other latents"):
        fit(Pair(_moving, AutoNormal(_moving)), y)
    with pytest.raises(InputError, match=r"discrete.*enumerat"):
        fit(Pair(_coin, AutoDelta(_coin)), y)
    with pytest.raises(InputError, match="tolerance is -1; it must be a positive number of nats"):
        fit(Pair(once, AutoNormal(once)), y, tolerance=-1)
    with pytest.raises(InputError, match="start='middle' is not known; it is 'best' or 'guide'"):
        fit(Pair(once, AutoNormal(once)), y, start="middle")


@pytest.mark.usefixtures("from_the_mode")
@pytest.mark.parametrize("model", [_flat, _tilted])
@pytest.mark.parametrize("method", FITS)
def test_a_posterior_that_cannot_be_normalised_is_named(method: str, model: Callable[[Tensor], None]) -> None:
    y = torch.tensor(0.5, dtype=torch.float64)
    with pytest.raises(InputError, match="cannot be normalised: its density does not fall as z moves away"):
        FITS[method](Pair(model, AutoNormal(model)), y)


def test_dense_covariances_of_many_dimensions_are_left_to_natural_gradients() -> None:
    model, y = _many(101), torch.tensor(0.5, dtype=torch.float64)
    with pytest.raises(InputError, match=r"dense covariance of 101 dimensions .* natural\.fit"):
        fixed_noise.fit(Pair(model, AutoMultivariateNormal(model)), y)


def test_more_latents_than_dense_matrices_take_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(natural, "MOST_DIMENSIONS", 2)
    model, y = _many(3), torch.tensor(0.5, dtype=torch.float64)
    with pytest.raises(InputError, match=r"dense matrices of the latents, here 3; .* fixed_noise\.fit"):
        natural.fit(Pair(model, AutoNormal(model)), y)


# Far from an optimum ------------------------------------------------------------------------------------


def test_a_start_where_the_density_falls_beyond_all_bounds_arrives_too() -> None:
    def model(y: Tensor) -> None:
        # As of an autoregression that is not stationary: the 200th power of a coefficient.
        z = pyro.sample("z", dist.Normal(y.new_zeros(3), 1.0).to_event(1))
        pyro.factor("walls", -(0.1 * z.sum(-1)).pow(200))

    pair = Pair(model, AutoMultivariateNormal(model, init_loc_fn=init_to_value(values=FAR), init_scale=10.0))
    found = natural.fit(pair, torch.zeros(1).double(), start="guide", tolerance=1e-3)
    assert found.converged
    # No mass is at the walls: the posterior is the prior, whose ELBO is log 1.
    assert found.final.value == pytest.approx(0, abs=1e-3 + 4 * found.final.std_error)


def test_a_covariance_that_gains_next_to_nothing_keeps_no_mean_from_moving() -> None:
    """A line through years: far off, steps of mean and covariance together rise only where they are short."""
    random = np.random.default_rng(0)
    x = torch.arange(1952.0, 2014.0, dtype=torch.float64)
    y = 9.3 + 0.01 * (x - x.mean()) + torch.from_numpy(random.normal(0, 1.1, len(x)))

    def line(x: Tensor, y: Tensor) -> None:
        alpha = pyro.sample("alpha", dist.Normal(y.new_tensor(9.3), 100.0))
        beta = pyro.sample("beta", dist.Normal(y.new_tensor(0.0), 0.0333))
        sigma = pyro.sample("sigma", dist.HalfCauchy(y.new_tensor(2.5)))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(alpha + beta * x, sigma), obs=y)

    best = natural.fit(Pair(line, AutoNormal(line)), x, y, start="mode", progress=False)
    for seed in range(3):
        found = natural.fit(Pair(line, AutoNormal(line)), x, y, start="prior", seed=seed, progress=False)
        assert found.steps <= 80
        assert found.final.value == pytest.approx(best.final.value, abs=0.1)
