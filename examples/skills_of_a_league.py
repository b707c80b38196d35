"""A league whose clubs' skills drift: home advantage, draws, and who leads, with how sure that is.

The games are drawn from the model itself, so that the truth is known. The margin of a draw, the drift and the
spread of skills are learnt with the guide. What to look for: games tell how clubs compare and not where all
of them are, so that skills rise and fall together. Chains of clubs that are taken for independent are too
sure of single skills, as NUTS shows, and the joint guide is not.
"""

import argparse

import numpy as np
import torch

from ppl_vae import Pair, Skills, compare, guide, nuts
from ppl_vae.data import Games
from ppl_vae.guides import Prior
from ppl_vae.inference import natural
from ppl_vae.program.problem import Problem
from ppl_vae.program.simulate import simulate

CLUBS = tuple(f"club {letter}" for letter in "ABCDEFGHIJ")
TRUE = {"skill_sd": 1.0, "drift_sd": 0.8, "margin": 0.6, "performance_sd": 0.7}


def fixtures(rounds: int) -> Games:
    """A game a week for every club, everybody against everybody in turn."""
    order, player = [*range(len(CLUBS))], []
    for week in range(rounds):
        pairs = zip(order[:5], order[:4:-1], strict=True)
        player += [pair[:: 1 if week % 2 else -1] for pair in pairs]
        order = [order[0], order[-1], *order[1:-1]]
    games = len(player)
    return Games(
        "league", CLUBS, np.arange(0, 2 * games + 1, 2), np.arange(2 * games + 1), np.ravel(player),
        np.tile(np.array([0, 1], dtype=np.int32), games), time=7.0 * (np.arange(games) // 5),
        covariates={"home": np.tile([1.0, 0.0], games)},
    )  # fmt: skip


def main(quick: bool = False) -> None:
    games = fixtures(9 if quick else 36)
    options = {"draws": True, "home": True, "drift": "1y"}
    world = Skills.from_data(games, **options, **TRUE)
    data = games.tensors(torch.float64)
    _, data = simulate(Problem.of(Pair(world, Prior(world)), *data), seed=1)
    drawn = float((data[0][:, 0] == data[0][:, 1]).double().mean())
    print(f"{games.num_games} games, {drawn:.0%} of them draws")

    model = Skills.from_data(games, **options, performance_sd=TRUE["performance_sd"])
    answers = {}
    for name in ("markov", "sparse-precision"):
        pair = Pair(model, Skills.guides[name](model, *data))
        fit = natural.fit(pair, *data, train="both", progress=False)
        learnt = ", ".join(
            f"{number} {value:.2f} ({TRUE[number]:g})" for number, value in model.numbers.items()
        )
        print(f"{name}: ELBO {fit.final.value:.2f} nats; {learnt}")
        answers[name] = guide.draws(pair, *data, num_draws=4000)

    draws = 25 if quick else 500
    truth = nuts.sample(model, *data, chains=2, num_draws=draws, warmup=draws, progress=False)
    board = model.reported(answers["sparse-precision"].draws)["player_skill"]
    leads = (board == board.max("player")).mean(("chain", "draw")).to_numpy()
    print("\nclub       skill    sd   P(first)")
    for at in np.argsort(-board.mean(("chain", "draw")).to_numpy()):
        own = board[..., at]
        print(f"{CLUBS[at]:9} {float(own.mean()):6.2f} {float(own.std()):5.2f}   {leads[at]:.2f}")

    for title, functions in (("Skills", model.reported), ("Differences", model.identifiable)):
        found = compare(answers, reference=truth, identifiable=functions)
        ratio = found.table.groupby("answer", sort=False)["sd_ratio"].mean()
        for name, verdict in found.verdicts.items():
            print(f"{title} by {name}: {verdict}; sds are {ratio[name]:.2f} of NUTS'")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a quarter of the season, for a first look")
    main(parser.parse_args().quick)
