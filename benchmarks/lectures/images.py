"""Convolutional VAEs of images: ``python -m benchmarks.lectures images [--only photographs|times|setup]``.

Bits per dimension of photographs of hands that show digits (32 x 32 x 3, bytes), on images that were not
learnt from, by masses of the greys themselves: with one scale of the noise a channel, and with one a pixel,
which the decoder gives. A step beside PyTorch by hand; and what setting up on 20,000 images takes.
Everything on one thread, in processor seconds, so that a busy machine changes little.

The photographs are Sign Language Digits, 2,062 images, of which a fixed fifth is for testing; ten show one
student, so that signers are in both parts. Without augmentation.
"""

import argparse
import copy
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import harness
from benchmarks.harness import Measured
from benchmarks.reference import folder
from ppl_vae import PPCA, VAE, Pair, data, importance, svi
from ppl_vae.base.seeds import seeded
from ppl_vae.base.threads import one_thread
from ppl_vae.data import Rows
from ppl_vae.inference import elbo

NUM_TRAIN, NUM_SAMPLES, STILL, BATCH_SIZE = 1650, 100, 1e-12, 64
# Steps that are timed together.
EACH = 20
PHOTOGRAPHS: dict[str, Any] = {
    "latent_dim": 128,
    "hidden": (),
    "channels": (64, 32),
    "network": "conv",
    "activation": "silu",
}
# A mixture of one is a logistic distribution whose scale the decoder gives, pixel by pixel.
LIKELIHOODS: dict[str, dict[str, Any]] = {
    "channel": {"likelihood": "discretised-logistic"},
    "pixel": {"likelihood": "logistic-mixture", "mixture_components": 1},
}
# A tenth of the steps is the model's own default.
FIT: dict[str, Any] = {"batch_size": BATCH_SIZE, "lr": 2e-3}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.lectures images", description=__doc__)
    parser.add_argument("--steps", type=int, default=800, help="of each fit of the photographs")
    parser.add_argument("--only", choices=("photographs", "times", "setup"), help="one part of it")
    parser.add_argument("--scale", choices=tuple(LIKELIHOODS), help="one of the fits of the photographs")
    chosen = parser.parse_args(arguments)
    with one_thread():
        if chosen.only in (None, "setup"):  # first: the peak of the memory is the process's
            setup()
        train, test = photographs()
        if chosen.only in (None, "photographs"):
            print(HEAD)
            for scale in LIKELIHOODS if chosen.scale is None else (chosen.scale,):
                fitted(train, test, chosen.steps, scale)
            if chosen.scale is None:
                linear(train, test)
        if chosen.only in (None, "times"):
            times(train)


def photographs() -> tuple[Rows, Rows]:
    """Images to learn from, and others."""
    if not (folder() / "data" / "sign_digits").exists():
        raise SystemExit(f"sign_digits is not in {folder() / 'data'}: set PPL_VAE_SHARED")
    rows = data.load("sign-digits", data_dir=folder() / "data")
    order = np.random.default_rng(0).permutation(rows.num_rows)
    return rows.take(order[:NUM_TRAIN]), rows.take(order[NUM_TRAIN:])


def bits(nats: float, num_features: int) -> float:
    """Bits per dimension of the log mass of an image."""
    return -nats / num_features / math.log(2)


# Bits per dimension ----------------------------------------------------------------------------------


def linear(train: Rows, test: Rows) -> None:
    """PPCA at its maximum of the likelihood; a density of greys in [0, 1], so that a byte's cell is 1/255."""
    print("\n| PPCA, exact | bits per dimension, test |\n| --- | --- |")
    x, y = (torch.as_tensor(rows.values, dtype=torch.float64) for rows in (train, test))
    for latent_dim in (32, 128, 256):
        model = PPCA(x.shape[1], latent_dim).set_maximum_likelihood(x)
        found = float(model.exact_log_evidence(y).mean()) - x.shape[1] * math.log(255)
        print(f"| {latent_dim} latents | {bits(found, x.shape[1]):.3f} |", flush=True)


