"""Programs of every kind: right, or refused in one sentence."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import (
    AutoNormal,
)
from scipy import integrate, stats
from torch import Tensor
from torch.distributions.transforms import AffineTransform

from ppl_vae.base.errors import InputError
from ppl_vae.inference import guide, importance, svi
from ppl_vae.inference.evidence.elbo import elbo
from ppl_vae.program.pair import Pair
from ppl_vae.program.terms import layout, terms
from tests.normal_mean import Program, fixed, mu_given, normal_evidence, normal_mean

# Broadcasting ----------------------------------------------------------------------------------------------


def _no_plate(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def _event(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(mu, 1.0).expand([len(x)]).to_event(1), obs=x)


def _two_sites(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    pyro.sample("a", dist.Normal(mu, 1.0), obs=x[:8])
    with pyro.plate("rest", len(x) - 8):
        pyro.sample("b", dist.Normal(mu, 1.0), obs=x[8:])


@pytest.mark.parametrize("model", [_no_plate, _event, _two_sites])
def test_observations_without_a_plate_are_one_unit(model: Program, x20: Tensor) -> None:
    x = x20.numpy()
    pair = Pair(model, fixed(*mu_given(x)))
    assert layout(pair, x20).unit == "dataset"
    found = importance.log_evidence(pair, x20, num_samples=40, progress=False)
    assert found.total == pytest.approx(normal_evidence(x), abs=1e-3)


def test_latents_without_a_plate_are_drawn_as_one(x20: Tensor) -> None:
    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def program(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    pair = Pair(model, program)
    shape = layout(pair, x20)
    drawn = terms(pair, x20, layout=shape, num_particles=20)
    assert drawn.draws["z"].shape == (20, 20)
    expected = stats.norm(0, 2**0.5).logpdf(x20.numpy()).sum()
    np.testing.assert_allclose(drawn.log_weights, expected, rtol=1e-5)
    again = terms(pair, x20, layout=shape, num_particles=20, latents=drawn.draws)
    torch.testing.assert_close(again.log_p, drawn.log_p)


def _columns(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def _column_of_means(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mu * torch.ones(len(x), 1), 1.0), obs=x[:, 0])


def _two_columns(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x.expand(-1, 2))


@pytest.mark.parametrize("model", [_columns, _column_of_means, _two_columns])
@pytest.mark.parametrize("size", [20, 70])
def test_densities_that_do_not_fit_their_plate_are_refused(model: Program, size: int) -> None:
    x = torch.randn(size, 1)
    pair = Pair(model, fixed(1.0, 0.3))
    for call in (
        lambda: svi.fit(Pair(model, AutoNormal(model)), x, num_steps=3, progress=False),
        lambda: importance.log_evidence(pair, x, progress=False),
        lambda: guide.draws(pair, x),
        lambda: elbo(pair, x),
    ):
        with pytest.raises(InputError, match=r"do not run on these data: .*site .x."):
            call()


# Indexing -------------------------------------------------------------------------------------------------


def _first_rows(x: Tensor) -> None:
    with pyro.plate("data", len(x)) as i:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[: len(i)])


def _all_rows(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def _as_matrix(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(x.shape[0], 1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)


@pytest.mark.parametrize("model", [_first_rows, _all_rows, _as_matrix])
@pytest.mark.parametrize("size", [2, 64, 65])
def test_minibatches_of_a_program_that_does_not_index_are_refused_in_a_sentence(
    model: Program, size: int
) -> None:
    x = torch.randn(size)
    event = model is _as_matrix

    def program(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            prior = dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1) if event else dist.Normal(0.0, 1.0)
            pyro.sample("z", prior)

    pair = Pair(model, program)
    shape = layout(pair, x)
    if model is not _first_rows:
        expected = stats.norm(0, 2**0.5).logpdf(x.numpy())
        prior = importance.log_evidence(pair, x, num_samples=4000, progress=False)
        assert abs(prior.total - expected.sum()) < 6 * prior.total_std_error
    assert not shape.can_index
    with pytest.raises(InputError, match="minibatches need programs that index their data"):
        svi.fit(Pair(model, _trainable(event)), x, num_steps=3, batch_size=1, progress=False)


def _trainable(event: bool) -> Program:
    def program(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(len(x)))
        with pyro.plate("data", len(x)):
            base = dist.Normal(loc[:, None], 1.0).to_event(1) if event else dist.Normal(loc, 1.0)
            pyro.sample("z", base)

    return program


def _wide(x: Tensor) -> None:
    pyro.sample("t", dist.Normal(pyro.param("loc", torch.tensor(0.9)), 0.5))


def _uniform(x: Tensor) -> None:
    t = pyro.sample("t", dist.Uniform(0.0, 1.0))
    with pyro.plate("data", len(x)) as i:
        pyro.sample("x", dist.Normal(t, 1.0), obs=x[i])


def _gamma(x: Tensor) -> None:
    t = pyro.sample("t", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", len(x)) as i:
        pyro.sample("x", dist.Normal(0.0, t), obs=x[i])


def _upper_bound(x: Tensor) -> None:
    t = pyro.sample("t", dist.Normal(0.0, 5.0))
    with pyro.plate("data", len(x)) as i:
        pyro.sample("x", dist.Uniform(0.0, t.exp()), obs=x[i])


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (_uniform, "draws t outside"),
        (_gamma, "draws t outside|data of x lie"),
        (_upper_bound, "data of x lie"),
    ],
)
@pytest.mark.parametrize("compile", [False, "auto"])
@pytest.mark.filterwarnings("ignore:Encountered NaN:UserWarning")
def test_a_loss_that_is_no_number_for_a_support_says_so(model: Program, said: str, compile: Any) -> None:
    """Not for the learning rate: of the guide's own draws, some have no probability in the model."""
    x = torch.tensor([0.5, 1.9, 0.3])
    pair = Pair(model, _wide).initialise(x, seed=3)
    with pytest.raises(InputError, match=f"the loss became .*{said}|do not run"):
        svi.fit(pair, x, num_steps=40, lr=0.01, num_particles=4, compile=compile, progress=False)


