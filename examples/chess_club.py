"""A chess club: few games, strengths at rest, and what they leave open.

What to look for: with some thirty games a player the order of neighbours is open, the joint posterior says
how open, a newcomer's chances come from the prior, and the verdict covers what the leaderboard shows.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

import ppl_vae

MEMBERS = ("Ada", "Ben", "Cleo", "Dan", "Edda", "Finn", "Gus", "Hana")


def evenings(num_games: int, seed: int) -> pd.DataFrame:
    """Games of white against black, many of them drawn; white begins, which is worth something."""
    strength = np.random.default_rng(7).normal(size=len(MEMBERS))
    rng, rows = np.random.default_rng(seed), []
    for _ in range(num_games):
        white, black = rng.choice(len(MEMBERS), 2, replace=False)
        ahead = strength[white] - strength[black] + 0.2 + rng.logistic()
        rows.append(
            (MEMBERS[white], MEMBERS[black], "1-0" if ahead > 0.7 else "0-1" if ahead < -0.7 else "1/2-1/2")
        )
    return pd.DataFrame(rows, columns=["white", "black", "result"])


def main(quick: bool = False) -> None:
    with tempfile.TemporaryDirectory() as folder:
        told(Path(folder), quick)


def told(folder: Path, quick: bool) -> None:
    evenings(120, seed=5).to_csv(folder / "games.csv", index=False)
    run = ppl_vae.fit(
        "skills", folder / "games.csv", link="logistic", draws=True, covariates="white", method="natural",
        guide="sparse-precision", progress=False,
    )  # fmt: skip
    board = run.leaderboard()
    print("The leaderboard of 120 games")
    print(board.table[["mean", "sd", "p_first", "rank_low", "rank_median", "rank_high"]].round(2).to_string())
    print(f"{board.open_neighbours} of {len(MEMBERS) - 1} pairs of neighbours are in no sure order.")
    print("\nP(the row's is better)")
    print(board.above(list(board.table.index[:4])).round(2).to_string())

    fixtures = pd.DataFrame({"white": ["Ada", "Ben"], "black": ["Ben", "Igor"]})
    found = run.predict(fixtures)
    print("\nNext week")
    print(found.table[["first", "second", "win", "draw", "loss"]].round(2).to_string(index=False))
    print(*(f"Note: {note}." for note in found.notes), sep="\n")

    scored = run.score(evenings(200, seed=1)).results
    print(f"\nThe next 200 games: {scored.sentence()}")
    print(
        scored.curve[["forecast", "observed", "right_low", "right_high", "count"]]
        .round(2)
        .to_string(index=False)
    )
    # Without simulated data it ends with NUTS's draws, long before its budget does.
    check = run.judge("5m" if quick else "1m", calibrate=not quick, progress=False)
    print(f"\nCan this be trusted? {check.verdict}: {check.reason}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short check, for a first look")
    main(parser.parse_args().quick)
