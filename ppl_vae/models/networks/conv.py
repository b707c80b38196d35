"""Convolutional encoders and decoders of images, which halve and double the sides layer by layer."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from ppl_vae.base.arguments import check_whole
from ppl_vae.base.errors import InputError
from ppl_vae.models.networks.dense import activation_layer, mlp
from ppl_vae.models.networks.norms import norm_layers
from ppl_vae.models.networks.shapes import Flat, ImagesToRows, RowsToImages, image_sides

__all__ = [
    "Conv2d",
    "ConvTranspose2d",
    "check_channels",
    "conv_decoder",
    "conv_encoder",
    "halving",
    "unfolded",
]


class Conv2d(nn.Conv2d):
    """PyTorch's convolution with any number of leading dimensions: (*lead, C, H, W) to (*lead, D, I, J)."""

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of every image."""
        out = super().forward(x.reshape(-1, *x.shape[-3:]))
        return out.reshape(*x.shape[:-3], *out.shape[1:])


class ConvTranspose2d(nn.ConvTranspose2d):
    """The transpose of PyTorch's convolution with any number of leading dimensions."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """The transposed convolution of every image."""
        out = super().forward(x.reshape(-1, *x.shape[-3:]), output_size)
        return out.reshape(*x.shape[:-3], *out.shape[1:])


def halving(fan_in: int, fan_out: int, *, bias: bool = True) -> Conv2d:
    """A convolution that halves both sides: kernels of 4 x 4, which all pixels meet equally often."""
    return Conv2d(fan_in, fan_out, kernel_size=4, stride=2, padding=1, bias=bias)


def doubling(fan_in: int, fan_out: int, *, bias: bool = True) -> ConvTranspose2d:
    """The transpose of `halving`: doubles both sides."""
    return ConvTranspose2d(fan_in, fan_out, kernel_size=4, stride=2, padding=1, bias=bias)


def check_channels(widths: Sequence[int]) -> None:
    """Refuse convolutions without channels.

    Raises:
        InputError: for no layer at all, or one without channels.
    """
    if not widths:
        raise InputError("a network of images needs at least one convolution")
    for width in widths:
        check_whole(1, **{"a convolution's number of channels": width})


def unfolded(
    num_inputs: int, hidden: Sequence[int], map_shape: tuple[int, int, int], activation: str, norm: str
) -> list[nn.Module]:
    """Dense layers from a vector to the first map (channels, height, width) of a decoder, activated."""
    channels, height, width = map_shape
    dense = mlp([num_inputs, *hidden, channels * height * width], activation, norm)
    return [*dense, activation_layer(activation), RowsToImages(*map_shape)]


def conv_encoder(
    image_shape: Sequence[int],
    widths: Sequence[int],
    num_outputs: int,
    *,
    hidden: Sequence[int] = (),
    activation: str = "relu",
    norm: str = "none",
) -> nn.Sequential:
    """A network of (*lead, pixels) to (*lead, num_outputs): convolutions that halve the sides, dense layers.

    Source: Radford, Metz and Chintala, "Unsupervised Representation Learning with Deep Convolutional
    Generative Adversarial Networks" (2016), section 3: strides in place of pooling.

    Args:
        image_shape: (height, width) or (height, width, channels) of the images whose pixels a row has, the
            channels of a pixel side by side. Sides must be divisible by 2 to the number of convolutions.
        widths: channels of each convolution, from the image on.
        num_outputs: size of the answer.
        hidden: widths of the dense layers between the last map and the answer.
        activation: one of `dense.ACTIVATIONS`.
        norm: "none", "batch" or "group": what comes between a layer and its activation.

    Raises:
        InputError: for sides that cannot be halved so often, unknown names or sizes below 1.
    """
    check_channels(widths)
    channels, height, width = image_sides(image_shape, len(widths))
    layers: list[nn.Module] = [RowsToImages(channels, height, width)]
    for fan_in, fan_out in pairwise([channels, *widths]):
        between = norm_layers(norm, fan_out, spatial_dims=2)
        layers += [halving(fan_in, fan_out, bias=not between), *between, activation_layer(activation)]
    flat = widths[-1] * height * width // 4 ** len(widths)
    return nn.Sequential(*layers, Flat(), *mlp([flat, *hidden, num_outputs], activation, norm))


def conv_decoder(
    num_inputs: int,
    image_shape: Sequence[int],
    widths: Sequence[int],
    num_outputs: int | None = None,
    *,
    hidden: Sequence[int] = (),
    activation: str = "relu",
    norm: str = "none",
) -> nn.Sequential:
    """The mirror of `conv_encoder`: (*lead, num_inputs) to (*lead, num_outputs).

    Its last layer has a `bias` of shape (num_outputs,), one for each pixel, as that of `mlp` has.

    Args:
        num_inputs: size of the latent vector.
        image_shape: as of `conv_encoder`.
        widths: channels of the maps, from the latent side; each convolution after them doubles the sides.
        num_outputs: a multiple k of an image's numbers, for likelihoods of k parameters a pixel; they come as
            k rows of pixels one after the other. One row by default.
        hidden: widths of the dense layers between the latent vector and the first map.
        activation, norm: as of `conv_encoder`.

    Raises:
        InputError: as of `conv_encoder`.
    """
    check_channels(widths)
    channels, height, width = image_sides(image_shape, len(widths))
    factor = 2 ** len(widths)
    first = (widths[0], height // factor, width // factor)
    layers = unfolded(num_inputs, hidden, first, activation, norm)
    for fan_in, fan_out in pairwise(widths):
        between = norm_layers(norm, fan_out, spatial_dims=2)
        layers += [doubling(fan_in, fan_out, bias=not between), *between, activation_layer(activation)]
    last = ImagesToRows(channels, height, width, num_outputs or channels * height * width)
    # The bias of every pixel contains that of a channel.
    return nn.Sequential(*layers, doubling(widths[-1], last.maps[0] * channels, bias=False), last)
