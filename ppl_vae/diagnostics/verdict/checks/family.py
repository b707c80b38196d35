"""Whether the guide is the best of its family, or what more training would gain.

log p(x) − ELBO = [log p(x) − ELBO of the best of the family] + [that ELBO − the guide's own]: the
*approximation gap*, which only a richer family closes, and the *optimisation gap*, which training closes. The
two want different cures. Source: Cremer, Li and Duvenaud, "Inference suboptimality in variational
autoencoders" (2018), section 3, of amortised guides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae.answers.pareto import pareto_k, tail_length
from ppl_vae.base.clock import OutOfTime, deadline
from ppl_vae.base.errors import InputError
from ppl_vae.base.progress import stage
from ppl_vae.base.seeds import derived
from ppl_vae.base.watch import watched
from ppl_vae.base.wording import with_error
from ppl_vae.diagnostics.comparison.closeness import Tolerances
from ppl_vae.diagnostics.verdict.case import Case, Found, skipped
from ppl_vae.diagnostics.verdict.rule import Finding, Status
from ppl_vae.engine.batches import NoCurvature
from ppl_vae.guides.sparse import elimination
from ppl_vae.inference.fitting.fixed_noise import FixedNoise
from ppl_vae.inference.fitting.gaussians.autoguides import is_gaussian
from ppl_vae.inference.fitting.gaussians.gaussian import Block, Gaussian, common_noise
from ppl_vae.inference.fitting.gaussians.gaussian_fit import JUDGES, GaussianOptions, Method, climb
from ppl_vae.inference.fitting.gaussians.proper import Improper
from ppl_vae.inference.fitting.gaussians.starts import best_start
from ppl_vae.inference.fitting.gaussians.target import Target, target_of
from ppl_vae.inference.fitting.natural import MOST_DIMENSIONS, NaturalGradients

__all__ = ["LIMIT", "best_of_family"]

# Of the time left, what the search for the best may take.
SHARE = 0.15
# Nats a unit: what a normal loses whose mean and sd are both at the tolerances of a comparison.
LIMIT = 0.5 * ((1 + Tolerances().sd) ** 2 + Tolerances().mean ** 2 - 1) - math.log(1 + Tolerances().sd)
# Standard errors that make a difference certain, and draws that it is judged by, more where they do not do.
SURE, DRAWS = 3.0, (1000, 4000, 16_000)
# Latents, of more than which draws take too much memory.
MOST_LATENTS = 4000
# A guide is near an optimum where that is no more than so many limits away.
NEAR = 100
# Latents whose dependence graph is looked at, points at which that is done, what of second derivatives is
# rounding, and the share of pairs that a sparse factor has at most.
FEW, MANY, POINTS, ROUNDING, SPARSE = 30, 500, 2, 1e-9, 0.25
# k̂ of the best's importance weights above which the approximation gap is probably larger than estimated.
HEAVY = 0.7


@dataclass(frozen=True)
class _Gaps:
    """Nats for the whole data.

    Attributes:
        optimisation, error: ELBO of the best of the family − the guide's, and its standard error.
        left: how much better than the best that was found the family may be, at most.
        approximation, its_error: log p(x) − ELBO of the best, by importance weights.
        doubtful: whether these are so heavy-tailed that it is probably more.
    """

    optimisation: float
    error: float
    left: float
    approximation: float = math.nan
    its_error: float = math.nan
    doubtful: bool = True

    @property
    def most(self) -> float:
        """Nats that there may be to gain."""
        return max(self.optimisation, 0.0) + SURE * self.error + self.left

    def status(self, limit: float) -> Status:
        """Whether more than so many nats are certainly, or certainly not, to be gained."""
        if self.optimisation - SURE * self.error > limit:
            return "warn"
        return "pass" if self.most <= limit else "cannot tell"


def best_of_family(case: Case) -> Found | None:
    """The gap between a normal guide's ELBO and the best of its family's, and that between this and log p(x).

    The guide itself is not touched. Of guides that are not normal nothing is said here.
    """
    if not is_gaussian(case.pair.guide):
        return None
    stage("check: the best of the guide's family", show=case.options.progress)
    try:
        with deadline(SHARE * case.clock.left), target_of(case.pair, *case.data) as target:
            return _judged(case, target)
    except OutOfTime:
        return Found(skipped("family"))
    except Improper as error:
        return Found(Finding("family", "fail", str(error)), {"improper": True})
    except (InputError, NoCurvature) as error:
        return Found(skipped("family", str(error), cut=False))


def _judged(case: Case, target: Target) -> Found:
    if target.dim > MOST_LATENTS:
        said = f"the best of the guide's family is not looked for among {target.dim:,} latents"
        return Found(skipped("family", said, cut=False))
    own, seed = target.guide.read(), case.seed("family")
    small = target.dim <= MOST_DIMENSIONS
    method: Method = NaturalGradients() if small else FixedNoise()
    method.first_draws(own)
    units = case.layout.num_units if case.local else 1
    limit = LIMIT * units
    start = _start(target, own, method, limit, seed)
    found = climb(method, target, start, GaussianOptions(tolerance=limit / 5), seed)
    gaps = _compared(target, found.at, own, found.distance.upper, limit, seed)
    status, name = gaps.status(limit), own.family.name
    by_training = status == "warn" and not gaps.approximation > gaps.optimisation
    return Found(
        Finding("family", status, _said(gaps, status, name)),
        measures={
            "optimisation_gap": gaps.optimisation,
            "optimisation_gap_error": gaps.error,
            "approximation_gap": gaps.approximation,
            "approximation_gap_error": gaps.its_error,
        },
        notes={
            "family": name,
            "sparse": name != "full-rank" and gaps.approximation > limit and _is_sparse(target, found.at),
            "trainer": ("natural.fit" if small else "fixed_noise.fit") if by_training else "",
            "trained": status == "pass" or (status == "warn" and not by_training),
        },
    )


def _is_sparse(target: Target, at: Gaussian) -> bool:
    """Whether a precision with the zeros of the density's own has a sparse factor."""
    dim = target.dim
    if not FEW <= dim <= MANY:
        return False
    points = at.draws(common_noise(POINTS, at.family.noise_dim, 0))
    eye, linked = torch.eye(dim, dtype=torch.float64), torch.zeros(dim, dim, dtype=torch.bool)
    try:
        for point in points[:POINTS]:
            sizes = target.batches.products(point.expand(dim, -1), eye).abs()
            largest = sizes.amax(0)
            linked |= sizes > ROUNDING * (largest * largest.unsqueeze(1)).sqrt()
    except (NoCurvature, OutOfTime):
        return False
    _, later = elimination((linked | linked.T).numpy())
    return sum(map(len, later)) <= SPARSE * dim * (dim - 1) / 2


