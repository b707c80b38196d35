"""How far a Gaussian is below the best of its family: paired differences on common draws, many starts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ppl_vae import InputError, Pair
from ppl_vae.inference.fitting.gaussians.autoguides import GaussianGuide
from ppl_vae.inference.fitting.gaussians.gaussian import Gaussian, common_noise
from ppl_vae.inference.fitting.gaussians.gaussian_fit import GaussianOptions, Method, climb
from ppl_vae.inference.fitting.gaussians.starts import STARTS, best_start
from ppl_vae.inference.fitting.gaussians.target import Target, target_of
from ppl_vae.inference.fitting.natural import NaturalGradients

__all__ = ["Difference", "Judge", "canonical", "judge_of"]

# Draws by which candidates are ranked, and by which the answer is compared with the best of them.
RANKING, COMPARING = 4_096, 20_000
# What the last run of the judge is to be near the best of the family, in nats; all others stop sooner.
FINE = 1e-3


@dataclass(frozen=True)
class Difference:
    """Nats, with their Monte Carlo error."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.4f} ± {self.error:.1g}"


def canonical(at: Gaussian) -> Gaussian:
    """The same with triangular roots of positive diagonals, so that common draws move alike."""
    roots = []
    for block, root in zip(at.family.blocks, at.roots, strict=True):
        if block.kind == "dense":
            lower = torch.linalg.qr(root.T)[1].T
            root = lower * torch.where(lower.diagonal() < 0, -1.0, 1.0)
        roots.append(root.abs() if block.kind == "diagonal" else root)
    return at.replaced(at.loc, roots)


@dataclass(eq=False)
class Judge:
    """A density, and the best Gaussian of a family that was found for it.

    Attributes:
        target: the density; its guide says the family.
        best: the highest of all candidates so far.
        name: where that came from.
    """

    target: Target
    best: Gaussian | None = None
    name: str = ""
    noise: dict[int, Tensor] = field(default_factory=dict)
    level: dict[int, Tensor] = field(default_factory=dict)

    def elbo(self, at: Gaussian, num_draws: int) -> Tensor:
        """ELBO by pairs of draws, z and −z, shape (num_draws / 2,)."""
        if num_draws not in self.noise:
            self.noise[num_draws] = common_noise(num_draws, at.family.noise_dim, 20_000 + num_draws)
        at = canonical(at)
        values = torch.cat([self.target.batches.values(at.draws(part)) for part in
                            self.noise[num_draws].split(4_096)])  # fmt: skip
        return values.reshape(2, -1).mean(0) + at.entropy()

    def difference(self, above: Gaussian, below: Gaussian, num_draws: int = COMPARING) -> Difference:
        """The ELBO of one less that of another; infinite where one of them is."""
        return self._mean(self.elbo(above, num_draws) - self.elbo(below, num_draws))

    @staticmethod
    def _mean(each: Tensor) -> Difference:
        if not bool(each.isfinite().all()):
            return Difference(math.inf, math.inf)
        return Difference(float(each.mean()), float(each.std()) / math.sqrt(len(each)))

    def below(self, at: Gaussian, num_draws: int = COMPARING) -> Difference:
        """How far it is below the best."""
        assert self.best is not None
        if num_draws not in self.level:
            self.level[num_draws] = self.elbo(self.best, num_draws)
        return self._mean(self.level[num_draws] - self.elbo(at, num_draws))

    def consider(self, name: str, at: Gaussian) -> None:
        """Take it for the best where its ELBO is higher, by the draws that rank."""
        finite = math.isfinite(float(self.elbo(at, RANKING).mean()))
        if finite and (self.best is None or self.below(at, RANKING).value <= 0):
            self.best, self.name, self.level = canonical(at), name, {}

    def search(self, seeds: int, *further: tuple[str, Gaussian], method: Method | None = None) -> None:
        """Runs from every start and seed, and from further Gaussians; the best goes on to finer tolerance."""
        method = method or NaturalGradients()
        for seed in range(1, seeds + 1):
            for name in STARTS:
                try:
                    start = best_start(self.target, name, seed)[0].at
                except InputError:  # no such start here
                    continue
                found = climb(method, self.target, start, GaussianOptions(), seed)
                self.consider(f"{name}, seed {seed}", found.at)
        for name, start in further:
            self.consider(name, start)
            self.consider(name, climb(method, self.target, start, GaussianOptions(), 0).at)
        if self.best is not None:
            fine = GaussianOptions(tolerance=FINE)
            self.consider(self.name, climb(method, self.target, self.best, fine, seeds + 1).at)

    def guide(self, guide: Any) -> Gaussian:
        """A guide for the same model as a Gaussian."""
        return canonical(GaussianGuide.of(guide, self.target.batches.density).read())


@contextmanager
def judge_of(pair: Pair, data: tuple[Any, ...]) -> Iterator[Judge]:
    """A judge of the family of a pair's guide."""
    with target_of(pair, *data) as target:
        yield Judge(target)
