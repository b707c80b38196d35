"""Whether a second layer of latents helps: MNIST, one layer against two, the same number of steps each.

Run as ``python -m benchmarks.lectures hierarchical [--steps 10000] [--only fits|ladders|times]``. Static
binarisation, 60,000 training images; log p(x) of the first test images by importance sampling from each
pair's own guide, which is a lower bound in expectation, and differences on paired images in their standard
errors. Then what the ladder's authors add to it: batch norm, and a warm-up of half the steps. Then a step of
both two-layer pairs beside hand-written PyTorch with fused Adam.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import harness, ours
from benchmarks.peers.by_hand import TrainingLoop
from benchmarks.problems import Fitting
from benchmarks.reference import folder, reference
from ppl_vae import HierarchicalVAE, Pair, data, importance, svi
from ppl_vae.base.seeds import seeded
from ppl_vae.diagnostics import collapse
from ppl_vae.guides.layered import Ladder, posterior_moments
from ppl_vae.inference.fitting.settling import settle
from ppl_vae.models.hierarchical_vae import ACTIVE

NUM_TEST, NUM_SAMPLES, BATCH_SIZE, LR, STILL = 10_000, 100, 100, 1e-3, 1e-12


@dataclass(frozen=True)
class Arm:
    """A pair to be fitted, and the fraction of the steps over which the KL's weight rises."""

    name: str
    latent_dims: tuple[int, ...]
    guide: str
    norm: str = "none"
    warmup: float = 0.1

    def fresh(self, x: Tensor) -> Pair:
        """Of equal starting values for equal architectures; the output bias gives the data's mean."""
        with seeded(0):
            model = HierarchicalVAE(x.shape[1], self.latent_dims, norm=self.norm)
            with torch.no_grad():
                model.decoder[-1].bias.copy_(model.likelihood.start(x))
            return Pair(model, HierarchicalVAE.guides[self.guide](model, x))


ARMS = (
    Arm("one layer, 50", (50,), "bottom-up"),
    Arm("two layers, 50 and 20, bottom-up", (50, 20), "bottom-up"),
    Arm("two layers, 50 and 20, ladder", (50, 20), "ladder"),
)
# What the ladder's authors call essential, one by one and together.
LADDERS = (
    ARMS[0],
    Arm("one layer, 50, batch norm", (50,), "bottom-up", "batch"),
    ARMS[2],
    Arm("ladder, warm-up of half the steps", (50, 20), "ladder", warmup=0.5),
    Arm("ladder, batch norm", (50, 20), "ladder", "batch"),
    Arm("ladder, both", (50, 20), "ladder", "batch", 0.5),
)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.lectures hierarchical", description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000, help="of every pair")
    parser.add_argument("--test", type=int, default=NUM_TEST, help="test images, the first ones")
    parser.add_argument("--keep", type=Path, help="folder of fits, so that a killed study goes on")
    parser.add_argument("--only", choices=("fits", "ladders", "times"), help="one part of it")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if not (folder() / "data" / "MNIST").exists():
        raise SystemExit(f"MNIST is not in {folder() / 'data'}: set PPL_VAE_SHARED")
    train, test = images()
    if chosen.only in (None, "fits"):
        fits(ARMS, train, test[: chosen.test], chosen.steps, chosen.keep)
    if chosen.only in (None, "ladders"):
        fits(LADDERS, train, test[: chosen.test], chosen.steps, chosen.keep)
    if chosen.only in (None, "times"):
        times(train[:10_000])


def images() -> tuple[Tensor, Tensor]:
    """Binary images: 60,000 to learn from, and 10,000 others."""
    rows = data.binarise(data.load("mnist", data_dir=folder() / "data", download=False), "static", seed=0)
    (x,) = rows.tensors(torch.float32)
    return x[:60_000], x[60_000:]


# Fits ------------------------------------------------------------------------------------------------


