"""Counts of rows that were measured to different depths: which likelihood, and what the latents tell.

Rows have a total (the reads of a cell, the words of a document) that says how long one looked, and counts
that vary more than Poisson's. What to look for: given the totals, a negative binomial is nats a row ahead of
Poisson on held-out rows, paired row by row; and latents that need not explain the total (exposure="total") do
not follow it, while without exposure they spend themselves on it.
"""

import argparse
import math
from itertools import product

import numpy as np
import torch

from ppl_vae import VAE, Pair, importance, svi
from ppl_vae.data import Rows
from ppl_vae.models.vae import encode

GENES = 12


def simulated(num_rows: int, seed: int = 0) -> tuple[Rows, np.ndarray]:
    """Negative binomial counts of shape 2 from two kinds of rows, and the log of each row's depth."""
    generator = np.random.default_rng(seed)
    kind = generator.integers(0, 2, num_rows)
    shares = generator.dirichlet(np.ones(GENES), 2)[kind]
    depth = generator.normal(4.5, 0.8, num_rows)
    rates = generator.gamma(2.0, 1 / 2.0, (num_rows, GENES)) * shares * np.exp(depth)[:, None]
    counts = generator.poisson(rates).astype(float)
    there = counts.sum(1) > 0
    return Rows("cells", counts[there], tuple(f"gene {k + 1}" for k in range(GENES)), "real"), depth[there]


def explained(z: torch.Tensor, depth: np.ndarray) -> float:
    """R² of a linear regression of the depth on the latents."""
    design = np.column_stack([np.ones(len(depth)), z.double().numpy()])
    rest = depth - design @ np.linalg.lstsq(design, depth, rcond=None)[0]
    return float(1 - rest.var() / depth.var())


def main(quick: bool = False) -> None:
    num_rows, steps = (500, 300) if quick else (3000, 3000)
    rows, depth = simulated(num_rows)
    train, test = (rows.take(part) for part in (slice(0, num_rows // 2), slice(num_rows // 2, None)))
    (x,), (held_out,) = train.tensors(torch.float32), test.tensors(torch.float32)
    log_p = {}
    for likelihood, exposure in product(("poisson", "negative-binomial"), ("none", "total")):
        torch.manual_seed(0)
        model = VAE.from_data(train, latent_dim=2, hidden=(32,), likelihood=likelihood, exposure=exposure)
        pair = Pair(model, model.encoder_guide())
        svi.fit(pair, x, num_steps=steps, batch_size=128, lr=5e-3, kl_warmup=steps // 10)
        found = importance.log_evidence(pair, held_out, num_samples=200)
        log_p[likelihood, exposure] = found.log_evidence
        share = explained(encode(pair.guide, held_out).mean, depth[num_rows // 2 :])
        said = f"{max(share, 0.0):.0%} of the variance of the rows' log depth explained by the latents"
        print(f"{likelihood}, exposure {exposure}: log p(x) {found.mean:.2f} nats a held-out row, {said}")
    ahead = log_p["negative-binomial", "total"] - log_p["poisson", "total"]
    error = ahead.std() / math.sqrt(len(ahead))
    print(f"Given the totals, the negative binomial is ahead by {ahead.mean():.2f} ± {error:.2f} nats a row.")
    print("log p(x) given the totals and without them answer different questions, and are not compared.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rows and steps")
    main(parser.parse_args().quick)
