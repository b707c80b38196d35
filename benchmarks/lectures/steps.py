"""A step of the lectures' models beside the loop that one would write by hand, with fused Adam.

Run as ``python -m benchmarks.lectures steps [--only NAME …] [--engine auto|on]``. The conditional VAE of
photographs with a discretised logistic; an amortised flow and a semi-amortised guide of a VAE of MNIST
(784-200-200-20); a mixture of full Gaussians of iris, its components summed out. First both compute the same
loss at parameters that stand still. Both sides in turn on one thread, in processor milliseconds, so that a
busy machine changes little. Networks of images, two layers and missing values are timed in their own studies.
"""

import argparse
import copy
import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.nn import functional

from benchmarks import harness
from benchmarks.lectures.images import photographs
from benchmarks.reference import folder
from ppl_vae import VAE, ConditionalVAE, Pair, data, svi
from ppl_vae.base.seeds import seeded
from ppl_vae.base.threads import one_thread
from ppl_vae.guides import AmortisedFlow, SemiAmortised
from ppl_vae.models import GaussianMixture

STILL, LR, REPEATS, NUM_STEPS = 1e-12, 1e-3, 5, 2000
# Steps whose losses are compared, and how many are timed together.
COMPARED = 30


class Loop:
    """By hand: a loss of rows, summed, whose parameters one fused Adam moves.

    Args:
        pair: whose modules are copied.
        data: tensors with a row each.
        batch_size: rows a step, all where it is their number.
        lr: learning rate.
    """

    def __init__(self, pair: Pair, data: tuple[Tensor, ...], batch_size: int, lr: float) -> None:
        self.model, self.guide = copy.deepcopy((pair.model, pair.guide))
        self.data, self.batch_size = data, batch_size
        leaves = [*self.model.parameters(), *self.guide.parameters()]
        self.optimiser = torch.optim.Adam(leaves, lr=lr, fused=True)

    def loss(self, index: Tensor, *rows: Tensor) -> Tensor:
        """Summed over the batch."""
        raise NotImplementedError

    def run(self, num_steps: int) -> np.ndarray:
        """So many steps; the losses, scaled to the whole data."""
        losses, size = [], len(self.data[0])
        whole = self.batch_size == size
        for _ in range(num_steps):
            index = torch.randint(size, (self.batch_size,))
            rows = self.data if whole else tuple(values[index] for values in self.data)
            loss = self.loss(index, *rows)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
            losses.append(loss.detach())
        return torch.stack(losses).double().numpy() * (size / self.batch_size)


