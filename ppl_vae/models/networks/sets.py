"""Encoders of sets, whose answer does not depend on the order of the points."""

import torch
from torch import Tensor, nn

from ppl_vae.base.arguments import check_whole
from ppl_vae.models.networks.dense import activation_layer, mlp

__all__ = ["SetEncoder"]


class SetEncoder(nn.Module):
    """(*lead, points, dimensions) to (*lead, num_outputs): every point alone, mean and maximum of all, twice.

    The second time a point is seen together with the first round's mean and maximum.

    Source: Zaheer et al., "Deep Sets" (2017), section 2.2; Qi et al., "PointNet" (2017), section 4.2.

    Args:
        point_dim: dimensions of a point.
        width: of the layers and of what is pooled.
        num_outputs: size of the answer.
        activation, norm: as of `dense.mlp`.
    """

    def __init__(
        self, point_dim: int, width: int, num_outputs: int, *, activation: str = "relu", norm: str = "none"
    ) -> None:
        super().__init__()
        check_whole(1, point_dim=point_dim)
        self.alone = mlp([point_dim, width, width], activation, norm)
        self.together = mlp([3 * width, width, width], activation, norm)
        self.answer = mlp([2 * width, width, num_outputs], activation, norm)
        self.activation = activation_layer(activation)

    def forward(self, points: Tensor) -> Tensor:
        """The answer for each set."""
        seen = self.activation(self.alone(points))
        pooled = _pooled(seen)[..., None, :]
        context = pooled.expand(*seen.shape[:-1], pooled.shape[-1])
        seen = self.activation(self.together(torch.cat([seen, context], -1)))
        out: Tensor = self.answer(_pooled(seen))
        return out


def _pooled(seen: Tensor) -> Tensor:
    """Mean and maximum of all points."""
    return torch.cat([seen.mean(-2), seen.amax(-2)], -1)
