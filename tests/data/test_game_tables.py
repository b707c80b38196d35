"""Tables of games of every form, what is said of them, and what is refused with its row."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ppl_vae.base.errors import InputError
from ppl_vae.data import Dataset, Games, as_dataset, load_dataset, read_games
from ppl_vae.data.game_words import as_days, is_draw, who_won
from ppl_vae.data.inputs import DUELS

SHARED = Path(os.environ.get("PPL_VAE_SHARED", Path(__file__).resolve().parents[3] / "shared"))
real = pytest.mark.skipif(not (SHARED / "data/formula1").is_dir(), reason="the shared tables are not here")


def read(folder, text, **columns):
    path = folder / "g.csv"
    path.write_text(text)
    return read_games(path, quiet=True, **columns)


def shown(games: Games) -> list[list[tuple[str, int]]]:
    """Every game's sides as names and places."""
    names = np.array(games.players, dtype=object)
    found = []
    for g in range(games.num_games):
        sides = range(games.side_ptr[g], games.side_ptr[g + 1])
        ends = games.entry_ptr
        found.append(
            [(" ".join(names[games.player[ends[t] : ends[t + 1]]]), int(games.place[t])) for t in sides]
        )
    return found


# A row a game


def test_draws_of_winners_and_losers_are_draws(tmp_path):
    games = read(tmp_path, "winner,loser,draw\nAna,Bo,0\nBo,Ana,1\nAna,Cy,1\n")
    assert shown(games) == [[("Ana", 0), ("Bo", 1)], [("Bo", 0), ("Ana", 0)], [("Ana", 0), ("Cy", 0)]]
    outcome, players = games.duels()
    assert outcome.tolist() == [1, 0.5, 0.5]
    assert players.tolist() == [[0, 1], [1, 0], [0, 2]]


@pytest.mark.parametrize(
    ("column", "silent", "drawn"),
    [("draw", "0", "1"), ("Draw", "FALSE", "TRUE"), ("tie", "no", "yes"), ("result", "win", "0.5"),
     ("outcome", "1-0", "1/2-1/2"), ("result", "", "D")],
)  # fmt: skip
def test_columns_that_speak_of_draws_are_read(tmp_path, column, silent, drawn):
    games = read(tmp_path, f"winner,{column},loser\nAnn,{silent},Bo\nBo,{drawn},Ann\n")
    assert games.place.tolist() == [0, 1, 0, 0]
    with pytest.raises(InputError, match=rf"row 3, column '{column}': 'maybe'"):
        read(tmp_path, f"winner,{column},loser\nAnn,{silent},Bo\nBo,maybe,Ann\n")


def test_home_sides_have_their_ground_but_on_neutral_one(tmp_path):
    text = (
        "date,Home Team,away_team,home_score,away_score,neutral,city\n"
        "2024-05-31,A,B,2,1,FALSE,x\n2024-06-01,B,C,0,0,TRUE,y\n20240602,C,A,1,3,0,z\n"
    )
    games = read(tmp_path, text)
    assert shown(games) == [[("A", 0), ("B", 1)], [("B", 0), ("C", 0)], [("C", 1), ("A", 0)]]
    assert games.score.tolist() == [2, 1, 0, 0, 1, 3]
    assert games.time.tolist() == [19874, 19875, 19876]
    assert games.covariates["home"].tolist() == [1, 0, 0, 0, 1, 0]
    assert games.history == (
        "g.csv read as 3 games of 2 sides, 3 players, 1 draw, dates 2024-05-31 to 20240602, 2 of 3 games "
        "with a home side (side 1: Home Team; side 2: away_team; scores: home_score, away_score; "
        "neutral: neutral; time: date; left: city)",
    )


@pytest.mark.parametrize(
    ("result", "place"),
    [("1-0", [0, 1]), ("0-1", [1, 0]), ("H", [0, 1]), ("A", [1, 0]), ("home", [0, 1]), ("away", [1, 0]),
     ("1", [0, 1]), ("0", [1, 0]), ("2", [1, 0]), ("Ann", [0, 1]), ("Bo", [1, 0]), ("draw", [0, 0]),
     ("1/2-1/2", [0, 0]), ("0.5", [0, 0]), ("D", [0, 0])],
)  # fmt: skip
def test_results_in_any_words(tmp_path, result, place):
    assert read(tmp_path, f"home,away,result\nAnn,Bo,{result}\n").place.tolist() == place


