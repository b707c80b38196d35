"""Fit a convolutional VAE to photographs of hands that show digits, in bits per dimension.

What to look for: log p(x) by importance sampling lies above the ELBO, and the bits per dimension of images
that were not learnt from lie below the 8 in which bytes are stored. The photographs are read from --data-dir
(sign_digits/sign_digits_32.npz); without it, the 8 x 8 digits of scikit-learn with their 17 grey levels.
"""

import argparse
import math
from pathlib import Path

import torch

from ppl_vae import VAE, Pair, importance, svi
from ppl_vae.data import load, split
from ppl_vae.inference import elbo


def main(quick: bool = False, data_dir: Path | None = None) -> None:
    rows = load("digits") if data_dir is None else load("sign-digits", data_dir=data_dir)
    levels = 17 if data_dir is None else 256
    parts = split(rows, (0.8, 0.0, 0.2), seed=0)
    train, test = (rows.take(parts[name]) for name in ("train", "test"))
    (x,), (x_test,) = train.tensors(torch.float32), test.tensors(torch.float32)

    torch.manual_seed(0)
    model = VAE.from_data(
        train, latent_dim=16, network="conv", channels=(32, 16), hidden=(64,), norm="group",
        likelihood="discretised-logistic", num_levels=levels,
    )  # fmt: skip
    pair = Pair(model, model.encoder_guide())
    steps = 120 if quick else 2000
    fit = svi.fit(pair, x, num_steps=steps, batch_size=64, lr=3e-3, kl_warmup=steps // 5)
    print(f"{fit.steps} steps in {fit.seconds:.0f} s: {fit.reason}")

    def bits(nats: float) -> float:
        return -nats / rows.num_features / math.log(2)

    chosen = x_test[:40] if quick else x_test
    bound = elbo(pair, chosen, num_particles=20)
    found = importance.log_evidence(pair, chosen, num_samples=100 if quick else 500)
    print(
        f"ELBO {bits(bound.mean):.3f} bits per dimension, KL {bound.kl / bound.num_units:.1f} nats an image"
    )
    gain, error = found.mean - bound.mean, math.hypot(found.total_std_error, bound.std_error)
    print(
        f"log p(x) of {found.num_units} new images: {bits(found.mean):.3f} bits per dimension, beside "
        f"{math.log2(levels):.2f} in which they are stored; {gain:.2f} ± {error / found.num_units:.2f} nats "
        "above the ELBO"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer steps, for a first look")
    parser.add_argument("--data-dir", type=Path, help="the folder that holds sign_digits")
    main(**vars(parser.parse_args()))
