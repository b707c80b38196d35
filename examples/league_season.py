"""A league: from a table of games to a leaderboard with error bars, a forecast and its calibration.

What to look for: ranks have intervals, forecasts of the last season are better than base rates and no more
often wrong than they say, and learning the season's first half goes on from the fit and does not begin anew.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

import ppl_vae

TEAMS = ("Ash", "Birch", "Cedar", "Elm", "Fir", "Hazel", "Larch", "Maple", "Oak", "Pine", "Rowan", "Yew")
SEASONS = 4


def seasons(seed: int = 2) -> pd.DataFrame:
    """Every team at every other, once a season: strengths drift, and the side at home has an advantage."""
    rng, rows = np.random.default_rng(seed), []
    strength = rng.normal(size=len(TEAMS))
    for season in range(SEASONS):
        strength = strength + 0.6 * rng.normal(size=len(TEAMS))
        pairs = [(i, j) for i in range(len(TEAMS)) for j in range(len(TEAMS)) if i != j]
        for number, at in enumerate(rng.permutation(len(pairs))):
            home, away = pairs[at]
            date = np.datetime64(f"{2020 + season}-08-01") + np.timedelta64(12 * (number // 6), "D")
            ahead = strength[home] - strength[away] + 0.4 + 2**0.5 * rng.normal()
            result = "draw" if abs(ahead) < 0.5 else "home" if ahead > 0 else "away"
            rows.append((str(date), TEAMS[home], TEAMS[away], result))
    return pd.DataFrame(rows, columns=["date", "home", "away", "result"])


def told(folder: Path, quick: bool) -> None:
    games = seasons()
    last = games["date"] >= f"{2020 + SEASONS - 1}-08-01"
    games[~last].to_csv(folder / "games.csv", index=False)
    games[last].to_csv(folder / "later.csv", index=False)

    asked = {"draws": True, "home": True, "drift": "1y", "method": "natural", "progress": False}
    run = ppl_vae.fit("skills", folder / "games.csv", **asked)
    numbers = ", ".join(f"{name} {value:.2f}" for name, value in run.model.numbers.items())
    print(f"{int((~last).sum())} games of {SEASONS - 1} seasons; numbers learnt: {numbers}")

    board = run.leaderboard()
    print(f"\nThe leaderboard on {board.date}")
    print(board.table[["mean", "sd", "p_first", "rank_low", "rank_high"]].round(2).head(5).to_string())
    first, second = board.table["mean"].nlargest(2).index
    print(f"P({first} is better than {second}): {board.above([first, second]).loc[first, second]:.2f}")

    fixtures = pd.DataFrame({"date": ["2023-09-01"] * 2, "home": ["Oak"] * 2, "away": ["Elm", "Newcomers"]})
    found = run.predict(fixtures)
    print("\nFixtures")
    print(found.table[["first", "second", "win", "draw", "loss"]].round(2).to_string(index=False))
    print(*(f"Note: {note}." for note in found.notes), sep="\n")

    print("\nThe last season, frozen and from date to date")
    for walk_forward in (False, True):
        scored = run.score(folder / "later.csv", walk_forward=walk_forward, progress=False).results
        print(f"{scored.mode}: {scored.sentence()}")

    half = games[last].iloc[: int(last.sum()) // 2]
    later = run.update(half, out=folder / "updated")
    print(f"\n{len(half)} games learnt; ahead now: {', '.join(later.leaderboard().table.index[:3])}")
    weights = ppl_vae.importance.log_evidence(later.pair, *later.tensors(), num_samples=1000, progress=False)
    print(f"1,000 draws are worth {weights.ess[0]:.0f} by their weights.")
    if not quick:
        check = later.judge("2m", progress=False)
        print(f"Can this be trusted? {check.verdict}: {check.reason}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="weights and no verdict, for a first look")
    with tempfile.TemporaryDirectory() as folder:
        told(Path(folder), parser.parse_args().quick)
