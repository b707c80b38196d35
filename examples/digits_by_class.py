"""A VAE of handwritten digits given their class, and the classifier that Bayes' rule makes of it.

What to look for: nobody trained a classifier. The model only learnt log p(x given c), the density of images
of each class, and the class under which an image is most probable is nearly always its own. On every image
log p(x given c) − ln C ≤ log p(x) ≤ the largest log p(x given c): knowing the class is worth at most
ln 10 = 2.30 nats, far less than two fits differ by, so that only one model can say what it is worth.
"""

import argparse
import math

import torch

from ppl_vae import ConditionalVAE, Pair, svi
from ppl_vae.data import binarise, load, split
from ppl_vae.models.conditions import class_log_evidence

SHADES = " .:-=+*#%@"


def main(quick: bool = False) -> None:
    rows = binarise(load("digits"), "static", seed=0)
    parts = split(rows, (0.8, 0.1, 0.1), seed=0)
    train, test = (rows.take(parts[name]).dataset for name in ("train", "test"))
    x, label = train.arguments(ConditionalVAE.inputs, torch.float32)
    torch.manual_seed(0)
    model = ConditionalVAE.from_data(train, latent_dim=6)
    pair = Pair(model, model.encoder_guide())
    steps = 200 if quick else 3000
    fit = svi.fit(pair, x, label, num_steps=steps, batch_size=128, lr=2e-3, kl_warmup=steps // 10)
    print(f"{fit.steps} steps in {fit.seconds:.0f} s, ELBO {fit.final.mean:.2f} nats a training digit")

    x_test, truth = test.arguments(ConditionalVAE.inputs, torch.float32)
    x_test, truth = x_test[:30] if quick else x_test, truth[:30] if quick else truth
    with pair.scope():
        log_p, error = class_log_evidence(model, pair.guide, x_test, num_samples=30 if quick else 200)
    right = (log_p.argmax(1) == truth).double()
    share, wrong = right.mean(), right.std() / math.sqrt(len(right))
    chance = torch.bincount(truth).max() / len(truth)
    print(
        f"The most probable class is right in {share:.3f} ± {wrong:.3f} of {len(right)} digits that the "
        f"model has not seen; always the same class in {chance:.3f}."
    )
    own = log_p.gather(1, truth[:, None])[:, 0]
    worth = own - (log_p.logsumexp(1) - math.log(log_p.shape[1]))
    typical = error.gather(1, truth[:, None]).median()
    print(
        f"log p(x given its class) is {own.mean():.2f} nats a digit, with a typical error of {typical:.2f};"
    )
    print(f"knowing the class is worth {worth.mean():.2f} nats, at most {worth.max():.2f} (ln 10 = 2.30).")
    for name in ("3", "8"):
        code = train["label"].levels.index(name)
        with pair.scope(), torch.no_grad():
            images = model.sample(torch.full((6,), code)).reshape(6, *rows.image_shape)
        print(f"\nsamples of {name}")
        for line in (images * (len(SHADES) - 1)).round().long().transpose(0, 1):
            print("  ".join("".join(2 * SHADES[value] for value in row) for row in line))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer steps, for a first look")
    main(**vars(parser.parse_args()))
