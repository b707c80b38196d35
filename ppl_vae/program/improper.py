"""Priors that are no distributions: flat ones, which have no draws and integrate to no number."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch.distributions import biject_to

__all__ = ["Feasible", "is_improper"]


def is_improper(site: Any) -> bool:
    """Whether a site has no distribution's density: ``ImproperUniform``, or hidden by ``mask(False)``."""
    if site["mask"] is False:
        return True
    if _cannot_be_drawn(site["fn"]):
        return True
    # A density is exactly zero everywhere on the log scale only where it is hidden.
    return isinstance(site["fn"], dist.MaskedDistribution) and not bool(
        site["fn"].log_prob(site["value"]).any()
    )


class Feasible(Messenger):  # type: ignore[misc]
    """Give sites that cannot be drawn from a value in their support, where nothing else has given them one.

    Unconstrained values are uniform in [−2, 2], as the starts of Stan's and Pyro's chains are.
    """

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if (
            msg["is_observed"]
            or msg["value"] is not None
            or not isinstance(msg["fn"], dist.TorchDistribution)
        ):
            return
        if _cannot_be_drawn(msg["fn"]):
            transform = biject_to(msg["fn"].support)
            event = transform.inverse_shape(msg["fn"].shape())
            msg["value"] = transform(4 * torch.rand(event) - 2)
            msg["done"] = True


def _cannot_be_drawn(fn: Any) -> bool:
    while fn is not None:
        if isinstance(fn, dist.ImproperUniform):
            return True
        fn = getattr(fn, "base_dist", None)
    return False