def test_teams_have_members_of_their_own_number(tmp_path):
    text = "team1_1,team1_2,team1_3,team2_1,team2_2,result\na,b,c,d,e,2\nd,e,,a,b,1\na,,,b,,draw\n"
    games = read(tmp_path, text)
    assert shown(games) == [[("a b c", 1), ("d e", 0)], [("d e", 0), ("a b", 1)], [("a", 0), ("b", 0)]]
    assert games.tensors()[1].shape == (3, 2, 3)
    many = read(tmp_path, "team1_1,team2_1,team3_1,score1,score2,score3\na,b,c,3,9,3\na,b,,1,0,\n")
    assert shown(many) == [[("a", 1), ("b", 0), ("c", 1)], [("a", 0), ("b", 1)]]
    named = read(
        tmp_path,
        "red,crew,blue,r,b\na,b,c,1,2\n",
        side1=["red", "crew"],
        side2="blue",
        score1="r",
        score2="b",
    )
    assert shown(named) == [[("a b", 1), ("c", 0)]]


# A row a player


def test_rows_of_players_become_games_in_any_order(tmp_path):
    text = (
        "game,side,player,place,weight,date\n"
        "y,red,a,2,1,5\nx,1,d,1,1,3\ny,blue,b,1,.5,5\nx,2,e,2,1,3\ny,red,c,2,.25,5\ny,green,d,2,1,5\n"
    )
    games = read(tmp_path, text)
    assert shown(games) == [[("a c", 1), ("b", 0), ("d", 1)], [("d", 0), ("e", 1)]]
    assert games.weight.tolist() == [1, 0.25, 0.5, 1, 1, 1]
    assert games.time.tolist() == [5, 3]


def test_who_did_not_arrive_is_an_unordered_last_group(tmp_path):
    text = "race,driver,position\n1,a,1\n1,b,DNF\n1,c,2\n1,d,\n1,e,DNS\n1,f,DSQ\n"
    games = read(tmp_path, text)
    assert shown(games) == [[("a", 0), ("b", 2), ("c", 1), ("d", 2), ("f", 2)]]
    assert "1 row of who did not start left out; 3 sides without a place in an" in games.history[0]


def test_sides_may_have_a_car_in_common(tmp_path):
    text = "game,player,place,car\n1,a,1,ford\n1,b,2,fiat\n1,c,3,ford\n"
    games = read(tmp_path, text, shared="car")
    assert shown(games) == [[("a ford", 0), ("b fiat", 1), ("c ford", 2)]]
    assert shown(Games.of(games.dataset)) == shown(games)
    with pytest.raises(InputError, match="'a' is the name of a player as well"):
        read(tmp_path, text.replace("fiat", "a"), shared="car")
    # Two drivers of one car are one side, which has the car once.
    relay = "game,side,player,place,car\n1,x,a,1,ford\n1,x,b,1,ford\n1,y,c,2,ford\n1,z,d,,fiat\n"
    sides = [("a ford b", 0), ("c ford", 1), ("d fiat", 2)]
    assert shown(read(tmp_path, relay, shared="car")) == [sides]


@pytest.mark.parametrize("places", [(1, 1, 3), (1, 1, 2), (0, 1, 2), (1, 2, 2), (2, 1, 1)])
def test_rankings_with_ties_are_rankings(tmp_path, places):
    rows = "".join(f"1,{player},{place}\n" for player, place in zip("abc", places, strict=True))
    found = read(tmp_path, f"game,player,place\n{rows}").place.tolist()
    assert found == [sum(other < place for other in places) for place in places]


def test_of_an_order_nothing_but_the_order_counts(tmp_path):
    """Places with gaps, and finishing times, are the ranking that a place column would have said."""
    closed = read(tmp_path, "race,driver,place\n1,a,1\n1,b,2\n1,c,2\n1,d,\n2,b,1\n2,a,2\n")
    gaps = "race,driver,position\n1,a,3\n1,b,17\n1,c,17\n1,d,DNF\n2,b,1\n2,a,40\n2,e,DNS\n"
    times = "race,driver,s\n1,a,61.2\n1,b,63.5\n1,c,63.5\n1,d,\n2,b,-2\n2,a,0.25\n"
    for text, column in ((gaps, "position"), (times, "s")):
        games = read(tmp_path, text, order=column)
        assert f"order: {column}" in games.history[-1]
        assert (games.players, games.score) == (closed.players, None)
        for name in ("side_ptr", "player", "place"):
            np.testing.assert_array_equal(getattr(games, name), getattr(closed, name))
    # A column of that name is no order unless it is called one: lists of results count their lines.
    listed = read(tmp_path, "race,driver,position,order\n1,a,1,2\n1,b,2,1\n")
    assert listed.place.tolist() == [0, 1]
    with pytest.raises(InputError, match="has a row a game, and order is of tables with a row a player"):
        read(tmp_path, "winner,loser,s\na,b,1\n", order="s")
    with pytest.raises(InputError, match="order=NAME"):
        read(tmp_path, "race,driver,order\n1,a,2\n1,b,1\n")


