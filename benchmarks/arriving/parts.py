"""The five tables: what is run for a row, and what stands in it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from benchmarks import problems
from benchmarks.arriving.cases import (
    Case,
    Timed,
    case_of,
    exact_log_evidence,
    made_regression,
    timed,
)
from benchmarks.arriving.judge import Judge, judge_of
from benchmarks.arriving.races import RATES, Race, best_race, numpyro_racer, pyro_racer
from benchmarks.posteriors import Entry, Target
from benchmarks.posteriors.measures import Normal, nearness
from ppl_vae.inference.fitting import fixed_noise, natural, svi
from ppl_vae.inference.fitting.gaussians.gaussian import Gaussian
from ppl_vae.inference.fitting.observers import Callback

__all__ = ["PARTS", "Part"]

# Nats, the targets' and those by which a peer has arrived.
NEAR = 0.05
# Peers are stopped at so many times our CPU seconds, which decides the targets; of mean-field guides sooner.
TIMES, MEAN_FIELD_TIMES = 6.0, 4.0
# Draws of a look at a peer.
LOOK = 512
Row = tuple[str, ...]
Numbers = dict[str, float]
Found = tuple[Row, Numbers]


@dataclass(frozen=True)
class Part:
    """One table.

    Attributes:
        title, about: above it.
        head: its columns.
        row: of a posterior, or of the part's one case.
        sums: what all rows' numbers say.
        posteriors: whether it has a row for each of them.
    """

    title: str
    about: str
    head: Row
    row: Callable[..., Found]
    sums: Callable[[Sequence[Numbers]], str]
    posteriors: bool = True


def _judged(case: Case, family: str, reference: Normal | None = None) -> Judge:
    """By every start, and the Gaussian with the reference draws' moments."""
    with judge_of(case.pair(family), case.data) as judge:
        own = judge.target.guide.family
        further = (
            []
            if reference is None
            else [("reference draws", own.closest(reference.loc, reference.scale @ reference.scale.T))]
        )
        judge.search(1, *further)
    return judge


def _finer(case: Case, family: str, *fits: Timed) -> Judge:
    """By what goes on from our own answers."""
    with judge_of(case.pair(family), case.data) as judge:
        judge.search(0, *(("natural.fit", judge.guide(one.pair.guide)) for one in fits))
    return judge


# Full rank -------------------------------------------------------------------------------------------


def _full_rank(entry: Entry) -> Found:
    case, target = case_of(entry), Target.of(entry)
    ours = timed(case, "full-rank", natural.fit)
    draws = target.reference().flatten(0, 1)
    judge = _judged(case, "full-rank", Normal.of(draws))
    at = judge.guide(ours.pair.guide)
    judge.consider("natural.fit itself", at)
    below = judge.below(at)
    shift = float(((at.loc - draws.mean(0)) / draws.std(0)).abs().max())
    ratio = at.variances().sqrt() / draws.std(0)
    near = nearness(target, draws).near
    wide = (float(ratio.min()), float(ratio.max()))
    met = shift <= 0.1 and wide[0] >= 0.95 and wide[1] <= 1.05
    return (
        entry.name, str(at.family.dim), f"{ours.seconds:.2f}", str(ours.fit.steps),
        str(ours.fit.distance).removesuffix(" nats"), str(below), judge.name, "yes" if near else "no",
        f"{shift:.3f}", f"{wide[0]:.3f}–{wide[1]:.3f}",
        ("yes" if met else "no") if near else "",
    ), {"below": below.value, "near": near, "met": met, "seconds": ours.seconds}  # fmt: skip


def _sum_full_rank(found: Sequence[Numbers]) -> str:
    normal = [one for one in found if one["near"]]
    return (
        f"Largest distance from the best: {max(one['below'] for one in found):.4f} nats (target {NEAR}); "
        f"{sum(one['below'] <= NEAR for one in found)} of {len(found)} within it. Means within .1 sd and "
        f"sds within 5 %: {sum(one['met'] for one in normal):.0f} of {len(normal)} near normals. CPU time: "
        f"median {statistics.median(one['seconds'] for one in found):.2f} s, at most "
        f"{max(one['seconds'] for one in found):.2f} s."
    )


# Against peers ---------------------------------------------------------------------------------------


