"""Latents given in unconstrained space: what a program is run at by whatever works there."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to

__all__ = ["Constrain", "flat", "unconstrained"]


def unconstrained(prototype: poutine.Trace, drawn: poutine.Trace | None = None) -> dict[str, Tensor]:
    """The latents of an AutoGuide in unconstrained space, by site, where it starts or as a trace has them.

    Args:
        prototype: the guide's ``prototype_trace``.
        drawn: a trace of its model.
    """
    found = {}
    for name, site in prototype.iter_stochastic_nodes():
        at = site if drawn is None else drawn.nodes[name]
        found[name] = biject_to(at["fn"].support).inv(at["value"].detach())
    return found


def flat(values: Mapping[str, Tensor]) -> Tensor:
    """One vector of the sites' values, one after another."""
    return torch.cat([value.reshape(-1) for value in values.values()])


class Constrain(Messenger):  # type: ignore[misc]
    """Give latents their values by unconstrained ones, each in the support that it finds.

    Args:
        unconstrained: values by site.
        reduce: how the log Jacobians of a site, of its batch shape, are summed.
    """

    def __init__(
        self, unconstrained: Mapping[str, Tensor], reduce: Callable[[Tensor], Tensor] = torch.sum
    ) -> None:
        super().__init__()
        self.unconstrained, self.reduce = unconstrained, reduce
        self.values: dict[str, Tensor] = {}
        self.log_jacobian: Tensor | float = 0.0

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        name = msg["name"]
        if name in self.unconstrained and not msg["is_observed"]:
            at, transform = self.unconstrained[name], biject_to(msg["fn"].support)
            self.values[name] = msg["value"] = transform(at)
            log_jacobian = transform.log_abs_det_jacobian(at, msg["value"])
            self.log_jacobian = self.log_jacobian + self.reduce(log_jacobian)
            msg["done"] = True