# What is refused


@pytest.mark.parametrize("header", ["winner,loser", "game,player,place", "home,away,result"])
def test_tables_without_rows_are_refused(header):
    with pytest.raises(InputError, match="no rows"):
        read_games(pd.DataFrame(columns=header.split(",")))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("game,player,place\n1,a,1\n1,b,2\n2,a,1\n", ["row 4", "'2' has one side"]),
        ("game,player,place\n1,a,1\n1,b,3\n", ["row 2", "'place'", "the game '1'", "are 1, 3: 2 is nobody's",
                                                "--column order=place"]),
        ("game,player,place\n1,a,1\n1,b,1\n1,c,4\n", ["are 1, 1, 4: 3 is nobody's"]),
        ("game,player,place\n1,a,2\n1,b,3\n", ["row 2", "first place is 2"]),
        ("game,player,place\n1,a,1\n1,b,x\n", ["row 3", "'x' is no place"]),
        ("game,player,place\n1,a,DNF\n1,b,NC\n", ["row 2", "nobody in this game has a place"]),
        ("game,player,place\n1,a,1\n1,a,2\n", ["row 3", "'a' is in the game '1' twice"]),
        ("game,player,score\n1,a,1\n1,b,\n", ["row 3", "'score'", "empty"]),
        ("game,player,score,weight\n1,a,1,1\n1,b,2,0\n", ["row 3", "'weight'", "'0' is no positive number"]),
        ("game,side,player,place\n1,x,a,1\n1,x,b,2\n1,y,c,2\n", ["row 3", "not what the side's first row"]),
        ("game,player,place,date\n1,a,1,3\n1,b,2,4\n", ["row 3", "not what the game's first row says, '3'"]),
        ("game,player,place\n1,a,1\n1,,2\n", ["row 3", "'player'", "empty"]),
        ("home,away,home_score,away_score\na,b,1,2\nb,a,,1\n", ["row 3", "'home_score'", "empty"]),
        ("home,away,home_score,away_score\na,b,1,2\nb,a,2,inf\n", ["row 3", "'inf' is no finite number"]),
        ("home,away,result,date\na,b,1,2024-01-01\nb,a,0,31.12.2023\n", ["row 3", "'31.12.2023' is no date"]),
        ("home,away,result,date\na,b,1,2024-01-01\nb,a,0,\n", ["row 3", "'date'", "empty"]),
        ("home,away,result,date\na,b,1,2024-01-01\nb,a,0,2024\n", ["row 3", "'2024' is a plain number"]),
        ("winner,loser,draw\na,b,1\nb,a\n", ["row 3", "2 cells where 3"]),
        ("home,away,result\na,b,1\nb,a,cy\n", ["row 3", "'cy' is no result"]),
        ("home,away,result\na,b,\n", ["row 2", "'result'", "empty"]),
        ("home,away,result\n1,0,1\n0,1,1\n", ["row 3", "name of a side and a result as well"]),
        ("home,away,result\nhome,away,result\na,b,1\n", ["row 2 is the header again"]),
        ("home,away,result\na,a,1\n", ["row 2", "'a' is in the game twice"]),
        ("player1,player2,result\na,b,1\nb,a,2\na,b,0\n", ["0 beside 2 may be a draw or a loss"]),
        ("team1_1,team1_2,team2_1,team2_2,result\na,b,,,1\n", ["row 2", "all cells of a side are empty"]),
        ("winner,loser,weight\na,b,1\nb,a,-2\n", ["row 3", "'weight'", "'-2' is no positive number"]),
        ("winner,loser,result\na,b,1-0\nb,a,0-1\n", ["row 3", "'0-1' is no win of the winner"]),
        ("home,away\na,b\n", ["says in none of its columns how the games ended"]),
        ("1,2\n3,4\n", ["has no header"]),
    ],
)  # fmt: skip
def test_a_fault_is_said_with_its_row(tmp_path, text, words):
    with pytest.raises(InputError) as error:
        read(tmp_path, text)
    message = str(error.value)
    assert all(word in message for word in [*words, "g.csv"]), message
    assert "\n" not in message
    assert message.endswith(".")


