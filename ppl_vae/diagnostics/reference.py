"""A reference posterior within a time budget: NUTS, longer and more careful until it passes its checks."""

from dataclasses import dataclass, replace
from typing import Any

from ppl_vae.diagnostics.budget import Clock
from ppl_vae.diagnostics.compare import Identifiable, judge_reference
from ppl_vae.errors import InputError
from ppl_vae.inference import nuts
from ppl_vae.inference.nuts import Mass
from ppl_vae.posterior import Posterior
from ppl_vae.program import Pair

__all__ = ["Sampled", "within"]

# Starts far apart find modes that fewer chains would miss: of two equal modes, eight chains miss one in one
# run of 128.
CHAINS = 8
# Compiling a gradient takes about this long, in seconds.
COMPILING = 6.0


@dataclass(frozen=True)
class _Round:
    """One attempt, and roughly what it costs in units of `_pace`."""

    warmup: int
    num_draws: int
    target_accept: float
    max_tree_depth: int
    cost: float


# Longer, and with smaller steps, each time.
ROUNDS = (
    _Round(300, 250, 0.8, 8, 20.0),
    _Round(600, 800, 0.9, 10, 60.0),
    _Round(1000, 2500, 0.99, 10, 250.0),
)


def _pace(pair: Pair, data: tuple[Any, ...], seed: int) -> float | None:
    """Seconds for 50 short iterations of a traced graph; None where the model has no graph.

    Two pilots, of 50 and of 150 iterations, so that importing and tracing are not counted.
    """
    seconds = []
    for warmup, draws in ((20, 5), (60, 15)):
        pilot = nuts.sample(
            pair, *data, num_draws=draws, warmup=warmup, chains=2, max_tree_depth=4, seed=seed, progress=False
        )
        if pilot.stats.attrs.get("sampler") == "pyro":
            return None
        seconds.append(pilot.seconds)
    return max(0.01, (seconds[1] - seconds[0]) / 2)


@dataclass(frozen=True)
class Sampled:
    """What came of it.

    Attributes:
        posterior: the last attempt's draws; None where there was no time for any.
        ok: whether they passed their checks.
        reasons: a sentence for each check that failed, or why there are no draws.
    """

    posterior: Posterior | None
    ok: bool
    reasons: tuple[str, ...]


def within(
    seconds: float,
    pair: Pair,
    *data: Any,
    local: bool,
    coords: dict[str, Any],
    identifiable: Identifiable | None,
    seed: int,
    progress: bool,
) -> Sampled:
    """NUTS until R-hat, ESS and divergences are as a reference needs them, or the time is up.

    A pilot of a few iterations says what an attempt costs; one that would not fit is not begun. A single
    attempt on a difficult posterior may still overrun.

    Args:
        seconds: the time there is.
        pair: its model is sampled.
        data: the model's data.
        local: whether the latents belong to rows, so that most pairs of them are independent.
        coords: labels of dimensions.
        identifiable: what has to mix, where the latents have a symmetry.
        seed: of the chains.
        progress: whether to show progress bars on a terminal.
    """
    clock = Clock(seconds)
    mass: Mass = "diagonal" if local else "low-rank"
    try:
        pace = _pace(pair, data, seed)
    except InputError as error:
        return Sampled(None, False, (f"NUTS does not run on this model: {error}",))
    if pace is None:
        return Sampled(None, False, ("NUTS would have to run uncompiled, for which there is no time",))
    found = Sampled(None, False, ("there is no time for NUTS: give a larger budget",))
    compiling = COMPILING
    for number, attempt in enumerate(ROUNDS):
        chains = CHAINS
        if clock.left < compiling + attempt.cost * pace:
            if number or clock.left < compiling + 0.5 * attempt.cost * pace:
                return found
            chains = CHAINS // 2
        posterior = nuts.sample(
            pair,
            *data,
            num_draws=attempt.num_draws,
            warmup=attempt.warmup,
            chains=chains,
            mass=mass,
            target_accept=attempt.target_accept,
            max_tree_depth=attempt.max_tree_depth,
            coords=coords,
            seed=seed + number,
            progress=progress,
        )
        judged = posterior if identifiable is None else posterior.map(identifiable(posterior.draws))
        ok, reasons = judge_reference(judged)
        found = Sampled(replace(posterior, seconds=clock.spent), ok, reasons)
        if ok:
            break
        compiled_in = float(posterior.stats.attrs.get("compile_seconds", 0.0))
        pace = (posterior.seconds - compiled_in) / attempt.cost * CHAINS / chains
        compiling = 0.0
    return found