@pytest.mark.parametrize("value", [0.3, 2.0, -1.0])
def test_data_outside_a_support_are_named_as_that(value: float) -> None:
    def model(x: Tensor) -> None:
        p = pyro.sample("p", dist.Beta(1.0, 1.0))
        with pyro.plate("data", len(x)) as i:
            pyro.sample("x", dist.Bernoulli(p), obs=x[i])

    x = torch.tensor([0.0, 1.0, value, 1.0])
    pair = Pair(model, AutoNormal(model))
    with pytest.raises(InputError, match=r"do not run on these data: .*Boolean"):
        svi.fit(pair, x, num_steps=3, batch_size=2, progress=False)


# Odd pairs -------------------------------------------------------------------------------------------------


def _nothing(*_: Any) -> None:
    """The guide of a model whose latents are all summed out."""


def _no_latents(x: Tensor) -> None:
    loc = pyro.param("loc", torch.tensor(0.0))
    with pyro.plate("data", len(x)) as i:
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x[i])


def _only_a_factor(x: Tensor) -> None:
    pyro.factor("energy", -x.square().sum())


def _only_deterministic(x: Tensor) -> None:
    pyro.deterministic("double", 2 * x)
    pyro.sample("x", dist.Normal(0.0, 1.0).expand([len(x)]).to_event(1), obs=x)


@pytest.mark.parametrize("model", [_no_latents, _only_a_factor, _only_deterministic])
def test_a_model_without_latents_has_no_posterior(model: Program, x20: Tensor) -> None:
    for method in (importance.log_evidence, guide.draws):
        with pytest.raises(InputError, match="the model has no latent sites"):
            method(Pair(model, _nothing), x20)


def test_one_datum_is_a_unit_of_its_own() -> None:
    x = torch.tensor([0.7])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[i])

    pair = Pair(model, _fixed_plate)
    found = importance.log_evidence(pair, x, num_samples=4000, progress=False)
    assert found.log_evidence.shape == (1,)
    assert abs(found.total - stats.norm(0, 2**0.5).logpdf(0.7)) < 5 * found.total_std_error


