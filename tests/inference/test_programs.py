"""Programs of every kind: right, or refused in one sentence."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoHierarchicalNormalMessenger,
    AutoIAFNormal,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoNormalMessenger,
    AutoStructured,
    init_to_value,
)
from scipy import integrate, stats
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.transforms import AffineTransform, ExpTransform

from ppl_vae.errors import InputError
from ppl_vae.inference import annealing, bounds, guide, importance, svi
from ppl_vae.inference.elbo import elbo
from ppl_vae.inference.point_mass import point_masses
from ppl_vae.inference.terms import layout, terms
from ppl_vae.program import Pair

Program = Callable[..., Any]


@pytest.fixture
def x20() -> Tensor:
    return torch.as_tensor(np.random.default_rng(5).normal(1, 1, 20), dtype=torch.float32)


def _normal_evidence(x: np.ndarray) -> float:
    """log p(x) of x_i ~ N(mu, 1), mu ~ N(0, 1)."""
    return float(stats.multivariate_normal(np.zeros(len(x)), np.eye(len(x)) + 1).logpdf(x))


def _mu_given(x: np.ndarray) -> tuple[float, float]:
    """Mean and sd of mu given those."""
    precision = 1 + len(x)
    return float(x.sum() / precision), precision**-0.5


def _fixed(mean: float, sd: float, name: str = "mu") -> Program:
    def guide(*_: Any) -> None:
        pyro.sample(name, dist.Normal(mean, sd))

    return guide


def _model(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)) as i:
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x[i])


# Point masses (a point has no density) ---------------------------------------------------------------


def _pair_model(x: Tensor) -> None:
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(shift, rate), obs=x)


def _delta_for_one(x: Tensor) -> None:
    pyro.sample("rate", dist.Delta(torch.tensor(1.0)))
    pyro.sample("shift", dist.Normal(0.0, 1.0))


def _masked_delta(x: Tensor) -> None:
    with poutine.mask(mask=torch.tensor(True)):
        pyro.sample("rate", dist.Delta(torch.tensor(1.0)).mask(torch.tensor(True)))
    pyro.sample("shift", dist.Normal(0.0, 1.0))


def _transformed_delta(x: Tensor) -> None:
    pyro.sample("rate", dist.TransformedDistribution(dist.Delta(torch.tensor(0.0)), ExpTransform()))
    pyro.sample("shift", dist.Normal(0.0, 1.0))


def _both_points(x: Tensor) -> None:
    pyro.sample("rate", dist.Delta(torch.tensor(1.0)))
    pyro.sample("shift", dist.Delta(torch.tensor(0.2)))


POINTS = {
    "AutoDelta": (lambda: AutoDelta(_pair_model), ("rate", "shift")),
    "AutoLaplaceApproximation": (lambda: AutoLaplaceApproximation(_pair_model), ("rate", "shift")),
    "one of two": (lambda: _delta_for_one, ("rate",)),
    "masked": (lambda: _masked_delta, ("rate",)),
    "transformed": (lambda: _transformed_delta, ("rate",)),
    "by hand": (lambda: _both_points, ("rate", "shift")),
}


@pytest.mark.parametrize("name", POINTS)
def test_a_point_mass_has_no_weights_and_no_evidence(name: str, x20: Tensor) -> None:
    make, sites = POINTS[name]
    pair = Pair(_pair_model, make())
    shape = layout(pair, x20)
    assert point_masses(pair, x20, layout=shape) == sites
    for method in (importance.log_evidence, bounds.iwae, annealing.log_evidence):
        with pytest.raises(InputError, match=f"not a posterior: it puts {', '.join(sites)} at one point"):
            method(pair, x20, progress=False)
    assert guide.draws(pair, x20, num_draws=10).log_weights is None


SPREAD = [
    AutoNormal,
    AutoDiagonalNormal,
    AutoMultivariateNormal,
    AutoLowRankMultivariateNormal,
    AutoIAFNormal,
    AutoNormalMessenger,
    AutoHierarchicalNormalMessenger,
    AutoStructured,
]


@pytest.mark.parametrize("family", SPREAD)
def test_no_guide_with_a_spread_is_taken_for_a_point(family: type, x20: Tensor) -> None:
    pair = Pair(_pair_model, family(_pair_model))
    assert point_masses(pair, x20, layout=layout(pair, x20)) == ()


def test_a_laplace_approximation_is_a_posterior_once_it_is_made(x20: Tensor) -> None:
    auto = AutoLaplaceApproximation(_model)
    pair = Pair(_model, auto)
    svi.fit(pair, x20, num_steps=300, lr=0.05, progress=False)
    with pair.scope():
        converted = auto.laplace_approximation(x20)
    found = importance.log_evidence(Pair(_model, converted), x20, num_samples=200, progress=False)
    # The posterior is Gaussian: the approximation is exact but for where Adam stopped.
    assert found.total == pytest.approx(_normal_evidence(x20.double().numpy()), abs=0.05)


def test_a_list_of_guides_names_the_part_that_is_a_point(x20: Tensor) -> None:
    parts = AutoGuideList(_pair_model)
    parts.append(AutoDelta(poutine.block(_pair_model, expose=["rate"])))
    parts.append(AutoNormal(poutine.block(_pair_model, expose=["shift"])))
    pair = Pair(_pair_model, parts)
    assert point_masses(pair, x20, layout=layout(pair, x20)) == ("rate",)


# Evaluation is evaluation ------------------------------------------------------------------------------


class _Network(nn.Module):
    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.Sequential(*parts)

    def forward(self, z: Tensor) -> Tensor:
        return self.parts(z.reshape(-1, z.shape[-1])).reshape(*z.shape[:-1], -1)


PARTS = {
    "batch norm": lambda: (nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)),
    "dropout": lambda: (nn.Linear(2, 4), nn.Dropout(0.5), nn.Linear(4, 3)),
    "inside another module": lambda: (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)),),
    "instance statistics": lambda: (nn.Linear(2, 3), nn.BatchNorm1d(3, affine=False)),
}


def _decoder_pair(network: nn.Module, how: str) -> Pair:
    def model(x: Tensor) -> None:
        if how == "pyro.module":
            pyro.module("network", network)
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(network(z), 1.0).to_event(1), obs=x[i])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    return Pair(model, guide)


@pytest.mark.parametrize("how", ["pyro.module", "closure"])
@pytest.mark.parametrize("part", PARTS)
def test_a_rows_density_does_not_depend_on_its_neighbours(part: str, how: str) -> None:
    network = _Network(*PARTS[part]())
    x = torch.randn(12, 3)
    pair = _decoder_pair(network, how)
    shape = layout(pair, x)
    buffers = {name: value.clone() for name, value in network.named_buffers()}
    z = {"z": torch.randn(5, 12, 2)}
    whole = terms(pair, x, layout=shape, num_particles=5, latents=z).log_p
    rows = torch.tensor([7, 2])
    part_of = terms(pair, x, layout=shape, num_particles=5, latents={"z": z["z"][:, rows]}, index=rows).log_p
    torch.testing.assert_close(part_of, whole[:, rows])
    elbo(pair, x)
    importance.log_evidence(pair, x, num_samples=20, progress=False)
    for name, value in network.named_buffers():
        assert torch.equal(value, buffers[name]), name
    assert network.training


@pytest.mark.parametrize("objective", ["elbo", "iwae"])
def test_learning_trains_in_training_mode(objective: Any) -> None:
    network = _Network(nn.Linear(2, 3), nn.BatchNorm1d(3))
    x = 3 + torch.randn(40, 3)
    pair = _decoder_pair(network, "pyro.module")
    svi.fit(pair, x, num_steps=5, num_particles=2, objective=objective, compile=False, progress=False)
    # Its running statistics have moved, once a step or more, and not while anything was evaluated.
    norm = network.parts[1]
    assert int(norm.num_batches_tracked) in (5, 10)
    assert network.training


def test_a_module_that_its_owner_put_into_evaluation_stays_there() -> None:
    network = _Network(nn.Linear(2, 3), nn.BatchNorm1d(3))
    network.eval()
    x = torch.randn(20, 3)
    svi.fit(_decoder_pair(network, "pyro.module"), x, num_steps=3, compile=False, progress=False)
    assert int(network.parts[1].num_batches_tracked) == 0
    assert not network.training


# log q holds what the guide draws, and nothing else --------------------------------------------------------


def _with_factor(x: Tensor) -> None:
    pyro.factor("penalty", torch.tensor(-3.0), has_rsample=True)
    pyro.sample("mu", dist.Normal(*_mu_given(x.numpy())))


def _with_observed(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(*_mu_given(x.numpy())))
    with pyro.plate("data", len(x)) as i:
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x[i])


def _with_deterministic(x: Tensor) -> None:
    pyro.deterministic("noted", torch.tensor(2.0))
    pyro.sample("mu", dist.Normal(*_mu_given(x.numpy())))


@pytest.mark.parametrize("program", [_with_factor, _with_observed, _with_deterministic])
def test_what_a_guide_observes_or_adds_is_no_part_of_its_density(program: Program, x20: Tensor) -> None:
    """Each of these guides draws from the exact posterior, so that every weight is p(x)."""
    found = importance.log_evidence(Pair(_model, program), x20, num_samples=50, progress=False)
    assert found.total == pytest.approx(_normal_evidence(x20.numpy()), abs=1e-3)
    assert float(found.std_error[0]) < 1e-4
    bound = elbo(Pair(_model, program), x20, num_particles=100)
    assert abs(bound.value - found.total) < 5 * bound.std_error


def test_guides_that_run_the_model_have_stock_pyros_elbo(x20: Tensor) -> None:
    pair = Pair(_model, AutoNormalMessenger(_model))
    layout(pair, x20)
    with pair.scope():
        draws = np.array([-Trace_ELBO().loss(pair.model, pair.guide, x20) for _ in range(400)])
    found = elbo(pair, x20, num_particles=400)
    error = math.hypot(found.std_error, draws.std() / 20)
    assert abs(found.value - draws.mean()) < 5 * error
    assert found.value < _normal_evidence(x20.numpy())


# Subsamples and temperatures -------------------------------------------------------------------------------


def _own_size(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x), subsample_size=5) as i:
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x[i])


def _given_indices(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x), subsample=torch.tensor([3, 1, 7, 8, 2])) as i:
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x[i])


def _local_size(x: Tensor) -> None:
    with pyro.plate("data", len(x), subsample_size=5) as i:
        z = pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[i])


def _local_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x), subsample_size=5):
        pyro.sample("mu", dist.Normal(0.0, 1.0))


SUBSAMPLED = {
    "subsample_size": (_own_size, _fixed(1.0, 0.3)),
    "subsample": (_given_indices, _fixed(1.0, 0.3)),
    "local latents": (_local_size, _local_guide),
}


@pytest.mark.parametrize("name", SUBSAMPLED)
def test_a_program_that_takes_a_part_of_its_data_has_no_evidence(name: str, x20: Tensor) -> None:
    model, program = SUBSAMPLED[name]
    for method in (importance.log_evidence, bounds.iwae, annealing.log_evidence):
        with pytest.raises(InputError, match=r"the plate data takes a subsample of 5 of its 20 entries"):
            method(Pair(model, program), x20, progress=False)


def test_the_elbo_of_a_programs_own_subsample_stands_for_all_the_data(x20: Tensor) -> None:
    """E over subsamples and draws: exact by hand for a Gaussian."""
    pair, whole = Pair(_own_size, _fixed(1.0, 0.3)), Pair(_model, _fixed(1.0, 0.3))
    found, exact = (elbo(one, x20, num_particles=1500) for one in (pair, whole))
    assert abs(found.value - exact.value) < 5 * math.hypot(found.std_error, exact.std_error)


@pytest.mark.parametrize("where", ["model", "guide", "both"])
def test_a_tempered_program_is_refused_by_name(where: str, x20: Tensor) -> None:
    model: Program = _model
    program: Program = _fixed(1.0, 0.3)
    if where != "guide":
        model = poutine.scale(_model, scale=1 / 20)
    if where != "model":
        program = poutine.scale(program, scale=1 / 20)
    with pytest.raises(InputError, match=r"scale the log density of (mu|mu, x) themselves \(poutine.scale\)"):
        importance.log_evidence(Pair(model, program), x20, progress=False)


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
    pair = Pair(model, _fixed(*_mu_given(x)))
    assert layout(pair, x20).unit == "dataset"
    found = importance.log_evidence(pair, x20, num_samples=40, progress=False)
    assert found.total == pytest.approx(_normal_evidence(x), abs=1e-3)


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
    pair = Pair(model, _fixed(1.0, 0.3))
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


# Missing values -------------------------------------------------------------------------------------------


def _nan_masked(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)) as i:
        pyro.sample("x", dist.NanMaskedNormal(mu, 1.0), obs=x[i])


def _mask_around(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    seen = ~x.isnan()
    with pyro.plate("data", len(x)) as i, poutine.mask(mask=seen[i]):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x[i].nan_to_num())


def _mask_of_the_distribution(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    seen = ~x.isnan()
    with pyro.plate("data", len(x)) as i:
        pyro.sample("x", dist.Normal(mu, 1.0).expand([len(i)]).mask(seen[i]), obs=x[i].nan_to_num())


@pytest.mark.parametrize("model", [_nan_masked, _mask_around, _mask_of_the_distribution])
@pytest.mark.parametrize("missing", [[2, 5, 9], [19]])
def test_masked_values_are_integrated_out(model: Program, missing: list[int], x20: Tensor) -> None:
    x = x20.clone()
    x[missing] = math.nan
    seen = x[~x.isnan()].numpy()
    pair = Pair(model, _fixed(*_mu_given(seen)))
    found = importance.log_evidence(pair, x, num_samples=40, progress=False)
    assert found.total == pytest.approx(_normal_evidence(seen), abs=1e-3)


def test_missing_values_that_nobody_masks_are_refused(x20: Tensor) -> None:
    x = x20.clone()
    x[3] = math.nan
    with pytest.raises(InputError, match=r"holds nan at index \(3,\).*NanMaskedNormal"):
        svi.fit(Pair(_model, AutoNormal(_model)), x, num_steps=3, progress=False)


def test_obs_mask_is_refused_with_what_works(x20: Tensor) -> None:
    seen = torch.ones(20, dtype=torch.bool)
    seen[[2, 5, 9]] = False

    def model(x: Tensor, seen: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x, obs_mask=seen)

    with pytest.raises(InputError, match=r"site x_unobserved is masked in part .*NanMaskedNormal"):
        svi.fit(Pair(model, AutoNormal(model)), x20, seen, num_steps=3, progress=False)

    def program(x: Tensor, seen: Tensor) -> None:
        known = x[seen]
        mu = pyro.sample("mu", dist.Normal(*_mu_given(known.numpy())))
        with pyro.plate("data", len(x)), poutine.mask(mask=~seen):
            pyro.sample("x_unobserved", dist.Normal(mu, 1.0).expand([len(x)]))

    found = importance.log_evidence(Pair(model, program), x20, seen, num_samples=40, progress=False)
    assert found.total == pytest.approx(_normal_evidence(x20[seen].numpy()), abs=1e-3)


# Flat priors ----------------------------------------------------------------------------------------------


def _improper(support: Any) -> Program:
    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.ImproperUniform(support, (), ()))
        with pyro.plate("data", len(x)) as i:
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x[i])

    return model


def _hidden(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0).mask(False))
    with pyro.plate("data", len(x)) as i:
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x[i])


def _hidden_by_messenger(x: Tensor) -> None:
    with poutine.mask(mask=False):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)) as i:
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x[i])


FLAT = {
    "ImproperUniform": _improper(constraints.real),
    "positive": _improper(constraints.positive),
    "mask(False)": _hidden,
    "poutine.mask": _hidden_by_messenger,
}


@pytest.mark.parametrize("name", FLAT)
def test_flat_priors_are_fitted_and_their_evidence_is_refused(name: str, x20: Tensor) -> None:
    model = FLAT[name]
    auto = AutoNormal(model, init_loc_fn=init_to_value(values={"mu": torch.tensor(1.0)}))
    pair = Pair(model, auto)
    svi.fit(pair, x20, num_steps=400, num_particles=4, lr=0.05, progress=False)
    draws = guide.draws(pair, x20, num_draws=4000)
    mean, sd = x20.mean().item(), 20**-0.5
    # mu ~ N(mean(x), 1/n); the positive one is far from its bound. Limits: Adam's last steps, 0.2 sd.
    assert abs(float(draws.draws["mu"].mean()) - mean) < 0.25 * sd
    assert float(draws.draws["mu"].std()) == pytest.approx(sd, rel=0.2)
    with pytest.raises(InputError, match=r"log p\(x\) is not defined: the prior of mu is flat"):
        importance.log_evidence(pair, x20, progress=False)
    weighed = importance.log_evidence(pair, x20, num_samples=500, improper=True, progress=False)
    assert float(weighed.ess[0]) > 100


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
    pair = Pair(model, _fixed(0.3, 0.5, "shift"))
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
    pair = Pair(_outside, _fixed(-0.3, 0.7, "shift"))
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
    "control flow": (_branching, _fixed(0.0, 1.0), "the discrete site z cannot be enumerated"),
    "two that nobody marked": (_two_unmarked, _two_guide, "site a, b is discrete; mark it with infer="),
    "a density that depends on the draw": (_before, _after, "the guide draws mu after the discrete site z"),
    "missing and unmarked": (_bernoulli, _nothing, "misses the model's latent sites z; z can be summed out"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_discrete_latents_that_cannot_be_summed_out_are_refused_by_name(name: str) -> None:
    model, program, words = REFUSALS[name]
    with pytest.raises(InputError, match=words):
        importance.log_evidence(Pair(model, program), torch.tensor([1.5, -0.5, 0.2]), progress=False)


# Odd pairs -------------------------------------------------------------------------------------------------


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
        importance.log_evidence(Pair(_model, _fixed(0.0, 1.0)), torch.zeros(0), progress=False)


class _Boom(Exception):
    pass


def _raises(x: Tensor) -> None:
    pyro.sample("mu", dist.Normal(0.0, 1.0))
    raise _Boom("oops")


def _no_arguments() -> None:
    pyro.sample("mu", dist.Normal(0.0, 1.0))


def _keywords(*, x: Tensor) -> None:
    _model(x)


@pytest.mark.parametrize(
    ("model", "program", "kind", "role"),
    [
        (_raises, _fixed(0.0, 1.0), _Boom, "model _raises"),
        (_model, _raises, _Boom, "guide _raises"),
        (_model, _no_arguments, TypeError, "guide _no_arguments"),
        (_keywords, _fixed(0.0, 1.0), TypeError, "model _keywords"),
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
        _model(x)

    pair = Pair(model, _fixed(0.5, 0.3))
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
    pair = Pair(_model, _fixed(0.5, 0.3))
    assert layout(pair, x).event_size == 5000
    assert layout(pair, x).particles_per_chunk(1, 2**20) == 2**20 // 5000


def test_a_step_that_cannot_fit_into_memory_is_refused_with_the_estimate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ppl_vae.inference import memory

    monkeypatch.setattr(memory, "physical_memory", lambda: 2**20)
    x = torch.randn(5000)
    pair = Pair(_model, AutoNormal(_model))
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
