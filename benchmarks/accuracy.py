"""How right the answers are: every figure beside its target. Run as ``python -m benchmarks.accuracy``.

Each row prints what was measured, the exact or published value, and whether the target is met. Rows
whose reference values are absent are named and left out.
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import accuracy_calibration, accuracy_evidence, accuracy_stopping
from benchmarks.accuracy_row import Row
from benchmarks.reference import folder, reference
from benchmarks.sd_error import sd_error
from ppl_vae import PPCA, VAE, Pair, TrueSkill, compare, data, exact, guide, importance, nuts, svi
from ppl_vae.inference import elbo


def ppca_by_svi() -> Iterator[Row]:
    """Likelihood of the parameters that SVI learns, five seeds."""
    published = reference("ppca")
    for name in ("iris", "wine"):
        (x,) = data.standardise(data.load(name)).tensors(torch.float64)
        if published is not None:
            best = next(c for c in published["cases"] if c["data"] == name)["log_likelihood_per_row"]
        else:
            best = exact.log_evidence(PPCA(x.shape[1], 2).set_maximum_likelihood(x), x).mean
        for seed in range(5):
            torch.manual_seed(seed)
            model = PPCA(x.shape[1], 2)
            pair = Pair(model, PPCA.guides["linear"](model, x))
            svi.fit(pair, x, num_steps=3000, lr=0.05, seed=seed)
            gap = best - exact.log_evidence(model, x).mean
            yield Row(
                f"PPCA by SVI, {name}, seed {seed}",
                f"{gap:.6f} below {best:.6f}",
                "≤ 0.001",
                abs(gap) <= 1e-3,
            )
            if seed == 0:
                found, truth = elbo(pair, x, num_particles=200), exact.log_evidence(model, x)
                z = (found.value - truth.total) / found.std_error
                yield Row(f"ELBO of the exact family, {name}", f"z = {z:+.2f}", "|z| ≤ 3", abs(z) <= 3)


def ppca_gap_and_evidence() -> Iterator[Row]:
    """The mean-field gap with W frozen, and importance sampling from that guide."""
    for name in ("iris", "wine"):
        (x,) = data.standardise(data.load(name)).tensors(torch.float64)
        for degrees in (0, 30):
            at = math.radians(degrees)
            rotation = torch.tensor([[math.cos(at), -math.sin(at)], [math.sin(at), math.cos(at)]])
            model = PPCA(x.shape[1], 2).set_maximum_likelihood(x, rotation)
            pair = Pair(model, PPCA.guides["linear-mean-field"](model, x))
            svi.fit(pair, x, num_steps=2000, lr=0.05, train="guide")
            found, truth = elbo(pair, x, num_particles=500), exact.log_evidence(model, x)
            gap, error = truth.mean - found.mean, found.std_error / len(x)
            formula = model.mean_field_gap()
            z = (gap - formula) / error
            yield Row(
                f"mean-field gap, {name}, W rotated by {degrees}°",
                f"{gap:.5f} ± {error:.5f} (formula {formula:.5f})",
                "|z| ≤ 3",
                abs(z) <= 3,
            )
        estimate = importance.log_evidence(pair, x, num_samples=1000)
        z = (estimate.mean - truth.mean) / estimate.mean_std_error
        yield Row(
            f"importance sampling, 1,000 samples, {name}",
            f"{estimate.mean:.5f} ± {estimate.mean_std_error:.5f} (exact {truth.mean:.5f}, z = {z:+.2f})",
            "|z| ≤ 3, se ≤ 0.01",
            abs(z) <= 3 and estimate.mean_std_error <= 0.01,
        )


def two_players() -> Iterator[Row]:
    """The two-player table: evidence, NUTS moments, and the mean-field optimum."""
    skill = reference("skill")
    if skill is None:
        yield Row("two-player table", f"reference absent from {folder()}", "skipped", True)
        return
    optimum = {(row[0], row[1]): row[4] for row in skill["two_player"]["mean_field_optimum"]["rows"]}
    for wins, losses, log_evidence, mean, sd, _, above, _ in skill["two_player"]["rows"]:
        players = torch.tensor([[0, 1]] * wins + [[1, 0]] * losses)
        games = torch.ones(len(players)).double(), players
        model = TrueSkill(2, link="logistic")
        pair = Pair(model, TrueSkill.guides["full-rank"](model, *games))
        svi.fit(pair, *games, num_steps=1500, lr=0.05, num_particles=16)
        found = importance.log_evidence(pair, *games, num_samples=20_000, defensive=0.05)
        z = (found.total - log_evidence) / found.total_std_error
        yield Row(
            f"two players {wins}:{losses}, log evidence",
            f"{found.total:.5f} ± {found.total_std_error:.5f} (quadrature {log_evidence}, z = {z:+.2f})",
            "|z| ≤ 3, se ≤ 0.003",
            abs(z) <= 3 and found.total_std_error <= 0.003,
        )
        yield from _nuts_moments(model, games, wins, losses, mean, sd, above)
        pair = Pair(model, TrueSkill.guides["mean-field"](model, *games))
        svi.fit(pair, *games, num_steps=3000, lr=0.05, num_particles=16)
        value = _mean_field_elbo(pair, wins, losses)
        best = optimum[wins, losses]
        yield Row(
            f"two players {wins}:{losses}, mean-field ELBO",
            f"{value:.6f} (optimum {best}, short by {best - value:.6f})",
            "≤ 0.002 short",
            best - value <= 0.002,
        )


def _nuts_moments(
    model: TrueSkill,
    games: tuple[torch.Tensor, ...],
    wins: int,
    losses: int,
    mean: float,
    sd: float,
    above: float,
) -> Iterator[Row]:
    posterior = nuts.sample(model, *games, num_draws=1000, warmup=300, chains=4)
    row = posterior.summary().loc["skill[0]"]
    draws = posterior.draws["skill"].to_numpy()
    from arviz_stats.base import array_stats

    error = sd_error(draws[..., 0])
    better = draws[..., 0] > draws[..., 1]
    ess = (
        float(array_stats.ess(better.astype(float), method="mean")) if 0 < better.mean() < 1 else better.size
    )
    zs = {
        "mean": (row["mean"] - mean) / row["mcse_mean"],
        "sd": (row["sd"] - sd) / error,
        "P(A>B)": (better.mean() - above) / math.sqrt(above * (1 - above) / min(ess, better.size)),
    }
    yield Row(
        f"two players {wins}:{losses}, NUTS",
        ", ".join(f"{name} z = {z:+.2f}" for name, z in zs.items()),
        "|z| ≤ 4",
        all(abs(z) <= 4 for z in zs.values()),
    )


def _mean_field_elbo(pair: Pair, wins: int, losses: int) -> float:
    """The ELBO of a fitted mean-field guide by Gauss–Hermite quadrature over z_A − z_B."""
    loc = pair.guide.locs.skill.detach().numpy()
    scale = pair.guide.scales.skill.detach().numpy()
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    at = loc[0] - loc[1] + math.hypot(*scale) * nodes
    weights = weights / weights.sum()
    likelihood = -weights @ (wins * np.logaddexp(0, -at) + losses * np.logaddexp(0, at))
    return float(likelihood - 0.5 * (loc**2 + scale**2 - 1 - 2 * np.log(scale)).sum())


def published_skills() -> Iterator[Row]:
    """TrueSkill's, Infer.NET's and choix's cases against exact values; EP's targets beside them."""
    skill = reference("skill")
    if skill is None:
        yield Row("published skill cases", f"reference absent from {folder()}", "skipped", True)
        return
    tau, beta, sigma = 25 / 300, 25 / 6, 25 / 3
    normal = torch.distributions.Normal(0.0, 1.0)
    prior = math.hypot(sigma, tau)
    for number, draw_probability in ((0, 0.1), (2, 0.5)):
        case = skill["trueskill"]["exact"][number]
        margin = float(normal.icdf(torch.tensor((draw_probability + 1) / 2))) * math.sqrt(2) * beta
        model = TrueSkill(2, skill_sd=prior, performance_sd=beta, draw_margin=margin)
        moments = np.asarray(case["expect"])
        yield from _case(
            f"trueskill, {case['case']}", model, [[0, 1]], moments[:, 0], moments[:, 1] ** 2, None, None
        )
    infer = skill["infer_net"]
    order = sorted(infer["exact"]["mean"])
    mean, variance = ([infer["exact"][key][k] for k in order] for key in ("mean", "variance"))
    model = TrueSkill(5, skill_mean=6.0, skill_sd=3.0, performance_sd=1.0)
    games = [[0, 1], [0, 3], [0, 4], [1, 2], [3, 1], [4, 2]]
    ep = [infer["ep_target_mean_variance"][k][0] for k in order]
    yield from _case("Infer.NET", model, games, mean, variance, infer["exact"]["log_evidence"], ep)
    for link in ("logit", "probit"):
        case = skill["choix"][link]
        options = {"performance_sd": 1 / math.sqrt(2)} if link == "probit" else {}
        model = TrueSkill(
            4, link="logistic" if link == "logit" else link, skill_mean=0.0, skill_sd=math.sqrt(8), **options
        )
        values = case["exact"]
        games = [[3, 2], [2, 1], [1, 0]]
        yield from _case(
            f"choix {link}",
            model,
            games,
            values["mean"],
            values["variance"],
            values["log_evidence"],
            case["ep_target_mean"],
        )


def _case(name, model, games, mean, variance, log_evidence, ep) -> Iterator[Row]:
    games = torch.ones(len(games)).double(), torch.tensor(games)
    mean, variance = np.asarray(mean), np.asarray(variance)
    posterior = nuts.sample(model, *games, num_draws=1000, warmup=300, chains=4)
    summary = posterior.summary()
    # Published values are rounded to three or four digits.
    rounding = 5e-4 if log_evidence is None else 5e-5
    z_mean = np.max(np.abs(summary["mean"] - mean) / np.hypot(summary["mcse_mean"], rounding))
    draws = np.moveaxis(posterior.draws["skill"].to_numpy(), 2, 0)
    errors = np.array([sd_error(d) for d in draws])
    z_sd = np.max(np.abs(summary["sd"] - np.sqrt(variance)) / np.hypot(errors, rounding))
    beside = "" if ep is None else f"; EP's target means, approximate: {', '.join(f'{m:.2f}' for m in ep)}"
    yield Row(
        f"{name}, NUTS",
        f"largest |z|: mean {z_mean:.2f}, sd {z_sd:.2f}{beside}",
        "≤ 4",
        max(z_mean, z_sd) <= 4,
    )

    pair = Pair(model, TrueSkill.guides["full-rank"](model, *games))
    svi.fit(pair, *games, num_steps=1500, lr=0.05 * model.skill_sd, num_particles=16)
    answer = guide.draws(pair, *games, num_draws=20_000)
    weights = np.exp(answer.log_weights.to_numpy()[0] - answer.log_weights.to_numpy().max())
    weights /= weights.sum()
    skills = answer.draws["skill"].to_numpy()[0]
    is_mean = weights @ skills
    is_error = np.sqrt((weights**2) @ (skills - is_mean) ** 2)
    z = np.max(np.abs(is_mean - mean) / np.hypot(is_error, rounding))
    text, met = f"largest |z| of the means {z:.2f}", z <= 4
    if log_evidence is not None:
        found = importance.log_evidence(pair, *games, num_samples=20_000)
        z = (found.total - log_evidence) / math.hypot(found.total_std_error, rounding)
        text += f"; log evidence {found.total:.5f} ± {found.total_std_error:.5f}"
        text += f" (exact {log_evidence}, z = {z:+.2f})"
        met = met and abs(z) <= 4
    yield Row(f"{name}, importance sampling", text, "|z| ≤ 4", bool(met))


def vae() -> Iterator[Row]:
    """VAEs on digits and MNIST: evidence above the ELBO, and NUTS on eight test images."""
    yield from _vae("digits", data.load("digits"), num_steps=3000, latent_dim=6)
    root = folder() / "data"
    if (root / "MNIST").exists():
        yield from _vae(
            "mnist", data.load("mnist", data_dir=root, download=False), num_steps=3000, latent_dim=8
        )
    else:
        yield Row("VAE on mnist", f"data absent from {root}", "skipped", True)


def _vae(name: str, rows: data.Rows, *, num_steps: int, latent_dim: int) -> Iterator[Row]:
    parts = data.split(rows, (0.8, 0.1, 0.1), 0)
    rows = data.binarise(rows, "static", 0)
    (train,), (test,) = (rows.take(parts[part]).tensors(torch.float32) for part in ("train", "test"))
    torch.manual_seed(0)
    model = VAE.from_data(rows.take(parts["train"]), latent_dim=latent_dim)
    pair = Pair(model, model.encoder_guide())
    svi.fit(pair, train, num_steps=num_steps, batch_size=128, lr=2e-3, kl_warmup=300)
    found = importance.log_evidence(pair, test, num_samples=200)
    gap = found.mean - found.elbo.mean()
    yield Row(
        f"VAE on {name}, {len(test)} test images, 200 samples",
        f"log p(x) {found.mean:.3f} ± {found.mean_std_error:.3f}, ELBO {found.elbo.mean():.3f}",
        "log p(x) > ELBO",
        gap > 3 * found.mean_std_error,
    )
    eight = test[:8]
    answer = guide.draws(pair, eight, num_draws=4000)
    reference_draws = nuts.sample(pair, eight, num_draws=400, warmup=300, chains=4)
    judged = compare({"guide": answer}, reference=reference_draws)
    k_hat = importance.log_evidence(pair, eight, num_samples=2000).pareto_k
    worst = judged.table["mean_error_in_sd"].abs().max()
    yield Row(
        f"VAE on {name}, guide against NUTS, 8 test images",
        f"{judged.verdicts['guide']} (worst mean error {worst:.2f} sd; "
        f"k̂ {', '.join(f'{k:.2f}' for k in k_hat)})",
        "shown",
        True,
    )


STUDIES: dict[str, Callable[[], Iterable[Row]]] = {
    "ppca": ppca_by_svi,
    "gap": ppca_gap_and_evidence,
    "two-players": two_players,
    "skills": published_skills,
    "vae": vae,
    **accuracy_evidence.STUDIES,
    **accuracy_stopping.STUDIES,
    **accuracy_calibration.STUDIES,
}


def main(chosen: list[str]) -> int:
    """Run the named studies, or all; exit code 1 if a target is missed."""
    table = Table(title="Accuracy", title_justify="left")
    for column in ("figure", "measured", "target", "met"):
        table.add_column(column, overflow="fold")
    missed = 0
    for name in chosen or STUDIES:
        for row in STUDIES[name]():
            print(f"{row.name}: {row.measured} [{row.target}] {'met' if row.met else 'MISSED'}", flush=True)
            table.add_row(row.name, row.measured, row.target, "yes" if row.met else "NO")
            missed += not row.met
    Console().print(table)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