def _fixed_plate(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.3, 1.0))


def test_no_data_are_refused() -> None:
    with pytest.raises(InputError, match="data argument 0 is empty"):
        importance.log_evidence(Pair(normal_mean, fixed(0.0, 1.0)), torch.zeros(0), progress=False)


class _Boom(Exception):
    pass


def _raises(x: Tensor) -> None:
    pyro.sample("mu", dist.Normal(0.0, 1.0))
    raise _Boom("oops")


def _no_arguments() -> None:
    pyro.sample("mu", dist.Normal(0.0, 1.0))


def _keywords(*, x: Tensor) -> None:
    normal_mean(x)


@pytest.mark.parametrize(
    ("model", "program", "kind", "role"),
    [
        (_raises, fixed(0.0, 1.0), _Boom, "model _raises"),
        (normal_mean, _raises, _Boom, "guide _raises"),
        (normal_mean, _no_arguments, TypeError, "guide _no_arguments"),
        (_keywords, fixed(0.0, 1.0), TypeError, "model _keywords"),
    ],
)
def test_a_programs_own_exception_keeps_its_type_and_says_whose_it_is(
    model: Program, program: Program, kind: type, role: str, x20: Tensor
) -> None:
    for method in (importance.log_evidence, guide.draws, elbo):
        with pytest.raises(kind) as caught:
            method(Pair(model, program), x20)
        assert any(role in note for note in caught.value.__notes__)


# Layout once a pair ---------------------------------------------------------------------------------------


def test_a_layout_is_read_once_for_the_same_data(x20: Tensor) -> None:
    calls = []

    def model(x: Tensor) -> None:
        calls.append(len(x))
        normal_mean(x)

    pair = Pair(model, fixed(0.5, 0.3))
    first = layout(pair, x20)
    before = len(calls)
    assert layout(pair, x20) is first
    assert len(calls) == before
    other = x20.clone()
    layout(pair, other)
    assert len(calls) > before
    x20[3] = math.nan
    with pytest.raises(InputError, match="nan"):
        layout(pair, x20)


def test_the_largest_site_counts_all_the_data() -> None:
    x = torch.randn(5000)
    pair = Pair(normal_mean, fixed(0.5, 0.3))
    assert layout(pair, x).event_size == 5000
    assert layout(pair, x).particles_per_chunk(1, 2**20) == 2**20 // 5000


def test_a_step_that_cannot_fit_into_memory_is_refused_with_the_estimate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ppl_vae.program import memory

    monkeypatch.setattr(memory, "physical_memory", lambda: 2**20)
    x = torch.randn(5000)
    pair = Pair(normal_mean, AutoNormal(normal_mean))
    with pytest.raises(InputError, match=r"a step of 16 particles on 5,000 data would need about .* GiB"):
        svi.fit(pair, x, num_steps=10, num_particles=16, progress=False)
    svi.fit(pair, x, num_steps=10, num_particles=16, batch_size=50, progress=False)


def test_a_transformed_guide_still_covers_its_support() -> None:
    """The German tank problem, whose support depends on the latent: exact by quadrature."""
    x = torch.tensor([12.0, 47.0, 3.0, 31.0])

    def model(x: Tensor) -> None:
        theta = pyro.sample("theta", dist.LogNormal(4.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Uniform(0.0, theta), obs=x)

    def program(x: Tensor) -> None:
        base = dist.LogNormal(2.3, 1.1)
        pyro.sample("theta", dist.TransformedDistribution(base, AffineTransform(47.0, 1.0)))

    exact = integrate.quad(lambda t: stats.lognorm(1.0, scale=math.exp(4)).pdf(t) * t**-4, 47, np.inf)[0]
    found = importance.log_evidence(Pair(model, program), x, num_samples=5000, progress=False)
    assert abs(found.total - math.log(exact)) < 5 * found.total_std_error
