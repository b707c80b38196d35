"""Games behind other games, against games that were read together."""

import dataclasses

import numpy as np
import pytest

from ppl_vae.base.errors import InputError
from ppl_vae.data.game_joining import joined_games, numbered_like, unseen_players
from ppl_vae.data.games import Games


def teams(name: str = "teams") -> Games:
    """A and B against C at home, then C against D and A, with dates."""
    return Games(
        name, ("A", "B", "C", "D"), np.array([0, 2, 5]), np.array([0, 2, 3, 4, 5, 6]),
        np.array([0, 1, 2, 2, 3, 0]), np.array([0, 1, 0, 1, 1], dtype=np.int32),
        weight=np.array([1, 0.5, 1, 1, 1, 1]), time=np.array([3.0, 5.0]),
        covariates={"home": np.array([1.0, 0, 0, 0, 0])},
    )  # fmt: skip


def test_games_that_were_cut_in_two_are_joined_again() -> None:
    whole = teams()
    found = joined_games(whole.take(np.array([0])), whole.take(np.array([1])))
    for field in dataclasses.fields(Games):
        expected, value = getattr(whole, field.name), getattr(found, field.name)
        if field.name == "covariates":
            np.testing.assert_array_equal(value["home"], expected["home"])
        else:
            np.testing.assert_array_equal(value, expected, err_msg=field.name)


def test_players_of_the_others_come_first() -> None:
    later = dataclasses.replace(teams("later"), players=("E", "C", "F", "A"))
    found = numbered_like(later, teams())
    assert found.players == ("A", "B", "C", "D", "E", "F")
    assert [found.players[at] for at in found.player] == ["E", "C", "F", "F", "A", "E"]
    assert unseen_players(found, 4) == ("E", "F")
    # Those on the list who play nothing are no players.
    absent = dataclasses.replace(later, players=("E", "C", "F", "A", "G"))
    assert numbered_like(absent, teams()).players == ("A", "B", "C", "D", "E", "F")


def test_how_both_were_read_is_kept_once_each() -> None:
    first, later = (dataclasses.replace(teams(), history=lines) for lines in (("a",), ("a", "b")))
    assert joined_games(first, later).history == ("a", "b")


def test_weights_that_only_some_have_are_ones_for_the_others() -> None:
    plain = dataclasses.replace(teams(), weight=None, game_weight=np.array([2.0, 1.0]))
    found = joined_games(plain, teams("later"))
    np.testing.assert_array_equal(found.weight, [1] * 6 + [1, 0.5, 1, 1, 1, 1])
    np.testing.assert_array_equal(found.game_weight, [2, 1, 1, 1])


def test_scores_that_the_first_do_not_have_are_left_out() -> None:
    scored = dataclasses.replace(teams("later"), score=np.arange(5.0))
    assert joined_games(teams(), scored).score is None
    with pytest.raises(InputError, match="later has no scores, which teams has"):
        joined_games(dataclasses.replace(teams(), score=np.arange(5.0)), teams("later"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"time": None}, "later has no dates"),
        ({"covariates": {}}, "later has no column 'home' of its sides"),
    ],
)
def test_what_later_games_lack_is_named(change: dict, said: str) -> None:
    later = dataclasses.replace(teams("later"), **change)
    with pytest.raises(InputError, match=said):
        joined_games(teams(), later)
