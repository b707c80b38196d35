"""Observation distributions shared by models."""

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import softplus

from ppl_vae.base.errors import InputError

__all__ = ["LIKELIHOODS", "Bernoulli", "BernoulliProbit", "Gaussian", "make_likelihood"]


class Bernoulli(nn.Module):
    """Pixels x_d ~ Bernoulli(sigmoid(logit_d)); takes only 0 and 1."""

    name = "bernoulli"

    def forward(self, outputs: Tensor) -> TorchDistribution:
        """The distribution over the last axis of the decoder's outputs, which are logits."""
        return dist.Bernoulli(logits=outputs).to_event(1)

    def mean(self, outputs: Tensor) -> Tensor:
        """E[x | z], in [0, 1]."""
        return outputs.sigmoid()

    def start(self, mean: Tensor) -> Tensor:
        """Decoder biases that give the data's mean."""
        return mean.clamp(1e-3, 1 - 1e-3).logit()

    def check(self, x: Tensor) -> None:
        """Refuse anything but 0 and 1.

        Raises:
            InputError: naming the first other value and the likelihoods that would take it.
        """
        wrong = (x != 0) & (x != 1)
        if wrong.any():
            row, column = wrong.nonzero()[0].tolist()
            raise InputError(
                f"a Bernoulli likelihood takes only 0 and 1, and row {row}, column {column} is "
                f"{x[row, column].item():.4g}: binarise the data (static or dynamic), or use a Gaussian "
                "likelihood (gaussian, gaussian-fixed, gaussian-pixel)"
            )


class Gaussian(nn.Module):
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
        self.name = {"fixed": "gaussian-fixed", "global": "gaussian", "pixel": "gaussian-pixel"}[scale]
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

    def start(self, mean: Tensor) -> Tensor:
        """Decoder biases that give the data's mean."""
        return mean

    def check(self, x: Tensor) -> None:
        """Takes any finite number."""


LIKELIHOODS = ("bernoulli", "gaussian", "gaussian-fixed", "gaussian-pixel")


def make_likelihood(name: str, num_features: int, start_scale: float | None = None) -> Bernoulli | Gaussian:
    """The likelihood of that name.

    Args:
        name: one of `LIKELIHOODS`.
        num_features: d.
        start_scale: where a Gaussian's σ starts, in the units of x, its lower bound being a thirtieth of it.

    Raises:
        InputError: naming the ones there are, or for a scale that is none.
    """
    if start_scale is not None and name == "bernoulli":
        raise InputError("start_scale belongs to the Gaussian likelihoods, and the likelihood is bernoulli")
    if name == "bernoulli":
        return Bernoulli()
    scales = {"gaussian": "global", "gaussian-fixed": "fixed", "gaussian-pixel": "pixel"}
    if name not in scales:
        raise InputError(f"likelihood {name!r} is not known; there are {', '.join(LIKELIHOODS)}")
    if start_scale is None:
        return Gaussian(num_features, scales[name])
    if not (isinstance(start_scale, int | float) and 0 < start_scale < float("inf")):
        raise InputError(f"start_scale is {start_scale!r}; it must be a positive number")
    return Gaussian(num_features, scales[name], start_scale=start_scale, min_scale=start_scale / 30)


class BernoulliProbit(TorchDistribution):  # type: ignore[misc]
    """Bernoulli with success probability Φ(t), accurate for large |t| where Φ rounds to 0 or 1.

    Args:
        t: any real tensor; its shape is the batch shape.
    """

    arg_constraints = {"t": constraints.real}  # noqa: RUF012
    support = constraints.boolean

    def __init__(self, t: Tensor, validate_args: bool | None = None) -> None:
        self.t = t
        super().__init__(t.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "BernoulliProbit":
        """A copy of another batch shape."""
        return BernoulliProbit(self.t.expand(batch_shape), validate_args=False)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draws of 0 and 1."""
        return torch.special.ndtr(self.t).expand(sample_shape + self.t.shape).bernoulli()

    def log_prob(self, value: Tensor) -> Tensor:
        """log Φ(t) for 1, log Φ(−t) for 0."""
        return torch.special.log_ndtr((2 * value - 1) * self.t)
