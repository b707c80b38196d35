"""How draws that answer many simulated data sets are made: by a guide, by NUTS, by a formula, by a caller."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ppl_vae.base.clock import OutOfTime, check_time, time_left
from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import derived, seeded
from ppl_vae.engine.compiler import fall_back
from ppl_vae.engine.graph import Compile, Untraceable, check_compile
from ppl_vae.inference.fitting import svi
from ppl_vae.inference.fitting.refits import Refits, Refitter, parameters_at
from ppl_vae.inference.samplers import nuts
from ppl_vae.inference.samplers.chains import ChainSettings
from ppl_vae.inference.samplers.exact import sampled
from ppl_vae.inference.samplers.many_data import Chained, ManyData, thinning
from ppl_vae.program.abilities import ExactPosterior
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem
from ppl_vae.program.program_names import name_of

if TYPE_CHECKING:
    from ppl_vae.answers.posterior import Posterior

__all__ = [
    "Answers",
    "Called",
    "Data",
    "Exact",
    "GuideAsItIs",
    "Refitted",
    "ThinnedNuts",
    "reads_data",
]

Data = tuple[Any, ...]
Draws = Mapping[str, Tensor]

# Every fourth draw is kept of the first chains, which tell how many must be skipped.
FIRST_THINNING = 4
PILOT_SETS = 8
# Numbers in the largest site of a block of refits.
BLOCK = 2**23


class Answers(Protocol):
    """Draws from what is claimed to be p(z | x), for block after block of data sets.

    Attributes:
        method: its name.
        block: how many data sets it takes at once.
    """

    method: str
    block: int

    @property
    def late(self) -> bool:
        """Whether something was to be compiled, and there was no time for it."""
        ...

    def __call__(self, data_sets: Sequence[Data], first: int) -> list[Draws]:
        """By data set and site, draws of shape (L, *plates, *event); ``first`` numbers the data sets."""
        ...

    def notes(self) -> list[str]:
        """What there is to say at the end."""
        ...


def reads_data(problem: Problem, data: Data, other: Data) -> bool:
    """Whether a guide's draws depend on its data: one that ignores them knows only those it was fitted to."""
    found = []
    for one in (data, other):
        with seeded(0), torch.no_grad():
            found.append(replace(problem, data=one).terms().draws)
    return any(not torch.equal(found[0][name], found[1][name]) for name in problem.layout.latents)


class GuideAsItIs:
    """A guide that reads its data: nothing is fitted."""

    method = "guide"
    block = 1
    late = False

    def __init__(self, problem: Problem, num_draws: int, seed: int) -> None:
        self.problem, self.num_draws, self.seed = problem, num_draws, seed

    def __call__(self, data_sets: Sequence[Data], first: int) -> list[Draws]:
        """See `Answers`."""
        return [self._draws(data, first + number) for number, data in enumerate(data_sets)]

    def _draws(self, data: Data, number: int) -> Draws:
        problem = replace(self.problem, data=data)
        with seeded(derived(self.seed, 2, number)), torch.no_grad():
            parts = [problem.terms(size).draws for size in problem.blocks(self.num_draws)]
        return {name: torch.cat([part[name] for part in parts]) for name in problem.layout.latents}

    def notes(self) -> list[str]:
        """Nothing."""
        return []


