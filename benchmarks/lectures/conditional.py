"""A VAE of photographs given their class: density, classes by Bayes' rule, and what a class can be worth.

Run as ``python -m benchmarks.lectures conditional [--seconds 90]``. Sign-language digits (32 x 32 in three
colours, 1,662 to learn from, 400 others), a convolutional conditional VAE with a discretised logistic. The
identity log p(x | c) − ln C ≤ log p(x) ≤ max_c log p(x | c) is looked at on every test image, within one
model: two fits differ by more than ln C.
"""

import argparse
import math
import time

import numpy as np
import torch

from benchmarks.reference import folder
from ppl_vae import ConditionalVAE, Pair, data, importance, svi
from ppl_vae.base.seeds import seeded
from ppl_vae.models.conditional_vae import ConditionalVAEOptions
from ppl_vae.models.conditions import class_log_evidence

NUM_TEST, CLASSIFIED, NUM_SAMPLES, DRAWS, BATCH_SIZE = 400, 100, 200, 30, 64


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.lectures conditional", description=__doc__)
    parser.add_argument("--seconds", type=float, default=90.0, help="processor seconds of the fit")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if not (folder() / "data" / "sign_digits").exists():
        raise SystemExit(f"sign_digits is not in {folder() / 'data'}: set PPL_VAE_SHARED")
    rows = data.load("sign-digits", data_dir=folder() / "data", download=False)
    order = np.random.default_rng(0).permutation(rows.num_rows)
    train, test = (rows.take(part).dataset for part in (order[NUM_TEST:], order[:NUM_TEST]))
    options = ConditionalVAEOptions(
        latent_dim=32, hidden=(128,), network="conv", channels=(64, 32), likelihood="discretised-logistic"
    )
    x, label = train.arguments(ConditionalVAE.inputs, torch.float32)
    x_test, truth = test.arguments(ConditionalVAE.inputs, torch.float32)
    with seeded(0):
        model = ConditionalVAE.from_data(train, options)
        pair = Pair(model, model.encoder_guide())
    fit(pair, x, label, chosen.seconds)
    judge(pair, (x, label), "train")
    judge(pair, (x_test, truth), "test")
    classes(pair, x_test[:CLASSIFIED], truth[:CLASSIFIED])


def fit(pair: Pair, x: torch.Tensor, label: torch.Tensor, seconds: float) -> None:
    """SVI for so many processor seconds, by blocks of steps."""
    begun, state = time.process_time(), None
    state = svi.init(pair, x, label, num_steps=100_000, batch_size=BATCH_SIZE, lr=1e-3, kl_warmup=200, seed=1)
    done = 0
    while time.process_time() - begun < seconds:
        svi.step(state, 25)
        done += 25
    print(f"{done:,} steps of {BATCH_SIZE} images in {seconds:.0f} processor s")


def judge(pair: Pair, of: tuple[torch.Tensor, torch.Tensor], part: str) -> None:
    """Bits per dimension by the ELBO and by importance sampling."""
    found = importance.log_evidence(pair, *of, num_samples=NUM_SAMPLES, progress=False)
    bits = of[0].shape[1] * math.log(2)
    above = found.log_evidence - found.elbo
    print(
        f"{part}: {-found.elbo.mean() / bits:.3f} bits per dimension by the ELBO, {-found.mean / bits:.3f} "
        f"by importance sampling ({found.mean - found.elbo.mean():.1f} nats above it, on every image: "
        f"{bool((above >= 0).all())})"
    )


def classes(pair: Pair, x: torch.Tensor, truth: torch.Tensor) -> None:
    """The classifier by Bayes' rule, and the identity on every row."""
    with pair.scope():
        log_p, _ = class_log_evidence(pair.model, pair.guide, x, num_samples=DRAWS)
    right = (log_p.argmax(1) == truth).double()
    print(
        f"accuracy by Bayes' rule: {right.mean():.3f} ± {right.std() / math.sqrt(len(x)):.3f} of {len(x)} "
        f"test images, {DRAWS} draws a class; by chance {1 / log_p.shape[1]:.2f}"
    )
    own, total = log_p.gather(1, truth[:, None])[:, 0], log_p.logsumexp(1) - math.log(log_p.shape[1])
    slack = torch.minimum(total - (own - math.log(log_p.shape[1])), log_p.amax(1) - total)
    print(
        f"log p(x given c) − log p(x): {(own - total).mean():.2f} nats in the mean, at most "
        f"{(own - total).max():.3f} (ln C = {math.log(log_p.shape[1]):.3f}); the identity holds on "
        f"{int((slack >= -1e-9).sum())} of {len(x)} rows"
    )
