"""Whether `check` knows the best of a family: what it says of guides whose distance in nats is known."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.alarms.cases import problem
from benchmarks.alarms.cases_posteriordb import ENTRIES
from benchmarks.alarms.family_guides import FAMILIES, TOLERANCE, best_beside
from benchmarks.posteriors import Target
from ppl_vae.diagnostics.verdict.check import check_pair
from ppl_vae.diagnostics.verdict.listed import CHECKS
from ppl_vae.inference.fitting.gaussians.gaussian import Gaussian
from ppl_vae.program.pair import Pair

__all__ = ["Found", "families"]

DRAWS = 4000
# Seconds of a check: so many that no busy machine cuts it short.
BUDGET = 1000.0
ALONE = tuple(each for each in CHECKS if each.name == "family")


@dataclass(frozen=True)
class Found:
    """What is said of one guide.

    Attributes:
        posterior, guide: which.
        nats, error: the guide's ELBO below its best's, by draws of each and densities of stock Pyro.
        status: of the finding.
        said, said_error: its nats; NaN where there are none.
        seconds: of the check.
    """

    posterior: str
    guide: str
    nats: float
    error: float
    status: str
    said: float
    said_error: float
    seconds: float

    @property
    def z(self) -> float:
        """How far what is said is from what is true, in standard errors and the optimum's tolerance."""
        return abs(self.said - self.nats) / math.hypot(self.error, self.said_error, TOLERANCE)


def families(only: Sequence[str], seed: int, told: Callable[[Found], None]) -> Iterable[Found]:
    """Every guide on every posterior of posteriordb whose name holds one of some texts."""
    for entry in ENTRIES:
        if not entry.present or (only and not any(text in entry.name for text in only)):
            continue
        one = problem(entry.short)
        target = Target.of(entry, one.data)
        for name, make in FAMILIES.items():
            guide = make(one)
            best, own = best_beside(one, name, guide)
            nats, error = _below(target, best, own, seed)
            model, data = one.checked
            begun = time.perf_counter()
            found = check_pair(
                Pair(model, guide), *data, checks=ALONE, progress=False, seed=seed, budget=BUDGET
            )
            values = found.measures.others
            row = Found(
                entry.name, name, nats, error, found.findings[0].status,
                values.get("optimisation_gap", math.nan), values.get("optimisation_gap_error", math.nan),
                time.perf_counter() - begun,
            )  # fmt: skip
            told(row)
            yield row


def _below(target: Target, best: Gaussian, own: Gaussian, seed: int) -> tuple[float, float]:
    noise = torch.empty(DRAWS, len(best.loc), dtype=torch.float64)
    noise.normal_(generator=torch.Generator().manual_seed(seed))
    apart = _log_weights(target, best, noise) - _log_weights(target, own, noise)
    return float(apart.mean()), float(apart.std()) / math.sqrt(DRAWS)


def _log_weights(target: Target, at: Gaussian, noise: Tensor) -> Tensor:
    """log p − log q at draws made of standard normals."""
    q = torch.distributions.MultivariateNormal(at.loc, at.covariance())
    positions = at.loc + noise @ q.scale_tril.T
    return target.evaluate(positions)[0] - q.log_prob(positions)
