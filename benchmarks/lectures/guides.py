"""Guides that begin as an encoder's answer, the decoder held: does refining pay, and is it honest?

Run as ``python -m benchmarks.lectures guides [--steps 6000] [--refine 1500]``. A VAE of MNIST
(784-200-200-20, static binarisation, 20,000 training images) is fitted by SVI; then its decoder is held, and
its own first 300 training images are answered by the encoder, by it with a correction for every image, and
by a flow behind it. ELBOs are of the same images, so that differences are paired; log p(x) by annealed
importance sampling from the semi-amortised guide lies above all of them.
"""

import argparse
import copy
import math
import time

import numpy as np
import torch
from torch import Tensor

from benchmarks.reference import folder
from ppl_vae import VAE, Pair, annealing, data, importance, svi
from ppl_vae.base.seeds import seeded
from ppl_vae.guides import AmortisedFlow, AmortisedNormal, SemiAmortised

NUM_TRAIN, NUM_ROWS, NUM_SAMPLES, NUM_ANNEALED = 20_000, 300, 2000, 40


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.lectures guides", description=__doc__)
    parser.add_argument("--steps", type=int, default=6000, help="of the VAE")
    parser.add_argument("--refine", type=int, default=1500, help="of each refined guide")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if not (folder() / "data" / "MNIST").exists():
        raise SystemExit(f"MNIST is not in {folder() / 'data'}: set PPL_VAE_SHARED")
    rows = data.binarise(data.load("mnist", data_dir=folder() / "data", download=False), "static", seed=0)
    (x,) = rows.tensors(torch.float32)
    pair = fitted(x[:NUM_TRAIN], chosen.steps)
    study(pair, x[:NUM_ROWS], chosen.refine)


def fitted(x: Tensor, num_steps: int) -> Pair:
    """The VAE."""
    with seeded(0):
        model = VAE(x.shape[1], 20)
        with torch.no_grad():
            model.decoder[-1].bias.copy_(model.likelihood.start(x))
        pair = Pair(model, model.encoder_guide())
    begun = time.process_time()
    svi.fit(
        pair, x, num_steps=num_steps, batch_size=100, lr=1e-3, lr_end=0.02, kl_warmup=num_steps // 10,
        progress=False,
    )  # fmt: skip
    print(f"VAE of {len(x):,} images: {num_steps:,} steps, {time.process_time() - begun:.0f} processor s\n")
    return pair


def study(pair: Pair, x: Tensor, num_steps: int) -> None:
    """Refine the encoder's answers of some rows, and print what each guide says of them."""
    encoder = pair.guide
    assert isinstance(encoder, AmortisedNormal)
    arms = {
        "amortised": copy.deepcopy(encoder),
        "semi-amortised": SemiAmortised(copy.deepcopy(encoder), len(x)),
        "amortised flow": AmortisedFlow(copy.deepcopy(encoder)),
    }
    print("| guide | processor s | ELBO, nats an image | less the encoder's | in its errors | log p(x), IS |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    elbos: dict[str, np.ndarray] = {}
    pairs = {name: Pair(pair.model, guide) for name, guide in arms.items()}
    for name, each in pairs.items():
        begun = time.process_time()
        if name != "amortised":
            svi.fit(
                each, x, num_steps=num_steps, lr=5e-3, lr_end=0.02, num_particles=4, train="guide",
                progress=False,
            )  # fmt: skip
        seconds = time.process_time() - begun
        found = importance.log_evidence(each, x, num_samples=NUM_SAMPLES, seed=1, progress=False)
        elbos[name] = found.elbo
        gain = found.elbo - elbos["amortised"]
        error = gain.std(ddof=1) / math.sqrt(len(gain))
        cells = (f"{gain.mean():+.3f}", f"{gain.mean() / error:.1f}") if gain.any() else ("", "")
        print(
            f"| {name} | {seconds:.0f} | {found.elbo.mean():.3f} | {' | '.join(cells)} | "
            f"{found.mean:.3f} ± {found.mean_std_error:.3f} |",
            flush=True,
        )
    few = torch.arange(NUM_ANNEALED)
    known = annealing.log_evidence(
        pairs["semi-amortised"], x, num_temperatures=500, num_chains=16, index=few, progress=False
    )
    print(
        f"\nOf the first {NUM_ANNEALED}: log p(x) by annealing {known.mean:.3f} ± {known.mean_std_error:.3f}"
    )
    for name, values in elbos.items():
        above = known.log_evidence - values[:NUM_ANNEALED]
        limit = 4 * np.hypot(known.std_error, 0.05)
        print(f"{name}: log p(x) − ELBO {above.mean():.3f}; below log p(x) in {(above > -limit).sum()} rows")