def _against(entry: Entry) -> Found:
    with_numpyro = find_spec("numpyro") is not None
    case = case_of(entry)
    ours = [timed(case, "full-rank", natural.fit) for _ in range(2)]
    judge = _finer(case, "full-rank", ours[0])
    cap = TIMES * min(one.seconds for one in ours)

    def below(at: Gaussian, judge: Judge = judge) -> float:
        return judge.below(at, LOOK).value

    races: list[Race | None] = [None, None]
    rates = RATES
    if with_numpyro:
        races[0] = best_race(numpyro_racer(case, "full-rank", judge), below, NEAR, cap)
        rates = (races[0].rate,)
    races[1] = best_race(pyro_racer(case, "full-rank", judge), below, NEAR, cap, rates)
    ours.append(timed(case, "full-rank", natural.fit))
    seconds = statistics.median(one.seconds for one in ours)
    far = judge.below(judge.guide(ours[-1].pair.guide)).value
    row, numbers = [entry.name, f"{seconds:.2f}", f"{far:.3f}"], {}
    for name, found in zip(("NumPyro", "Pyro"), races, strict=True):
        if found is None:
            row += ["not installed", "", ""]
            continue
        ratio = seconds / found.seconds
        numbers[name], numbers[f"{name} arrived"] = ratio, found.arrived
        row += [
            f"{found.seconds:.1f}" if found.arrived else f"never in {found.seconds:.0f}",
            f"{found.steps:,} at {found.rate}" + ("" if found.arrived else f", {found.below:.2g} below"),
            f"{'' if found.arrived else '< '}{ratio:.3f}",
        ]
    return tuple(row), numbers


def _sum_against(found: Sequence[Numbers]) -> str:
    said = []
    for name in ("NumPyro", "Pyro"):
        ratios = [one[name] for one in found if name in one]
        if ratios:
            arrived = sum(one[f"{name} arrived"] for one in found if name in one)
            said.append(
                f"Against {name}: median ratio {statistics.median(ratios):.3f} (target .2), largest "
                f"{max(ratios):.3f} (target 1); it arrived in {arrived:.0f} of {len(ratios)}."
            )
    return " ".join(said)


# Mean-field ------------------------------------------------------------------------------------------


def _mean_field(entry: Entry) -> Found:
    case = case_of(entry)
    held = timed(case, "mean-field", fixed_noise.fit)
    newton = timed(case, "mean-field", natural.fit)
    cap = MEAN_FIELD_TIMES * max(held.seconds, newton.seconds)
    begun = time.process_time()
    enough = Callback(lambda state: time.process_time() - begun >= cap)
    adam = timed(case, "mean-field", svi.fit, num_steps=20_000, lr=0.03, stop=True, observers=[enough])
    judge = _finer(case, "mean-field", newton)
    places = [judge.guide(each.pair.guide) for each in (held, newton, adam)]
    for name, at in zip(("deterministic VI", "natural gradients", "Adam"), places, strict=True):
        judge.consider(name, at)
    below = [judge.below(at) for at in places]
    stock = _stock(case, judge, cap)
    ratios = [held.seconds / adam.seconds, newton.seconds / adam.seconds]
    stopped = adam.seconds >= cap
    return (
        entry.name, *_both(held, below[0].value), *_both(newton, below[1].value),
        f"{'stopped at ' if stopped else ''}{adam.seconds:.2f}", f"{below[2].value:.3f}",
        f"{adam.fit.steps:,}", *(f"{'< ' if stopped else ''}{ratio:.3f}" for ratio in ratios),
        f"{stock.seconds:.1f}" if stock.arrived else f"never in {stock.seconds:.0f}",
    ), {
        "held": ratios[0], "natural": ratios[1], "far": max(below[0].value, below[1].value),
        "adam": below[2].value, "stock": max(held.seconds, newton.seconds) / stock.seconds,
        "arrived": stock.arrived,
    }  # fmt: skip


def _both(one: Timed, below: float) -> Row:
    return f"{one.seconds:.2f}", f"{below:.3f}"


def _stock(case: Case, judge: Judge, cap: float) -> Race:
    def below(at: Gaussian) -> float:
        return judge.below(at, LOOK).value

    return best_race(pyro_racer(case, "mean-field", judge), below, NEAR, cap, (0.03,))


def _sum_mean_field(found: Sequence[Numbers]) -> str:
    held, newton = ([one[name] for one in found] for name in ("held", "natural"))
    stock = [one["stock"] for one in found]
    return (
        f"Deterministic VI and natural gradients end at most {max(one['far'] for one in found):.3f} nats "
        f"below the best, Adam at most {max(one['adam'] for one in found):.3g} (within {NEAR} in "
        f"{sum(one['adam'] <= NEAR for one in found)} of {len(found)}). Time over that of the suite's Adam: "
        f"median {statistics.median(held):.3f} and {statistics.median(newton):.3f}, largest {max(held):.2f} "
        f"and {max(newton):.2f} (target .3). Over stock Pyro's, the slower of the two: median "
        f"{statistics.median(stock):.3f}, largest {max(stock):.2f}; it arrived in "
        f"{sum(one['arrived'] for one in found):.0f}."
    )


