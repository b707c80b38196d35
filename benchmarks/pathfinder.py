"""Pathfinder against mean-field ADVI on posteriordb's posteriors. Run as ``python -m benchmarks.pathfinder``.

Of each: the distance of its draws from the reference draws, its ELBO, and what it cost. The distance is the
1-Wasserstein distance of each parameter's margin in units of its reference sd, averaged over parameters; as
many of the reference draws themselves are at the distance in the first column. ADVI is `svi.fit` with
AutoNormal until its own rule stops it.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pyro.infer.autoguide import AutoNormal
from scipy.stats import wasserstein_distance

from benchmarks.posteriors import Entry, posteriors
from benchmarks.posteriors.entry import parameters
from ppl_vae import Pair, Posterior, guide, pathfinder, svi

__all__ = ["Answer", "distance", "study"]

Floats = NDArray[np.floating[Any]]
DRAWS = 1000
RESULTS = Path(__file__).parent / "PATHFINDER.md"
EIGHT = (
    "arK-arK", "eight_schools-eight_schools_centered", "eight_schools-eight_schools_noncentered",
    "gp_pois_regr-gp_regr", "kidiq-kidscore_momiq", "low_dim_gauss_mix-low_dim_gauss_mix",
    "mesquite-logmesquite", "sblrc-blr",
)  # fmt: skip
METHODS = ("one path", "four paths", "ADVI")
COLUMNS = (
    "posterior", "parameters", "W of the reference", *(f"W, {name}" for name in METHODS),
    *(f"ELBO, {name}" for name in METHODS), *(f"gradients, {name}" for name in METHODS),
    *(f"densities, {name}" for name in METHODS[:2]), "k̂",
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What one run found.

    Attributes:
        distance: from the reference draws.
        elbo: in nats; the best path's.
        gradients: evaluations of log density and gradient.
        densities: further ones of the log density alone, those of the draws that are the answer among them.
        pareto_k: of the weights; NaN for ADVI.
    """

    distance: float
    elbo: float
    gradients: int
    densities: int
    pareto_k: float = float("nan")


def distance(ours: Mapping[str, Floats], theirs: Mapping[str, Floats]) -> float:
    """The mean over parameters of the 1-Wasserstein distances of margins, in the reference's sds."""
    return float(
        np.mean(
            [
                wasserstein_distance(ours[name].ravel(), values.ravel()) / values.std()
                for name, values in theirs.items()
            ]
        )
    )


def _distance(one: Entry, draws: xr.Dataset) -> float:
    found = one.identifiable(draws)
    ours = parameters({str(name): value.to_numpy() for name, value in found.data_vars.items()})
    return distance(ours, parameters(one.reference_draws()))


def _paths(one: Entry, seed: int, num_paths: int) -> Answer:
    found = pathfinder.sample(
        one.model, *one.data(), num_draws=DRAWS, num_paths=num_paths, resample=num_paths > 1, seed=seed,
        progress=False,
    )  # fmt: skip
    told = found.stats.attrs
    return Answer(
        _distance(one, found.draws),
        float(np.nanmax(told["elbo"])),
        sum(told["gradient_evaluations"]),
        sum(told["density_evaluations"]),
        told["pareto_k"],
    )


def _advi(one: Entry, seed: int, steps: int) -> Answer:
    pair = Pair(one.proper, AutoNormal(one.proper))  # flat priors cannot be drawn from
    fit = svi.fit(pair, *one.data(), num_steps=steps, lr=0.05, stop=True, seed=seed, progress=False)
    drawn: Posterior = guide.draws(pair, *one.data(), num_draws=DRAWS, seed=seed)
    return Answer(_distance(one, drawn.draws), fit.final.value, fit.steps, 0)


def _floor(one: Entry) -> float:
    """The distance of as many reference draws, spread over the chains, from all of them."""
    theirs = one.reference_draws()
    few = {name: values[:, :: values.shape[0] * values.shape[1] // DRAWS] for name, values in theirs.items()}
    return distance(parameters(few), parameters(theirs))


def study(one: Entry, seeds: int, steps: int) -> dict[str, list[Answer]]:
    """Several runs of every method; ADVI, the slow one, of two seeds at most."""
    runs: dict[str, tuple[Callable[[int], Answer], int]] = {
        "one path": (lambda seed: _paths(one, seed, 1), seeds),
        "four paths": (lambda seed: _paths(one, seed, 4), seeds),
        "ADVI": (lambda seed: _advi(one, seed, steps), min(seeds, 2)),
    }
    return {name: [run(seed) for seed in range(count)] for name, (run, count) in runs.items()}


def _median(answers: Iterable[Answer], what: str) -> float:
    return float(np.median([getattr(answer, what) for answer in answers]))


def row(one: Entry, found: Mapping[str, list[Answer]]) -> list[str]:
    """The medians over seeds, by `COLUMNS`."""
    number = len(parameters(one.reference_draws()))
    return [
        one.name,
        str(number),
        f"{_floor(one):.3f}",
        *(f"{_median(found[name], 'distance'):.3f}" for name in METHODS),
        *(f"{_median(found[name], 'elbo'):.2f}" for name in METHODS),
        *(f"{_median(found[name], 'gradients'):,.0f}" for name in METHODS),
        *(f"{_median(found[name], 'densities'):,.0f}" for name in METHODS[:2]),
        f"{_median(found['four paths'], 'pareto_k'):.2f}",
    ]


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pathfinder", description=__doc__)
    parser.add_argument("posteriors", nargs="*", metavar="NAME", help="posteriordb's, all eight by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20_000, help="of ADVI at most")
    given = parser.parse_args()
    chosen = [posteriors()[name] for name in given.posteriors or EIGHT]
    lines = _head()
    for one in chosen:
        lines += _table_line(row(one, study(one, given.seeds, given.steps)))
        print(lines[-1], flush=True)
    if not given.posteriors:
        RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _head() -> list[str]:
    return [
        "# Pathfinder against mean-field ADVI",
        "",
        "Made by `python -m benchmarks.pathfinder`: medians over seeds (three of Pathfinder, two of ADVI).",
        "W is the 1-Wasserstein distance of margins from the reference draws, in their sds, averaged over",
        "parameters. Densities of Pathfinder include 1,000 draws of every path. ADVI is",
        "`svi.fit` with AutoNormal and `stop=True`, in at most 20,000 steps.",
        "",
        *_table_line(COLUMNS),
        *_table_line(["---"] * len(COLUMNS)),
    ]


def _table_line(cells: Iterable[str]) -> list[str]:
    return [f"| {' | '.join(cells)} |"]


if __name__ == "__main__":
    main()
