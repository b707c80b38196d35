"""A guide with one small normalising flow for every datum: richer than any Gaussian."""

from typing import Any, Self

import torch
from pyro.distributions import Normal, TorchDistribution, TransformedDistribution
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from ppl_vae.base.errors import InputError
from ppl_vae.guides.local import LocalVector
from ppl_vae.guides.normal import VARIANCE_FLOOR, num_raw, raw_scale_tril
from ppl_vae.guides.per_datum import PerDatum, PerDatumNormal

__all__ = ["PerDatumFlow", "Triangular", "raw_flow"]


class PerDatumFlow(PerDatum):
    """z_n = A_L s_L(A_{L−1} … s_1(A_0 ε)), ε ~ N(0, I), with free parameters for every datum.

    Each A is affine with a triangular matrix (the last one lower, then upper and lower in turn), and each
    s bends every dimension by itself, s(u) = sinh(τ asinh u + κ): κ skews, τ makes the tails heavier
    (τ > 1) or lighter. Both have inverses in closed form, so that log q(z) is known at any z. κ = 0 and
    τ = 1 leave the Gaussian with full covariance of `PerDatumNormal`, which is where it starts.

    Source: Rezende and Mohamed, "Variational inference with normalizing flows" (2015), section 3, with
    the transform of Jones and Pewsey, "Sinh-arcsinh distributions" (2009), equation 2.

    Args:
        num_data: N, the number of data.
        latent_dim: q, the size of z.
        num_layers: L ≥ 1.
        floor: lower bound on the squared diagonals of the affine maps' matrices.
        dtype: of the parameters.
        site, plate: names of the latent site and of its plate in the model, where there is one site.
        vector: the sites instead, ``num_data`` and ``latent_dim`` being theirs (`PerDatumNormal.from_model`
            reads them off a model, and `from_normal` takes them over).

    Raises:
        InputError: for fewer than one layer.
    """

    def __init__(
        self,
        num_data: int,
        latent_dim: int,
        *,
        num_layers: int = 2,
        floor: float = VARIANCE_FLOOR,
        dtype: torch.dtype | None = None,
        site: str = "z",
        plate: str = "data",
        vector: LocalVector | None = None,
    ) -> None:
        super().__init__("guide")
        if num_layers < 1:
            raise InputError(f"num_layers is {num_layers}; a flow needs at least 1")
        size = num_raw(latent_dim, "full")
        self.raw = nn.Parameter(torch.zeros(num_data, size, dtype=dtype))
        self.inner = nn.Parameter(torch.zeros(num_data, num_layers, size, dtype=dtype))
        self.skew = nn.Parameter(torch.zeros(num_data, num_layers, latent_dim, dtype=dtype))
        self.tail = nn.Parameter(torch.zeros(num_data, num_layers, latent_dim, dtype=dtype))
        nn.init.normal_(self.raw.data[:, :latent_dim], std=0.1)
        # softplus⁻¹(1 − floor): the inner maps start as the identity.
        unit = torch.tensor(1.0 - floor, dtype=torch.float64).expm1().log()
        self.inner.data[..., latent_dim : 2 * latent_dim] = unit
        self.latent_dim, self.num_layers, self.floor = latent_dim, num_layers, floor
        self.vector = vector or LocalVector.one(site, latent_dim, plate, num_data)

    @classmethod
    def from_normal(cls, normal: PerDatumNormal, *, num_layers: int = 2) -> Self:
        """A flow that starts as the given Gaussians with full covariance.

        Raises:
            InputError: if their covariance is diagonal.
        """
        if normal.covariance != "full":
            raise InputError("a flow starts from a PerDatumNormal with covariance='full'")
        flow = cls(
            len(normal.raw),
            normal.latent_dim,
            num_layers=num_layers,
            floor=normal.floor,
            dtype=normal.raw.dtype,
            vector=normal.vector,
        ).to(normal.raw.device)
        flow.raw.data.copy_(normal.raw.data)
        return flow

    def at(self, index: Tensor, *data: Any) -> TorchDistribution:
        """q(z_n) for the data at the given indices: batch shape (indices,), event shape (q,)."""
        return raw_flow(self.raw[index], self.inner[index], self.skew[index], self.tail[index], self.floor)


def raw_flow(raw: Tensor, inner: Tensor, skew: Tensor, tail: Tensor, floor: float) -> TorchDistribution:
    """The flow of `PerDatumFlow` from its raw numbers.

    Args:
        raw: shape (..., `num_raw`): the last affine map.
        inner: shape (..., L, `num_raw`): the maps before it, the first one first.
        skew, tail: shape (..., L, q): κ and tanh⁻¹ ln τ of the transforms between them.
        floor: lower bound on the squared diagonals of the matrices.
    """
    num_layers = skew.shape[-2]
    parts: list[Transform] = []
    for layer in range(num_layers):
        parts.append(_affine(inner[..., layer, :], skew.shape[-1], floor, (num_layers - layer) % 2 == 1))
        parts.append(_SinhArcsinh(skew[..., layer, :], tail[..., layer, :]))
    parts.append(_affine(raw, skew.shape[-1], floor, upper=False))
    return TransformedDistribution(Normal(torch.zeros_like(skew[..., 0, :]), 1.0).to_event(1), parts)


def _affine(raw: Tensor, latent_dim: int, floor: float, upper: bool) -> "Triangular":
    lower = raw_scale_tril(raw[..., latent_dim:], latent_dim, floor)
    return Triangular(raw[..., :latent_dim], lower.mT if upper else lower, upper)


class Triangular(Transform):
    """u ↦ T u + b with a triangular T of positive diagonal."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, shift: Tensor, matrix: Tensor, upper: bool) -> None:
        # The cache gives a draw's own log density without solving for ε again.
        super().__init__(cache_size=1)
        self.shift, self.matrix, self.upper = shift, matrix, upper

    def _call(self, x: Tensor) -> Tensor:
        return torch.einsum("...ij,...j->...i", self.matrix, x) + self.shift

    def _inverse(self, y: Tensor) -> Tensor:
        centred = (y - self.shift).unsqueeze(-1)
        return torch.linalg.solve_triangular(self.matrix, centred, upper=self.upper).squeeze(-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Shape that of x without its last dimension."""
        log_det = self.matrix.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return log_det.expand(x.shape[:-1])


class _SinhArcsinh(Transform):
    """u ↦ sinh(τ asinh u + κ) in every dimension, with ln τ = tanh(tail) and κ = skew.

    The bound on τ keeps the tails between those of N(0, 1) to the powers 1/e and e.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, skew: Tensor, tail: Tensor) -> None:
        super().__init__(cache_size=1)
        self.skew, self.log_tail = skew, tail.tanh()

    def _call(self, x: Tensor) -> Tensor:
        return (self.log_tail.exp() * x.asinh() + self.skew).sinh()

    def _inverse(self, y: Tensor) -> Tensor:
        return ((y.asinh() - self.skew) * (-self.log_tail).exp()).sinh()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        # d/du sinh(v) = cosh(v) v′, where cosh(v)² = 1 + y² and v′ = τ/√(1 + u²).
        return (self.log_tail + 0.5 * (torch.log1p(y.square()) - torch.log1p(x.square()))).sum(-1)
