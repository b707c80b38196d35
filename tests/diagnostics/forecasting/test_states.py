"""Posteriors over states, and further states, against dense Gaussians."""

from types import ModuleType

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import Tensor

from ppl_vae.diagnostics.forecasting import states as module
from ppl_vae.diagnostics.forecasting.states import ChainStates, DenseStates, DrawnStates
from ppl_vae.program.chains import Chains

# Two players: dates of their states before, and where these are among all of them.
BEFORE = {"a": [0.0, 2.0, 5.0], "b": [1.0, 4.0]}
AFTER = {"a": [0.0, 1.0, 2.0, 5.0, 9.0], "b": [1.0, 4.0], "c": [3.0]}


def order_of(dates: dict[str, list[float]]) -> list[tuple[str, float]]:
    """States by rounds, the longest chains first."""
    chains = sorted(dates, key=lambda name: -len(dates[name]))
    rounds = range(max(map(len, dates.values())))
    return [(name, dates[name][r]) for r in rounds for name in chains if r < len(dates[name])]


def chains_of(dates: dict[str, list[float]], process: str) -> Chains:
    states = order_of(dates)
    gap = [when - dates[name][max(dates[name].index(when) - 1, 0)] for name, when in states]
    first = torch.tensor([dates[name].index(when) == 0 for name, when in states])
    delta = torch.tensor(gap, dtype=torch.float64)
    phi = torch.ones_like(delta) if process == "walk" else torch.exp(-0.3 * delta)
    moved = 0.4 * delta if process == "walk" else 1.7 * (1 - phi**2)
    variance = torch.where(first, 1.7, moved)
    sizes = [sum(r < len(each) for each in dates.values()) for r in range(max(map(len, dates.values())))]
    rounds = (0, *np.cumsum(sizes).tolist())
    return Chains(torch.full_like(delta, 0.5), variance, torch.where(first, 0.0, phi), rounds)


def dense(chains: Chains) -> Tensor:
    """The prior's precision matrix."""
    return chains.precision_times(torch.eye(chains.num_states, dtype=torch.float64))


def posterior(process: str) -> tuple[ChainStates, Chains, Tensor]:
    chains, more = chains_of(BEFORE, process), chains_of(AFTER, process)
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(chains.num_states, generator=generator, dtype=torch.float64)
    precision = torch.rand(chains.num_states, generator=generator, dtype=torch.float64)
    after = order_of(AFTER)
    place = torch.tensor([after.index(state) for state in order_of(BEFORE)])
    return ChainStates(chains, mean, precision), more, place


@pytest.mark.parametrize("process", ["walk", "ou"])
def test_further_states_are_those_of_the_dense_gaussian(process: str) -> None:
    """E and Cov of all states where those before are N(m, Σ), and the others given them are the prior's."""
    states, more, place = posterior(process)
    found = states.extended(more, place)
    before = torch.linalg.inv(dense(states.chains) + torch.diag(states.site_precision))
    prior = torch.linalg.inv(dense(more))
    gain = prior[:, place] @ torch.linalg.inv(prior[place][:, place])
    covariance = prior - gain @ prior[place] + gain @ before @ gain.T
    mean = more.mean + gain @ (states.mean - more.mean[place])
    torch.testing.assert_close(found.mean, mean, atol=1e-10, rtol=0)
    torch.testing.assert_close(found.variance, covariance.diagonal(), atol=1e-10, rtol=0)
    both = DenseStates(states.mean, before).extended(more, place)
    torch.testing.assert_close(both.mean, mean, atol=1e-8, rtol=0)
    torch.testing.assert_close(both.covariance, covariance, atol=1e-8, rtol=0)
    # One whom no data have seen is as the prior has it; after the last date, what is known fades.
    after = order_of(AFTER)
    at = after.index(("c", 3.0))
    assert (float(found.mean[at]), float(found.variance[at])) == pytest.approx((0.5, 1.7))
    if process == "walk":
        last, later = after.index(("a", 5.0)), after.index(("a", 9.0))
        assert float(found.variance[later] - found.variance[last]) == pytest.approx(0.4 * 4)
        assert float(found.mean[later]) == pytest.approx(float(found.mean[last]))


