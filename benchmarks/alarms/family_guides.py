"""The best normals of each family, and the same a known number of nats short of it."""

from collections.abc import Callable, Mapping
from functools import cache, partial

from pyro.infer.autoguide import AutoLowRankMultivariateNormal, AutoMultivariateNormal, AutoNormal

from benchmarks.alarms.problems import Problem
from ppl_vae.inference import natural, svi
from ppl_vae.inference.fitting.gaussians.gaussian import Gaussian
from ppl_vae.inference.fitting.gaussians.target import target_of
from ppl_vae.program.pair import Pair, Program

__all__ = ["BEST", "FAMILIES", "SHORT", "TOLERANCE", "best_beside"]

KINDS: Mapping[str, Callable[[Program], Program]] = {
    "full-rank": AutoMultivariateNormal, "low-rank": AutoLowRankMultivariateNormal, "mean-field": AutoNormal,
}  # fmt: skip
# Nats within which the optimum is.
TOLERANCE = 0.005
# Of a normal posterior the best guide with scales so much too large loses .08 nats a number, and with its
# mean's first number so many sd off, the others along with it, .125.
SCALE, SHIFT = 1.3, 0.5
# Adam's steps in a fit that is stopped early.
EARLY = 1000


@cache
def _best(problem: Problem, kind: str) -> Gaussian:
    pair = Pair(problem.model, KINDS[kind](problem.model))
    natural.fit(pair, *problem.data, tolerance=TOLERANCE, progress=False)
    with target_of(pair, *problem.data) as target:
        return target.guide.read()


def best_beside(problem: Problem, name: str, guide: Program) -> tuple[Gaussian, Gaussian]:
    """The best of the family of one of these guides, and the guide itself."""
    with target_of(Pair(problem.model, guide), *problem.data) as target:
        own = target.guide.read()
    return _best(problem, next(kind for kind in KINDS if kind in name)), own


def _made(problem: Problem, kind: str, scale: float = 1.0, shift: float = 0.0) -> Program:
    found, guide = _best(problem, kind), KINDS[kind](problem.model)
    covariance = found.covariance()
    loc = found.loc + shift * covariance[0] / covariance[0, 0].sqrt()
    with target_of(Pair(problem.model, guide), *problem.data) as target:
        target.guide.write(found.replaced(loc, [scale * root for root in found.roots]))
    return guide


def _stopped(problem: Problem) -> Program:
    guide = AutoMultivariateNormal(problem.model)
    svi.fit(
        Pair(problem.model, guide), *problem.data, num_steps=EARLY, lr=problem.lr, train="guide",
        progress=False,
    )  # fmt: skip
    return guide


BEST: Mapping[str, Callable[[Problem], Program]] = {
    f"best {kind}": partial(_made, kind=kind) for kind in KINDS
}
SHORT: Mapping[str, Callable[[Problem], Program]] = {
    **{f"best {kind}, scales times {SCALE:g}": partial(_made, kind=kind, scale=SCALE) for kind in KINDS},
    **{f"best {kind}, {SHIFT:g} sd off": partial(_made, kind=kind, shift=SHIFT) for kind in KINDS},
    "full-rank, stopped early": _stopped,
}
FAMILIES = {**BEST, **SHORT}
