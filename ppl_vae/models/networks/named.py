"""Encoder and decoder of a kind by its name, which mirror each other."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ppl_vae.base.errors import InputError
from ppl_vae.models.networks.conv import conv_decoder, conv_encoder
from ppl_vae.models.networks.dense import mlp
from ppl_vae.models.networks.residual import resnet_decoder, resnet_encoder

__all__ = ["NETWORKS", "Architecture"]

NETWORKS = ("mlp", "conv", "resnet")


@dataclass(frozen=True)
class Architecture:
    """What an encoder and a decoder have in common.

    Attributes:
        network: "mlp", or of images "conv" or "resnet".
        hidden: widths of the decoder's hidden dense layers, from the latent side.
        channels: of the decoder's maps, from the latent side, where the network is one of images; the sides
            double as often.
        activation: one of `dense.ACTIVATIONS`.
        norm: one of `norms.NORMS`.
        image_shape: (height, width) or (height, width, channels) of the data; None where they are no images.

    Raises:
        InputError: for an unknown network, or one of images where the data are none.
    """

    network: str = "mlp"
    hidden: Sequence[int] = (200, 200)
    channels: Sequence[int] = (64, 32)
    activation: str = "relu"
    norm: str = "none"
    image_shape: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise InputError(f"network {self.network!r} is not known; there are {', '.join(NETWORKS)}")
        if self.network != "mlp" and self.image_shape is None:
            raise InputError(
                f"the network {self.network} needs images, an array of shape (images, height, width) or "
                "(images, height, width, channels), and the data are rows of features: use the network mlp"
            )

    def of_what(self, num_features: int) -> str:
        """What the networks were made for, in words."""
        if self.network == "mlp" or self.image_shape is None:
            return f"{num_features} features"
        return f"images of {' x '.join(map(str, self.image_shape))}"

    def decoder(self, num_inputs: int, num_outputs: int) -> nn.Sequential:
        """(*lead, num_inputs) to (*lead, num_outputs); its last layer has a `bias` for each output."""
        if self.network == "mlp" or self.image_shape is None:
            return mlp([num_inputs, *self.hidden, num_outputs], self.activation, self.norm)
        make = conv_decoder if self.network == "conv" else resnet_decoder
        return make(
            num_inputs, self.image_shape, self.channels, num_outputs, hidden=self.hidden,
            activation=self.activation, norm=self.norm,
        )  # fmt: skip

    def encoder(self, num_features: int, num_outputs: int) -> nn.Sequential:
        """The mirror: (*lead, num_features) to (*lead, num_outputs)."""
        hidden = tuple(reversed(self.hidden))
        if self.network == "mlp" or self.image_shape is None:
            return mlp([num_features, *hidden, num_outputs], self.activation, self.norm)
        make = conv_encoder if self.network == "conv" else resnet_encoder
        return make(
            self.image_shape, tuple(reversed(self.channels)), num_outputs, hidden=hidden,
            activation=self.activation, norm=self.norm,
        )  # fmt: skip
