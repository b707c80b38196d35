"""Simulation-based calibration of guides and samplers: 500 simulations of two-player skills and of PPCA."""

import math

import numpy as np
import torch
import xarray as xr
from scipy.special import log_ndtr

from benchmarks.accuracy_evidence import ppca
from benchmarks.accuracy_row import Row
from ppl_vae import Pair, Posterior, TrueSkill
from ppl_vae.answers.labels import to_dataset
from ppl_vae.diagnostics.calibration.sbc import Calibration, sbc
from ppl_vae.guides import LinearNormal, PerDatumNormal

__all__ = ["STUDIES"]

SIMULATIONS, MINUTES = 500, 3.0
GAMES = torch.tensor([1.0] * 3 + [0.0] * 2).double(), torch.tensor([[0, 1]] * 5)


def skills() -> list[Row]:
    """Two players and five games of TrueSkill with its usual constants."""
    model = TrueSkill(2)
    answers = {
        "NUTS": sbc(model, *GAMES, answer="nuts", functions=mean_skill),
        "exact (quadrature)": sbc(model, *GAMES, answer=two_players, functions=mean_skill),
    }
    for name in ("full-rank", "mean-field"):
        pair = Pair(model, TrueSkill.guides[name](model, *GAMES))
        answers[name] = sbc(pair, *GAMES, functions=mean_skill)
    # The full-rank Gaussian contains no exact posterior here, but comes near enough for 500 simulations.
    return [_row(f"SBC, two-player skills, {name}", found, name) for name, found in answers.items()]


def ppca_on_iris() -> list[Row]:
    """PPCA at a maximum of the likelihood: with correlated components, and with independent ones."""
    pair, x = ppca("iris")
    model = pair.model
    rows = [
        _row("SBC, PPCA iris, NUTS", sbc(model, x, answer="nuts", functions=sum_and_difference), "NUTS"),
        _row("SBC, PPCA iris, exact", sbc(model, x, answer="exact", functions=sum_and_difference), "exact"),
    ]
    found = sbc(pair, x, functions=sum_and_difference)
    rows.append(_row("SBC, PPCA iris rotated by 30°, mean-field", found, "mean-field"))
    per_datum = Pair(model, PerDatumNormal(len(x), 2, dtype=torch.float64))
    found = sbc(per_datum, x, functions=sum_and_difference)
    rows.append(_row("SBC, PPCA iris rotated by 30°, mean-field a datum, refitted", found, "mean-field"))
    model.set_maximum_likelihood(x)
    found = sbc(Pair(model, best_linear(model)), x, functions=sum_and_difference)
    rows.append(_row("SBC, PPCA iris unrotated, mean-field", found, "exact"))
    return rows


def _row(name: str, found: Calibration, answer: str) -> Row:
    fails = answer == "mean-field"
    table = found.table.loc[:, ["adjusted", "shape"]]
    words = ", ".join(f"{one} {row['shape']} (p {row['adjusted']:.2g})" for one, row in table.iterrows())
    cost = f"{found.seconds:.0f} s, {found.cpu_seconds:.0f} s of CPU"
    correlated = {"mean_skill", "difference[0 − 1]", "sum", "difference"} & set(found.failing)
    return Row(
        name,
        f"{found.num_simulations} simulations ({cost}): {words}",
        f"{'a correlated quantity fails' if fails else 'passes'}; ≤ {MINUTES:g} min",
        (bool(correlated) if fails else found.passed) and found.seconds <= 60 * MINUTES,
    )


def mean_skill(draws: xr.Dataset) -> xr.Dataset:
    """The players' mean skill, which games say nothing of."""
    return xr.Dataset({"mean_skill": draws["skill"].mean("player")})


def sum_and_difference(draws: xr.Dataset) -> xr.Dataset:
    """Where mean-field is too narrow, and where too wide."""
    first, second = draws["z"].isel(component=0, drop=True), draws["z"].isel(component=1, drop=True)
    return xr.Dataset({"sum": first + second, "difference": first - second})


def two_players(outcome: torch.Tensor, players: torch.Tensor, *, num_draws: int, seed: int) -> Posterior:
    """Independent draws from the skills' posterior by quadrature over their difference.

    The mean keeps its prior N(μ0, σ0²/2); the difference has the prior N(0, 2 σ0²).
    """
    model, rng = TrueSkill(2), np.random.default_rng(seed)
    sd = math.sqrt(2) * model.skill_sd
    grid = np.linspace(-8 * sd, 8 * sd, 20_001)
    wins = int((outcome == (players[:, 0] == 0)).sum())
    scale = math.sqrt(2) * model.performance_sd
    log_density = -0.5 * (grid / sd) ** 2
    log_density = (
        log_density + wins * log_ndtr(grid / scale) + (len(outcome) - wins) * log_ndtr(-grid / scale)
    )
    mass = np.exp(log_density - log_density.max()).cumsum()
    difference = np.interp(rng.uniform(size=num_draws), mass / mass[-1], grid)
    mean = rng.normal(model.skill_mean, model.skill_sd / math.sqrt(2), num_draws)
    skill = torch.from_numpy(np.stack([mean + difference / 2, mean - difference / 2], axis=-1))[None]
    draws = to_dataset({"skill": skill}, {"skill": ("player",)}, model)
    return Posterior(draws=draws, method="exact", dependence="independent")


def best_linear(model: torch.nn.Module) -> LinearNormal:
    """The best mean-field linear guide of PPCA, in closed form."""
    d, q = model.loadings.shape
    guide = LinearNormal(d, q, covariance="diagonal", dtype=torch.float64)
    with torch.no_grad():
        noise = model.noise_scale**2
        m = model.loadings.T @ model.loadings + noise * torch.eye(q, dtype=torch.float64)
        slope = torch.linalg.solve(m, model.loadings.T)
        guide.loc.weight.copy_(slope)
        guide.loc.bias.copy_(-slope @ model.mean)
        guide.raw_spread.copy_((noise / m.diagonal() - guide.floor).expm1().log())
    return guide


STUDIES = {"sbc-skills": skills, "sbc-ppca": ppca_on_iris}


def main() -> None:
    for study in STUDIES.values():
        for row in study():
            print(f"{'met' if row.met else 'NOT MET'}: {row.name}: {row.measured} [{row.target}]", flush=True)


if __name__ == "__main__":
    main()
