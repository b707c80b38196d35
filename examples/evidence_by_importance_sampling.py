"""log p(x) by importance sampling, where log p(x) is known: PPCA on the wine data, three proposals.

What to look for: with the fitted guide as proposal nearly every sample counts. The prior wastes most of
them, which the effective sample size shows; k̂ stays low, because p(x | z) is bounded and so are the
weights. A guide that is too narrow is the dangerous one: its weights have a heavy tail, its standard
error is too small, and k̂ is what tells. The alarm looks at both. Every row has its own weights.
"""

import argparse
import copy

import numpy as np
import pandas as pd
import torch

from ppl_vae import PPCA, Pair, exact, guides, importance, svi
from ppl_vae.data import load, standardise


def main(quick: bool = False) -> None:
    rows = standardise(load("wine"))
    (x,) = rows.tensors(torch.float64)
    torch.manual_seed(0)
    c = s = 0.5**0.5  # rotated by 45 degrees, so that the mean-field family misses the exact posterior
    rotation = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    model = PPCA.from_data(rows, latent_dim=2).set_maximum_likelihood(x, rotation=rotation)
    truth = exact.log_evidence(model, x)

    fitted = guides.LinearNormal(x.shape[1], 2, covariance="diagonal", dtype=x.dtype)
    fit = svi.fit(Pair(model, fitted), x, num_steps=200 if quick else 800, lr=0.05, train="guide")
    narrow = copy.deepcopy(fitted)
    with torch.no_grad():
        narrow.raw_spread.sub_(2.0)  # about a sixth of the variance
    print(f"exact log p(x) {truth.mean:.4f} nats a row; ELBO of the fitted guide {fit.final.mean:.4f}")

    proposals = {"fitted guide": fitted, "prior": guides.Prior(model), "narrow guide": narrow}
    table = []
    for name, proposal in proposals.items():
        for samples in (100, 1000) if quick else (100, 1000, 10_000):
            found = importance.log_evidence(Pair(model, proposal), x, num_samples=samples)
            error, bias = found.mean - truth.mean, found.total_bias / len(x)
            table.append(
                {
                    "proposal": name,
                    "samples": samples,
                    "estimate": found.mean,
                    "std. error": found.mean_std_error,
                    "est. bias": bias,
                    "true error": error,
                    "z": (error - bias) / found.mean_std_error,
                    "median ESS": np.median(found.ess),
                    "median k̂": np.median(found.pareto_k),
                    "alarms": int(found.alarming.sum()),
                }
            )
    print("nats a row; z is the true error, less the estimated bias, in standard errors\n")
    shown = pd.DataFrame(table).to_string(
        index=False, float_format="{:.4g}".format, formatters={"estimate": "{:.4f}".format}
    )
    print(shown)

    print()
    for name in proposals:
        last = [entry for entry in table if entry["proposal"] == name][-1]
        within = "within" if abs(last["z"]) < 3 else "NOT within"
        print(
            f"{name}: {last['samples']} samples end {within} 3 standard errors of the truth; "
            f"{last['alarms']} of {len(x)} rows raise the alarm"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer steps, for a first look")
    main(parser.parse_args().quick)
