"""Games: the embedded season, files and bad files."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from ppl_vae.base.errors import InputError
from ppl_vae.data import Games, load, player_names
from ppl_vae.data import games as games_module

SHARED = Path(os.environ.get("PPL_VAE_SHARED", Path(__file__).resolve().parents[3] / "shared"))
CHESS = SHARED / "data/chess_csc412/games.csv"


def test_al_east_1987_is_273_games_of_7_teams_13_a_pair():
    games = load("al-east-1987")
    assert isinstance(games, Games)
    assert (games.num_games, games.num_players) == (273, 7)
    assert games.players == (
        "Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore"
    )  # fmt: skip
    table = wins(games)
    assert np.array_equal(table + table.T, 13 * (1 - np.eye(7)))


@pytest.mark.skipif(not (SHARED / "reference/skill.json").is_file(), reason="skill.json is not here")
def test_al_east_1987_is_the_published_table():
    published = json.loads((SHARED / "reference/skill.json").read_text())["al_east_1987"]
    games = load("al-east-1987")
    assert list(games.players) == published["teams"]
    assert wins(games).tolist() == published["wins"]


def test_players_come_in_order_of_first_appearance(tmp_path):
    games = csv_games(tmp_path, "winner,loser\nCy,Ann\nAnn,Bo\nBo,Cy\n")
    assert games.players == ("Cy", "Ann", "Bo")
    assert games.winners.tolist() == [0, 1, 2]
    assert games.losers.tolist() == [1, 2, 0]
    assert games.winners.dtype == games.losers.dtype == np.int64
    assert games.name == "a.csv"


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffwinner,loser\nAnn,Bo\nBo,Cy\n",
        "winner,loser\r\nAnn,Bo\r\nBo,Cy\r\n\r\n",
        "winner,loser\n\nAnn,Bo\n \nBo,Cy",
        " Winner , LOSER \n Ann ,Bo\nBo, Cy\n",
        '"winner","loser"\n"Ann","Bo"\nBo, "Cy"\n',
        "date,loser,winner,note\n1987,Bo,Ann,\n1987,Cy,Bo,late\n",
        "loser,1,winner\nBo,0,Ann\nCy,0,Bo\n",
    ],
)
def test_dialects_read_alike(tmp_path, text):
    games = csv_games(tmp_path, text)
    pairs = [(games.players[w], games.players[x]) for w, x in zip(games.winners, games.losers, strict=True)]
    assert pairs == [("Ann", "Bo"), ("Bo", "Cy")]


def test_players_may_be_numbers_or_have_odd_names(tmp_path):
    assert csv_games(tmp_path, "winner,loser\n7,3\n3,11\n").players == ("7", "3", "11")
    assert csv_games(tmp_path, "winner,loser\nNan,Null\nNa,/ann\n").players == ("Nan", "Null", "Na", "/ann")


@pytest.mark.parametrize("name", ["NA", "NaN", "nan", "null", "None", "N/A", "-", "?"])
def test_names_that_stand_for_nobody_are_refused_with_their_row(tmp_path, name):
    refused(tmp_path, f"winner,loser\nAnn,Bo\n{name},Ann\n", "row 3", "'winner'", f"'{name}'", "missing")
    refused(tmp_path, f"winner,loser\nAnn, {name} \n", "row 2", "'loser'")


@pytest.mark.parametrize("again", ["winner,loser", "Winner,LOSER", " winner , loser"])
def test_a_header_among_the_games_is_refused_with_its_row(tmp_path, again):
    refused(tmp_path, f"winner,loser\nAnn,Bo\n{again}\nCy,Bo\n", "row 3", "header")
    refused(tmp_path, f"winner,loser\n{again}\nCy,Bo\n", "row 2", "header")


@pytest.mark.parametrize(
    "header", ["tourney_date,winner_name,loser_name", "home,visitor,result", "a,b,c", "1st,winner_id,x"]
)
def test_a_table_that_must_hold_games_says_what_it_needs_and_has(tmp_path, header):
    (tmp_path / "bad.csv").write_text(f"{header}\n20001204,Ana Li,Bo Ek\n")
    with pytest.raises(InputError, match="columns winner and loser, and it has " + header.replace(",", ", ")):
        load(str(tmp_path / "bad.csv"), games=True)


def test_names_are_one_in_any_unicode_form(tmp_path):
    composed, taken_apart = "Jos\u00e9", "Jose\u0301"
    games = csv_games(tmp_path, f"winner,loser\n{composed},Ann\nAnn,{taken_apart}\n")
    assert games.players == (composed, "Ann")
    assert games.warnings == ()
    refused(tmp_path, f"winner,loser\n{composed},{taken_apart}\n", "row 2", "both winner and loser")


@pytest.mark.parametrize(
    ("one", "other"),
    [("Ann", "ann"), ("2", "2.0"), ("Ann Li", "Ann  Li"), ("Ann", "A\u200bnn"), ("Ann Li", "Ann\u00a0Li")],
)
def test_players_that_look_alike_are_named(tmp_path, one, other):
    games = csv_games(tmp_path, f"winner,loser\n{one},Bo\nBo,{other}\n")
    assert games.players == (one, "Bo", other)
    (warning,) = games.warnings
    assert repr(one) in warning
    assert repr(other) in warning


def test_quoted_names_may_hold_commas_and_any_letters(tmp_path):
    games = csv_games(tmp_path, 'winner,loser\n"Li, Na",Błaszczykowski\n')
    assert games.players == ("Li, Na", "Błaszczykowski")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("winner,loser\n", ["no rows"]),
        ("winner,name\nAnn,Bo\n", ["'loser'"]),
        ("a,Loser\nAnn,Bo\n", ["'winner'"]),
        ("winner,loser\nAnn,Bo\nAnn,\n", ["row 3", "'loser'", "empty"]),
        ("Winner,loser\n  ,Bo\n", ["row 2", "'Winner'", "empty"]),
        ("winner,loser\nAnn,Bo\n\nCy,Cy\n", ["row 4", "'Cy' is both winner and loser"]),
        ("winner,loser\nAnn,Bo\nCy, Cy \n", ["row 3", "'Cy' is both"]),
        ("winner,loser\nAnn\n", ["row 2", "1 cells where 2"]),
        ("winner,loser\nAnn,Bo,Cy\n", ["row 2", "3 cells where 2"]),
        ("winner,loser,note\nAnn,Bo,x\nAnn,Bo\n", ["row 3", "2 cells where 3"]),
        ("winner,loser\nAnn,Bo\nAnn,Bo,Cy\n", ["row 3", "3 cells where 2"]),
        ("winner,loser,Winner\nAnn,Bo,Cy\n", ["twice"]),
        ('winner,loser\n"A\nB",Bo\nCy,Cy\n', ["row 4"]),
        ('winner,loser\nAnn,"Bo\n', ["row 2"]),
    ],
)
def test_bad_games(tmp_path, text, words):
    path = tmp_path / "bad.csv"
    path.write_bytes(text.encode())
    with pytest.raises(InputError) as error:
        load(str(path))
    message = str(error.value)
    assert all(word in message for word in [*words, "bad.csv"]), message
    assert "\n" not in message
    assert message.endswith(".")


def refused(folder: Path, text: str, *words: str) -> None:
    path = folder / "bad.csv"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        load(str(path))
    assert all(word in str(error.value) for word in [*words, "bad.csv"]), str(error.value)


@pytest.mark.skipif(not CHESS.is_file(), reason="the CSC412 chess games are not here")
def test_chess_games_are_all_read_and_fast():
    load("al-east-1987")  # the import of pandas is not what is timed
    start = time.process_time()
    games = load(str(CHESS))
    seconds = time.process_time() - start
    assert (games.num_games, games.num_players) == (286_889, 51_983)
    assert [games.players[i] for i in (games.winners[1], games.losers[1])] == ["3", "2"]
    assert seconds < 5  # about 0.3 s on an idle core


def wins(games: Games) -> np.ndarray:
    table = np.zeros((games.num_players, games.num_players), dtype=int)
    np.add.at(table, (games.winners, games.losers), 1)
    return table


def csv_games(folder: Path, text: str) -> Games:
    path = folder / "a.csv"
    path.write_bytes(text.encode())
    games = load(str(path))
    assert isinstance(games, Games)
    return games


def test_many_names_are_numbered_as_few_are(monkeypatch):
    winners, losers = ["b", "a ", "é", "c"], ["a", "b", "d", "e\u0301"]
    few = games_module.games_between("few", winners, losers)
    monkeypatch.setattr(player_names, "FEW", 0)
    many = games_module.games_between("many", winners, losers)
    assert few.players == many.players == ("b", "a", "é", "d", "c")
    assert few.winners.tolist() == many.winners.tolist()
    assert few.losers.tolist() == many.losers.tolist()


@pytest.mark.parametrize("missing", [None, float("nan")])
@pytest.mark.parametrize("few", [0, 10**5])
def test_missing_names_are_nobody(monkeypatch, missing, few):
    monkeypatch.setattr(player_names, "FEW", few)
    with pytest.raises(InputError, match="a player's name is missing"):
        games_module.games_between("games", ["a", missing], ["b", "a"])
