"""Real games of the shared folder, as `Games`: leagues, internationals, robotics and Formula 1.

The files are named, and their sources and licences told, in SOURCES.md there; nothing of them is copied here.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from ppl_vae.data.games import Games

__all__ = ["big_five", "formula_one", "internationals", "missing", "robotics"]

FOLDER = Path(os.environ.get("PPL_VAE_SHARED", "")) / "data"
FILES = {
    "big five": "leagues_football/games.csv",
    "internationals": "international_football/results.csv",
    "robotics": "robotics_frc/matches.csv",
    "formula 1": "formula1/results.csv",
}
BIG_FIVE = ("de.1", "en.1", "es.1", "fr.1", "it.1")


def missing() -> list[str]:
    """The files that are not there."""
    return [file for file in FILES.values() if not (FOLDER / file).exists()]


def big_five() -> tuple[Games, Games]:
    """Seasons 2014-15 to 2021-22 of the five big leagues, and 2022-23: 14,507 and 1,826 games."""
    table = pd.read_csv(FOLDER / FILES["big five"])
    table = table[table["league"].isin(BIG_FIVE)]
    train = table[(table["season"] >= "2014-15") & (table["season"] <= "2021-22")]
    return _football(train, "big five"), _football(table[table["season"] == "2022-23"], "2022-23")


def internationals() -> tuple[Games, Games]:
    """Games before 2022, and those from then on: 44,840 and 4,680."""
    table = pd.read_csv(FOLDER / FILES["internationals"]).dropna(subset=["home_score"])
    before = table["date"] < "2022-01-01"
    return _football(table[before], "internationals"), _football(table[~before], "from 2022")


def _football(table: pd.DataFrame, name: str) -> Games:
    table = table.sort_values("date", kind="stable")
    sides = table[["home_team", "away_team"]].to_numpy()
    scores = table[["home_score", "away_score"]].to_numpy(np.float64)
    home = np.ones(len(table))
    if "neutral" in table:
        home = 1.0 - table["neutral"].astype(str).str.upper().eq("TRUE").to_numpy(np.float64)
    covariate = np.stack([home, np.zeros(len(table))], 1).ravel()
    numbers, players = pd.factorize(sides.ravel())
    ends = np.arange(2 * len(table) + 1)
    return Games(
        name, tuple(map(str, players)), ends[::2].copy(), ends, numbers.astype(np.int64),
        _places(scores), score=scores.ravel(), time=_days(table["date"]), covariates={"home": covariate},
    )  # fmt: skip


def _places(scores: np.ndarray) -> np.ndarray:
    return (scores < scores[:, ::-1]).astype(np.int32).ravel()


def _days(dates: pd.Series) -> np.ndarray:
    return pd.to_datetime(dates).to_numpy().astype("datetime64[D]").astype(np.float64)


def robotics() -> tuple[Games, Games]:
    """Of 2019: 14,797 qualification games three against three, and 3,089 play-off games.

    Their order inside an event is known, and no dates: an event's play-offs come after its qualification.
    """
    table = pd.read_csv(FOLDER / FILES["robotics"], dtype=str)
    table = table[table["year"] == "2019"]
    first = table["match"].str.startswith("qm")
    return _alliances(table[first], "qualification", 0.0), _alliances(table[~first], "play-offs", 1.0)


def _alliances(table: pd.DataFrame, name: str, time: float) -> Games:
    members = table[[f"{side}{k}" for side in ("red", "blue") for k in (1, 2, 3)]].to_numpy()
    scores = table[["red_score", "blue_score"]].to_numpy(np.float64)
    numbers, players = pd.factorize(members.ravel())
    games = len(table)
    return Games(
        name, tuple(map(str, players)), np.arange(0, 2 * games + 1, 2), np.arange(0, 6 * games + 1, 3),
        numbers.astype(np.int64), _places(scores), time=np.full(games, time),
    )  # fmt: skip


def formula_one(first: str = "1950", car: bool = True) -> Games:
    """Classified finishes of all races from a year on, a side a driver and, if asked for, the car's maker."""
    table = pd.read_csv(FOLDER / FILES["formula 1"], dtype=str)
    table = table[table["position"].str.fullmatch(r"\d+").fillna(False) & (table["date"] >= first)]
    table = table.assign(place=table["position"].astype(int)).drop_duplicates(["race", "driver"])
    # Shared drives have the same place: the one that is listed first stands for the car.
    table = table.drop_duplicates(["race", "place"]).sort_values(["date", "race", "place"], kind="stable")
    sizes = table.groupby("race", sort=False).size()
    table = table[table["race"].map(sizes) >= 2]
    race = pd.factorize(table["race"])[0]
    begin = np.concatenate([np.flatnonzero(np.diff(race, prepend=-1)), [len(race)]])
    each = table[["driver", "constructor"]].to_numpy() if car else table[["driver"]].to_numpy()
    each = np.where(np.arange(each.shape[1]) == 1, "car " + each, each) if car else each
    numbers, players = pd.factorize(each.ravel())
    place = np.arange(len(race)) - begin[race]
    return Games(
        "Formula 1", tuple(map(str, players)), begin, np.arange(0, each.size + 1, each.shape[1]),
        numbers.astype(np.int64), place.astype(np.int32), time=_days(table["date"])[begin[:-1]],
    )  # fmt: skip
