from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import (
    AutoDiagonalNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from scipy import stats
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.guides import Prior
from ppl_vae.guides.named import GUIDES
from ppl_vae.inference import importance, svi
from ppl_vae.program.pair import Pair, Program
from ppl_vae.program.terms import has_log_density, layout, terms


def test_terms_are_the_hand_written_densities_of_every_unit(conjugate: Any, x: Tensor) -> None:
    pair = Pair(conjugate.model, conjugate.guide)
    shape = layout(pair, x)
    assert (shape.unit, shape.unit_plate, shape.num_units, shape.vectorized) == ("datum", "data", 40, True)
    found = terms(pair, x, layout=shape, num_particles=7)
    z = found.draws["z"].detach().numpy()
    assert z.shape == found.log_p.shape == found.log_q.shape == (7, 40)
    expected = stats.norm(0, 1).logpdf(z) + stats.norm(z, 0.5).logpdf(x.numpy())
    np.testing.assert_allclose(found.log_p.detach(), expected, rtol=1e-10)
    np.testing.assert_allclose(found.log_q.detach(), stats.norm(0.3 * x.numpy(), 1.0).logpdf(z), rtol=1e-10)
    np.testing.assert_allclose(found.log_weights.detach(), (found.log_p - found.log_q).detach(), rtol=1e-12)


def test_some_units_are_those_columns_without_the_minibatch_scale(conjugate: Any, x: Tensor) -> None:
    pair = Pair(conjugate.model, conjugate.guide)
    shape = layout(pair, x)
    everything = terms(pair, x, layout=shape, num_particles=5)
    index = torch.tensor([30, 2, 17])
    part = terms(pair, x, layout=shape, num_particles=5, index=index,
                 latents={"z": everything.draws["z"][:, index]})  # fmt: skip
    for name in ("log_p", "log_q"):
        expected = getattr(everything, name)[:, index]
        np.testing.assert_allclose(getattr(part, name).detach(), expected.detach(), rtol=1e-10)


def test_a_scale_that_the_user_put_there_is_kept(x: Tensor) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i, poutine.scale(scale=3.0):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x[i])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))

    pair = Pair(model, guide)
    shape = layout(pair, x)
    for index in (None, torch.tensor([5, 6])):
        if index is not None and not shape.can_index:
            continue
        found = terms(pair, x, layout=shape, index=index)
        z = found.draws["z"].numpy()
        at = x.numpy() if index is None else x.numpy()[index]
        expected = 3 * (stats.norm(0, 1).logpdf(z) + stats.norm(z, 0.5).logpdf(at))
        np.testing.assert_allclose(found.log_p, expected, rtol=1e-10)


AUTO = [AutoNormal, AutoDiagonalNormal, AutoMultivariateNormal, AutoLowRankMultivariateNormal]


@pytest.mark.parametrize("family", [*AUTO, *GUIDES.values()], ids=[*(a.__name__ for a in AUTO), *GUIDES])
def test_density_of_an_autoguide_at_its_own_draw_is_the_drawn_one(
    family: Callable[[Program], Program], x: Tensor
) -> None:
    def model(x: Tensor) -> None:
        # Positive, unit-interval, simplex and real sites, one of them in a plate.
        one = torch.ones((), dtype=x.dtype)
        spread = pyro.sample("spread", dist.HalfNormal(2 * one))
        share = pyro.sample("share", dist.Beta(2 * one, 3 * one))
        mix = pyro.sample("mix", dist.Dirichlet(torch.ones(3, dtype=x.dtype)))
        with pyro.plate("group", 3):
            pyro.sample("level", dist.Normal(0 * one, spread))
        with pyro.plate("data", len(x)) as i:
            pyro.sample("x", dist.Normal(share + mix[..., 0], spread), obs=x[i])

    if family is GUIDES["spline-flow"]:
        pytest.importorskip("zuko")
    torch.set_default_dtype(torch.float64)
    try:
        pair = Pair(model, family(model))
        shape = layout(pair, x)
        drawn = terms(pair, x, layout=shape, num_particles=6)
        again = terms(pair, x, layout=shape, num_particles=6, latents=drawn.draws)
        other = terms(pair, x, layout=shape, num_particles=6)
    finally:
        torch.set_default_dtype(torch.float32)
    assert shape.vectorized
    assert has_log_density(pair, x)
    for name in ("log_p", "log_q"):
        mine, given, different = (getattr(t, name).detach().numpy() for t in (drawn, again, other))
        np.testing.assert_allclose(mine, given, rtol=1e-7)
        assert not np.allclose(mine, different)
    for site, value in drawn.draws.items():
        torch.testing.assert_close(again.draws[site], value)


def test_density_of_auto_normal_has_the_jacobian_of_its_transform(x: Tensor) -> None:
    """log q(s) = log N(log s; m, v²) − log s for a positive site."""

    def model(x: Tensor) -> None:
        spread = pyro.sample("spread", dist.LogNormal(torch.zeros((), dtype=x.dtype), 1.0))
        with pyro.plate("data", len(x)) as i:
            pyro.sample("x", dist.Normal(torch.zeros((), dtype=x.dtype), spread), obs=x[i])

    pair = Pair(model, AutoNormal(model, init_scale=0.4))
    shape = layout(pair, x)
    found = terms(pair, x, layout=shape, num_particles=8)
    s = found.draws["spread"].detach().numpy()
    loc = pair.guide.locs.spread.detach().item()
    expected = stats.norm(loc, 0.4).logpdf(np.log(s)) - np.log(s)
    np.testing.assert_allclose(found.log_q.detach()[:, 0], expected, rtol=1e-5)
    given = {"spread": torch.tensor([0.3, 1.0, 2.5], dtype=x.dtype)}
    at = terms(pair, x, layout=shape, num_particles=3, latents=given)
    s = given["spread"].numpy()
    expected = stats.norm(loc, 0.4).logpdf(np.log(s)) - np.log(s)
    np.testing.assert_allclose(at.log_q.detach()[:, 0], expected, rtol=1e-5)
    log_p = stats.lognorm(1.0).logpdf(s) + stats.norm(0, s[:, None]).logpdf(x.numpy()).sum(1)
    np.testing.assert_allclose(at.log_p.detach()[:, 0], log_p, rtol=1e-6)


