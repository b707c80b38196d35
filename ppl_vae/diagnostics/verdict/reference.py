"""A reference posterior within a time budget: NUTS, longer and more careful until it passes its checks."""

from dataclasses import dataclass, replace
from typing import Any

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.clock import Clock, OutOfTime, deadline
from ppl_vae.base.errors import InputError
from ppl_vae.diagnostics.comparison.compare import Identifiable
from ppl_vae.diagnostics.comparison.mixing import ESS_LIMIT, fewest_effective, judge_reference
from ppl_vae.inference.samplers import nuts
from ppl_vae.inference.samplers.nuts import Mass
from ppl_vae.program.pair import Pair

__all__ = ["Sampled", "nuts_within_budget"]

# Starts far apart find modes that fewer chains would miss: of two equal modes, eight chains miss one in one
# run of 128. Starting at Pathfinder's draws would put all into the mode that it weighs most, and costs more
# than it saves: on regressions 2 processor seconds in place of 1, for as many effective draws.
CHAINS = 8
# Share of what a longer attempt is expected to take that must be left for it to be begun.
WORTH_TRYING = 0.8
# The most by which a longer attempt is taken to multiply the effective draws of the one before: it draws
# three times as many, by steps that lose less. Chains that stick in a funnel's neck, or in modes of their
# own, need another form of the model, and what they would take is better spent on the other checks.
MOST_GAINED = 10
UNCOMPILED = "NUTS ran uncompiled, since there was no time for compiling"


@dataclass(frozen=True)
class _Round:
    """One attempt, and roughly what it costs beside the others."""

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


@dataclass(frozen=True)
class Sampled:
    """What came of it.

    Attributes:
        posterior: the last finished attempt's draws; None where there was no time for any.
        ok: whether they passed their checks.
        reasons: a sentence for each check that failed, or why there are no draws.
        cut: whether the time ended it, or chose how it ran.
        note: what there is to say of draws that passed, or nothing.
    """

    posterior: Posterior | None
    ok: bool
    reasons: tuple[str, ...]
    cut: bool = False
    note: str = ""


def nuts_within_budget(
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

    The first attempt is always begun. A longer one is begun where the pace of the one before lets it end in
    time, and the last only where the chains before it mixed well enough for it to pass; what has not ended by
    then is given up, and what was finished before stands.

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
    found = Sampled(
        None, False, (f"NUTS had not finished its shortest run when its {seconds:.0f} s were over",), cut=True
    )
    needed, effective = 0.0, 0.0
    for number, attempt in enumerate(ROUNDS):
        if number > 1 and MOST_GAINED * effective < ESS_LIMIT:
            more = (f"a longer run is unlikely to pass where so few draws count as {effective:.0f}",)
            return replace(found, reasons=found.reasons + more)
        if number and clock.left < WORTH_TRYING * needed:
            more = (f"a longer run takes about {needed:.0f} s, and {clock.left:.0f} s were left for it",)
            return replace(found, reasons=found.reasons + more, cut=True)
        try:
            with deadline(clock.left):
                posterior = _attempt(attempt, pair, data, local, coords, seed + number, progress)
        except OutOfTime:
            also = ("a longer run did not end in time",)
            return replace(found, reasons=found.reasons + also, cut=True) if number else found
        except InputError as error:
            if number:
                return found
            return Sampled(None, False, (f"NUTS does not run on this model: {error}",))
        judged = posterior if identifiable is None else posterior.map(identifiable(posterior.draws))
        summary = judged.summary()
        ok, reasons = judge_reference(judged, summary)
        effective = fewest_effective(summary)
        late = bool(posterior.stats.attrs.get("late", False))
        note = UNCOMPILED if late else ""
        found = Sampled(replace(posterior, seconds=clock.spent), ok, reasons, late, note)
        if ok:
            break
        sampling = posterior.seconds - float(posterior.stats.attrs.get("compile_seconds", 0.0))
        needed = sampling * ROUNDS[min(number + 1, len(ROUNDS) - 1)].cost / attempt.cost
    return found


def _attempt(
    attempt: _Round,
    pair: Pair,
    data: tuple[Any, ...],
    local: bool,
    coords: dict[str, Any],
    seed: int,
    progress: bool,
) -> Posterior:
    mass: Mass = "diagonal" if local else "low-rank"
    return nuts.sample(
        pair,
        *data,
        num_draws=attempt.num_draws,
        warmup=attempt.warmup,
        chains=CHAINS,
        mass=mass,
        target_accept=attempt.target_accept,
        max_tree_depth=attempt.max_tree_depth,
        coords=coords,
        seed=seed,
        progress=progress,
    )
