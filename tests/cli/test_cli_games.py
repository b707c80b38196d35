"""Commands for models of games: predict, score, leaderboard, update, choose, and exports."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import special

NAMES = ("Ann", "Bob", "Cid", "Dee", "Eve")
SKILLS = dict(zip(NAMES, (1.2, 0.5, 0.0, -0.5, -1.2), strict=True))


def duels(path: Path, num_games: int, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    lines = ["winner,loser"]
    for _ in range(num_games):
        first, second = rng.choice(NAMES, 2, replace=False)
        won = rng.random() < special.expit(1.5 * (SKILLS[first] - SKILLS[second]))
        lines.append(f"{first},{second}" if won else f"{second},{first}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def club(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A club's games, later ones and a run: games.csv, later.csv and run."""
    from ppl_vae.runs.fit_job import fit_run
    from ppl_vae.runs.run import settings_for

    folder = tmp_path_factory.mktemp("club")
    games = duels(folder / "games.csv", 120, 0)
    duels(folder / "later.csv", 60, 1)
    (folder / "fixtures.csv").write_text("winner,loser\nAnn,Eve\nBob,Zoe\n")
    settings = settings_for("trueskill", str(games), {"method": "natural"}, {})
    fit_run(settings, folder / "run", progress=False)
    return folder


def test_predict_says_chances_and_who_was_never_seen(run, club: Path) -> None:
    code, out, _ = run("predict", club / "run", club / "fixtures.csv", "--json", "--out", club / "p.csv")
    found = json.loads(out)
    assert code == 0
    assert found["notes"] == ["Zoe was never seen before, and predicted from the prior"]
    ann, new = found["games"]
    assert ann["win"] > 0.9
    assert ann["win"] + ann["loss"] == pytest.approx(1.0)
    # The prior's own width is most of what is not known.
    assert new["sd"] > 8
    assert pd.read_csv(club / "p.csv")["win"].tolist() == pytest.approx([ann["win"], new["win"]])
    code, out, _ = run("predict", club / "run", club / "fixtures.csv")
    assert "Zoe was never seen before" in out


def test_score_stands_beside_base_rates(run, club: Path) -> None:
    code, out, _ = run("score", club / "run", club / "later.csv", "--json", "--out", club / "curve.csv")
    found = json.loads(out)
    assert code == 0
    assert found["results"]["num_events"] == 60
    row = found["results"]["scores"]["log loss"]
    assert row["base"] == pytest.approx(np.log(2))
    assert 0 < row["better"] == pytest.approx(row["base"] - row["value"])
    assert any("taken on trust" in note for note in found["notes"])
    assert pd.read_csv(club / "curve.csv")["count"].sum() == 120
    code, out, _ = run("score", club / "run", club / "later.csv")
    assert "better than base rates" in " ".join(out.split())


def test_leaderboard_has_ranks_and_pairs(run, club: Path) -> None:
    code, out, _ = run("leaderboard", club / "run", "--json", "--between", "Ann,Eve")
    found = json.loads(out)
    assert code == 0
    assert found["players"][0]["player"] == "Ann"
    assert sum(row["p_first"] for row in found["players"]) == pytest.approx(1.0)
    assert found["above"]["Ann"]["Eve"] > 0.99
    code, out, _ = run("leaderboard", club / "run", "--top", "2")
    assert code == 0
    assert "2 of 5 players" in out


def test_an_updated_run_is_a_fit_of_all_games(run, club: Path) -> None:
    code, out, _ = run("update", club / "run", club / "later.csv", "--out", club / "updated", "--json")
    assert code == 0
    assert json.loads(out)["num_games"] == 180
    every = club / "all.csv"
    every.write_text((club / "games.csv").read_text() + (club / "later.csv").read_text().partition("\n")[2])
    run("fit", "trueskill", every, "--out", club / "whole", "--method", "natural", "--quiet")
    boards = [
        pd.DataFrame(json.loads(run("leaderboard", club / name, "--json")[1])["players"]).set_index("player")
        for name in ("updated", "whole")
    ]
    np.testing.assert_allclose(boards[0]["mean"], boards[1]["mean"], atol=0.05)
    np.testing.assert_allclose(boards[0]["sd"], boards[1]["sd"], atol=0.05)
    code, _, error = run("update", club / "run", club / "later.csv", "--out", club / "updated")
    assert (code, "is not empty" in error) == (2, True)


def test_exports_of_games(run, club: Path) -> None:
    for what, suffix in (("leaderboard", "csv"), ("win-probability", "csv"), ("leaderboard", "nc")):
        code, _, error = run("export", club / "run", "--what", what, "--out", club / f"{what}.{suffix}")
        assert (code, error) == (0, f"{what}\n")
    board = pd.read_csv(club / "leaderboard.csv", index_col="player")
    assert {"mean", "sd", "conservative", "p_first", "rank_low", "rank_high"} <= {*board}
    wins = pd.read_csv(club / "win-probability.csv", index_col="player")
    chance = wins.loc["Ann", "win_probability[Eve]"]
    assert chance + wins.loc["Eve", "win_probability[Ann]"] == pytest.approx(1.0)


BAD = {
    "no such file": (("predict", "RUN", "nowhere.csv"), "nowhere.csv"),
    "no such run": (("predict", "nowhere", "nowhere.csv"), "does not exist"),
    "a column without a name": (("score", "RUN", "nowhere.csv", "--column", "home"), "INPUT=COLUMN"),
    "a date of games without dates": (("leaderboard", "RUN", "--date", "2024-01-01"), "these have none"),
    "nobody of that name": (("leaderboard", "RUN", "--between", "Ann,Zoe"), "Zoe"),
    "no fixtures": (("predict", "RUN", "iris"), "and it has x, label; or"),
    "another ending": (("predict", "RUN", "FIXTURES", "--out", "p.txt"), "ends in .csv"),
    "walking without dates": (("score", "RUN", "LATER", "--walk-forward"), "have none"),
    "choosing without dates": (("choose", "LATER"), "has no dates"),
    "a share that is none": (("choose", "LATER", "--later", "2"), "between 0 and 1"),
}


@pytest.mark.parametrize(("arguments", "words"), BAD.values(), ids=BAD.keys())
def test_bad_input_ends_in_one_sentence(
    run, club: Path, tmp_path: Path, monkeypatch, arguments, words
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"RUN": club / "run", "FIXTURES": club / "fixtures.csv", "LATER": club / "later.csv"}
    code, out, error = run(*(places.get(word, word) for word in arguments), "--quiet")
    assert (code, out) == (2, "")
    assert words in error
    assert error.startswith("ppl-vae: ")
    assert error.count("\n") == 1
    assert not [*tmp_path.iterdir()]


def test_a_model_of_rows_is_no_model_of_games(run, fitted: Path, club: Path) -> None:
    for command in ("predict", "score", "update"):
        code, _, error = run(command, fitted, club / "later.csv")
        assert (code, "no model of games between players, such as" in error) == (2, True)
