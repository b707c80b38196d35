"""States by rounds against a plain loop over players."""

import numpy as np
import pytest
import torch

from ppl_vae.models.skills.schedule import Schedule, States


def _by_hand(player: np.ndarray, time: np.ndarray, num_players: int) -> dict[int, list[float]]:
    """The dates of each player, rising."""
    dates = {k: sorted({t for p, t in zip(player, time, strict=True) if p == k}) for k in range(num_players)}
    return {k: found or [min(time)] for k, found in dates.items()}


@pytest.mark.parametrize("seed", range(5))
def test_states_are_the_distinct_dates_of_each_player_in_order(seed: int) -> None:
    generator = np.random.default_rng(seed)
    players, fixed = int(generator.integers(2, 9)), int(generator.integers(0, 3))
    player = generator.integers(0, players, 30)
    time = generator.integers(-3, 9, 30) * 0.25
    states = States.of(player, time, players, fixed)
    expected = _by_hand(player, time, players)
    for chain in range(players):
        at = np.flatnonzero(states.chain == chain)
        assert states.time[at].tolist() == expected[chain]
        np.testing.assert_allclose(states.gap[at], np.r_[0.0, np.diff(expected[chain])])
        assert states.last[chain] == at[-1]
    for chain in range(players, players + fixed):
        (at,) = np.flatnonzero(states.chain == chain)
        assert np.isnan(states.time[at])
        assert states.gap[at] == 0.0
        assert states.last[chain] == at
    # By rounds: a row's predecessor has the same place in the round before, and belongs to the same chain.
    assert states.rounds[0] == 0
    assert states.rounds[-1] == states.num_states
    for before, here, after in zip(states.rounds, states.rounds[1:], states.rounds[2:], strict=False):
        assert after - here <= here - before
        assert (states.chain[here:after] == states.chain[before : before + after - here]).all()


def test_states_are_looked_up_by_player_and_date() -> None:
    generator = np.random.default_rng(3)
    players = generator.integers(-1, 6, (20, 2, 3))
    time = generator.normal(size=20).round(1)
    there = players >= 0
    when = np.broadcast_to(time[:, None, None], players.shape)
    states = States.of(players[there], when[there], 6, 2)
    schedule = Schedule(states, 6, dated=True)
    found = schedule.states(torch.as_tensor(players), torch.as_tensor(time)).numpy()
    assert (found[~there] == states.num_states).all()
    np.testing.assert_array_equal(states.chain[found[there]], players[there])
    np.testing.assert_array_equal(states.time[found[there]], when[there])
    assert not schedule.unknown(torch.as_tensor(players), torch.as_tensor(time)).any()
    # At another date nobody has a state; an hour later neither.
    for other in (time + 100.0, time - 100.0, time + 0.01):
        unknown = schedule.unknown(torch.as_tensor(players), torch.as_tensor(other)).numpy()
        np.testing.assert_array_equal(unknown, there)


def test_without_dates_a_players_state_is_its_number() -> None:
    schedule = Schedule(States.static(4), 3, dated=False)
    players = torch.tensor([[[0, -1], [2, 1]]])
    assert schedule.states(players, torch.zeros(1)).tolist() == [[[0, 4], [2, 1]]]
    assert schedule.states_by_rounds.last.tolist() == [0, 1, 2, 3]


def test_no_order_of_entries_changes_the_states() -> None:
    generator = np.random.default_rng(0)
    player, time = generator.integers(0, 5, 40), generator.integers(0, 6, 40).astype(float)
    order = generator.permutation(40)
    first, second = States.of(player, time, 5), States.of(player[order], time[order], 5)
    np.testing.assert_array_equal(first.chain, second.chain)
    np.testing.assert_array_equal(first.time, second.time)
    assert first.rounds == second.rounds