class Refitted:
    """A guide of free parameters, fitted anew to every data set, the model held.

    Args:
        problem: the present parameters of its pair are where every fit starts.
        num_data_sets: how many are to come.
        num_draws: L.
        num_steps, num_particles, lr, compile: of the fits; see `refits.Refitter`.
        most: data sets in a block, at most.
        seed: of noise and draws.
    """

    method = "guide, refitted"

    def __init__(
        self,
        problem: Problem,
        num_data_sets: int,
        num_draws: int,
        *,
        num_steps: int,
        num_particles: int,
        lr: float | None,
        compile: Compile,
        most: int,
        seed: int,
    ) -> None:
        self.problem, self.pair, self.seed = problem, problem.pair, seed
        self.num_steps, self.num_particles = num_steps, num_particles
        self.lr, self.compile = lr, compile
        layout = problem.layout
        fitting = max(1, BLOCK // (num_particles * layout.num_units * layout.event_size))
        blocks = -(-num_data_sets // min(most, fitting))
        self.block = -(-num_data_sets // blocks)
        self.draw = GuideAsItIs(problem, num_draws, seed)
        self.fits: list[Refits] = []
        self.refitter: Refitter | None = None
        self.together = check_compile(compile) != "off"
        if not problem.pair.parameters("guide"):
            raise InputError("the guide has no parameters of its own to be fitted to other data sets")

    @property
    def late(self) -> bool:
        """See `Answers`."""
        return self.refitter is not None and self.refitter.late

    def __call__(self, data_sets: Sequence[Data], first: int) -> list[Draws]:
        """See `Answers`."""
        fitted = self._fitted(data_sets, first)
        found = []
        for number, data in enumerate(data_sets):
            with parameters_at(self.pair, {name: value[number] for name, value in fitted.items()}):
                found += self.draw([data], first + number)
        return found

    def _fitted(self, data_sets: Sequence[Data], first: int) -> dict[str, Tensor]:
        if self.together and self.refitter is None:
            try:
                self.refitter = Refitter(
                    replace(self.problem, data=data_sets[0]), data_sets[-1], size=self.block,
                    num_steps=self.num_steps, num_particles=self.num_particles, lr=self.lr,
                    compile=self.compile,
                )  # fmt: skip
            except Untraceable as reason:
                fall_back("the refitting of the guide", reason, "takes one data set after another")
                self.together, self.block = False, 1
            else:
                # What would not end in time is not begun.
                if self.refitter.estimate() > time_left():
                    raise OutOfTime
        if self.refitter is None:
            alone = [self._alone(data, first + number) for number, data in enumerate(data_sets)]
            return {name: torch.stack([one[name] for one in alone]) for name in alone[0]}
        self.fits.append(self.refitter(data_sets, derived(self.seed, 3, first)))
        return self.fits[-1].parameters

    def _alone(self, data: Data, number: int) -> dict[str, Tensor]:
        leaves = self.pair.parameters("guide")
        with parameters_at(self.pair, {name: leaf.detach().clone() for name, leaf in leaves.items()}):
            svi.fit(
                self.pair, *data, num_steps=self.num_steps, num_particles=self.num_particles,
                lr=0.05 if self.lr is None else self.lr, average=0.1, train="guide",
                seed=derived(self.seed, 3, number), progress=False,
            )  # fmt: skip
            return {name: leaf.detach().clone() for name, leaf in leaves.items()}

    def notes(self) -> list[str]:
        """How the fits ended."""
        if not self.fits or self.refitter is None:
            return []
        rise = torch.cat([fit.rise for fit in self.fits]) / self.problem.layout.num_units
        fits = self.fits[0]
        found = [
            f"{len(rise)} fits of at most {max(fit.steps for fit in self.fits)} steps with learning rate "
            f"{fits.lr:g}; their last round raised the ELBO by {float(rise.mean()):.2g} nats a unit on "
            "average"
        ]
        if float(rise.mean()) > 0.02:
            found.append("the refits had not come to rest: give them more steps before believing a failure")
        return found


class ThinnedNuts:
    """NUTS on one data set after another, thinned to near independence.

    Args:
        pair: its model is sampled.
        num_data_sets: how many are to come.
        num_draws: L, of all chains together.
        units: simulations in each of them.
        chains, warmup, target_accept: of NUTS.
        compile: as in `nuts.sample`.
        seed: of the chains.
    """

    method = "nuts"

    def __init__(
        self,
        pair: Pair,
        num_data_sets: int,
        num_draws: int,
        *,
        units: int = 1,
        chains: int = 2,
        warmup: int = 300,
        target_accept: float = 0.8,
        compile: Compile = "auto",
        seed: int = 0,
    ) -> None:
        self.pair, self.num_data_sets, self.num_draws, self.seed = pair, num_data_sets, num_draws, seed
        self.block = max(1, PILOT_SETS // units)
        self.compile, self.each = compile, -(-num_draws // chains)
        self.settings = ChainSettings(
            FIRST_THINNING * self.each, warmup, chains, target_accept, max_tree_depth=10, seed=seed
        )
        self.thinning, self.diverged = 0, 0
        self.sampler: ManyData | None = None
        self.traceable = True

    @property
    def late(self) -> bool:
        """See `Answers`."""
        return self.sampler is not None and self.sampler.gradient.late

    def __call__(self, data_sets: Sequence[Data], first: int) -> list[Draws]:
        """See `Answers`."""
        chained: list[Chained] = []
        if not self.thinning:
            self.thinning = FIRST_THINNING
            chained = [self._run(data, first + number) for number, data in enumerate(data_sets)]
            self.thinning = thinning(chained)
            if self.thinning > FIRST_THINNING:
                chained = []
        apart = FIRST_THINNING if chained else self.thinning
        if not chained:
            chained = [self._run(data, first + number) for number, data in enumerate(data_sets)]
        self.diverged += sum(one.divergences > 0 for one in chained)
        return [self._thinned(one, apart) for one in chained]

    def _thinned(self, one: Chained, apart: int) -> Draws:
        return {
            name: value[:, apart - 1 :: apart].flatten(0, 1)[: self.num_draws]
            for name, value in one.draws.items()
        }

    def _run(self, data: Data, number: int) -> Chained:
        check_time()
        seed = derived(self.seed, 2, number) % 2**32
        num_draws = self.thinning * self.each
        if self.traceable:
            try:
                if self.sampler is None:
                    self.sampler = ManyData(
                        self.pair, *data, settings=self.settings, num_data_sets=self.num_data_sets,
                        compile=self.compile,
                    )  # fmt: skip
                return self.sampler(data, seed, num_draws)
            except Untraceable as reason:
                fall_back("NUTS on simulated data", reason, "starts afresh on every data set")
                self.traceable = False
        return self._afresh(data, seed, num_draws)

    def _afresh(self, data: Data, seed: int, num_draws: int) -> Chained:
        settings = self.settings
        found = nuts.sample(
            self.pair, *data, num_draws=num_draws, warmup=settings.warmup, chains=settings.chains,
            target_accept=settings.target_accept, compile=self.compile, seed=seed, progress=False,
        )  # fmt: skip
        draws = {str(name): torch.as_tensor(values.to_numpy()) for name, values in found.draws.items()}
        flat = torch.cat([value.double().flatten(2) for value in draws.values()], dim=-1).numpy()
        density = found.stats["lp"].to_numpy() if "lp" in found.stats else flat[..., 0]
        return Chained(draws, flat, density, int(found.stats["diverging"].sum()))

    def notes(self) -> list[str]:
        """How the chains went."""
        found = [f"NUTS keeps every {self.thinning}th draw, so that kept draws are nearly independent"]
        if self.diverged:
            found.append(f"transitions of NUTS diverged on {self.diverged} simulated data sets")
        return found


class Exact:
    """Independent draws by the model's own formula."""

    method = "exact"
    block = 1
    late = False

    def __init__(self, pair: Pair, num_draws: int, seed: int) -> None:
        if not isinstance(pair.model, ExactPosterior):
            raise InputError(
                f"{name_of(pair.model)} does not know its exact posterior; calibrate NUTS or the guide"
            )
        self.model, self.pair, self.num_draws, self.seed = pair.model, pair, num_draws, seed

    def __call__(self, data_sets: Sequence[Data], first: int) -> list[Draws]:
        """See `Answers`."""
        found: list[Draws] = []
        for number, data in enumerate(data_sets):
            with seeded(derived(self.seed, 2, first + number)), self.pair.scope(), torch.no_grad():
                found.append(sampled(self.model.exact_posterior(*data), torch.Size([self.num_draws])))
        return found

    def notes(self) -> list[str]:
        """Nothing."""
        return []


class Called:
    """Whatever answers a caller's own function gives."""

    block = 1
    late = False

    def __init__(self, function: Callable[..., Posterior], num_draws: int, seed: int) -> None:
        self.function, self.num_draws, self.seed = function, num_draws, seed
        self.method = getattr(function, "__name__", type(function).__name__)

    def __call__(self, data_sets: Sequence[Data], first: int) -> list[Draws]:
        """See `Answers`."""
        return [self._draws(data, first + number) for number, data in enumerate(data_sets)]

    def _draws(self, data: Data, number: int) -> Draws:
        found = self.function(*data, num_draws=self.num_draws, seed=derived(self.seed, 2, number))
        if found.num_draws < self.num_draws:
            raise InputError(
                f"{self.method} gave {found.num_draws} draws; calibration asked it for {self.num_draws}"
            )
        # Many draws are thinned evenly: their ranks take them for independent.
        apart = found.num_draws // self.num_draws
        draws = {}
        for name, values in found.draws.items():
            ordered = torch.as_tensor(values.transpose("chain", "draw", ...).to_numpy()).flatten(0, 1)
            draws[str(name)] = ordered[apart - 1 :: apart][: self.num_draws]
        return draws

    def notes(self) -> list[str]:
        """Nothing."""
        return []
