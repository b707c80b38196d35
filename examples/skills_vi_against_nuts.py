"""Skills of baseball teams from wins and losses: two variational guides against NUTS.

The games of the American League East in 1987, with the logistic link: P(i beats j) = σ(s_i − s_j). What to
look for: games tell about differences of skills, and leave their common level to the prior, so that skills
are correlated. The mean-field guide drops the correlations: its single skills are too narrow and their
differences too wide, while the means and the predictions hold. The full-rank guide keeps them.
"""

import argparse

from ppl_vae import Pair, TrueSkill, compare, guide, nuts, svi
from ppl_vae.data import load


def main(quick: bool = False) -> None:
    season = load("al-east-1987")
    games = season.duels()
    model = TrueSkill.from_data(season, link="logistic")

    answers = {}
    for name in ("mean-field", "full-rank"):
        pair = Pair(model, TrueSkill.guides[name](model, *games))
        fit = svi.fit(pair, *games, num_steps=100 if quick else 500, lr=0.05, num_particles=16)
        final = fit.final
        print(f"{name:>10}: ELBO {final.value:.2f} ± {final.std_error:.2f} nats, {fit.seconds:.0f} s of SVI")
        answers[name] = guide.draws(pair, *games, num_draws=4000)

    chains, draws = (2, 50) if quick else (4, 250)
    # A dense mass matrix, since the skills are correlated.
    truth = nuts.sample(
        model,
        *games,
        chains=chains,
        num_draws=draws,
        warmup=50 if quick else 100,
    )
    print(f"      nuts: {chains} chains of {draws} draws, {truth.seconds:.0f} s")

    print("\nLeaderboard by NUTS (nats on the logistic scale)")
    print(model.leaderboard(truth).round(2))
    board = model.leaderboard(truth).index
    first, last = board[0], board[-1]
    for name, answer in {**answers, "nuts": truth}.items():
        probability = model.win_probability(answer).loc[first, last]
        print(f"P({first} beats {last} next) by {name}: {probability:.3f}")

    # A model says what is identifiable: here, skills relative to the mean skill, and differences.
    for title, identifiable in (("Single skills", None), ("Differences of skills", model)):
        found = compare(answers, reference=truth, model=identifiable)
        print(f"\n{title}, against NUTS")
        summary = found.table.groupby("answer", sort=False).agg(
            worst_mean_error_in_sd=("mean_error_in_sd", lambda errors: errors.abs().max()),
            smallest_sd_ratio=("sd_ratio", "min"),
            largest_sd_ratio=("sd_ratio", "max"),
            mean_wasserstein=("wasserstein", "mean"),
        )
        print(summary.round(3).to_string())
        for name, verdict in found.verdicts.items():
            print(f"{name}: {verdict}")
        print("\n".join(found.reasons))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer steps, for a first look")
    main(parser.parse_args().quick)
