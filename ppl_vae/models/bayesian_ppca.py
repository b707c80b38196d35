"""Probabilistic PCA with priors over all its parameters, the latent coordinates integrated out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypedDict, Unpack

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoLowRankMultivariateNormal, AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.base.errors import InputError
from ppl_vae.data.inputs import Features, Input
from ppl_vae.data.rows import Rows
from ppl_vae.models.axes import axes_views
from ppl_vae.models.base import DataType, FitDefaults, Unit, check_width, one_of
from ppl_vae.models.linear_gaussian import check_latent_dim
from ppl_vae.models.scales import far_from_one
from ppl_vae.program.shown import ViewContext
from ppl_vae.views import View

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["BayesianPPCA", "BayesianPPCAKeywords", "BayesianPPCAOptions"]


@dataclass(frozen=True)
class BayesianPPCAOptions:
    """What Bayesian PPCA can be asked for.

    Attributes:
        latent_dim: Latent dimensions, at most.
    """

    latent_dim: int = 2


class BayesianPPCAKeywords(TypedDict, total=False):
    """`BayesianPPCAOptions` as keywords."""

    latent_dim: int


class BayesianPPCA(PyroModule):  # type: ignore[misc]
    """α_j ~ Gamma(a, b); W_ij ~ N(0, s²/α_j); μ_i ~ N(0, s²); σ ~ HalfNormal(s); x_n ~ N(μ, WWᵀ + σ²I).

    The precision α_j of each column switches unneeded components off (automatic relevance
    determination). All latents are global. W is determined only up to signs and, between columns of
    equal precision, rotations; what data determine is WWᵀ, its singular values, μ and σ.

    Source: Bishop, "Bayesian PCA" (1999), section 3, here with proper, weakly informative priors.

    Args:
        num_features: d.
        latent_dim: q, with 1 ≤ q < d.
        prior_scale: s, in the units of x; 1 suits standardised data.
        ard_shape, ard_rate: a and b.
        feature_names: labels of the features.

    Raises:
        InputError: if q is out of range or a prior's parameter is not positive.
    """

    data_type: ClassVar[type[DataType]] = Rows
    inputs: ClassVar[Mapping[str, Input]] = {"x": Features()}
    name: ClassVar[str] = "bayesian-ppca"
    Options: ClassVar[type[BayesianPPCAOptions]] = BayesianPPCAOptions
    unit: ClassVar[Unit] = "data set"
    oracle: ClassVar[str] = "the density in closed form, PPCA's with the coordinates integrated out"
    defaults: ClassVar[FitDefaults] = FitDefaults(num_steps=3000, lr=0.03, num_particles=4, standardize=True)
    guides: ClassVar[Mapping[str, Callable[..., nn.Module]]] = {
        "mean-field": lambda model, x: AutoNormal(model),
        "full-rank": lambda model, x: AutoMultivariateNormal(model),
        "low-rank": lambda model, x: AutoLowRankMultivariateNormal(model),
    }

    def __init__(
        self,
        num_features: int,
        latent_dim: int = BayesianPPCAOptions.latent_dim,
        *,
        prior_scale: float = 1.0,
        ard_shape: float = 2.0,
        ard_rate: float = 2.0,
        feature_names: tuple[str, ...] = (),
    ) -> None:
        super().__init__("bayesian_ppca")
        check_latent_dim(latent_dim, num_features)
        priors = {"prior_scale": prior_scale, "ard_shape": ard_shape, "ard_rate": ard_rate}
        for name, value in priors.items():
            if not value > 0:
                raise InputError(f"{name} is {value}; it must be positive")
        self.num_features, self.latent_dim = num_features, latent_dim
        self.prior_scale, self.ard_shape, self.ard_rate = prior_scale, ard_shape, ard_rate
        self.feature_names = feature_names or tuple(f"x{k + 1}" for k in range(num_features))

    @classmethod
    def from_data(
        cls, rows: Rows, options: BayesianPPCAOptions | None = None, **keywords: Unpack[BayesianPPCAKeywords]
    ) -> Self:
        """A model for these rows, its priors in their overall scale; options as one object or by name.

        Raises:
            InputError: if the latent dimension reaches the number of features.
        """
        latent_dim = one_of(BayesianPPCAOptions, options, keywords).latent_dim
        scale = float(np.sqrt(np.mean((rows.values - rows.values.mean(0)) ** 2)))
        return cls(rows.num_features, latent_dim, prior_scale=scale, feature_names=rows.feature_names)

    @classmethod
    def scale_hint(cls, rows: Rows, options: BayesianPPCAOptions) -> str | None:
        """A sentence where a feature's spread is far from 1."""
        return far_from_one(rows, around_mean=True)

    def forward(self, x: Tensor) -> Tensor:
        """The Pyro program; x is the full data of shape (num_data, d)."""
        one = torch.ones((), dtype=x.dtype, device=x.device)
        scale = self.prior_scale * one
        feature = torch.ones(self.num_features, dtype=x.dtype, device=x.device)
        with pyro.plate("component", self.latent_dim):
            precision = pyro.sample("precision", dist.Gamma(self.ard_shape * one, self.ard_rate))
            spread = (scale / precision.sqrt()).unsqueeze(-1) * feature
            columns = pyro.sample("loadings", dist.Normal(0.0, spread).to_event(1))
        mean = pyro.sample("mean", dist.Normal(0.0, scale * feature).to_event(1))
        noise_scale = pyro.sample("noise_scale", dist.HalfNormal(scale))
        with pyro.plate("data", len(x)) as i:
            marginal = dist.LowRankMultivariateNormal(
                mean, columns.transpose(-1, -2).unsqueeze(-3), noise_scale.unsqueeze(-1).square() * feature
            )
            return pyro.sample("x", marginal, obs=x[i])

    def check_data(self, x: Tensor) -> None:
        """Refuse data of another width.

        Raises:
            InputError: if x is not of shape (rows, d).
        """
        check_width(x, self.num_features, f"BayesianPPCA of {self.num_features} features")

    def identifiable(self, draws: xr.Dataset) -> xr.Dataset:
        """WWᵀ (its upper triangle), the singular values of W in descending order, μ and σ."""
        import xarray as xr

        columns = draws["loadings"].transpose("chain", "draw", "component", "feature").to_numpy()
        product = np.einsum("abki,abkj->abij", columns, columns)
        rows, cols = np.triu_indices(self.num_features)
        names = self.feature_names
        pairs = [f"{names[i]} × {names[j]}" for i, j in zip(rows, cols, strict=True)]
        over = ("chain", "draw")
        return xr.Dataset(
            {
                "covariance": ((*over, "pair"), product[..., rows, cols]),
                "singular_value": ((*over, "rank"), np.linalg.svd(columns, compute_uv=False)),
                "mean": draws["mean"],
                "noise_scale": draws["noise_scale"],
            },
            coords={"pair": pairs, "rank": np.arange(1, self.latent_dim + 1)},
        )

    def views(self, context: ViewContext) -> list[View]:
        """As `PPCA.views`, of the posterior mean of WWᵀ, which has no sign and no rotation, and of σ²."""
        if "svi" not in context.draws:
            return []
        draws, (x, *_) = context.draws["svi"], context.training
        columns = draws["loadings"].transpose("chain", "draw", "component", "feature").to_numpy()
        columns = columns.reshape(-1, *columns.shape[2:])
        values, vectors = np.linalg.eigh(np.einsum("nki,nkj->ij", columns, columns) / len(columns))
        chosen = slice(None, -self.latent_dim - 1, -1)
        weights = vectors[:, chosen] * np.sqrt(np.maximum(values[chosen], 0.0))
        noise = float((draws["noise_scale"] ** 2).mean())
        return axes_views(weights, noise, x, self.feature_names, "the posterior mean's")

    def event_dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the event dimensions."""
        return {"loadings": ("feature",), "mean": ("feature",)}

    def coords(self) -> dict[str, list[Any]]:
        """Labels of features and components."""
        return {"feature": list(self.feature_names), "component": list(range(1, self.latent_dim + 1))}
