"""Sites that no value can be drawn for: flat priors, which are no distributions."""

from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to

__all__ = ["FlatPriors"]


class FlatPriors(Messenger):  # type: ignore[misc]
    """Give every latent site that cannot be drawn (``ImproperUniform``) a value in its support.

    The value is standard normal in unconstrained space. It serves to run a program, to read its structure or
    to start from; it is no draw of anything. Sites that have a value already keep it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.filled: set[str] = set()

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        fn = msg["fn"]
        if msg["done"] or msg["is_observed"] or msg["value"] is not None or site_is_subsample(msg):
            return
        if not hasattr(fn, "support"):
            return
        try:
            msg["value"] = fn(*msg["args"], **msg["kwargs"])
        except NotImplementedError:
            msg["value"] = _inside(fn)
            self.filled.add(msg["name"])
        msg["done"] = True


def _inside(fn: Any) -> Tensor:
    transform = biject_to(fn.support)
    value = transform(torch.randn(transform.inverse_shape(fn.shape())))
    assert isinstance(value, Tensor)
    return value.expand(fn.shape())
