"""Guides with parameters for every unit over whatever local sites a model has."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.guides import AmortisedNormal, LinearNormal, LocalVector, PerDatumFlow, PerDatumNormal, Prior
from ppl_vae.inference import importance, svi
from ppl_vae.program.pair import Pair
from ppl_vae.program.terms import has_log_density, layout, terms
from tests.local_models import (
    Linear,
    components,
    components_log_evidence,
    exact_guide,
    gamma_poisson,
    gamma_poisson_best_lognormal,
    gamma_poisson_log_evidence,
    inner_plate,
    labelled,
    mixed,
    mixed_log_evidence,
    random_walk,
    two_layers,
)

DOUBLE = torch.float64
LINEAR = [two_layers, random_walk, inner_plate, labelled]


def _bounded(x: Tensor) -> None:
    """A probability, two positive numbers and a point of a simplex for every datum; all bounds differ."""
    with pyro.plate("data", len(x)) as i:
        p = pyro.sample("p", dist.Beta(torch.tensor(2.0, dtype=DOUBLE), 3.0))
        r = pyro.sample("r", dist.Gamma(torch.ones(2, dtype=DOUBLE), 1.0).to_event(1))
        w = pyro.sample("w", dist.Dirichlet(torch.ones(3, dtype=DOUBLE)))
        u = pyro.sample("u", dist.Uniform(torch.tensor(-1.0, dtype=DOUBLE), 4.0))
        pyro.sample("x", dist.Normal(p + r.sum(-1) + w[..., 0] + u, 1.0), obs=x[i])


def _normal(model: Callable[..., Any], *data: Any, **options: Any) -> PerDatumNormal:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return PerDatumNormal.from_model(model, *data, dtype=DOUBLE, **options)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (two_layers, {"z2": ("unit", "continuous", 1), "z1": ("unit", "continuous", 1)}),
        (random_walk, {f"z_{t}": ("unit", "continuous", 0) for t in range(4)}),
        (inner_plate, {"b": ("unit", "continuous", 0), "z": ("inner plate", "continuous", 0)}),
    ],
)
def test_the_layout_says_what_each_site_is(make: Callable[[], Linear], expected: dict[str, Any]) -> None:
    case = make()
    found = layout(Pair(case.model, Prior(case.model)), *case.data).sites
    assert {name: (site.scope, site.kind, site.event_dim) for name, site in found.items()} == expected
    assert LocalVector.of(case.model, *case.data).size == len(case.prior)


def test_reading_a_model_leaves_the_parameter_store_as_it_was(oracles: ModuleType) -> None:
    def program(x: Tensor) -> None:
        # What somebody holds is read; what nobody holds is not left behind.
        assert pyro.param("someone_elses").tolist() == [1.0, 2.0]
        pyro.param("own", torch.ones(2))
        _bounded(x)

    with oracles.nothing_global_changes():
        _normal(program, torch.zeros(3, dtype=DOUBLE))


def test_kinds_and_scopes_of_other_sites() -> None:
    x = torch.zeros(5, dtype=DOUBLE)
    sites = layout(Pair(mixed, _normal(mixed, x)), x).sites
    assert (sites["z"].kind, sites["c"].kind, sites["c"].scope) == ("continuous", "enumerated", "unit")

    def model(x: Tensor) -> None:
        top = pyro.sample("top", dist.Normal(torch.zeros((), dtype=DOUBLE), 1.0))
        with pyro.plate("data", len(x)) as i:
            k = pyro.sample("k", dist.Bernoulli(torch.tensor(0.5, dtype=DOUBLE)))
            pyro.sample("x", dist.Normal(top + k, 1.0), obs=x[i])

    def guide(x: Tensor) -> None:
        pyro.sample("top", dist.Delta(pyro.param("at", torch.tensor(0.3, dtype=DOUBLE))))
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Bernoulli(torch.tensor(0.5, dtype=DOUBLE)))

    sites = layout(Pair(model, guide), x).sites
    assert (sites["top"].scope, sites["top"].kind) == ("global", "point mass")
    assert (sites["k"].scope, sites["k"].kind) == ("unit", "discrete")


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_densities_are_those_of_the_transformed_vectors(covariance: str) -> None:
    """log q(z) = log N(u) − log |det dz/du|, the Jacobian by automatic differentiation."""
    x = torch.zeros(3, dtype=DOUBLE)
    guide = _normal(_bounded, x, covariance=covariance)
    with torch.no_grad():
        guide.raw.add_(torch.randn(guide.raw.shape, generator=torch.Generator().manual_seed(0), dtype=DOUBLE))
    pair = Pair(_bounded, guide)
    shape = layout(pair, x)
    assert has_log_density(pair, x)
    with torch.no_grad():
        drawn = terms(pair, x, layout=shape, num_particles=4)
        given = terms(pair, x, layout=shape, num_particles=4, latents=drawn.draws)
    torch.testing.assert_close(given.log_q, drawn.log_q, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(given.log_p, drawn.log_p, rtol=1e-8, atol=1e-8)

    def free_to_coordinates(u: Tensor) -> Tensor:
        w = torch.distributions.biject_to(torch.distributions.constraints.simplex)(u[3:5])
        return torch.cat([u[:1].sigmoid(), u[1:3].exp(), w[:2], 5 * u[5:].sigmoid() - 1])

    values = {name: drawn.draws[name][:, n] for name in drawn.draws for n in [1]}
    first = torch.cat([torch.as_tensor(values[name]).reshape(4, -1) for name in ("p", "r")], 1)
    free = torch.cat(
        [first[:, :1].logit(), first[:, 1:].log(),
         torch.distributions.biject_to(torch.distributions.constraints.simplex).inv(values["w"]),
         ((values["u"].reshape(4, 1) + 1) / 5).logit()], 1)  # fmt: skip
    for k in range(4):
        jacobian = torch.autograd.functional.jacobian(free_to_coordinates, free[k])
        expected = guide.at(torch.tensor([1])).log_prob(free[k]) - torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(drawn.log_q[k, 1:2], expected.detach(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("make", LINEAR)
def test_the_exact_posterior_is_a_member_of_the_family(make: Callable[[], Linear]) -> None:
    """With its means and covariance every weight is p(x): for all units, for some, and under a flow."""
    case = make()
    guide = exact_guide(case, _normal(case.model, *case.data, covariance="full"))
    for member in (guide, PerDatumFlow.from_normal(guide)):
        pair = Pair(case.model, member)
        shape = layout(pair, *case.data)
        with torch.no_grad():
            found = terms(pair, *case.data, layout=shape, num_particles=3).log_weights
            some = terms(pair, *case.data, layout=shape, num_particles=3, index=torch.tensor([4, 1]))
        np.testing.assert_allclose(found, np.broadcast_to(case.log_evidence, found.shape), rtol=1e-9)
        np.testing.assert_allclose(
            some.log_weights, np.broadcast_to(case.log_evidence[[4, 1]], (3, 2)), rtol=1e-9
        )


def test_svi_reaches_the_optimum_under_inner_plates(oracles: ModuleType) -> None:
    """The best mean field over (b, z_1, z_2, z_3): its gap is ½ (Σ ln Λ_kk − ln det Λ)."""
    case = inner_plate(4)
    pair = Pair(case.model, _normal(case.model, *case.data))
    svi.fit(pair, *case.data, num_steps=500, num_particles=4, lr=0.05, average=0.4, progress=False)
    found = importance.log_evidence(pair, *case.data, num_samples=2000, defensive=0.05, progress=False)
    score = (found.log_evidence - found.bias - case.log_evidence) / found.std_error
    assert np.abs(score).max() < oracles.z_limit(4)
    with torch.no_grad():
        log_w = terms(pair, *case.data, layout=layout(pair, *case.data), num_particles=2000).log_weights
    error = float((log_w.var(0).sum() / len(log_w)).sqrt()) / 4
    gap = case.log_evidence.mean() - float(log_w.mean())
    assert gap > case.mean_field_gap - oracles.z_limit() * error
    # Parameters within a tenth of a posterior deviation lose ½ · 4 · 0.1² nats.
    assert gap < case.mean_field_gap + oracles.z_limit() * error + 0.02


def test_a_positive_latent_gets_the_best_lognormal(oracles: ModuleType) -> None:
    x = torch.tensor([0.0, 3.0, 9.0], dtype=DOUBLE)
    pair = Pair(gamma_poisson, _normal(gamma_poisson, x))
    svi.fit(pair, x, num_steps=400, num_particles=4, lr=0.05, average=0.4, progress=False)
    evidence = gamma_poisson_log_evidence(x.numpy())
    found = importance.log_evidence(pair, x, num_samples=2000, defensive=0.05, progress=False)
    score = (found.log_evidence - found.bias - evidence) / found.std_error
    assert np.abs(score).max() < oracles.z_limit(3)
    # The optimum's m and s², and the KL between two LogNormals for what SVI lacks.
    a = 2 + x.numpy()
    q = pair.guide.at(torch.arange(3))
    m, var = (value.detach().numpy()[:, 0] for value in (q.mean, q.variance))
    kl = 0.5 * ((m - np.log(a / 1.5) + 0.5 / a) ** 2 * a + var * a - 1 - np.log(var * a))
    assert kl.max() < 0.01
    best = gamma_poisson_best_lognormal(x.numpy())
    assert (best < evidence).all()
    assert (evidence - best < 1 / (8 * a)).all()


@pytest.mark.parametrize(
    ("model", "evidence"), [(mixed, mixed_log_evidence), (components, components_log_evidence)]
)
def test_a_summed_site_beside_a_continuous_one(
    model: Callable[..., Any], evidence: Callable[[np.ndarray], np.ndarray], oracles: ModuleType
) -> None:
    """Also where the continuous one's prior depends on the summed one."""
    x = torch.linspace(-3, 4, 6, dtype=DOUBLE)
    pair = Pair(model, _normal(model, x))
    assert layout(pair, x).vectorized
    found = importance.log_evidence(pair, x, num_samples=2000, defensive=0.5, progress=False)
    score = (found.log_evidence - found.bias - evidence(x.numpy())) / found.std_error
    # Far from an untrained guide a few weights decide, which is said.
    sound = ~found.alarming
    assert sound.sum() >= 2
    assert np.abs(score[sound]).max() < oracles.z_limit(6)