HEAD = """
| conv VAE, bits of test images | processor s | ELBO, training | ELBO | log p(x) | above it, nats | KL, nats |
| --- | --- | --- | --- | --- | --- | --- |"""


def made(train: Rows, **options: Any) -> Pair:
    """A pair at its start."""
    with seeded(0):
        model = VAE.from_data(train, **options)
        return Pair(model, model.encoder_guide())


def fitted(train: Rows, test: Rows, num_steps: int, scale: str) -> None:
    """Fit a convolutional VAE, and print the bits per dimension of both parts."""
    (x,), (y,) = train.tensors(torch.float32), test.tensors(torch.float32)
    pair = made(train, **PHOTOGRAPHS, **LIKELIHOODS[scale])
    start = time.process_time()
    state = svi.init(pair, x, num_steps=num_steps, kl_warmup=num_steps // 10, seed=1, **FIT)
    while state.step < num_steps:
        svi.step(state, min(100, num_steps - state.step))
        shown = bits(float(state.elbo[-50:].mean()) / len(x), x.shape[1])
        print(f"{state.step:,} steps: {shown:.3f}, {time.process_time() - start:.0f} s", file=sys.stderr)
    seconds = time.process_time() - start
    bounds = [elbo(pair, values, num_particles=10, seed=2) for values in (x[: len(y)], y)]
    evidence = importance.log_evidence(pair, y, num_samples=NUM_SAMPLES, seed=3, progress=False)
    cells = [f"{bits(each.mean, x.shape[1]):.3f}" for each in (*bounds, evidence)]
    gain = evidence.mean - bounds[1].mean
    error = math.hypot(evidence.total_std_error, bounds[1].std_error) / len(y)
    print(
        f"| a scale a {scale} | {seconds:.0f} | {' | '.join(cells)} | "
        f"{gain:+.1f} ± {error:.1f} | {bounds[1].kl / len(y):.0f} |",
        flush=True,
    )
    print(
        f"{num_steps:,} steps of {BATCH_SIZE}; {NUM_SAMPLES} draws an image; {alone(pair, y)}",
        file=sys.stderr,
    )


def alone(pair: Pair, y: Tensor) -> str:
    """Whether an image's log p(x, z) is the same to the bit beside other images."""
    half, z = BATCH_SIZE // 2, torch.randn(BATCH_SIZE, pair.model.latent_dim)
    one, other = y[:BATCH_SIZE], torch.cat([y[:half], y[-half:]])
    with pair.scope(), torch.no_grad():
        q = [pair.guide.encode(images).mean[:half] for images in (one, other)]
        p = [pair.model.decoder(torch.cat([z[:half], later]))[:half] for later in (z[half:], -z[half:])]
    same = torch.equal(*q) and torch.equal(*p)
    return (
        f"what it says of {half} images {'is' if same else 'IS NOT'} the same to the bit beside {half} others"
    )


# A step by hand --------------------------------------------------------------------------------------


class ImageLoop:
    """The loop that one would write for images: fused Adam, a Gaussian likelihood of one scale."""

    def __init__(self, pair: Pair, x: Tensor, lr: float) -> None:
        self.x, self.likelihood = x, copy.deepcopy(pair.model.likelihood)
        self.encoder, self.decoder = copy.deepcopy(pair.guide.network), copy.deepcopy(pair.model.decoder)
        parts = (self.encoder, self.decoder, self.likelihood)
        leaves = [leaf for part in parts for leaf in part.parameters()]
        self.optimiser = torch.optim.Adam(leaves, lr=lr, fused=True)

    def loss(self, x: Tensor) -> Tensor:
        """Summed over the batch, but for the constant of the likelihood."""
        loc, raw = self.encoder(x).chunk(2, dim=-1)
        variance = functional.softplus(raw) + 1e-6
        noise = torch.randn_like(loc)
        z = loc + variance.sqrt() * noise
        scale = self.likelihood.scale
        error = 0.5 * ((x - self.decoder(z)) / scale).square().sum() + x.numel() * scale.log().sum()
        return error + 0.5 * (z.square() - noise.square() - variance.log()).sum()

    def run(self, num_steps: int) -> np.ndarray:
        """So many steps; the losses, scaled to the whole data."""
        losses = []
        for index in torch.randint(len(self.x), (num_steps, BATCH_SIZE)):
            loss = self.loss(self.x[index])
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
            losses.append(loss.detach())
        constant = BATCH_SIZE * self.x.shape[1] * 0.5 * math.log(2 * math.pi)
        return (torch.stack(losses).numpy() + constant) * (len(self.x) / BATCH_SIZE)


def times(train: Rows, repeats: int = 5) -> None:
    """A step of two pairs beside the loop by hand, in turn; first that both compute the same."""
    print("\n| a step, batch 64, one thread | ours, processor ms | by hand | ratio (least to most) |")
    print("| --- | --- | --- | --- |")
    (x,) = train.tensors(torch.float32)
    for network, norm in (("conv", "none"), ("resnet", "group")):
        options = {"network": network, "norm": norm, "latent_dim": 32, "channels": (32, 16), "hidden": (64,)}
        still = made(train, likelihood="gaussian", **options)
        theirs = ImageLoop(still, x, STILL).run(30)
        harness.same_loss(-_Steps(still, x, STILL).take(30), theirs)
        pair = made(train, likelihood="gaussian", **options)
        found = _in_turn(_Steps(pair, x, 1e-3).take, ImageLoop(pair, x, 1e-3).run, repeats)
        cells = [f"{statistics.median(side):.1f}" for side in (found.ours, found.peer)]
        least, most = found.spread
        ratio = f"{found.ratio:.2f} ({least:.2f} to {most:.2f})"
        print(f"| {network}, norm {norm} | {' | '.join(cells)} | {ratio} |", flush=True)


class _Steps:
    """A fit of which steps are taken."""

    def __init__(self, pair: Pair, x: Tensor, lr: float) -> None:
        self.state = svi.init(pair, x, num_steps=2000, batch_size=BATCH_SIZE, lr=lr, seed=1)

    def take(self, num_steps: int) -> np.ndarray:
        """So many steps; their ELBOs, scaled to the whole data."""
        svi.step(self.state, num_steps)
        return self.state.elbo[-num_steps:]


def _in_turn(ours: Callable[[int], object], peer: Callable[[int], object], repeats: int) -> Measured:
    """Processor milliseconds a step of both sides."""

    def each(run: Callable[[int], object]) -> float:
        start = time.process_time()
        run(EACH)
        return 1000 * (time.process_time() - start) / EACH

    return harness.in_turn(lambda: each(ours), lambda: each(peer), repeats, unit="ms")


# Setting up ------------------------------------------------------------------------------------------


def setup(num_images: int = 20_000) -> None:
    """The first step of a conv VAE on many grey images: time and memory beyond the data."""
    values = (np.random.default_rng(0).random((num_images, 784)) > 0.8).astype(np.float32)
    names = tuple(f"pixel_{place}" for place in range(784))
    rows = Rows("made", values, names, "binary", image_shape=(28, 28))
    (x,) = rows.tensors(torch.float32)
    before, start = _peak(), time.process_time()
    model = VAE.from_data(rows, network="conv")
    state = svi.init(Pair(model, model.encoder_guide()), x, num_steps=3000, batch_size=128, seed=1)
    ready = time.process_time() - start
    svi.step(state, 1)
    seconds, more = time.process_time() - start, _peak() - before
    print(
        "| setting up on 20,000 images of 28 x 28 | processor s | memory beyond the data, MiB |\n"
        f"| --- | --- | --- |\n| before the first step | {ready:.2f} | |\n"
        f"| with the first step, traced | {seconds:.2f} | {more:.0f} |",
        flush=True,
    )


def _peak() -> float:
    """The process's largest memory so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
