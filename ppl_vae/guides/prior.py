"""The model's own prior as a guide: the proposal to compare every other one with."""

from typing import Any

from pyro import poutine

from ppl_vae.program.pair import Program

__all__ = ["Prior"]


class Prior:
    """Draws latents from p(z) by running the model with its observed sites hidden.

    Args:
        model: any Pyro model whose latents do not depend on observed values.
    """

    def __init__(self, model: Program) -> None:
        self.model = model
        self._latents = poutine.block(model, hide_fn=_is_observed)

    def __call__(self, *data: Any) -> None:
        """The Pyro program; takes the model's data."""
        self._latents(*data)


def _is_observed(site: dict[str, Any]) -> bool:
    return bool(site["type"] == "sample" and site["is_observed"])
