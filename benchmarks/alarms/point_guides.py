"""Guides that are a point, wholly or in part: they have no density, however equal their weights are.

All stand at the true posterior's mean, so that nothing but the lost spread is wrong.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import transforms
from pyro.infer.autoguide import (
    AutoDelta,
    AutoGuideList,
    AutoLaplaceApproximation,
    AutoNormal,
    init_to_value,
)
from torch import Tensor

from benchmarks.alarms.guides import true_moments
from benchmarks.alarms.problems import Problem
from ppl_vae.program.pair import Pair, Program

__all__ = ["POINTS", "at_the_mean"]


def at_the_mean(problem: Problem) -> dict[str, Tensor]:
    """The latents at the posterior's mean in unconstrained space."""
    flat = true_moments(problem).loc.reshape(-1)
    if not problem.local:
        return {
            name: problem.density.transforms[name](value)
            for name, value in problem.density.unflatten(flat).items()
        }
    return {name: values.mean(0) for name, values in problem.reference.items()}


def _auto(make: Callable[..., Any], problem: Problem) -> Program:
    guide = make(problem.model, init_loc_fn=init_to_value(values=at_the_mean(problem)))
    Pair(problem.model, guide).initialise(*problem.data)
    return guide


def _first_is_a_point(problem: Problem) -> Program:
    """AutoDelta for the first latent of several, AutoNormal for the others, as `AutoGuideList` has it."""
    values, first = at_the_mean(problem), next(iter(problem.layout.latents))
    start = init_to_value(values=values)
    guide = AutoGuideList(problem.model)
    guide.append(AutoDelta(poutine.block(problem.model, expose=[first]), init_loc_fn=start))
    guide.append(AutoNormal(poutine.block(problem.model, hide=[first]), init_loc_fn=start, init_scale=0.3))
    Pair(problem.model, guide).initialise(*problem.data)
    return guide


def _by_hand(problem: Problem, spread: Callable[[Tensor, int], dist.TorchDistribution]) -> Program:
    """A hand-written guide: `spread` makes a distribution of a value and its number of event dimensions."""
    values = at_the_mean(problem)
    shape = problem.layout

    def guide(*data: Any) -> None:
        for name in shape.latents:
            pyro.sample(name, spread(values[name], shape.event_dims[name]))

    return guide


def _delta(value: Tensor, events: int) -> dist.TorchDistribution:
    return dist.Delta(value, event_dim=events)


def _masked(value: Tensor, events: int) -> dist.TorchDistribution:
    return dist.Delta(value, event_dim=events).mask(False)


def _weighted(value: Tensor, events: int) -> dist.TorchDistribution:
    """With a density of its own claim."""
    return dist.Delta(value, torch.full(value.shape[: value.dim() - events], 2.0).to(value), event_dim=events)


def _transformed(value: Tensor, events: int) -> dist.TorchDistribution:
    shift = transforms.AffineTransform(1.0, 2.0, event_dim=events)
    return dist.TransformedDistribution(dist.Delta(shift.inv(value), event_dim=events), [shift])


def _empirical(value: Tensor, events: int) -> dist.TorchDistribution:
    """A Normal that is not one: all its spread is zero but for rounding."""
    return dist.Normal(value, torch.full_like(value, 1e-12)).to_event(events)


def _one_entry(problem: Problem) -> Program:
    """The first entry of a vector stands still; the others are normal with the right moments."""
    (site,) = problem.layout.latents
    normals = true_moments(problem)
    loc, sd = normals.loc.reshape(-1), normals.sd.reshape(-1)

    def guide(*data: Any) -> None:
        rest = dist.Normal(loc[1:], sd[1:]).to_event(1)
        drawn = pyro.sample("rest", rest, infer={"is_auxiliary": True})
        value = torch.cat([loc[:1].expand(*drawn.shape[:-1], 1), drawn], -1)
        pyro.sample(site, dist.Delta(value, event_dim=1))

    return guide


# By name; each makes a guide for a problem. The last is a density, if a needle.
POINTS: Mapping[str, Callable[[Problem], Program]] = {
    "AutoDelta": partial(_auto, AutoDelta),
    "AutoLaplace": partial(_auto, AutoLaplaceApproximation),
    "first is a point": _first_is_a_point,
    "Delta": partial(_by_hand, spread=_delta),
    "Delta, masked": partial(_by_hand, spread=_masked),
    "Delta, weighted": partial(_by_hand, spread=_weighted),
    "Delta, transformed": partial(_by_hand, spread=_transformed),
    "one entry is a point": _one_entry,
    "needle": partial(_by_hand, spread=_empirical),
}
