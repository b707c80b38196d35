"""Layers that only change shapes: rows of pixels to images and back, categories to indicator vectors."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ppl_vae.base.arguments import check_whole
from ppl_vae.base.errors import InputError

__all__ = ["Flat", "ImagesToRows", "OneHot", "RowsToImages", "image_sides"]


def image_sides(image_shape: Sequence[int], num_halvings: int) -> tuple[int, int, int]:
    """Channels, height and width of images, all of whose sides can be halved so many times.

    Args:
        image_shape: (height, width) of grey images, or (height, width, channels), as data sets have it.
        num_halvings: how many layers halve the sides.

    Raises:
        InputError: for another shape, or a side that is not divisible by 2^num_halvings.
    """
    sizes = tuple(image_shape)
    if len(sizes) not in (2, 3):
        raise InputError(f"image_shape is {sizes}; images are (height, width) or (height, width, channels)")
    check_whole(1, **{"a size of image_shape": min(sizes)})
    height, width, channels = (*sizes, 1)[:3]
    factor = 2**num_halvings
    if height % factor or width % factor:
        raise InputError(
            f"images of {height} x {width} cannot be halved {num_halvings} times: a network of "
            f"{num_halvings} convolutions needs sides that are divisible by {factor}"
        )
    return channels, height, width


class RowsToImages(nn.Module):
    """(*lead, height · width · channels) to (*lead, channels, height, width): in rows channels come last.

    No number is moved in memory, and convolutions keep this layout: on processors they are faster in it.

    Args:
        channels, height, width: of the images.
    """

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.sizes = (height, width, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Images of rows.

        Raises:
            InputError: for rows of another length.
        """
        height, width, channels = self.sizes
        if x.shape[-1] != height * width * channels:
            raise InputError(
                f"a network for images of {height} x {width} x {channels} was given rows of "
                f"{x.shape[-1]} numbers"
            )
        return x.unflatten(-1, self.sizes).movedim(-1, -3)

    def extra_repr(self) -> str:
        """What `repr` says beside the class's name."""
        return f"sizes={self.sizes}"


class Flat(nn.Module):
    """(*lead, channels, height, width) to (*lead, height · width · channels): what `RowsToImages` undoes."""

    def forward(self, x: Tensor) -> Tensor:
        """Rows of maps."""
        return x.movedim(-3, -1).flatten(-3)


class ImagesToRows(nn.Module):
    """(*lead, k · channels, height, width) to (*lead, k · height · width · channels), and a bias each.

    The k maps of an image's channels, such as means and scales, become k blocks, each a row as the data's.

    Args:
        channels, height, width: of the data's images.
        num_outputs: k · height · width · channels.

    Raises:
        InputError: for a number of outputs that is no multiple of the image's.
    """

    def __init__(self, channels: int, height: int, width: int, num_outputs: int) -> None:
        super().__init__()
        check_whole(1, num_outputs=num_outputs)
        num_features = channels * height * width
        if num_outputs % num_features:
            raise InputError(
                f"num_outputs is {num_outputs}; it must be a multiple of an image's {num_features} numbers"
            )
        self.maps = (num_outputs // num_features, channels)
        self.bias = nn.Parameter(torch.zeros(num_outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Rows of images."""
        return x.unflatten(-3, self.maps).movedim(-3, -1).flatten(-4) + self.bias

    def extra_repr(self) -> str:
        """What `repr` says beside the class's name."""
        return f"maps={self.maps}"


class OneHot(nn.Module):
    """Whole numbers 0 … K − 1 of shape (*lead,) to indicator vectors (*lead, K), by looking them up.

    PyTorch's ``one_hot`` reads the largest number and cannot be traced into a graph. A category that is not
    there, coded as −1, has to be refused before.

    Args:
        num_categories: K.
        dtype: of the vectors.
    """

    table: Tensor

    def __init__(self, num_categories: int, *, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        check_whole(1, num_categories=num_categories)
        # Made of K alone, so that nothing has to be saved.
        self.register_buffer("table", torch.eye(num_categories, dtype=dtype), persistent=False)

    def forward(self, codes: Tensor) -> Tensor:
        """The rows of the identity matrix at these places."""
        return self.table[codes]