# Skills, and a regression with a known answer ----------------------------------------------------------


def _skills() -> Found:
    problem = problems.skills()
    case = Case("skills", problem.model, problem.data)
    ours = [timed(case, "full-rank", natural.fit) for _ in range(3)]
    judge = _judged(case, "full-rank")
    below = judge.below(judge.guide(ours[-1].pair.guide))
    seconds = statistics.median(one.seconds for one in ours)
    distance = str(ours[-1].fit.distance).removesuffix(" nats")
    return (
        ("skills", "107", f"{seconds:.2f}", str(ours[-1].fit.steps), distance, str(below)),
        {"below": below.value, "seconds": seconds},
    )


def _sum_skills(found: Sequence[Numbers]) -> str:
    (one,) = found
    return (
        f"{one['below']:.4f} nats below the best (target {NEAR}) in {one['seconds']:.2f} CPU s (target 10)."
    )


def _regression() -> Found:
    case = made_regression()
    ours = timed(case, "full-rank", natural.fit)
    exact = exact_log_evidence(*case.data)
    final = ours.fit.final
    gap = exact - final.value
    return (
        (
            case.name, f"{exact:.4f}", f"{final.value:.4f} ± {final.std_error:.1g}", f"{gap:.2g}",
            str(ours.fit.steps), f"{ours.seconds:.2f}",
        ),
        {"gap": gap},
    )  # fmt: skip


def _sum_regression(found: Sequence[Numbers]) -> str:
    return f"The ELBO is {found[0]['gap']:.2g} nats below log p(x), which it can equal."


PARTS: dict[str, Part] = {
    "full-rank": Part(
        "Full-rank guides",
        "`natural.fit` from the guide's making to the end. Best: of runs from four starts (guide, prior, "
        "Pathfinder, mode) and from the reference draws' moments, the best of which went on to a "
        "thousandth of a nat; paired differences on 20,000 common draws. Means and sds beside 10,000 "
        "reference draws on the unconstrained scale, whose own errors are .01 sd and .7 %.",
        ("posterior", "numbers", "CPU s", "iterations", "its own estimate, nats", "below the best, nats",
         "the best's start", "near normal", "largest shift of a mean, sd", "sd ratios", "within targets"),
        _full_rank, _sum_full_rank,
    ),
    "peers": Part(
        "Time against Adam in Pyro and NumPyro",
        "CPU seconds to an ELBO within .05 nats of the best (ours, gone on to a thousandth of a nat), "
        "tracing and compiling included. NumPyro: AutoMultivariateNormal, Adam in a compiled scan, the "
        "best of the rates .1, .03 and .01; Pyro: AutoMultivariateNormal, stock SVI, at NumPyro's best "
        "rate. Looks at the ELBO are not counted. Both are stopped at six times our "
        "seconds or more: where a peer never arrives the ratio is ours over what it had taken. Ours: the "
        "median of three, before and after the peers'.",
        ("posterior", "ours, s", "below the best, nats", "NumPyro, s", "steps", "ratio", "Pyro, s", "steps",
         "ratio"),
        _against, _sum_against,
    ),
    "mean-field": Part(
        "Mean-field guides",
        "CPU seconds and nats below the best of deterministic VI (`fixed_noise.fit`), natural gradients "
        "(`natural.fit`) and the suite's Adam (`svi.fit`, rate .03, its own stopping rule, at most 20,000 "
        "steps, stopped at four times the slower of the other two or more), by 20,000 common draws. Stock "
        "Pyro's Adam at the same rate: CPU seconds to within .05 nats, stopped as the "
        "suite's. `fit` chooses natural gradients for mean-field guides of up to 500 latents.",
        ("posterior", "deterministic, s", "below", "natural, s", "below", "Adam, s", "below", "steps",
         "ratio, deterministic", "ratio, natural", "Pyro, s"),
        _mean_field, _sum_mean_field,
    ),
    "skills": Part(
        "Skills of 107 players from 1,801 games, full-rank",
        "`natural.fit`, the median time of three; the best of runs from four starts, 20,000 common draws.",
        ("model", "numbers", "CPU s", "iterations", "its own estimate, nats", "below the best, nats"),
        _skills, _sum_skills, posteriors=False,
    ),
    "regression": Part(
        "A regression whose log p(x) is known, full-rank",
        "200 rows, y = 25 + .6 a − 10 b + .2 a b + noise of sd 18, a ~ N(100, 15²), b binary, weights "
        "N(0, 100²): unstandardised, with correlated covariates. Adam with the suite's stopping rule once "
        "ended .28 nats below, after 57 s.",
        ("model", "log p(x)", "ELBO", "below", "iterations", "CPU s"),
        _regression, _sum_regression, posteriors=False,
    ),
}  # fmt: skip
