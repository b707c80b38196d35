"""Residual encoders and decoders of images: blocks that add to the maps they are given, at every size."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from ppl_vae.base.arguments import check_whole
from ppl_vae.models.networks.conv import Conv2d, check_channels, doubling, halving, unfolded
from ppl_vae.models.networks.dense import activation_layer, mlp
from ppl_vae.models.networks.norms import norm_layers
from ppl_vae.models.networks.shapes import Flat, ImagesToRows, RowsToImages, image_sides

__all__ = ["ResidualBlock", "resnet_decoder", "resnet_encoder"]


class ResidualBlock(nn.Module):
    """x + f(x), f two convolutions of three by three, each after a norm and an activation.

    Source: He, Zhang, Ren and Sun, "Identity Mappings in Deep Residual Networks" (2016), figure 4(e).

    Args:
        width: channels of x.
        activation, norm: as of `conv.conv_encoder`.
    """

    def __init__(self, width: int, activation: str = "relu", norm: str = "none") -> None:
        super().__init__()
        # Every sum is normed in the end, which takes the mean away.
        bias = norm == "none"
        self.layers = nn.Sequential(
            *norm_layers(norm, width, spatial_dims=2),
            activation_layer(activation),
            Conv2d(width, width, kernel_size=3, padding=1, bias=bias),
            *norm_layers(norm, width, spatial_dims=2),
            activation_layer(activation),
            Conv2d(width, width, kernel_size=3, padding=1, bias=bias),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps of the same shape, (*lead, width, height, width of the map)."""
        out: Tensor = x + self.layers(x)
        return out


def _stage(width: int, num_blocks: int, activation: str, norm: str) -> list[nn.Module]:
    """Blocks, and the norm and activation that the last of them leaves out."""
    blocks = [ResidualBlock(width, activation, norm) for _ in range(num_blocks)]
    return [*blocks, *norm_layers(norm, width, spatial_dims=2), activation_layer(activation)]


def resnet_encoder(
    image_shape: Sequence[int],
    widths: Sequence[int],
    num_outputs: int,
    *,
    hidden: Sequence[int] = (),
    num_blocks: int = 1,
    activation: str = "relu",
    norm: str = "none",
) -> nn.Sequential:
    """`conv.conv_encoder` with residual blocks after each convolution that halves the sides.

    Args:
        num_blocks: of each size of the maps.
        image_shape, widths, num_outputs, hidden, activation, norm: as of `conv.conv_encoder`.

    Raises:
        InputError: as of `conv.conv_encoder`.
    """
    check_channels(widths)
    check_whole(1, num_blocks=num_blocks)
    channels, height, width = image_sides(image_shape, len(widths))
    layers: list[nn.Module] = [RowsToImages(channels, height, width)]
    for fan_in, fan_out in pairwise([channels, *widths]):
        layers += [
            halving(fan_in, fan_out, bias=norm == "none"),
            *_stage(fan_out, num_blocks, activation, norm),
        ]
    flat = widths[-1] * height * width // 4 ** len(widths)
    return nn.Sequential(*layers, Flat(), *mlp([flat, *hidden, num_outputs], activation, norm))


def resnet_decoder(
    num_inputs: int,
    image_shape: Sequence[int],
    widths: Sequence[int],
    num_outputs: int | None = None,
    *,
    hidden: Sequence[int] = (),
    num_blocks: int = 1,
    activation: str = "relu",
    norm: str = "none",
) -> nn.Sequential:
    """`conv.conv_decoder` with residual blocks before each convolution that doubles the sides.

    Args:
        num_blocks: of each size of the maps.
        num_inputs, image_shape, widths, num_outputs, hidden, activation, norm: as of `conv.conv_decoder`.

    Raises:
        InputError: as of `conv.conv_encoder`.
    """
    check_channels(widths)
    check_whole(1, num_blocks=num_blocks)
    channels, height, width = image_sides(image_shape, len(widths))
    last = ImagesToRows(channels, height, width, num_outputs or channels * height * width)
    factor = 2 ** len(widths)
    first = (widths[0], height // factor, width // factor)
    # The blocks begin with an activation of their own.
    *layers, _, to_map = unfolded(num_inputs, hidden, first, activation, norm)
    layers.append(to_map)
    for fan_in, fan_out in pairwise(widths):
        layers += _stage(fan_in, num_blocks, activation, norm)
        layers.append(doubling(fan_in, fan_out, bias=norm == "none"))
    layers += _stage(widths[-1], num_blocks, activation, norm)
    return nn.Sequential(*layers, doubling(widths[-1], last.maps[0] * channels, bias=False), last)