def test_moments_of_rows_are_those_of_draws(oracles: ModuleType) -> None:
    states, more, place = posterior("ou")
    found = states.extended(more, place)
    rng = np.random.default_rng(0)
    # Two games of two sides; the states of a game are of chains of their own: a at 5 or 9, b at 4, c.
    entries = np.zeros((4, more.num_states))
    after = order_of(AFTER)
    for row, chosen in enumerate([("a", 5.0), ("b", 4.0), ("a", 9.0), ("c", 3.0)]):
        entries[row, after.index(chosen)] = rng.uniform(0.5, 2)
    entries[:2, after.index(("c", 3.0))] = 1.3, -0.4
    mean, covariance = found.moments(csr_array(entries), 2)
    draws = 20_000
    sampled = DrawnStates(found.draws(draws)).moments(csr_array(entries), 2)
    sd = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    limit = oracles.z_limit(16)
    assert ((mean - sampled[0]).abs() < limit * sd / draws**0.5).all()
    both = sd[:, :, None] * sd[:, None, :]
    assert ((covariance - sampled[1]).abs() < limit * 2**0.5 * both / draws**0.5).all()
    dense_moments = DenseStates(
        found.mean, torch.linalg.inv(dense(found.chains) + torch.diag(found.site_precision))
    ).moments(csr_array(entries), 2)
    torch.testing.assert_close(dense_moments[0], mean)
    torch.testing.assert_close(dense_moments[1], covariance)
    single = found.moments(csr_array(entries))
    torch.testing.assert_close(single[1].reshape(2, 2), covariance.diagonal(dim1=-2, dim2=-1))


@pytest.mark.parametrize("process", ["walk", "ou"])
def test_draws_are_carried_on_as_the_exact_posterior_is(process: str, oracles: ModuleType) -> None:
    states, more, place = posterior(process)
    exact, draws = states.extended(more, place), 20_000
    before = DrawnStates(states.draws(draws))
    found = before.extended(more, place)
    torch.testing.assert_close(found.values[:, place], before.values)
    limit, sd = oracles.z_limit(2 * more.num_states), exact.variance.sqrt()
    assert ((found.mean - exact.mean).abs() < limit * sd / draws**0.5).all()
    assert ((found.variance - exact.variance).abs() < limit * exact.variance * (2 / draws) ** 0.5).all()
    assert found.draws(30_000).shape == (30_000, more.num_states)


@pytest.mark.parametrize("kind", ["apart", "sums"])
def test_draws_of_levels_are_those_of_states(
    kind: str, oracles: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Means and covariances of A s, without draws of all states where rows are of chains apart."""
    states, _, _ = posterior("walk")
    monkeypatch.setattr(module, "CHUNK", 1000 * states.chains.num_states)
    # The second state of either player; sums of what one of them has at two dates.
    dense_rows = np.zeros((2, states.chains.num_states))
    order = order_of(BEFORE)
    dense_rows[0, order.index(("a", 2.0))] = 1.0
    dense_rows[1, order.index(("b", 4.0))] = 2.0
    if kind == "sums":
        dense_rows[1, order.index(("a", 5.0))] = 1.0
    rows, count = csr_array(dense_rows), 4000
    found = states.level_draws(rows, count, seed=3)
    assert found.shape == (count, 2)
    mean = states.moments(rows)[0].numpy()
    covariance = dense_rows @ np.linalg.inv(
        (dense(states.chains) + torch.diag(states.site_precision)).numpy()
    )
    covariance = covariance @ dense_rows.T
    limit = oracles.z_limit(5)
    assert (np.abs(found.mean(0) - mean[:, 0]) < limit * np.sqrt(covariance.diagonal() / count)).all()
    error = np.sqrt((np.outer(covariance.diagonal(), covariance.diagonal()) + covariance**2) / count)
    assert (np.abs(np.cov(found.T) - covariance) < limit * error).all()
    if kind == "sums":
        np.testing.assert_allclose(
            found[:1000], (rows @ states.draws(1000, seed=3).numpy().T).T, rtol=0, atol=1e-12
        )
