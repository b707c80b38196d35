"""Irises as a mixture of Gaussians, by EM and by SVI, and the solutions that must not be taken.

What to look for: EM and SVI, each from its own k-means++ starts, end at the same log p(x), the ELBO is
log p(x), runs with a component on a few flowers have a higher likelihood and are left out by name, and the
components are nearly the species, which the mixture has not seen.
"""

import argparse

import torch

from ppl_vae import Pair, exact
from ppl_vae.data import load, standardise
from ppl_vae.inference.fitting.restarts import restarts
from ppl_vae.models import GaussianMixture
from ppl_vae.models.mixture_em import best_of

SPECIES = ("setosa", "versicolor", "virginica")


def main(quick: bool = False) -> None:
    starts, steps = (2, 150) if quick else (3, 300)
    rows = standardise(load("iris"))
    (x,) = rows.tensors(torch.float64)

    best, runs = best_of(x, 3, "full", num_starts=20, bound=1e-3, seed=0)
    print(f"EM from 20 starts: log p(x) {best.log_likelihood[-1]:.3f} nats")
    proper = [run for run in runs if not run.singular]
    print(f"  {len(runs) - len(proper)} runs are singular and left out:")
    for run in runs:
        if run.singular:
            print(f"  log p(x) {run.log_likelihood[-1]:.1f}, smallest eigenvalue {run.smallest:.0e}")

    def make(seed: int) -> Pair:
        model = GaussianMixture.from_data(rows, num_components=3, num_starts=0)
        return Pair(model, GaussianMixture.guides["exact"](model, x))

    found = restarts(make, x, num_restarts=starts, num_steps=steps, lr=0.05, stop=False)
    model = found.pairs[found.best].model
    assert isinstance(model, GaussianMixture)
    truth = exact.log_evidence(model, x).total
    difference = truth - float(best.log_likelihood[-1])
    print(f"SVI from {starts} starts: ELBO {found.fits[found.best].final.value:.3f}, log p(x) {truth:.3f}")
    print(f"  from EM's: {difference:+.3f} nats, {'within' if abs(difference) < 0.05 else 'NOT within'} 0.05")
    print(f"  smallest eigenvalue of a covariance {model.smallest_eigenvalue():.4f}; {found.sentence}")

    print("Flowers by species and most probable component")
    shares = model.exact_posterior(x)["k"].probs
    for number, species in enumerate(SPECIES):
        counts = shares[torch.as_tensor(rows.labels == number)].argmax(1).bincount(minlength=3).tolist()
        print(f"  {species:>10}  {counts}")
    doubtful = int((shares.max(1).values < 0.9).sum())
    print(f"  {doubtful} of {len(x)} are less than 90 % certain to belong to their component")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer starts and steps, for a first look")
    main(parser.parse_args().quick)
