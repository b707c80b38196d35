"""Other guides for the same model, side by side: what each family would have answered, and its price."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import derived, seeded
from ppl_vae.guides import named
from ppl_vae.guides.chain_normal import ChainNormal
from ppl_vae.inference.fitting import ep, linear_response, natural, svi
from ppl_vae.inference.fitting.factors import quadrature
from ppl_vae.inference.fitting.propagation.factors import is_for
from ppl_vae.inference.fitting.started import started_guide
from ppl_vae.inference.samplers import guide, laplace
from ppl_vae.program.pair import Pair, Program
from ppl_vae.program.pairwise import as_linear

__all__ = [
    "Flow",
    "FullRank",
    "Laplace",
    "LowRank",
    "MeanField",
    "Named",
    "OwnGuide",
    "Propagation",
    "Response",
    "alternatives",
]


@dataclass(frozen=True)
class Budget:
    """What a guide's fit may cost: see `svi.fit`."""

    num_steps: int
    lr: float
    num_particles: int
    num_draws: int
    progress: bool


class FittedFamily:
    """A family whose guide is fitted by SVI."""

    name: str

    def guide(self, model: Program, data: tuple[Any, ...], seed: int) -> Program:
        """A guide of the family, not fitted."""
        return started_guide(self.name, model, *data, seed=seed)

    def answer(self, model: Program, data: tuple[Any, ...], budget: Budget, seed: int) -> Posterior:
        """Fit it, and draw.

        Raises:
            InputError: for a model that the family cannot serve.
        """
        return _fitted(Pair(model, self.guide(model, data, seed)), data, budget, seed)


@dataclass(frozen=True)
class Named(FittedFamily):
    """A family by its name in `guides.named`.

    Args:
        name: of the family.
    """

    name: str


@dataclass(frozen=True)
class MeanField(FittedFamily):
    """Independent normals in unconstrained space (Kucukelbir et al. 2017)."""

    name = "mean-field"


@dataclass(frozen=True)
class FullRank(FittedFamily):
    """One normal with full covariance in unconstrained space (Kucukelbir et al. 2017)."""

    name = "full-rank"


@dataclass(frozen=True)
class LowRank(FittedFamily):
    """One normal with a covariance of low rank plus a diagonal (Ong et al. 2018).

    Args:
        rank: about √(number of latents) by default.
    """

    rank: int | None = None
    name = "low-rank"

    def guide(self, model: Program, data: tuple[Any, ...], seed: int) -> Program:
        """A guide of the family, not fitted."""
        return named.low_rank(model, self.rank)


@dataclass(frozen=True)
class Flow(FittedFamily):
    """Inverse autoregressive flows over all latents (Kingma et al. 2016); needs at least two.

    Args:
        num_transforms: flows in sequence.
        hidden: hidden units of each one's network, at least the number of latents.
    """

    num_transforms: int = 2
    hidden: int = 32
    name = "flow"

    def guide(self, model: Program, data: tuple[Any, ...], seed: int) -> Program:
        """A guide of the family, not fitted."""
        return named.flow(model, self.num_transforms, self.hidden)


@dataclass(frozen=True)
class Laplace:
    """The Gaussian at the mode, in unconstrained space: no SVI; see `inference.laplace`."""

    name = "laplace"

    def answer(self, model: Program, data: tuple[Any, ...], budget: Budget, seed: int) -> Posterior:
        """Find the mode, and draw."""
        start = time.perf_counter()
        pair, cast = laplace.approximation(model, *data, seed=seed)
        found = guide.draws(pair, *cast, num_draws=budget.num_draws, seed=derived(seed, 1))
        return replace(found, seconds=time.perf_counter() - start)


@dataclass(frozen=True)
class Response:
    """The mean-field optimum with covariances by linear response: no SVI; see `inference.linear_response`."""

    name = "linear-response"

    def answer(self, model: Program, data: tuple[Any, ...], budget: Budget, seed: int) -> Posterior:
        """Find the optimum, and draw.

        Raises:
            InputError: as `linear_response.posterior` does.
        """
        pair = Pair(model, named.named_guide("mean-field", model)).initialise(*data, seed=seed)
        return linear_response.posterior(
            pair, *data, num_draws=budget.num_draws, seed=seed, progress=budget.progress
        )


@dataclass(frozen=True)
class Propagation:
    """Independent chains of Gaussian states by expectation propagation: no SVI; see `inference.ep`."""

    name = "ep"

    def answer(self, model: Program, data: tuple[Any, ...], budget: Budget, seed: int) -> Posterior:
        """Find the fixed point, and draw.

        Raises:
            InputError: as `ep.fit` does.
        """
        start = time.perf_counter()
        chains = as_linear(model) or model
        drifts = is_for(model) and len(chains.normal_prior()[1].sizes) > 1  # type: ignore[union-attr]
        own = ChainNormal(model) if drifts else named.named_guide("mean-field", model)
        pair = Pair(model, own).initialise(*data, seed=seed)
        ep.fit(pair, *data, seed=seed, progress=budget.progress)
        found = guide.draws(pair, *data, num_draws=budget.num_draws, seed=derived(seed, 1))
        return replace(found, seconds=time.perf_counter() - start)


