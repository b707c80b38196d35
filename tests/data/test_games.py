"""Games of any sides: their columns, what programs take of them, and what is no game."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ppl_vae.base.errors import InputError
from ppl_vae.data import Dataset, Games
from ppl_vae.data.games import games_between, places_of
from ppl_vae.data.inputs import DUELS, game_inputs
from ppl_vae.data.matching import resolve

FIELDS = ("side_ptr", "entry_ptr", "player", "place", "weight", "score", "time", "game_weight")
NAN = float("nan")


def mixed(**changes):
    """Two teams and then a race of three, of six players."""
    games = Games(
        "mixed",
        tuple("abcdef"),
        side_ptr=np.array([0, 2, 5]),
        entry_ptr=np.array([0, 2, 3, 4, 6, 7]),
        player=np.array([0, 1, 2, 3, 4, 5, 0]),
        place=np.array([0, 1, 0, 1, 1], dtype=np.int32),
        weight=np.array([1, 0.5, 1, 1, 1, 1, 1.0]),
        score=np.array([3.0, 1.0, 5.0, 2.0, 2.0]),
        time=np.array([3.0, 4.5]),
        game_weight=np.array([1.0, 2.0]),
        covariates={"home": np.array([1.0, 0, 0, 1, 0])},
    )
    return replace(games, **changes)


def same(one, other, but=()):
    for name in (each for each in FIELDS if each not in but):
        found, wanted = getattr(one, name), getattr(other, name)
        assert (found is None) == (wanted is None), name
        assert found is None or np.array_equal(found, wanted), name
    assert one.players == other.players
    assert {name: column.tolist() for name, column in one.covariates.items()} == {
        name: column.tolist() for name, column in other.covariates.items()
    }


def test_tensors_are_padded_to_the_largest_game():
    outcome, players, weight, time, covariate, game_weight = mixed().tensors(torch.float64)
    assert torch.equal(outcome.nan_to_num(9), torch.tensor([[0, 1, 9], [0, 1, 1]]).double())
    assert players.tolist() == [[[0, 1], [2, -1], [-1, -1]], [[3, -1], [4, 5], [0, -1]]]
    assert weight.tolist() == [[[1, 0.5], [1, 0], [0, 0]], [[1, 0], [1, 1], [1, 0]]]
    assert time.tolist() == [3, 4.5]
    assert covariate.tolist() == [[[1], [0], [0]], [[0], [1], [0]]]
    assert game_weight.tolist() == [1, 2]
    scores = mixed().tensors(torch.float64, "score")[0]
    assert torch.equal(scores.nan_to_num(9), torch.tensor([[3, 1, 9], [5, 2, 2]]).double())
    plain = games_between("g", ["a", "b"], ["b", "c"]).tensors(torch.float32)
    assert [each.tolist() for each in plain] == [
        [[0, 1], [0, 1]], [[[0], [1]], [[1], [2]]], [[[1], [1]], [[1], [1]]], [0, 0],
        [[[], []], [[], []]], [1, 1],
    ]  # fmt: skip
    assert [each.dtype for each in plain] == [
        torch.float32, torch.int64, torch.float32, torch.float64, torch.float32, torch.float32
    ]  # fmt: skip


def test_duels_are_an_outcome_and_two_players():
    drawn = replace(games_between("g", ["a", "b", "c"], ["b", "c", "a"]), place=np.int32([1, 0, 0, 0, 0, 1]))
    outcome, players = drawn.duels(torch.float64)
    assert outcome.tolist() == [0, 0.5, 1]
    assert players.tolist() == [[0, 1], [1, 2], [2, 0]]
    same(Games.of(resolve(drawn.dataset, DUELS)), drawn)
    with pytest.raises(InputError, match="holds draws"):
        _ = drawn.winners
    with pytest.raises(InputError, match="game 2 has 3 sides"):
        mixed(weight=None, game_weight=None).duels()
    with pytest.raises(InputError, match="game 1 has a side of 2 players"):
        mixed(weight=None, game_weight=None).take(np.array([0])).duels()
    with pytest.raises(InputError, match="players play parts of games"):
        mixed(game_weight=None).duels()
    with pytest.raises(InputError, match="no scores"):
        drawn.tensors(outcome="score")


def test_games_are_columns_and_columns_are_games(tmp_path):
    games = mixed()
    same(Games.of(games.dataset), games)
    games.dataset.to_netcdf(tmp_path / "g.nc")
    same(Games.of(Dataset.from_netcdf(tmp_path / "g.nc")), games)
    ready = resolve(games.dataset, game_inputs())
    same(Games.of(ready), games, but=("score",))
    same(Games.of(resolve(games.dataset, game_inputs("score"))), games)
    assert resolve(ready, game_inputs())["players"] is ready["players"]


def test_some_games_are_taken_in_any_order():
    taken = mixed().take(np.array([1, 0, 1]))
    assert taken.side_ptr.tolist() == [0, 3, 5, 8]
    assert taken.entry_ptr.tolist() == [0, 1, 3, 4, 6, 7, 8, 10, 11]
    assert taken.player.tolist() == [3, 4, 5, 0, 0, 1, 2, 3, 4, 5, 0]
    assert taken.time.tolist() == [4.5, 3, 4.5]
    # The last side of one game and the first one of the next may have the same number.
    chain = mixed().take(np.array([0, 0]))
    assert chain.entry_ptr.tolist() == [0, 2, 3, 5, 6]
    same(Games.of(resolve(mixed().dataset, game_inputs()).take(np.array([1, 0, 1]))), taken, but=("score",))


def test_places_count_those_ahead():
    ends = np.array([0, 4, 6, 9])
    score = np.array([2.0, 7, 2, 9, 1, 1, -3, 4, 4])
    assert places_of(score, ends).tolist() == [2, 1, 2, 0, 0, 0, 2, 0, 0]
    assert places_of(np.array([1.0, 2, 3, 3]), np.array([0, 2, 4])).tolist() == [1, 0, 0, 0]
    assert mixed().has_ties
    assert not mixed().take(np.array([0])).has_ties


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"side_ptr": np.array([0, 1, 5])}, "game 1 has 1 side; a game has at least two"),
        ({"player": np.array([0, 1, 0, 3, 4, 5, 0])}, "game 1 has 'a' in it twice"),
        ({"player": np.array([0, 1, 2, 3, 4, 4, 0])}, "game 2 has 'e' in it twice"),
        ({"entry_ptr": np.array([0, 2, 3, 4, 4, 7])}, "game 2 has a side without players"),
        ({"weight": np.array([1, 1, 1, 1, -1, 1, 1.0])}, "game 2 has the weight -1; a weight is positive"),
        ({"game_weight": np.array([1, 0.0])}, "game 2 has the game weight 0"),
        ({"time": np.array([1, NAN])}, "game 2 has the time nan"),
        ({"score": np.array([1, NAN, 0, 0, 0])}, "game 1 has the score nan"),
        ({"player": np.array([0, 1, 6, 3, 4, 5, 0])}, "players outside 0..5"),
        ({"place": np.array([0, 1, 0], dtype=np.int32)}, "side_ptr must rise from 0 to 3"),
        ({"time": np.array([1.0])}, r"time has shape \(1,\) where \(2,\) is needed"),
    ],
)
def test_what_is_no_game_is_refused_by_its_number(changes, words):
    with pytest.raises(InputError, match=words):
        mixed(**changes)