def _normal(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation."""
    loc, spread = raw.chunk(2, dim=-1)
    return loc, (functional.softplus(spread) + 1e-6).sqrt()


class Conditional(Loop):
    """q(z | x, c) and p(x | z, c), greys as masses of logistic distributions."""

    def loss(self, index: Tensor, *rows: Tensor) -> Tensor:
        """See `Loop.loss`."""
        x, label = rows
        loc, sd = _normal(self.guide.network(x, label))
        noise = torch.randn_like(loc)
        z = loc + sd * noise
        centre = self.model.decoder(torch.cat([z, self.model.embedding(label)], -1))
        scale = self.model.likelihood.scale.repeat(x.shape[1] // 3)
        middle, half = (x - centre) / scale, 1 / (510 * scale)
        upper, lower = functional.logsigmoid(middle + half), functional.logsigmoid(half - middle)
        inside = upper + lower + torch.log(-torch.expm1(-2 * half))
        mass = torch.where(x < 1 / 510, upper, torch.where(x > 1 - 1 / 510, lower, inside))
        return 0.5 * (z.square() - noise.square()).sum() - sd.log().sum() - mass.sum()


class Flow(Loop):
    """An encoder's Normal behind two splines, zuko's as in the guide."""

    def loss(self, index: Tensor, *rows: Tensor) -> Tensor:
        """See `Loop.loss`."""
        (x,) = rows
        loc, sd = _normal(self.guide.encoder.network(x))
        noise = torch.randn_like(loc)
        said, bent = torch.cat([loc, sd.log()], -1), noise
        change = sd.log().sum()
        for spline in self.guide.splines:
            bent, more = spline(said).call_and_ladj(bent)
            change = change + more.sum()
        z = loc + sd * bent
        error = functional.binary_cross_entropy_with_logits(self.model.decoder(z), x, reduction="sum")
        return error + 0.5 * (z.square() - noise.square()).sum() - change


class Corrected(Loop):
    """An encoder's Normal, moved and scaled for every datum."""

    def loss(self, index: Tensor, *rows: Tensor) -> Tensor:
        """See `Loop.loss`."""
        (x,) = rows
        loc, sd = _normal(self.guide.encoder.network(x))
        log_scale = self.guide.log_scale[index]
        noise = torch.randn_like(loc)
        z = loc + self.guide.shift[index] + sd * log_scale.exp() * noise
        error = functional.binary_cross_entropy_with_logits(self.model.decoder(z), x, reduction="sum")
        return error + 0.5 * (z.square() - noise.square()).sum() - sd.log().sum() - log_scale.sum()


class Mixture(Loop):
    """Full covariances; components summed out."""

    def loss(self, index: Tensor, *rows: Tensor) -> Tensor:
        """See `Loop.loss`."""
        (x,), model = rows, self.model
        scaled = (x - model.centre) / model.scale
        floor = 0.1 * model.options.min_eigenvalue * torch.eye(x.shape[1], dtype=x.dtype)
        covariance = floor + model.factors @ model.factors.mT
        densities = MultivariateNormal(model.locs, covariance, validate_args=False)
        log_p = densities.log_prob(scaled[:, None]) + model.logits.log_softmax(-1)
        return len(x) * model.scale.log().sum() - log_p.logsumexp(-1).sum()


Made = tuple[Pair, tuple[Tensor, ...], int, type[Loop]]


def conditional() -> Made:
    """As the study of that name has it, with 64 images a step."""
    rows = photographs()[0].dataset
    options: dict[str, Any] = {"latent_dim": 32, "hidden": (128,), "network": "conv", "channels": (64, 32)}
    model = ConditionalVAE.from_data(rows, likelihood="discretised-logistic", **options)
    values = rows.arguments(ConditionalVAE.inputs, torch.float32)
    return Pair(model, model.encoder_guide()), values, 64, Conditional


def _digits(guide: Callable[[VAE, Tensor], Any], loop: type[Loop]) -> Made:
    rows = data.load("mnist", data_dir=folder() / "data", download=False)
    (x,) = data.binarise(rows, "static", seed=0).tensors(torch.float32)
    x = x[:5000].clone()
    model = VAE(x.shape[1], 20)
    return Pair(model, guide(model, x)), (x,), 100, loop


def mixture() -> Made:
    """Standardised iris, all rows a step."""
    rows = data.standardise(data.load("iris"))
    (x,) = rows.tensors(torch.float64)
    model = GaussianMixture.from_data(rows, num_components=3, num_starts=1)
    return Pair(model, GaussianMixture.guides["exact"](model, x)), (x,), len(x), Mixture


CASES: Mapping[str, Callable[[], Made]] = {
    "conditional": conditional,
    "amortised-flow": lambda: _digits(lambda model, x: AmortisedFlow(model.encoder_guide()), Flow),
    "semi-amortised": lambda: _digits(
        lambda model, x: SemiAmortised(model.encoder_guide(), len(x)), Corrected
    ),
    "mixture": mixture,
}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.lectures steps", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=tuple(CASES), default=tuple(CASES))
    parser.add_argument("--engine", choices=("auto", "on"), default="auto", help="on compiles our side")
    chosen = parser.parse_args(arguments)
    if not (folder() / "data" / "MNIST").exists():
        raise SystemExit(f"MNIST is not in {folder() / 'data'}: set PPL_VAE_SHARED")
    print(
        "| a step, one thread | ours, processor ms | by hand, fused Adam | ratio (least to most) | engine |"
    )
    print("| --- | --- | --- | --- | --- |")
    with one_thread():
        for name in chosen.only:
            print(row(name, chosen.engine), flush=True)


def row(name: str, compile: Literal["auto", "on"]) -> str:
    """One line of the table, after both sides have shown the same loss."""
    with seeded(0):
        pair, values, batch_size, loop = CASES[name]()

    def state(of: Pair, lr: float) -> svi.State:
        size = None if batch_size == len(values[0]) else batch_size
        return svi.init(of, *values, num_steps=NUM_STEPS, batch_size=size, lr=lr, seed=1, compile=compile)

    still = state(Pair(*copy.deepcopy((pair.model, pair.guide))), STILL)
    svi.step(still, COMPARED)
    _same(-still.elbo, loop(pair, values, batch_size, STILL).run(COMPARED))
    ours, theirs = state(pair, LR), loop(pair, values, batch_size, LR)
    each = _each(ours, theirs)
    found = harness.in_turn(
        lambda: _milliseconds(lambda count: svi.step(ours, count), each),
        lambda: _milliseconds(theirs.run, each),
        REPEATS,
        unit="ms",
    )
    least, most = found.spread
    cells = [f"{statistics.median(side):.2f}" for side in (found.ours, found.peer)]
    ratio = f"{found.ratio:.2f} ({least:.2f} to {most:.2f})"
    return f"| {name} | {' | '.join(cells)} | {ratio} | {ours.stepper.engine} |"


def _same(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Equal losses: to rounding where nothing is drawn, else by their means."""
    if np.ptp(theirs) < 1e-6 * abs(theirs[0]):
        assert math.isclose(ours[0], theirs[0], rel_tol=1e-6), (ours[0], theirs[0])
    else:
        harness.same_loss(ours, theirs)


def _each(ours: svi.State, theirs: Loop) -> int:
    """Steps that are timed together: about a quarter of a second of them, once both are warm."""
    svi.step(ours, 5)
    theirs.run(5)
    return max(10, min(150, int(250 / _milliseconds(theirs.run, 5))))


def _milliseconds(run: Callable[[int], object], count: int) -> float:
    start = time.process_time()
    run(count)
    return 1000 * (time.process_time() - start) / count
