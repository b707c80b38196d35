"""Where chains start: points of the support, each tried before a sampler sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import derived, seeded
from ppl_vae.engine.density import Density
from ppl_vae.program.improper import Feasible
from ppl_vae.program.layout import sample_sites
from ppl_vae.program.pair import Pair, Program

__all__ = ["Evaluate", "Proposal", "drawn_from", "given_starts", "starting_points"]

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Positions (chains, dim) to log densities (chains,) and gradients (chains, dim)."""

Proposal = Callable[[int], Mapping[str, Tensor]]
"""A seed to values of the latent sites."""

# How often every source of starts is asked for each chain.
TRIES = 20


def starting_points(
    density: Density,
    evaluate: Evaluate,
    chains: int,
    seed: int,
    given: Tensor | None = None,
    proposals: Sequence[Proposal] = (),
) -> Tensor:
    """One position a chain, (chains, dim), where the density and its gradient are finite.

    Uniform in [−2, 2] of the unconstrained space, as Stan's and Pyro's; for chains that find none there,
    draws of the proposals, one proposal after another.

    Args:
        density: of the model.
        evaluate: its value and gradient.
        chains: their number.
        seed: of the starts.
        given: positions (chains, dim) to start from instead.
        proposals: where to look next, such as a guide and the prior.

    Raises:
        InputError: if no source has a start for every chain, or a given one has no finite density.
    """
    shape, like = (chains, density.dim), density.like
    found = torch.zeros(shape, dtype=like.dtype, device=like.device)
    left = torch.ones(chains, dtype=torch.bool)
    for candidates in _candidates(density, chains, seed, given, proposals):
        candidates = candidates.to(like)
        value, slope = _nudged(evaluate, candidates)
        good = (value.isfinite() & slope.isfinite().all(1)).cpu() & left
        found[good] = candidates[good]
        left &= ~good
        if not left.any():
            return found
        if given is not None:
            raise InputError("the log density or its gradient is not finite at the start that was given")
    where = "in [−2, 2] of the unconstrained space" + (
        ", among the guide's draws or the prior's" if len(proposals) > 1
        else " or among the prior's draws" if proposals else ""
    )  # fmt: skip
    raise InputError(
        f"no starting point of finite density was found {where}: give start= with values of the latent sites "
        "under which the data are possible"
    )


def _candidates(
    density: Density, chains: int, seed: int, given: Tensor | None, proposals: Sequence[Proposal]
) -> Iterator[Tensor]:
    if given is not None:
        yield given
        return
    generator = torch.Generator().manual_seed(seed)
    shape = (chains, density.dim)
    for _ in range(TRIES):
        yield torch.empty(shape, dtype=density.like.dtype).uniform_(-2.0, 2.0, generator=generator)
    for number, proposal in enumerate(proposals):
        for attempt in range(TRIES):
            seeds = [derived(seed, number, attempt, chain) for chain in range(chains)]
            try:
                rows = [density.unconstrained(proposal(own)) for own in seeds]
            except (RuntimeError, ValueError, NotImplementedError):  # this source has nothing to offer
                break
            yield torch.stack(rows)


def _nudged(evaluate: Evaluate, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient; positions on a ridge, where some slope is exactly zero, are first moved off it."""
    value, slope = evaluate(positions)
    level = (slope == 0) & value.isfinite().unsqueeze(1)
    if bool(level.any()):
        positions += 1e-4 * level
        value, slope = evaluate(positions)
    return value, slope


def drawn_from(program: Program, pair: Pair, data: tuple[Any, ...]) -> Proposal:
    """Draws of a guide, or of a model's prior, inside a pair's own parameters."""

    def draw(seed: int) -> Mapping[str, Tensor]:
        with pair.scope(), torch.no_grad(), seeded(seed), Feasible():
            trace = poutine.trace(program).get_trace(*data)
        return {name: site["value"].detach() for name, site in sample_sites(trace) if not site["is_observed"]}

    return draw


def given_starts(density: Density, start: Mapping[str, Any], chains: int, seed: int) -> Tensor:
    """Positions (chains, dim) from values of latent sites; sites left out start in [−2, 2].

    Args:
        density: of the model.
        start: by site, of the site's own shape, or with a leading dimension of the chains.
        chains: their number.
        seed: of the sites left out.

    Raises:
        InputError: for names or shapes that are not the model's, or values outside a support.
    """
    if unknown := sorted(start.keys() - set(density.names)):
        raise InputError(
            f"start has values of {', '.join(unknown)}; the continuous latent sites of the model are "
            f"{', '.join(density.names)}"
        )
    like = density.like
    values = {name: torch.as_tensor(value).detach().to(like) for name, value in start.items()}
    sizes = {name: density.shape_of(name).numel() for name in values}
    for name, value in values.items():
        if value.numel() not in (sizes[name], chains * sizes[name]):
            raise InputError(
                f"start has {name} of shape {tuple(value.shape)}; it must be "
                f"{tuple(density.shape_of(name))}, or with {chains} in front for one start a chain"
            )
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for chain in range(chains):
        one = {
            name: (value if value.numel() == sizes[name] else value[chain]).reshape(density.shape_of(name))
            for name, value in values.items()
        }
        rest = torch.empty(density.dim, dtype=like.dtype).uniform_(-2.0, 2.0, generator=generator)
        rows.append(density.unconstrained(one, rest.to(like.device)))
    found = torch.stack(rows)
    if not found.isfinite().all():
        raise InputError(f"start has values outside the support of {', '.join(start)}")
    return found
