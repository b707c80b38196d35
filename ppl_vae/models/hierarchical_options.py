"""What a hierarchical VAE can be asked for."""

from dataclasses import dataclass
from typing import Literal

from ppl_vae.models.likelihoods.options import LikelihoodKeywords, LikelihoodOptions

__all__ = ["FurtherHierarchicalVAEKeywords", "HierarchicalVAEKeywords", "HierarchicalVAEOptions"]


@dataclass(frozen=True)
class HierarchicalVAEOptions(LikelihoodOptions):
    """What a hierarchical VAE can be asked for.

    Attributes:
        latent_dims: Latent dimensions of each layer, from the data upwards.
        hidden: Widths of the hidden layers between x and the lowest latents, from the latents' side, or none;
            the guide mirrors them.
        between: Widths of the hidden layers between two layers of latents, from the upper one's side, or
            none; the guide mirrors them.
        activation: relu, tanh, softplus, silu or identity.
        spread: Standard deviations of a layer given the one above it: given by the network of its means, or
            constant, one a dimension.
        norm: none, batch or group: what comes between a layer and its activation.
    """

    latent_dims: tuple[int, ...] = (50, 20)
    hidden: tuple[int, ...] = (200, 200)
    between: tuple[int, ...] = (100, 100)
    activation: str = "relu"
    spread: Literal["network", "constant"] = "network"
    norm: str = "none"


class FurtherHierarchicalVAEKeywords(LikelihoodKeywords, total=False):
    """`HierarchicalVAEOptions` as keywords, but for the first."""

    hidden: tuple[int, ...]
    between: tuple[int, ...]
    activation: str
    spread: Literal["network", "constant"]
    norm: str


class HierarchicalVAEKeywords(FurtherHierarchicalVAEKeywords, total=False):
    """`HierarchicalVAEOptions` as keywords."""

    latent_dims: tuple[int, ...]