def test_amortised_guides_take_labels() -> None:
    """q(z | x, y) of the linear model with labels: a linear network of (x, m_y) holds the posterior."""
    case = labelled()
    slope = np.linalg.solve(case.precision, case.slope.T / 0.25)
    shift = torch.as_tensor(np.zeros((3, 3)))
    for n, label in enumerate(case.data[1].tolist()):
        shift[label] = torch.as_tensor(case.mean[n])
    spread = np.linalg.cholesky(np.linalg.inv(case.precision))
    raw = torch.as_tensor([*np.log(np.expm1(np.diag(spread) ** 2)), spread[1, 0]])

    class Network(torch.nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            loc = (x - shift[y]) @ torch.as_tensor(slope).T
            return torch.cat([loc, raw.expand(*loc.shape[:-1], 3)], -1)

    guide = AmortisedNormal(Network(), 2, covariance="full", floor=0.0, num_inputs=2)
    pair = Pair(case.model, guide)
    with torch.no_grad():
        found = terms(pair, *case.data, layout=layout(pair, *case.data), num_particles=3).log_weights
    np.testing.assert_allclose(found, np.broadcast_to(case.log_evidence, found.shape), rtol=1e-9)
    # A guide that reads x alone runs beside such a model all the same.
    alone = Pair(case.model, LinearNormal(3, 2, dtype=DOUBLE))
    assert layout(alone, *case.data).num_units == len(case.x)


def test_supports_are_those_of_one_value_or_refused() -> None:
    x = torch.zeros(4, dtype=DOUBLE)
    (site,) = (s for s in LocalVector.of(_bounded, x).sites if s.name == "u")
    assert site.transform(torch.zeros((), dtype=DOUBLE)) == 1.5

    def varying(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            u = pyro.sample("u", dist.Uniform(0.0, 1.0 + torch.arange(4.0)[i]))
            pyro.sample("x", dist.Normal(u, 1.0), obs=x[i])

    with pytest.raises(InputError, match="support of site u differs from unit to unit"):
        PerDatumNormal.from_model(varying, x)

    def shared(x: Tensor) -> None:
        top = pyro.sample("top", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)) as i:
            pyro.sample("x", dist.Normal(top, 1.0), obs=x[i])

    with pytest.raises(InputError, match="top is shared by all data"):
        PerDatumNormal.from_model(shared, x)

    def discrete(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            k = pyro.sample("k", dist.Poisson(1.0))
            pyro.sample("x", dist.Normal(k, 1.0), obs=x[i])

    with pytest.raises(InputError, match="site k is discrete"):
        PerDatumNormal.from_model(discrete, x)


def test_kalman_agrees_with_the_joint_gaussian() -> None:
    """The oracle itself, by another way: the filter's predictive densities multiply to p(x)."""
    case = random_walk()
    for row, expected in zip(case.x, case.log_evidence, strict=True):
        mean, var, total = 0.0, 1.0, 0.0
        for t, value in enumerate(row):
            if t:
                mean, var = 0.9 * mean, 0.81 * var + 0.49
            total += stats.norm.logpdf(value, mean, np.sqrt(var + 0.25))
            gain = var / (var + 0.25)
            mean, var = mean + gain * (value - mean), (1 - gain) * var
        assert total == pytest.approx(expected, rel=1e-12)