@dataclass(frozen=True)
class OwnGuide:
    """A guide that a model of linear factors offers under a name of its own, such as sparse-precision, by the
    method that takes it to its optimum: natural gradients, or expectation propagation of rankings.

    Args:
        name: among the model's guides.
    """

    name: str

    def answer(self, model: Program, data: tuple[Any, ...], budget: Budget, seed: int) -> Posterior:
        """Find the optimum, and draw.

        Raises:
            InputError: as the method does.
        """
        start = time.perf_counter()
        pair = Pair(model, _own_guides(model)[self.name](model, *data)).initialise(*data, seed=seed)
        if quadrature.fits(pair):
            natural.fit(pair, *data, seed=seed, progress=budget.progress)
        else:
            ep.fit(pair, *data, seed=seed, progress=budget.progress)
        found = guide.draws(pair, *data, num_draws=budget.num_draws, seed=derived(seed, 1))
        return replace(found, seconds=time.perf_counter() - start)


def _own_guides(model: Program) -> Mapping[str, Callable[..., Program]]:
    """The guides that a model of linear factors offers itself."""
    found: Mapping[str, Callable[..., Program]] = getattr(model, "guides", {}) if is_for(model) else {}
    return found


Family = FittedFamily | Laplace | Response | Propagation | OwnGuide


def alternatives(
    model: Program,
    *data: Any,
    guides: Sequence[str | Family] = (
        "mean-field",
        "full-rank",
        "low-rank",
        "flow",
        "laplace",
        "linear-response",
    ),
    num_steps: int = 3000,
    lr: float = 0.02,
    num_particles: int = 4,
    num_draws: int = 4000,
    reweighted: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Posterior]:
    """What other families of guides answer, the model's parameters held.

    Each family is fitted by SVI (Laplace, linear response, EP and models' own guides without) and drawn from.
    The answers go into one `compare` with NUTS or exact draws; their ``seconds`` are those of fit and draws
    together.

    Args:
        model: a Pyro model with continuous latents.
        data: its data, all of it at every step.
        guides: families by name, or with options of their own (``LowRank(rank=3)``); of models of linear
            factors also the guides that they offer under names of their own (sparse-precision, markov).
        num_steps, lr, num_particles: of each fit; the last quarter of the steps is averaged.
        num_draws: of each answer.
        reweighted: add every answer once more, resampled by its importance weights.
        seed: of fits and draws.
        progress: whether to show progress bars on a terminal.

    Returns:
        Answers by family. A family that cannot serve the model is left out with a warning.

    Raises:
        InputError: for an unknown name, or if no family can serve.
    """
    families = [_family(each, model) for each in guides]
    budget = Budget(num_steps, lr, num_particles, num_draws, progress)
    found: dict[str, Posterior] = {}
    reasons = []
    for family in families:
        own = derived(seed, family.name)
        try:
            answer = family.answer(model, data, budget, own)
        except InputError as error:
            reasons.append(f"{family.name} is left out: {error}")
            continue
        found[family.name] = replace(answer, method=family.name)
        if reweighted:
            found[f"{family.name}, reweighted"] = answer.resampled(derived(own, 2))
    if not found:
        raise InputError("no guide serves this model: " + "; ".join(reasons))
    for reason in reasons:
        warnings.warn(reason, RuntimeWarning, stacklevel=2)
    return found


def _family(choice: str | Family, model: Program) -> Family:
    if not isinstance(choice, str):
        return choice
    for other in (Laplace(), Response(), Propagation()):
        if choice == other.name:
            return other
    try:
        named.numbered(choice)
    except InputError as error:
        own = _own_guides(model)
        if choice in own:
            return OwnGuide(choice)
        further = [name for name in own if name not in named.GUIDES]
        others = ", ".join((Laplace.name, Response.name, Propagation.name, *further))
        raise InputError(f"{error}, {others}") from None
    return Named(choice)


def _fitted(pair: Pair, data: tuple[Any, ...], budget: Budget, seed: int) -> Posterior:
    # A module of Pyro's makes its parameters when first called, from the global generator.
    with seeded(seed):
        fit = svi.fit(
            pair, *data, num_steps=budget.num_steps, lr=budget.lr, num_particles=budget.num_particles,
            train="guide", average=0.25, seed=seed, progress=budget.progress,
        )  # fmt: skip
    with torch.no_grad():
        found = guide.draws(pair, *data, num_draws=budget.num_draws, seed=derived(seed, 1))
    return replace(found, seconds=fit.seconds + found.seconds)
