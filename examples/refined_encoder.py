"""What an encoder leaves on the table: its own answers, corrected row by row, or bent by a flow.

What to look for: the decoder is held, so that log p(x) is the same for all three guides and only their
answers differ. Both refinements begin at the encoder's ELBO and go up from there; none passes log p(x). What
the corrections gain is amortisation error, the encoder's; what the flow gains is also the Gaussian family's,
and it serves rows that it has not seen.
"""

import argparse
import copy
import math

import torch

from ppl_vae import VAE, Pair, importance, svi
from ppl_vae.data import binarise, load
from ppl_vae.guides import AmortisedFlow, SemiAmortised


def main(quick: bool = False) -> None:
    rows = binarise(load("digits"), "static", seed=0)
    (x,) = rows.tensors(torch.float32)
    torch.manual_seed(0)
    model = VAE.from_data(rows, latent_dim=4)
    pair = Pair(model, model.encoder_guide())
    steps = 150 if quick else 2000
    svi.fit(pair, x, num_steps=steps, batch_size=128, lr=2e-3, kl_warmup=steps // 10)

    some = x[:100]
    guides = {
        "amortised": pair.guide,
        "semi-amortised": SemiAmortised(copy.deepcopy(pair.guide), len(some)),
        "amortised flow": AmortisedFlow(copy.deepcopy(pair.guide)),
    }
    for name, guide in guides.items():
        refined = Pair(model, guide)
        if name != "amortised":
            # Rows that the corrections know; the model is held, so that nothing else changes.
            options = {"lr": 5e-3, "lr_end": 0.02, "num_particles": 4, "train": "guide"}
            svi.fit(refined, some, num_steps=100 if quick else 1000, **options)
        found = importance.log_evidence(refined, some, num_samples=300 if quick else 2000)
        if name == "amortised":
            start = found.elbo
            print(f"{name}: ELBO {start.mean():.3f}", end="")
        else:
            gain = found.elbo - start
            error = gain.std(ddof=1) / math.sqrt(len(gain))
            print(
                f"{name}: ELBO {found.elbo.mean():.3f}, {gain.mean():+.3f} in {gain.mean() / error:.1f} "
                "standard errors of paired rows",
                end="",
            )
        print(f"; log p(x) {found.mean:.3f} ± {found.mean_std_error:.3f} by its own weights")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer steps, for a first look")
    main(**vars(parser.parse_args()))