def test_columns_are_named_by_what_they_are(tmp_path):
    text = "tourney_date,winner_name,loser_name\n20001204,Ana Li,Bo Ek\n"
    games = read(tmp_path, text, winner="winner_name", loser="loser_name", date="tourney_date")
    assert shown(games) == [[("Ana Li", 0), ("Bo Ek", 1)]]
    assert games.time.tolist() == [11295]
    with pytest.raises(InputError, match="no column 'name'"):
        read(tmp_path, text, winner="name")
    with pytest.raises(InputError, match="A table of games has no 'victor'"):
        read(tmp_path, text, victor="winner_name")
    dataset = load_dataset(str(tmp_path / "g.csv"))
    columns = {"winner": "winner_name", "loser": "loser_name"}
    assert dataset.arguments(DUELS, columns=columns)[1].tolist() == [[0, 1]]
    with pytest.raises(InputError, match="There is no input 'victor'"):
        dataset.arguments(DUELS, columns={"victor": "winner_name"})


def test_weights_of_games_are_read_and_not_lost(tmp_path):
    games = read(tmp_path, "winner,loser,count\na,b,3\nb,a,1\n")
    assert games.game_weight.tolist() == [3, 1]
    with pytest.raises(InputError, match="count more or less than others, and the model takes none"):
        games.duels()


# Where tables come from


def test_files_frames_and_data_sets_give_the_same_games(tmp_path):
    text = (
        "home,away,home_score,away_score,date\n"
        "Zoé,Bo,1,2,2024-05-31\n Bo ,10,2,2,2024-06-01\n10,Zoé,0,1,2024-06-02\n"
    )
    games = read(tmp_path, text)
    frame = pd.read_csv(tmp_path / "g.csv", skipinitialspace=True, parse_dates=["date"])
    tables = [frame, as_dataset(frame), as_dataset({name: frame[name] for name in frame})]
    for table in tables:
        again = read_games(table, quiet=True)
        assert shown(again) == shown(games)
        assert again.time.tolist() == games.time.tolist()
        assert again.score.tolist() == games.score.tolist()
    games.dataset.to_netcdf(tmp_path / "g.nc")
    assert shown(Games.of(Dataset.from_netcdf(tmp_path / "g.nc"))) == shown(games)


def test_parquet_files_are_tables_of_games(tmp_path):
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame(
        {"winner": ["a", "b"], "loser": ["b", "c"], "date": pd.to_datetime(["2024-05-31"] * 2)}
    )
    frame.to_parquet(tmp_path / "g.parquet")
    games = read_games(tmp_path / "g.parquet", quiet=True)
    assert shown(games) == [[("a", 0), ("b", 1)], [("b", 0), ("c", 1)]]
    assert games.time.tolist() == [19874, 19874]


def test_blocks_of_rows_are_joined(tmp_path, monkeypatch):
    from ppl_vae.data import game_cells

    generator = np.random.default_rng(0)
    pairs = [generator.choice(30, 2, replace=False) for _ in range(500)]
    text = "winner,loser\n" + "".join(f"p{a},p{b}\n" for a, b in pairs)
    whole = read(tmp_path, text)
    monkeypatch.setattr(game_cells, "BLOCK", 14)
    assert shown(read(tmp_path, text)) == shown(whole)
    # A line of white space makes a careful reader of it.
    assert shown(read(tmp_path, text.replace("\n", "\n \n", 1))) == shown(whole)


def test_one_line_is_printed_of_what_was_understood(tmp_path, capsys):
    (tmp_path / "g.csv").write_text("winner,loser,note\na,b,x\n")
    read_games(tmp_path / "g.csv")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "g.csv read as 1 game of 2 sides, 2 players, 0 draws (winner: winner; loser: loser; left: note)\n"
    )


def test_words_mean_what_they_say():
    words = ("1–0", "½-½", "Tie", "x", "W", "L", "?")
    assert [who_won(word) for word in words] == [1, 0.5, 0.5, 0.5, 1, 0, None]
    assert [is_draw(word) for word in ("", "True", "0.0", "D", "2")] == [0, 1, 0, 1, None]
    assert as_days("1970-01-02T12:00:00+00:00") == 1.5
    assert as_days("1969-12-31") == -1
    assert [as_days(word) for word in ("3.5", "1950", "20240230", "today", "2024", "5/6/2024", "")] == [
        3.5, 1950, None, None, 2024, None, None
    ]  # fmt: skip


