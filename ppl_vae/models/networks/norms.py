"""Norms by name: batch norm, whose statistics are settled over the training data, and group norm."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ppl_vae.base.arguments import check_real, check_whole
from ppl_vae.base.errors import InputError

__all__ = ["NORMS", "BatchNorm", "GroupNorm", "norm_layers"]

NORMS = ("none", "batch", "group")
# Of a group norm: groups of fewer features would say little more than the sign of a deviation.
MOST_GROUPS, FEWEST_FEATURES = 8, 4


class BatchNorm(nn.Module):
    """y = w (x − μ) / √(v + ε) + b for every feature, μ and v its mean and variance.

    While learning, μ and v are those of the batch: over all leading dimensions as one, so also over draws of
    the guide that lie in front. In evaluation they are buffers, which `settle` sets to those of all training
    data: a row's output then does not depend on other rows. Nothing is written in place while learning, so
    that a step can be traced into a graph; PyTorch's ``nn.BatchNorm1d`` cannot.

    Source: Ioffe and Szegedy, "Batch Normalization" (2015), algorithms 1 and 2; there, too, inference takes
    the statistics of the training data and not a moving average.

    Args:
        num_features: C.
        spatial_dims: trailing dimensions beside the features: 0 for inputs of shape (*lead, C), 2 for images
            of shape (*lead, C, height, width), over which the statistics are taken as well.
        epsilon: ε, in squared units of x.
        affine: whether w and b are learnt; 1 and 0 otherwise.
        dtype: of parameters and buffers.

    Raises:
        InputError: for numbers out of range.
    """

    mean: Tensor
    variance: Tensor

    def __init__(
        self,
        num_features: int,
        *,
        spatial_dims: int = 0,
        epsilon: float = 1e-5,
        affine: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_whole(1, num_features=num_features)
        check_whole(0, spatial_dims=spatial_dims)
        check_real(lambda v: v > 0, "must be a positive number", epsilon=epsilon)
        self.num_features, self.spatial_dims, self.epsilon = num_features, spatial_dims, epsilon
        self.weight = nn.Parameter(torch.ones(num_features, dtype=dtype)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features, dtype=dtype)) if affine else None
        self.register_buffer("mean", torch.zeros(num_features, dtype=dtype))
        self.register_buffer("variance", torch.ones(num_features, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, of shape (*lead, C, *spatial).

        Raises:
            InputError: for another number of features, or a single number a feature while learning.
        """
        axes = self._axes(x)
        # Under autocast x has half precision, in which sums over a batch lose too much.
        values = x.to(self.mean.dtype) if x.dtype.itemsize < self.mean.dtype.itemsize else x
        mean, variance = self.mean, self.variance
        if self.training:
            if x.numel() == self.num_features:
                raise InputError(
                    "batch normalisation learns from batches, and this one has a single row, without variance"
                )
            mean = values.mean(axes)
            variance = (values - self._spread(mean)).square().mean(axes)
        scale = (variance + self.epsilon).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        out = (values - self._spread(mean)) * self._spread(scale)
        if self.bias is not None:
            out = out + self._spread(self.bias)
        return out.to(x.dtype)

    @torch.no_grad()
    def settle(self, inputs: Iterable[Tensor]) -> None:
        """Set mean and variance to those of all inputs together, as one pass over them gives.

        Sums are kept in float64 and merged pairwise (Chan, Golub and LeVeque 1979), so that neither the size
        of the parts nor an offset of the data matters.

        Args:
            inputs: parts of shape (*lead, C, *spatial); none at all leave everything as it is.
        """
        count = 0
        mean = torch.zeros_like(self.mean, dtype=torch.float64)
        squares = torch.zeros_like(mean)
        for part in inputs:
            axes = self._axes(part)
            own = part.numel() // self.num_features
            values = part.double()
            middle = values.mean(axes)
            shift, count = middle - mean, count + own
            squares += (values - self._spread(middle)).square().sum(axes)
            squares += shift.square() * own * (count - own) / count
            mean += shift * own / count
        if count:
            self.mean.copy_(mean)
            self.variance.copy_(squares / count)

    def extra_repr(self) -> str:
        """What `repr` says beside the class's name."""
        return f"{self.num_features}, spatial_dims={self.spatial_dims}, epsilon={self.epsilon:g}"

    def _axes(self, x: Tensor) -> list[int]:
        """All dimensions but that of the features."""
        at = x.dim() - 1 - self.spatial_dims
        if at < 0 or x.shape[at] != self.num_features:
            raise InputError(
                f"batch normalisation of {self.num_features} features, {self.spatial_dims} dimensions from "
                f"the right, was given shape {tuple(x.shape)}"
            )
        return [axis for axis in range(x.dim()) if axis != at]

    def _spread(self, values: Tensor) -> Tensor:
        """One number a feature, in front of the spatial dimensions."""
        return values.reshape(-1, *(1,) * self.spatial_dims)


class GroupNorm(nn.GroupNorm):
    """Each row normalised by itself, over groups of features and the spatial dimensions.

    Learning and evaluation are the same, and there are no statistics to keep.

    Source: Wu and He, "Group Normalization" (2018), equations 1–7.

    Args:
        num_features: C; in eight groups, or fewer where they do not divide C or would have fewer than four
            features.
        spatial_dims: as of `BatchNorm`.
    """

    def __init__(self, num_features: int, *, spatial_dims: int = 0) -> None:
        check_whole(1, num_features=num_features)
        check_whole(0, spatial_dims=spatial_dims)
        most = min(MOST_GROUPS, max(1, num_features // FEWEST_FEATURES))
        super().__init__(max(n for n in range(1, most + 1) if num_features % n == 0), num_features)
        self.spatial_dims = spatial_dims

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, of shape (*lead, C, *spatial)."""
        own = x.shape[x.dim() - 1 - self.spatial_dims :]
        return super().forward(x.reshape(-1, *own)).reshape(x.shape)


def norm_layers(name: str, num_features: int, *, spatial_dims: int = 0) -> list[nn.Module]:
    """The norm of that name as a list of layers, which "none" leaves empty.

    Args:
        name: one of `NORMS`.
        num_features, spatial_dims: as of `BatchNorm`.

    Raises:
        InputError: for another name.
    """
    if name not in NORMS:
        raise InputError(f"norm {name!r} is not known; there are {', '.join(NORMS)}")
    if name == "batch":
        return [BatchNorm(num_features, spatial_dims=spatial_dims)]
    return [GroupNorm(num_features, spatial_dims=spatial_dims)] if name == "group" else []
