"""Probabilistic PCA of a table of which a fifth of the values is missing.

The likelihood of what is observed is known, so that nothing needs to be filled in before the fit. What to
look for: SVI comes to the likelihood that EM reaches; the values that were removed are imputed with about
half the error of their columns' means; somewhat fewer than nine in ten of them lie in their 90 % intervals,
for flowers of three species are not normal; and a row with more missing has a wider posterior.
"""

import argparse

import numpy as np
import torch

from ppl_vae import PPCA, Pair, exact, svi
from ppl_vae.data import as_dataset, load, standardise


def main(quick: bool = False) -> None:
    whole = torch.from_numpy(standardise(load("iris")).values)
    there = torch.from_numpy(np.random.default_rng(0).random(whole.shape) > 0.2)
    data = as_dataset(whole.where(there, torch.nan).numpy())
    x, observed = data.arguments(PPCA.inputs, torch.float64)
    print(f"{(~there).sum()} of {there.numel()} values are missing")

    torch.manual_seed(0)
    model = PPCA.from_data(data, latent_dim=2)
    pair = Pair(model, PPCA.guides["linear"](model, x, observed))
    svi.fit(pair, x, observed, num_steps=300 if quick else 3000, lr=0.05, num_particles=4)
    learnt = exact.log_evidence(model, x, observed).mean
    best = model.em(x, observed).log_likelihood[-1] / len(x)
    print(f"log p(observed) {learnt:.4f} nats a row by SVI, {best:.4f} at EM's maximum")

    model.set_maximum_likelihood(x, x_observed=observed)
    found, gone = model.impute(x, observed), ~there
    errors = (found.mean - whole)[gone]
    by_means = (x.nanmean(0) - whole)[gone]
    inside = (errors.abs() <= 1.645 * found.sd[gone]).double().mean()
    print(
        f"root mean square error of the imputed values {errors.square().mean().sqrt():.2f}, in sd of a column"
    )
    print(f"  of the columns' means {by_means.square().mean().sqrt():.2f}")
    print(f"  {inside:.0%} of the removed values lie in their 90 % intervals")

    spread = model.exact_posterior(x, observed)["z"].variance.sum(1).sqrt()
    for missing in range(4):
        rows = gone.sum(1) == missing
        print(
            f"{missing} of 4 values missing: {int(rows.sum())} rows, posterior sd {spread[rows].mean():.2f}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    main(parser.parse_args().quick)
