"""The guide of a model whose latents are all summed out."""

from typing import Any

from torch import nn

__all__ = ["Enumerated"]


class Enumerated(nn.Module):
    """Draws nothing: every latent of the model is discrete and marked to be enumerated in parallel.

    The ELBO is then log p(x), which sums over their values, and nothing is approximated.
    """

    def forward(self, *data: Any) -> None:
        """The Pyro program; takes the model's data."""
