"""Whether SVI stops in time: the ELBO where it stops, against that of ten times as many steps.

Both fits start from the same parameters and the same seed. The longer one has a fixed number of steps and a
learning rate that falls along a half cosine. ELBOs are compared under common random numbers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.accuracy_row import Row
from ppl_vae import PPCA, VAE, Pair, TrueSkill, data, svi
from ppl_vae.inference import elbo

__all__ = ["STUDIES", "digits", "skills", "wine"]

TARGET = 0.05
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class _Case:
    """A pair to fit, and the data to judge by, by name; the first of them decides."""

    name: str
    make: Callable[[int], Pair]
    train: tuple[Any, ...]
    judge: dict[str, tuple[Any, ...]]
    options: dict[str, Any]
    cap: int
    particles: int


def wine() -> list[Row]:
    """PPCA with two components and its linear guide."""
    (x,) = data.standardise(data.load("wine")).tensors(torch.float64)

    def make(seed: int) -> Pair:
        torch.manual_seed(seed)
        model = PPCA(x.shape[1], 2)
        return Pair(model, PPCA.guides["linear"](model, x))

    return _rows(_Case("PPCA (wine)", make, (x,), {"training": (x,)}, {"lr": 0.05}, 20_000, 200))


def skills() -> list[Row]:
    """The AL East season of 1987 with the logistic link, by both Gaussian guides."""
    games = data.load("al-east-1987").duels()
    found = []
    for name in ("mean-field", "full-rank"):

        def make(seed: int, name: str = name) -> Pair:
            torch.manual_seed(seed)
            model = TrueSkill.from_data(data.load("al-east-1987"), link="logistic")
            return Pair(model, TrueSkill.guides[name](model, *games))

        options = {"lr": 0.05, "num_particles": 16}
        found += _rows(
            _Case(f"skills (AL East), {name}", make, games, {"training": games}, options, 20_000, 4000)
        )
    return found


def digits() -> list[Row]:
    """A VAE with six latents, judged by the ELBO of rows that it was not fitted to.

    The training rows' own ELBO has no end within reach: given steps, the networks learn the rows by heart.
    """
    rows = data.load("digits")
    parts = data.split(rows, (0.8, 0.1, 0.1), 0)
    rows = data.binarise(rows, "static", 0)
    (train,), (validation,), (test,) = (
        rows.take(parts[part]).tensors(torch.float32) for part in ("train", "validation", "test")
    )

    def make(seed: int) -> Pair:
        torch.manual_seed(seed)
        model = VAE.from_data(rows.take(parts["train"]), latent_dim=6)
        return Pair(model, model.encoder_guide())

    judge = {"held-out": (validation,), "test": (test,), "training": (train,)}
    options = {"lr": 2e-3, "batch_size": 128, "kl_warmup": 300, "held_out": (validation,)}
    return _rows(_Case("VAE (digits)", make, (train,), judge, options, 30_000, 64))


def _rows(case: _Case) -> list[Row]:
    found = []
    for seed in SEEDS:
        stopped, longer = case.make(seed), case.make(seed)
        fit = svi.fit(
            stopped, *case.train, **case.options, num_steps=case.cap, stop=True, seed=seed, progress=False
        )
        svi.fit(
            longer, *case.train, **case.options, num_steps=10 * fit.steps, check_every=10 * fit.steps,
            seed=seed, progress=False,
        )  # fmt: skip
        assert fit.stopping is not None
        for number, (name, values) in enumerate(case.judge.items()):
            missing, error = _difference(longer, stopped, values, case.particles)
            decides = number == 0
            found.append(Row(
                f"{case.name}, seed {seed}: {name} ELBO of ten times as many steps",
                f"{missing:+.3f} ± {error:.3f} nats a unit above that at {fit.steps} steps "
                f"({fit.seconds:.1f} s, {'converged' if fit.converged else 'not converged'}; "
                f"expected {fit.stopping.expected_gain:.3f} ± {fit.stopping.expected_gain_error:.3f})",
                f"≤ {TARGET:g}" if decides else "shown",
                not decides or (fit.converged and missing + 2 * error <= TARGET),
            ))  # fmt: skip
    return found


def _difference(a: Pair, b: Pair, values: tuple[Any, ...], particles: int) -> tuple[float, float]:
    """How far the ELBO of one pair is above another's, in nats a unit, by ten common seeds."""
    differences = torch.tensor([
        elbo(a, *values, num_particles=particles, seed=seed).mean
        - elbo(b, *values, num_particles=particles, seed=seed).mean
        for seed in range(10)
    ])  # fmt: skip
    return differences.mean().item(), differences.std().item() / math.sqrt(len(differences))


STUDIES = {"stop-wine": wine, "stop-skills": skills, "stop-digits": digits}
