"""Latents and data drawn together from a model: data whose exact posterior draw is known."""

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import seeded
from ppl_vae.base.watch import watched
from ppl_vae.program.layout import Substitute, canonical_value, redrawn, sample_sites
from ppl_vae.program.pair import Program
from ppl_vae.program.problem import Problem

__all__ = ["simulate"]


@torch.no_grad()
def simulate(problem: Problem, seed: int = 0) -> tuple[dict[str, Tensor], tuple[Any, ...]]:
    """Draw z ~ p(z) and x ~ p(x | z), the parameters held.

    Given such data, z is one exact draw from the posterior p(z | x).

    Args:
        problem: its model is run; the shapes of its data, and whatever in them is not random, are kept.
        seed: of the draw.

    Returns:
        The latents by site, each of shape (1, *plates, *event), and data in the form of those given.

    Raises:
        InputError: if an observed site's values are none of the data arguments, so that it is not known where
            simulated ones belong, or its density depends on the values that are observed, so that z would be
            no draw from the posterior given simulated ones.
    """
    pair, data, layout = problem.pair, problem.data, problem.layout
    with pair.scope(), seeded(seed), watched():
        observed = poutine.trace(pair.model).get_trace(*data)
        drawn = poutine.trace(redrawn(pair.model)).get_trace(*data)
        sites = dict(sample_sites(drawn))
        latents = {name: canonical_value(name, sites[name], layout) for name in layout.latents}
        values = {name: (observed.nodes[name]["value"], sites[name]["value"]) for name in layout.observed}
        changed = _exchange(data, values)
        _check(pair.model, drawn, changed, (*layout.latents, *layout.summed))
    return latents, changed


def _check(model: Program, drawn: poutine.Trace, changed: tuple[Any, ...], latents: tuple[str, ...]) -> None:
    """Refuse a model that, given the simulated data, is another one than that which made them."""
    with Substitute({name: drawn.nodes[name]["value"] for name in latents}):
        again = poutine.trace(model).get_trace(*changed)
    for name, site in sample_sites(drawn):
        other = again.nodes[name]
        before, after = (one["fn"].log_prob(site["value"]) for one in (site, other))
        same = other["value"].shape == site["value"].shape and torch.allclose(before, after, rtol=1e-4)
        if not same or not _covers(site["value"].to(other["value"].dtype), other["value"]):
            raise InputError(
                "data cannot be simulated: given simulated values in the place of those observed, the model "
                f"has another site {name}; a model must not read what it observes"
            )


def _exchange(data: tuple[Any, ...], values: Mapping[str, tuple[Tensor, Tensor]]) -> tuple[Any, ...]:
    """Put simulated values in the place of the arguments that the observed ones came from."""
    changed = list(data)
    for name, (before, after) in values.items():
        places = [
            number
            for number, argument in enumerate(data)
            if isinstance(argument, Tensor)
            and changed[number] is argument
            and argument.shape == before.shape == after.shape
            and _covers(argument, before)
        ]
        if not places:
            raise InputError(
                f"data cannot be simulated: the values observed at site {name} are none of the model's data "
                "arguments; observe an argument as it is given"
            )
        after = after.to(data[places[0]].dtype)
        # What is missing in the data is missing in simulated ones.
        changed[places[0]] = torch.where(before.isnan(), before, after) if before.isnan().any() else after
    return tuple(changed)


def _covers(whole: Tensor, part: Tensor) -> bool:
    """Whether values are the same wherever the second ones are there; missing ones are NaN."""
    return whole.shape == part.shape and bool(((whole == part) | part.isnan()).all())
