"""A guide that reads the posterior off the values of a datum that are observed, whichever they are."""

import math
from typing import Any

import pyro
import torch
from pyro.distributions import Normal, TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.guides.means import means_view
from ppl_vae.guides.normal import multivariate_normal, num_raw
from ppl_vae.program.shown import ViewContext
from ppl_vae.views import View

__all__ = ["PatternNormal"]


class PatternNormal(PyroModule):  # type: ignore[misc]
    """q(z_n | x_n) is the prior N(0, I) times a Gaussian factor of z for each feature that n has a value of.

    With o the observed features of row n, the precision is Λ_n = I + Σ_o v_d v_dᵀ and the mean
    Λ_n⁻¹ Σ_o (b_d x_nd + a_d). It contains the exact posterior of linear-Gaussian models for every pattern of
    missing values: v_d = w_d / √ψ_d, b_d = w_d / ψ_d, a_d = −w_d μ_d / ψ_d. With covariance "diagonal" the
    mean stays and the variances are 1 / Λ_ii: the best mean-field approximation of the same Gaussian.

    Source of such products: Wu and Goodman, "Multimodal generative models for scalable weakly-supervised
    learning" (2018), section 2.2; here each factor is one feature's.

    Args:
        num_features: d, the size of x.
        latent_dim: q, the size of z.
        covariance: "diagonal" or "full".
        dtype: of the parameters.
        site, plate: names of the latent site and of its plate in the model.
    """

    def __init__(
        self,
        num_features: int,
        latent_dim: int,
        *,
        covariance: str = "full",
        dtype: torch.dtype | None = None,
        site: str = "z",
        plate: str = "data",
    ) -> None:
        super().__init__("guide")
        num_raw(latent_dim, covariance)
        size, scale = (num_features, latent_dim), 1 / math.sqrt(num_features)
        self.factors = nn.Parameter(scale * torch.randn(size, dtype=dtype))
        self.slopes = nn.Parameter(scale * torch.randn(size, dtype=dtype))
        self.offsets = nn.Parameter(torch.zeros(size, dtype=dtype))
        self.latent_dim, self.covariance = latent_dim, covariance
        self.site, self.plate = site, plate

    def encode(self, x: Tensor, x_observed: Tensor | None = None) -> TorchDistribution:
        """q(z | observed values of x) for each row: batch shape (rows,), event shape (q,).

        Args:
            x: shape (rows, d).
            x_observed: where there is a value; everywhere if None.
        """
        there = torch.ones_like(x, dtype=torch.bool) if x_observed is None else x_observed
        q, weights = self.latent_dim, there.to(x.dtype)
        outer = (self.factors[:, :, None] * self.factors[:, None, :]).reshape(-1, q * q)
        precision = (weights @ outer).reshape(-1, q, q) + torch.eye(q, dtype=x.dtype, device=x.device)
        weighted = torch.where(there, x, 0.0) @ self.slopes + weights @ self.offsets
        # With the latents in reverse order, the inverse of the precision's factor is that of the covariance.
        lower = torch.linalg.cholesky(precision.flip((-2, -1))).flip((-2, -1)).mT
        identity = torch.eye(q, dtype=x.dtype, device=x.device).expand_as(precision)
        scale_tril = torch.linalg.solve_triangular(lower, identity, upper=False)
        loc = (scale_tril @ (scale_tril.mT @ weighted[:, :, None]))[:, :, 0]
        if self.covariance == "full":
            return multivariate_normal(loc, scale_tril)
        return Normal(loc, precision.diagonal(dim1=-2, dim2=-1).rsqrt()).to_event(1)

    def views(self, context: ViewContext) -> list[View]:
        """The plane of the rows' posterior means."""
        return [means_view(self.encode(*context.data[:2]), context)]

    def forward(self, x: Tensor, x_observed: Tensor | None = None, *_: Any) -> Tensor:
        """The Pyro program; x is the full data of shape (num_data, num_features)."""
        with pyro.plate(self.plate, len(x)) as i:
            return pyro.sample(self.site, self.encode(x[i], None if x_observed is None else x_observed[i]))
