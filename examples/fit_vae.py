"""Fit a variational autoencoder to handwritten digits by SVI, and look at what it learnt.

What to look for: the ELBO is reconstruction − KL, and log p(x) by importance sampling lies above it; the
distance between the two is KL(q ‖ p(z | x)), what the encoder loses. A KL near zero would mean that the
decoder ignores z. The pictures are decoder means, not draws.
"""

import argparse
from pathlib import Path

import torch

from ppl_vae import VAE, Pair, importance, svi
from ppl_vae.data import binarise, load, split
from ppl_vae.inference import elbo
from ppl_vae.models.vae import reconstruct

SHADES = " .:-=+*#%@"


def main(quick: bool = False, out: Path | None = None) -> None:
    rows = binarise(load("digits"), "static", seed=0)
    parts = split(rows, (0.8, 0.1, 0.1), seed=0)
    train, held_out, test = (rows.take(parts[name]) for name in ("train", "validation", "test"))
    (x,), (x_test,) = train.tensors(torch.float32), test.tensors(torch.float32)

    torch.manual_seed(0)
    model = VAE.from_data(train, latent_dim=10)
    pair = Pair(model, model.encoder_guide("diagonal"))
    steps = 150 if quick else 1200
    # The warm-up keeps the decoder from ignoring z before the encoder has learnt to say anything.
    options = {"batch_size": 128, "lr": 2e-3, "kl_warmup": steps // 5, "check_every": steps // 6}
    fit = svi.fit(pair, x, num_steps=steps, held_out=held_out.tensors(torch.float32), **options)
    print(f"{fit.steps} steps in {fit.seconds:.0f} s: {fit.reason}")
    print("held-out ELBO a digit, nats:", ", ".join(f"{value:.1f}" for _, value in fit.held_out))

    for name, data in (("train", x), ("test", x_test)):
        bound = elbo(pair, data, num_particles=64)
        n = bound.num_units
        terms = f"reconstruction {bound.reconstruction / n:.2f} − KL {bound.kl / n:.2f}"
        print(f"{name:>5}: ELBO {bound.mean:.2f} ± {bound.std_error / n:.2f} nats a digit = {terms}")
    found = importance.log_evidence(pair, x_test, num_samples=200 if quick else 1000)
    print(f" test: log p(x) {found.mean:.2f} ± {found.mean_std_error:.2f} nats a digit, importance sampling")
    alarms = f"{found.alarming.sum()} of {found.num_units} digits' weights raise the alarm"
    print(f"The encoder loses about {found.mean - bound.mean:.2f} nats a digit; {alarms}.")

    pictures = {
        "originals": x_test[:6],
        "reconstructions": reconstruct(model, pair.guide, x_test[:6]),
        "samples": model.sample(6),
    }
    pictures = {name: images.reshape(-1, *rows.image_shape) for name, images in pictures.items()}
    for name, images in pictures.items():
        levels = (images * (len(SHADES) - 1)).round().long().transpose(0, 1)
        lines = ["  ".join("".join(2 * SHADES[v] for v in row) for row in line) for line in levels]
        print(f"\n{name}", *lines, sep="\n")
    if out is not None:
        save(pictures, out)


def save(pictures: dict[str, torch.Tensor], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(pictures), 1, figsize=(6, 4), layout="constrained")
    for axis, (name, images) in zip(axes, pictures.items(), strict=True):
        axis.imshow(torch.cat(list(images), dim=1), cmap="gray_r", vmin=0, vmax=1)
        axis.set(title=name, xticks=[], yticks=[])
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer steps, for a first look")
    parser.add_argument("--out", type=Path, help="save the pictures as this PNG file")
    main(**vars(parser.parse_args()))
