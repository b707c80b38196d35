"""What weights and densities are of: points, modes of modules, what a guide observes, subsamples."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
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
)
from torch import Tensor, nn
from torch.distributions.transforms import ExpTransform

from ppl_vae.base.errors import InputError
from ppl_vae.inference import annealing, bounds, guide, importance, svi
from ppl_vae.inference.evidence.elbo import elbo
from ppl_vae.program.pair import Pair
from ppl_vae.program.point_mass import point_masses
from ppl_vae.program.problem import Problem
from ppl_vae.program.terms import layout, terms
from tests.normal_mean import Program, fixed, mu_given, normal_evidence, normal_mean

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
    assert point_masses(Problem.of(pair, x20)) == sites
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
    assert point_masses(Problem.of(pair, x20)) == ()


def test_a_laplace_approximation_is_a_posterior_once_it_is_made(x20: Tensor) -> None:
    auto = AutoLaplaceApproximation(normal_mean)
    pair = Pair(normal_mean, auto)
    svi.fit(pair, x20, num_steps=300, lr=0.05, progress=False)
    with pair.scope():
        converted = auto.laplace_approximation(x20)
    found = importance.log_evidence(Pair(normal_mean, converted), x20, num_samples=200, progress=False)
    # The posterior is Gaussian: the approximation is exact but for where Adam stopped.
    assert found.total == pytest.approx(normal_evidence(x20.double().numpy()), abs=0.05)


def test_a_list_of_guides_names_the_part_that_is_a_point(x20: Tensor) -> None:
    parts = AutoGuideList(_pair_model)
    parts.append(AutoDelta(poutine.block(_pair_model, expose=["rate"])))
    parts.append(AutoNormal(poutine.block(_pair_model, expose=["shift"])))
    pair = Pair(_pair_model, parts)
    assert point_masses(Problem.of(pair, x20)) == ("rate",)


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
    pyro.sample("mu", dist.Normal(*mu_given(x.numpy())))


def _with_observed(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(*mu_given(x.numpy())))
    with pyro.plate("data", len(x)) as i:
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x[i])


def _with_deterministic(x: Tensor) -> None:
    pyro.deterministic("noted", torch.tensor(2.0))
    pyro.sample("mu", dist.Normal(*mu_given(x.numpy())))


@pytest.mark.parametrize("program", [_with_factor, _with_observed, _with_deterministic])
def test_what_a_guide_observes_or_adds_is_no_part_of_its_density(program: Program, x20: Tensor) -> None:
    """Each of these guides draws from the exact posterior, so that every weight is p(x)."""
    found = importance.log_evidence(Pair(normal_mean, program), x20, num_samples=50, progress=False)
    assert found.total == pytest.approx(normal_evidence(x20.numpy()), abs=1e-3)
    assert float(found.std_error[0]) < 1e-4
    bound = elbo(Pair(normal_mean, program), x20, num_particles=100)
    assert abs(bound.value - found.total) < 5 * bound.std_error


def test_guides_that_run_the_model_have_stock_pyros_elbo(x20: Tensor) -> None:
    pair = Pair(normal_mean, AutoNormalMessenger(normal_mean))
    layout(pair, x20)
    with pair.scope():
        draws = np.array([-Trace_ELBO().loss(pair.model, pair.guide, x20) for _ in range(400)])
    found = elbo(pair, x20, num_particles=400)
    error = math.hypot(found.std_error, draws.std() / 20)
    assert abs(found.value - draws.mean()) < 5 * error
    assert found.value < normal_evidence(x20.numpy())


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
    "subsample_size": (_own_size, fixed(1.0, 0.3)),
    "subsample": (_given_indices, fixed(1.0, 0.3)),
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
    pair, whole = Pair(_own_size, fixed(1.0, 0.3)), Pair(normal_mean, fixed(1.0, 0.3))
    found, exact = (elbo(one, x20, num_particles=1500) for one in (pair, whole))
    assert abs(found.value - exact.value) < 5 * math.hypot(found.std_error, exact.std_error)


@pytest.mark.parametrize("where", ["model", "guide", "both"])
def test_a_tempered_program_is_refused_by_name(where: str, x20: Tensor) -> None:
    model: Program = normal_mean
    program: Program = fixed(1.0, 0.3)
    if where != "guide":
        model = poutine.scale(normal_mean, scale=1 / 20)
    if where != "model":
        program = poutine.scale(program, scale=1 / 20)
    with pytest.raises(InputError, match=r"scale the log density of (mu|mu, x) themselves \(poutine.scale\)"):
        importance.log_evidence(Pair(model, program), x20, progress=False)