def fits(arms: Sequence[Arm], train: Tensor, test: Tensor, num_steps: int, keep: Path | None) -> None:
    """Fit every pair, and print what it says of the test images."""
    print(
        f"{num_steps:,} steps of {BATCH_SIZE} images, {len(test):,} test images, {NUM_SAMPLES:,} draws each\n"
    )
    print(
        "| pair | processor s | log p(x), nats | its error | bias | ELBO | active | given above | KL, nats |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    found = {}
    for arm in arms:
        pair, seconds = fitted(arm, train, num_steps, keep)
        found[arm.name] = row = judged(pair, test, keep and keep / f"{_slug(arm, num_steps)}.json")
        values = np.asarray(row["log_evidence"])
        print(
            f"| {arm.name} | {seconds:.0f} | {values.mean():.3f} | {row['error']:.3f} | {row['bias']:.3f} | "
            f"{np.mean(row['elbo']):.3f} | {row['active']} | {row['given']} | {row['kl']} |",
            flush=True,
        )
    print(
        "\n| difference on paired images | of log p(x), nats | in standard errors | of the ELBO | in them |"
    )
    print("| --- | --- | --- | --- | --- |")
    one = found[arms[0].name]
    for arm in arms[1:]:
        cells = [_paired(found[arm.name][what], one[what]) for what in ("log_evidence", "elbo")]
        print(f"| {arm.name}, less one layer | {' | '.join(cells)} |")
    if (published := reference("vae_nll")) is not None:
        print(
            "\nPublished (Burda et al. 2016, 3,280 epochs): IWAE, k = 50, two layers:", _two_layers(published)
        )


def fitted(arm: Arm, train: Tensor, num_steps: int, keep: Path | None) -> tuple[Pair, float]:
    """A fitted pair, and the processor seconds that the fit took."""
    pair = arm.fresh(train)
    place = keep and keep / f"{_slug(arm, num_steps)}.pt"
    if place and place.exists():
        pair.initialise(train[:100])
        state = torch.load(place, weights_only=True)
        pair.load_state_dict(state["pair"])
        return pair, float(state["seconds"])
    start = time.process_time()
    state = svi.init(
        pair,
        train,
        num_steps=num_steps,
        batch_size=BATCH_SIZE,
        lr=LR,
        kl_warmup=int(arm.warmup * num_steps),
        seed=1,
    )
    for left in range(num_steps, 0, -1000):  # `svi.fit` would end with the ELBO of all training images
        svi.step(state, min(left, 1000))
        print(f"{arm.name}: {state.step:,} steps, {time.process_time() - start:.0f} s", file=sys.stderr)
    settle(pair, train)
    seconds = time.process_time() - start
    if place:
        torch.save({"pair": pair.state_dict(), "seconds": torch.tensor(seconds)}, place)
    return pair, seconds


def judged(pair: Pair, test: Tensor, place: Path | None) -> dict[str, Any]:
    """What a fitted pair says of the test images."""
    if place and place.exists():
        return dict(json.loads(place.read_text()))
    evidence = importance.log_evidence(pair, test, num_samples=NUM_SAMPLES, seed=2)
    layers = collapse(pair, test[:200], num_draws=100).by_site
    row = {
        "log_evidence": evidence.log_evidence.tolist(),
        "error": evidence.mean_std_error,
        "bias": float(evidence.bias.mean()),
        "elbo": evidence.elbo.tolist(),
        "active": ", ".join(f"{name} {number}" for name, number in active_units(pair, test[:1000]).items()),
        "kl": ", ".join(f"{name} {kl:.2f}" for name, kl in layers["kl"].items()),
        "given": ", ".join(f"{name} {number}" for name, number in layers["num_active"].items()),
    }
    if place:
        place.write_text(json.dumps(row))
    return row


def active_units(pair: Pair, x: Tensor, num_draws: int = 100) -> dict[str, int]:
    """By layer, how many dimensions of E[z | x] vary over x (Burda et al. 2016, section 5.2)."""
    found = {}
    for site, (mean, variance) in posterior_moments(pair.guide, x, num_draws=num_draws).items():
        found[site] = int((mean.var(0, unbiased=False) - variance.mean(0) / num_draws > ACTIVE).sum())
    return dict(sorted(found.items()))


def _paired(one: list[float], other: list[float]) -> str:
    difference = np.subtract(one, other)
    error = difference.std(ddof=1) / len(difference) ** 0.5
    return f"{difference.mean():+.3f} ± {error:.3f} | {difference.mean() / error:+.1f}"


def _slug(arm: Arm, num_steps: int) -> str:
    return f"{len(arm.latent_dims)}-{arm.guide}-{arm.norm}-{arm.warmup:g}-{num_steps}"


def _two_layers(published: dict[str, Any]) -> float:
    """The negative log-likelihood of the two-layer IWAE with k = 50, in nats."""
    return float(published["mnist_dynamic_2_layers"]["IWAE"]["k=50"][0])


# A step by hand --------------------------------------------------------------------------------------


class BottomUpLoop(TrainingLoop):
    """The loop that one would write for two layers and a guide from the data upwards."""

    def __init__(self, problem: Fitting, lr: float | None = None) -> None:
        self.networks = self.guide_networks(problem)
        self.decoder = copy.deepcopy(problem.model.decoder)
        self.prior = copy.deepcopy(problem.model.priors[0])
        (self.x,), self.batch_size = problem.data, problem.batch_size
        leaves = [p for part in (*self.networks, self.decoder, self.prior) for p in part.parameters()]
        self.optimiser = torch.optim.Adam(leaves, lr=problem.lr if lr is None else lr, fused=True)

    def guide_networks(self, problem: Fitting) -> list[nn.Module]:
        """Copies of the guide's."""
        return list(copy.deepcopy(problem.guide.networks))

    def loss(self, x: Tensor) -> Tensor:
        """Summed over the batch; constants that no gradient sees cancel."""
        first, second = self.networks
        z1, noise1, variance1 = self.drawn(first(x))
        z2, noise2, variance2 = self.drawn(second(z1))
        loc, variance = self.normal(self.prior(z2))
        log_q = -noise1.square().sum() - variance1.log().sum() - noise2.square().sum() - variance2.log().sum()
        log_p = -z2.square().sum() - ((z1 - loc).square() / variance + variance.log()).sum()
        error = functional.binary_cross_entropy_with_logits(self.decoder(z1), x, reduction="sum")
        return error + 0.5 * (log_q - log_p)

    def normal(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance."""
        loc, spread = raw.chunk(2, dim=-1)
        return loc, functional.softplus(spread) + 1e-6

    def drawn(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A draw, the noise in it and the variance."""
        return self.at(*self.normal(raw))

    def at(self, loc: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same, of given moments."""
        noise = torch.randn_like(loc)
        return loc + variance.sqrt() * noise, noise, variance


class LadderLoop(BottomUpLoop):
    """The same with the ladder."""

    def guide_networks(self, problem: Fitting) -> list[nn.Module]:
        """Copies of the guide's."""
        return list(copy.deepcopy([*problem.guide.upward, *problem.guide.beliefs]))

    def loss(self, x: Tensor) -> Tensor:
        """Summed over the batch; constants that no gradient sees cancel."""
        up1, up2, belief1, belief2 = self.networks
        d1 = up1(x)
        z2, noise2, variance2 = self.drawn(belief2(up2(d1)))
        loc, variance = self.normal(self.prior(z2))
        seen, seen_variance = self.normal(belief1(d1))
        total = seen_variance + variance
        mean = (seen * variance + loc * seen_variance) / total
        z1, noise1, variance1 = self.at(mean, seen_variance * variance / total)
        log_q = -noise1.square().sum() - variance1.log().sum() - noise2.square().sum() - variance2.log().sum()
        log_p = -z2.square().sum() - ((z1 - loc).square() / variance + variance.log()).sum()
        error = functional.binary_cross_entropy_with_logits(self.decoder(z1), x, reduction="sum")
        return error + 0.5 * (log_q - log_p)


def times(train: Tensor, repeats: int = 5) -> None:
    """A step of both two-layer pairs, compiled, beside the loop by hand; first that both compute the same."""
    print("\n| a step, batch 100, one thread | ours, ms | by hand, ms | ratio (least to most) |")
    print("| --- | --- | --- | --- |")
    for arm in ARMS[1:]:
        pair = arm.fresh(train)
        problem = Fitting(pair.model, pair.guide, (train,), lr=LR, batch_size=BATCH_SIZE)
        loop = LadderLoop if isinstance(pair.guide, Ladder) else BottomUpLoop
        harness.same_loss(ours.still(problem, 100), loop(problem, STILL).run(100))
        peer = loop(problem)
        found = harness.in_turn(
            ours.seconds_per_step(problem, 50, 350),
            lambda peer=peer: harness.seconds(lambda: peer.run(150)) / 150,
            repeats,
        )
        least, most = found.spread
        cells = [f"{1000 * statistics.median(side):.2f}" for side in (found.ours, found.peer)]
        print(
            f"| {arm.name} | {' | '.join(cells)} | {found.ratio:.2f} ({least:.2f} to {most:.2f}) |",
            flush=True,
        )