@real
def test_real_tables_are_read_as_they_are():
    football = read_games(SHARED / "data/international_football/results.csv", quiet=True)
    assert (football.num_games, football.num_players) == (49_520, 337)
    assert float((football.place[::2] == football.place[1::2]).mean()) == pytest.approx(0.2273, abs=1e-4)
    assert float(1 - football.covariates["home"].sum() / 49_520) == pytest.approx(0.2657, abs=1e-4)
    leagues = read_games(SHARED / "data/leagues_football/games.csv", quiet=True)
    assert (leagues.num_games, leagues.num_players) == (85_964, 1_023)
    robots = read_games(
        SHARED / "data/robotics_frc/matches.csv", quiet=True, side1=["red1", "red2", "red3"],
        side2=["blue1", "blue2", "blue3"], score1="red_score", score2="blue_score",
    )  # fmt: skip
    assert (robots.num_games, robots.num_players) == (38_335, 4_152)
    assert (robots.sizes == 3).all()
    races = pd.read_csv(SHARED / "data/formula1/results.csv")
    races = read_games(races[races["date"] > "1998"], quiet=True, shared="constructor")
    assert (races.num_games, int(races.sides.max())) == (546, 24)
    with pytest.raises(InputError, match=r"csv, row \d+, column 'position': the places .* are 1, 3, 4"):
        read_games(SHARED / "data/formula1/results.csv", quiet=True)


# Written again


@pytest.mark.parametrize(
    ("text", "forms"),
    [
        ("winner,loser,draw\nAna,Bo,0\nBo,Ana,1\nCy,Ana,0\n", ("wide", "long")),
        (
            "home,away,home_score,away_score,neutral,date\nA,B,2,1,0,2024-05-31\nB,C,0,0,1,2024-06-01\n",
            ("wide", "long"),
        ),
        ("home,away,result,date,game_weight\nA,B,0-1,3,.1\nB,C,D,4.5,2\n", ("wide", "long")),
        ("team1_1,team1_2,team2_1,team2_2,result\na,b,c,,2\nd,,a,b,1\n", ("wide", "long")),
        ("game,side,player,place,weight\n1,x,a,1,.3\n1,x,b,1,1\n1,y,c,2,1\n1,z,d,,1\n1,w,e,,1\n", ("long",)),
    ],
)  # fmt: skip
def test_what_is_written_reads_as_the_same_games(tmp_path, text, forms):
    games = read(tmp_path, text)
    for form in forms:
        games.to_csv(tmp_path / "again.csv", form, dates="2024" in text)
        again = read_games(tmp_path / "again.csv", quiet=True)
        assert shown(again) == shown(games)
        for name in ("weight", "score", "time", "game_weight"):
            one, other = getattr(again, name), getattr(games, name)
            assert (one is None and other is None) or one.tolist() == other.tolist(), name
        assert {name: list(column) for name, column in again.covariates.items()} == {
            name: list(column) for name, column in games.covariates.items()
        }


def test_games_of_many_sides_are_not_written_a_row_each(tmp_path):
    games = read(tmp_path, "game,player,place\n1,a,1\n1,b,2\n1,c,3\n")
    with pytest.raises(InputError, match="games of more than two sides: write them in the form 'long'"):
        games.to_csv(tmp_path / "x.csv", "wide")
    with pytest.raises(InputError, match="'wide' or 'long', and not 'broad'"):
        games.to_csv(tmp_path / "x.csv", "broad")


def test_covariates_are_numbers_of_a_side(tmp_path):
    wide = "home,away,result,home_age,away_age\na,b,1,20,30.5\nb,a,0,25,21\n"
    games = read(tmp_path, wide, covariate="age")
    assert "games with a home side" in games.history[0]
    assert "with a age side" not in games.history[0]
    assert games.covariates["age"].tolist() == [20, 30.5, 25, 21]
    assert games.covariates["home"].tolist() == [1, 0, 1, 0]
    numbered = read(tmp_path, "player1,player2,result,age1,age2\na,b,1,2,3\n", covariate=["age"])
    assert numbered.covariates["age"].tolist() == [2, 3]
    long = "game,side,player,place,grid\n1,x,a,1,4\n1,x,b,1,4\n1,y,c,2,1\n"
    assert read(tmp_path, long, covariate="grid").covariates["grid"].tolist() == [4, 1]
    for text, column, words in (
        (wide, "height", "no column of 'height' for each side, such as home_height"),
        (long, "age", "no column 'age'"),
        (
            long.replace("1,x,b,1,4", "1,x,b,1,5"),
            "grid",
            "row 3, column 'grid': '5' is not what the side's",
        ),
    ):
        with pytest.raises(InputError, match=words):
            read(tmp_path, text, covariate=column)