def _start(target: Target, own: Gaussian, method: Method, limit: float, seed: int) -> Gaussian:
    """The guide where it is near an optimum, else the best of all starts.

    Another mode than the guide's is found by the check of modes, not here.
    """
    with watched():
        target.batches(own.loc.unsqueeze(0))
    draws = max(JUDGES, 4 * target.dim)
    noise = common_noise(draws, own.family.noise_dim, derived(seed, "near"))
    if math.isfinite(target.expect(own, noise).elbo):
        near = method.distance(target, own, noise, draws, derived(seed, "near"))
        if near.upper <= NEAR * limit:
            return own
    return best_start(target, "best", seed)[0].at


def _compared(target: Target, best: Gaussian, own: Gaussian, left: float, limit: float, seed: int) -> _Gaps:
    """The gaps by common draws to which neither was fitted: as many as it takes to be certain."""
    best = best.replaced(best.loc, [
        _aligned(block, *roots)
        for block, *roots in zip(own.family.blocks, best.roots, own.roots, strict=True)
    ])  # fmt: skip
    gaps = _Gaps(math.nan, math.inf, left)
    for size in DRAWS[:1] if target.dim > MOST_DIMENSIONS else DRAWS:
        gaps = _by_draws(target, best, own, left, size, derived(seed, "judges", size))
        if gaps.status(limit) != "cannot tell":
            break
    return gaps


def _by_draws(target: Target, best: Gaussian, own: Gaussian, left: float, size: int, seed: int) -> _Gaps:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.empty(size // 2, own.family.noise_dim, dtype=torch.float64).normal_(generator=generator)
    noise = torch.cat([drawn, -drawn])
    of_best, of_own = (target.expect(at, noise) for at in (best, own))
    if not math.isfinite(of_best.elbo):
        return _Gaps(math.nan, math.inf, left)
    if not math.isfinite(of_own.elbo):
        return _Gaps(math.inf, 0.0, left)
    apart, error = _mean(of_best.values - of_own.values)
    centred = of_best.positions - best.loc
    log_q = 0.5 * (target.dim - (centred * best.whiten(centred)).sum(1)) - best.entropy()
    log_w = of_best.values - log_q
    gaps = apart + best.entropy() - own.entropy(), error, left
    largest = log_w.topk(tail_length(size) + 1).values
    heavy = not float(pareto_k(largest.unsqueeze(1))) <= HEAVY
    weights = (log_w - log_w.logsumexp(0)).exp() * len(log_w)
    mean, its_error = _mean(weights - 1 - log_w)
    return _Gaps(*gaps, mean + float(log_w.logsumexp(0)) - math.log(len(log_w)), its_error, heavy)


def _mean(values: Tensor) -> tuple[float, float]:
    """Of values at draws and their negatives, with its standard error."""
    pairs = values.reshape(2, -1).mean(0)
    return float(pairs.mean()), float(pairs.std()) / math.sqrt(len(pairs))


def _aligned(block: Block, root: Tensor, other: Tensor) -> Tensor:
    """The root of the same covariance that is nearest to another's, so that common draws stay together."""
    if block.kind == "diagonal":
        return root.abs() * other.sign()
    shared = slice(0 if block.kind == "dense" else 1, None)
    unit = block.variances(other).rsqrt().unsqueeze(1)
    left, _, right = torch.linalg.svd((unit * root[:, shared]).T @ (unit * other[:, shared]))
    turned = root[:, shared] @ left @ right
    return turned if block.kind == "dense" else torch.cat([root[:, :1].abs(), turned], 1)


def _said(gaps: _Gaps, status: Status, name: str) -> str:
    if math.isnan(gaps.optimisation):
        return f"the ELBO of the best {name} normal that was found is finite on no common draws"
    more = " or more" if gaps.doubtful else ""
    far = f"{with_error(gaps.approximation, gaps.its_error)} nats{more} from the posterior (KL divergence)"
    if status == "pass":
        return (
            f"no {name} normal has an ELBO more than {gaps.most:.3f} nats above the guide's: it is as good "
            f"as its family allows, {far}"
        )
    if math.isinf(gaps.optimisation):
        return f"the guide's ELBO is −∞, and the best {name} normal is {far}"
    gap = f"{with_error(gaps.optimisation, gaps.error)} nats"
    said = f"the guide's ELBO is {gap} below that of the best {name} normal, which itself is {far}"
    if status == "warn":
        return said
    return f"{said}; up to {gaps.most:.3f} nats may be there to gain"
