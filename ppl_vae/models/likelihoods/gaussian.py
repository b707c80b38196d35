"""Real values with normal noise of one size, or of one a feature."""

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.base.errors import InputError
from ppl_vae.models.likelihoods.base import Likelihood

__all__ = ["SCALES", "Gaussian"]

# How each of them has its scale.
SCALES = {"gaussian": "global", "gaussian-fixed": "fixed", "gaussian-pixel": "pixel"}


class Gaussian(Likelihood):
    """Features x_d ~ N(output_d, σ_d²), σ bounded below so that no pixel can be explained away.

    Args:
        num_features: d.
        scale: "fixed" (σ stays where it starts), "global" (one learnt σ) or "pixel" (one a feature).
        start_scale: where σ starts, in the units of x.
        min_scale: lower bound of σ, in the units of x.
    """

    def __init__(
        self, num_features: int, scale: str, *, start_scale: float = 0.3, min_scale: float = 0.01
    ) -> None:
        super().__init__()
        if not 0 < min_scale < start_scale:
            raise InputError(f"min_scale is {min_scale}; it must be positive and below {start_scale}")
        self.name = next(name for name, kind in SCALES.items() if kind == scale)
        self.min_scale = min_scale
        raw = torch.full((num_features if scale == "pixel" else 1,), start_scale - min_scale).expm1().log()
        if scale == "fixed":
            self.register_buffer("raw_scale", raw)
        else:
            self.raw_scale = nn.Parameter(raw)

    @property
    def scale(self) -> Tensor:
        """σ, of shape (1,) or (d,)."""
        return softplus(self.raw_scale) + self.min_scale

    def forward(self, outputs: Tensor) -> TorchDistribution:
        """The distribution over the last axis of the decoder's outputs, which are means."""
        return dist.Normal(outputs, self.scale.expand(outputs.shape[-1])).to_event(1)

    def mean(self, outputs: Tensor) -> Tensor:
        """E[x | z], in the units of x."""
        return outputs

    def start(self, x: Tensor) -> Tensor:
        """Decoder biases that give the data's mean."""
        return x.mean(0)
