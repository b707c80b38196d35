"""Mixtures: ``python -m benchmarks.lectures mixtures [--seeds N] [--skip-nuts]``.

First, standardised iris with three full covariances, for which scikit-learn's EM has −290.531 nats as the
best of twenty runs. Each method starts at k-means++ starts of its own: EM ten times a seed (the default of a
fit) or once, and SVI (300 steps of Adam on the ELBO, k summed out) three times or once. A row says in how
many seeds its answer is within 0.05 nats of that, how far off the worst is, the smallest eigenvalue of any
covariance of an answer, and how many single runs were singular and left out.

Second, posteriordb's ``low_dim_gauss_mix`` as a Bayesian mixture of one feature, sampled by NUTS: by how many
Monte Carlo errors the mean of each parameter, and of its square, is from that of the reference's draws.

Third, how many components a Bayesian mixture of one feature gives the same data: log p(x) by the bridge.
"""

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from arviz_stats.base import array_stats
from torch import Tensor

from benchmarks.posteriors import posterior
from ppl_vae.answers.evidence import Evidence
from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.errors import InputError
from ppl_vae.data import load, standardise
from ppl_vae.data.rows import Rows
from ppl_vae.diagnostics import model_probabilities
from ppl_vae.inference import nuts, svi
from ppl_vae.inference.evidence import bridge
from ppl_vae.inference.fitting.restarts import restarts
from ppl_vae.models import BayesianMixture, GaussianMixture
from ppl_vae.models.bayesian_mixture import BayesianMixtureOptions
from ppl_vae.models.mixture_em import best_of
from ppl_vae.models.mixture_priors import MixturePriors
from ppl_vae.program.pair import Pair

BEST, NEAR, COMPONENTS = -290.531, 0.05, 3
STEPS, LR = 300, 0.03
NAME = "low_dim_gauss_mix-low_dim_gauss_mix"


def main(arguments: list[str]) -> None:
    """Read the command line and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lectures mixtures", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--skip-nuts", action="store_true", help="only the first table")
    given = parser.parse_args(arguments)
    rows = standardise(load("iris"))
    (x,) = rows.tensors(torch.float64)
    head = ("method", "starts", "seeds reached", "furthest off", "smallest eigenvalue", "singular runs")
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    for method, starts in (("EM", 10), ("EM", 1), ("SVI", 3), ("SVI", 1)):
        run = _em if method == "EM" else _svi
        found = [run(rows, x, starts, seed) for seed in range(given.seeds)]
        print("| " + " | ".join([method, str(starts), *_cells(found)]) + " |", flush=True)
    if not given.skip_nuts:
        print("\n" + "\n".join(_posterior()))


def _cells(found: list[tuple[float, float, int]]) -> Iterator[str]:
    values, eigenvalues, singular = (np.array(column) for column in zip(*found, strict=True))
    off = np.abs(values - BEST)
    yield f"{(off < NEAR).sum()} of {len(off)}"
    yield f"{np.nanmax(off):.3f} nats"
    yield f"{np.nanmin(eigenvalues):.2g}"
    yield str(singular.sum())


def _em(rows: Rows, x: Tensor, starts: int, seed: int) -> tuple[float, float, int]:
    """log p(x), the smallest eigenvalue and the number of singular runs; NaN where all are singular."""
    try:
        best, runs = best_of(x, COMPONENTS, "full", num_starts=starts, bound=1e-3, seed=seed)
    except InputError:
        return np.nan, np.nan, starts
    return float(best.log_likelihood[-1]), best.smallest, sum(run.singular for run in runs)


def _svi(rows: Rows, x: Tensor, starts: int, seed: int) -> tuple[float, float, int]:
    """The same of SVI."""

    def make(_: int) -> Pair:
        model = GaussianMixture.from_data(rows, num_components=COMPONENTS, num_starts=0)
        return Pair(model, GaussianMixture.guides["exact"](model, x))

    if starts > 1:
        found = restarts(make, x, num_restarts=starts, num_steps=STEPS, lr=LR, stop=False, seed=seed)
        wrong = sum(each is not None for each in found.degenerate)
        return found.fits[found.best].final.value, found.pairs[found.best].model.smallest_eigenvalue(), wrong
    torch.manual_seed(seed)
    pair = make(seed)
    fit = svi.fit(pair, x, num_steps=STEPS, lr=LR, seed=seed)
    if pair.model.degenerate():
        return np.nan, np.nan, 1
    return fit.final.value, pair.model.smallest_eigenvalue(), 0


def _posterior() -> Iterator[str]:
    """The second and the third table."""
    entry = posterior(NAME)
    if not entry.present:
        yield f"{NAME} is not there: see benchmarks/posteriors/data/README.md"
        return
    x = entry.data()[0][:, None]
    model = _of_one_feature(x, 2)
    chains = nuts.sample(model, x, num_draws=1000, warmup=500)
    ours = {
        **_sorted("mu", chains.draws["position"].to_numpy()),
        **_sorted("sigma", chains.draws["sd"].to_numpy()),
        "theta": chains.draws["weights"].to_numpy()[..., 0],
    }  # fmt: skip
    theirs = entry.reference_draws()
    yield "| parameter | ours | reference | Monte Carlo errors, mean | of its square |\n|" + " --- |" * 5
    for name, own in ours.items():
        other = _reference(theirs, name)
        scores = [_z(own**power, other**power) for power in (1, 2)]
        yield f"| {name} | {own.mean():.4f} | {other.mean():.4f} | {scores[0]:+.2f} | {scores[1]:+.2f} |"
    yield ""
    evidence = {str(k): _evidence(x, k, chains if k == 2 else None) for k in (1, 2, 3)}
    yield "| components | log p(x) | probability |\n|" + " --- |" * 3
    for name, row in model_probabilities(evidence).iterrows():
        yield f"| {name} | {row['log_evidence']:.2f} ± {row['std_error']:.2f} | {row['probability']:.3f} |"


def _of_one_feature(x: Tensor, components: int) -> BayesianMixture:
    """Under Stan's priors."""
    priors = MixturePriors(concentration=5.0, mean_sd=2.0, sd="half-normal", sd_scale=2.0)
    one = torch.ones(1, dtype=x.dtype)
    return BayesianMixture(0 * one, one, options=BayesianMixtureOptions(components), priors=priors)


def _evidence(x: Tensor, components: int, chains: Posterior | None) -> Evidence:
    """log p(x), from chains where there are some."""
    model = _of_one_feature(x, components)
    pair = Pair(model, BayesianMixture.guides["full-rank"](model, x))
    svi.fit(pair, x, num_steps=1000, lr=0.02, num_particles=8)
    chains = chains or nuts.sample(model, x, num_draws=1000, warmup=500)
    return bridge.log_evidence(pair, chains, x)


def _sorted(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    return {f"{name}[{k + 1}]": values.reshape(*values.shape[:2], -1)[..., k] for k in range(2)}


def _reference(draws: dict[str, np.ndarray], name: str) -> np.ndarray:
    """A parameter's draws, (chains, draws)."""
    stem, _, place = name.partition("[")
    values = np.asarray(draws[stem])
    return values[..., int(place[:-1]) - 1] if place else values


def _z(own: np.ndarray, other: np.ndarray) -> float:
    errors = [float(array_stats.mcse(each)) for each in (own, other)]
    return float((own.mean() - other.mean()) / np.hypot(*errors))