def _group_model(index: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], None]:
    groups = torch.tensor([2, 0, 1])

    def model(x: Tensor) -> None:
        with pyro.plate("group", 3):
            theta = pyro.sample("theta", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(index(theta, groups), 0.5), obs=x)

    return model


@pytest.mark.parametrize(
    ("index", "right"),
    [(lambda theta, groups: theta[..., groups], True), (lambda theta, groups: theta[groups], False)],
    ids=["theta[..., i]", "theta[i]"],
)
def test_a_program_that_indexes_the_particles_by_mistake_is_found_out_and_still_right(
    index: Callable[[Tensor, Tensor], Tensor], right: bool, oracles: Any
) -> None:
    """With as many groups as particles, ``theta[i]`` runs without complaint and permutes particles."""
    x = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    model = _group_model(index)
    pair = Pair(model, AutoNormal(model))
    shape = layout(pair, x)
    assert shape.vectorized is right
    found = terms(pair, x, layout=shape, num_particles=3)
    theta = found.draws["theta"].detach().numpy()
    assert theta.shape == (3, 3)
    expected = stats.norm(0, 1).logpdf(theta).sum(1) + stats.norm(theta[:, [2, 0, 1]], 0.5).logpdf(x).sum(1)
    np.testing.assert_allclose(found.log_p.detach()[:, 0], expected, rtol=1e-6)
    evidence = importance.log_evidence(Pair(model, Prior(model)), x, num_samples=1000, progress=False)
    assert evidence.num_units == 1
    exact = stats.norm(0, np.sqrt(1.25)).logpdf(x).sum()
    assert abs(evidence.total - exact) < oracles.z_limit() * evidence.total_std_error


def test_mean_log_weight_is_pyros_trace_elbo(conjugate: Any, x: Tensor) -> None:
    pair = Pair(conjugate.model, conjugate.guide)
    shape = layout(pair, x)
    pyro_elbo = Trace_ELBO(9, vectorize_particles=True, max_plate_nesting=shape.nesting)
    torch.manual_seed(3)
    with pair.scope():
        loss = pyro_elbo.loss(pair.model, pair.guide, x)
    torch.manual_seed(3)
    found = terms(pair, x, layout=shape, num_particles=9)
    assert found.log_weights.sum(1).mean().item() == pytest.approx(-loss, rel=1e-12)


def test_sites_that_do_not_match_are_named(x: Tensor) -> None:
    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)) as i:
            pyro.sample("x", dist.Normal(z.sum(), 1.0), obs=x[i])

    def unobserved(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(0.0, 1.0))

    def extra(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("w", dist.Normal(0.0, 1.0))

    def wide(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    for guide, words in (
        (lambda x: None, "misses the model's latent sites z"),
        (extra, "the guide samples w, which the model does not"),
        (wide, r"site z has shape \(\) in the model and \(2,\) in the guide"),
    ):
        with pytest.raises(InputError, match=words):
            layout(Pair(model, guide), x)
    with pytest.raises(InputError, match="observes nothing"):
        layout(Pair(unobserved, unobserved), x)


def test_auxiliary_randomness_has_no_density_at_a_given_point(x: Tensor) -> None:
    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
        with pyro.plate("data", len(x)) as i:
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[i])

    def guide(x: Tensor) -> None:
        a = pyro.sample("a", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Normal(a, 1.0))

    pair = Pair(model, guide)
    assert not has_log_density(pair, x)
    with pytest.raises(InputError, match="hidden randomness"):
        importance.log_evidence(pair, x, defensive=0.1, progress=False)


def test_programs_that_do_not_index_a_long_plate_are_taken_whole(oracles: Any) -> None:
    """More data than the structure is probed with, and a guide whose parameters cannot be cut."""
    x = torch.as_tensor(np.random.default_rng(0).normal(size=100))

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(100, dtype=x.dtype), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.8 * x, 0.5))

    pair = Pair(model, guide)
    shape = layout(pair, x)
    assert (shape.num_units, shape.can_index) == (100, False)
    assert has_log_density(pair, x)
    found = importance.log_evidence(pair, x, num_samples=500, defensive=0.1, progress=False)
    truth = stats.norm(0, np.sqrt(1.25)).logpdf(x).sum()
    assert abs(found.total - truth) < oracles.z_limit() * found.total_std_error
    with pytest.raises(InputError, match="no plate of units that it indexes"):
        terms(pair, x, layout=shape, index=torch.tensor([0]))
    with pytest.raises(InputError, match="minibatches need programs that index"):
        svi.fit(pair, x, batch_size=10, num_steps=1, progress=False)


@pytest.mark.parametrize("where", ["model", "guide"])
def test_what_is_not_a_program_is_refused(where: str) -> None:
    with pytest.raises(InputError, match="two callables"):
        Pair(**{"model": print, "guide": print, where: 3})
