"""Probabilistic principal component analysis (Tipping and Bishop 1999)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypedDict, Unpack

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.base.arguments import check_whole
from ppl_vae.base.errors import InputError
from ppl_vae.data.inputs import Features, Input
from ppl_vae.data.rows import Rows
from ppl_vae.guides.amortised import LinearNormal
from ppl_vae.guides.per_datum import PerDatumNormal
from ppl_vae.models.base import DataType, FitDefaults, Unit, one_of
from ppl_vae.models.scales import far_from_one
from ppl_vae.program.shown import ViewContext
from ppl_vae.views import Bars, Matrix, Scatter, View

__all__ = ["PPCA", "PPCAKeywords", "PPCAOptions", "axes_views", "check_latent_dim"]

# Features in the picture of the axes, and eigenvalues in the one beside it.
MAX_FEATURES = 30


@dataclass(frozen=True)
class PPCAOptions:
    """What PPCA can be asked for.

    Attributes:
        latent_dim: Latent dimensions.
    """

    latent_dim: int = 2


class PPCAKeywords(TypedDict, total=False):
    """`PPCAOptions` as keywords."""

    latent_dim: int


class PPCA(PyroModule):  # type: ignore[misc]
    """z_n ~ N(0, I_q), x_n | z_n ~ N(W z_n + μ, σ² I_d); W, μ and σ are parameters.

    Integrating z out gives x_n ~ N(μ, W Wᵀ + σ² I), and with M = Wᵀ W + σ² I the posterior is
    z_n | x_n ~ N(M⁻¹ Wᵀ (x_n − μ), σ² M⁻¹): both are known exactly. W is determined only up to a
    rotation of the latent space.

    Source: Tipping and Bishop, "Probabilistic Principal Component Analysis" (1999), equations 2–8.

    Args:
        num_features: d.
        latent_dim: q, with 1 ≤ q < d.
        dtype: of the parameters; exact answers are always computed in float64.
        feature_names: labels of the features.

    Raises:
        InputError: if q is out of range.
    """

    data_type: ClassVar[type[DataType]] = Rows
    inputs: ClassVar[Mapping[str, Input]] = {"x": Features()}
    name: ClassVar[str] = "ppca"
    Options: ClassVar[type[PPCAOptions]] = PPCAOptions
    unit: ClassVar[Unit] = "datum"
    oracle: ClassVar[str] = (
        "closed forms of log p(x), posterior and maximum likelihood (Tipping and Bishop 1999)"
    )
    defaults: ClassVar[FitDefaults] = FitDefaults(num_steps=3000, lr=0.05, standardize=True)
    guides: ClassVar[Mapping[str, Callable[..., nn.Module]]] = {
        "linear": lambda model, x: LinearNormal(
            model.num_features, model.latent_dim, covariance="full", dtype=x.dtype
        ),
        "linear-mean-field": lambda model, x: LinearNormal(
            model.num_features, model.latent_dim, covariance="diagonal", dtype=x.dtype
        ),
        "per-datum": lambda model, x: PerDatumNormal(len(x), model.latent_dim, dtype=x.dtype),
    }

    def __init__(
        self,
        num_features: int,
        latent_dim: int = PPCAOptions.latent_dim,
        *,
        dtype: torch.dtype = torch.float64,
        feature_names: tuple[str, ...] = (),
    ) -> None:
        super().__init__("ppca")
        check_latent_dim(latent_dim, num_features)
        self.num_features, self.latent_dim = num_features, latent_dim
        self.feature_names = feature_names
        self.loadings = nn.Parameter(
            torch.randn(num_features, latent_dim, dtype=dtype) / math.sqrt(latent_dim)
        )
        self.mean = nn.Parameter(torch.zeros(num_features, dtype=dtype))
        self.log_noise_scale = nn.Parameter(torch.zeros((), dtype=dtype))

    @classmethod
    def from_data(
        cls, rows: Rows, options: PPCAOptions | None = None, **keywords: Unpack[PPCAKeywords]
    ) -> Self:
        """A model for these rows, started at their mean and overall scale; options as one object or by name.

        Raises:
            InputError: if the latent dimension reaches the rank of the centred data: σ² would be 0.
        """
        latent_dim = one_of(PPCAOptions, options, keywords).latent_dim
        values = torch.as_tensor(rows.values, dtype=torch.float64)
        centred = values - values.mean(0)
        check_latent_dim(latent_dim, int(torch.linalg.matrix_rank(centred)), what="the rank of the data")
        model = cls(rows.num_features, latent_dim, feature_names=rows.feature_names)
        with torch.no_grad():
            model.mean.copy_(values.mean(0))
            scale = centred.square().mean().sqrt()
            model.loadings.mul_(scale)
            model.log_noise_scale.fill_(scale.log().item())
        return model

    @classmethod
    def scale_hint(cls, rows: Rows, options: PPCAOptions) -> str | None:
        """A sentence where a feature's spread is far from 1; the model starts at their means."""
        return far_from_one(rows, around_mean=True)

    @property
    def noise_scale(self) -> Tensor:
        """σ, in the units of x."""
        return self.log_noise_scale.exp()

    def forward(self, x: Tensor) -> Tensor:
        """The Pyro program; x is the full data of shape (num_data, d)."""
        loadings, mean, noise_scale = self.loadings, self.mean, self.noise_scale
        zero = torch.zeros(self.latent_dim, dtype=loadings.dtype, device=loadings.device)
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z @ loadings.T + mean, noise_scale).to_event(1), obs=x[i])

    def check_data(self, x: Tensor) -> None:
        """Refuse data of another width.

        Raises:
            InputError: if x is not of shape (rows, d).
        """
        if x.dim() != 2 or x.shape[1] != self.num_features:
            raise InputError(f"PPCA of {self.num_features} features was given data of shape {tuple(x.shape)}")

    @torch.no_grad()
    def set_maximum_likelihood(self, x: Tensor, rotation: Tensor | None = None) -> Self:
        """Set W, μ and σ to the closed-form maximum of the likelihood (Tipping and Bishop, eq. 7–8).

        W = U_q (Λ_q − σ² I)^½ R from the eigenvectors and eigenvalues of the 1/N covariance, and σ² is
        the mean of the discarded eigenvalues.

        Args:
            x: shape (num_data, d).
            rotation: R, an orthogonal q × q matrix; the identity by default, for which WᵀW is diagonal.
        """
        self.check_data(x)
        x = x.double()
        mean = x.mean(0)
        values, vectors = torch.linalg.eigh(_gram(x - mean) / len(x))
        values, vectors = values.flip(0), vectors.flip(1)
        noise = values[self.latent_dim :].mean()
        if noise <= 1e-12 * values[0]:
            raise InputError(f"latent_dim is {self.latent_dim}; it must be less than the rank of the data")
        loadings = vectors[:, : self.latent_dim] * (values[: self.latent_dim] - noise).sqrt()
        if rotation is not None:
            loadings = loadings @ rotation.double()
        self.loadings.copy_(loadings)
        self.mean.copy_(mean)
        self.log_noise_scale.copy_(0.5 * noise.log())
        return self

    @torch.no_grad()
    def exact_posterior(self, x: Tensor) -> dict[str, dist.TorchDistribution]:
        """p(z_n | x_n) for every row, in float64 (Tipping and Bishop, equation 6)."""
        loadings, mean = self.loadings.double(), self.mean.double()
        noise = self.noise_scale.double().square()
        precision = self._m_matrix() / noise
        loc = torch.linalg.solve(self._m_matrix(), loadings.T @ (x.double() - mean).T).T
        return {"z": dist.MultivariateNormal(loc, precision_matrix=precision)}

    @torch.no_grad()
    def exact_log_evidence(self, x: Tensor) -> Tensor:
        """log N(x_n; μ, W Wᵀ + σ² I) for every row, in nats, shape (num_data,), in float64."""
        noise = self.noise_scale.double().square().expand(self.num_features)
        marginal = dist.LowRankMultivariateNormal(self.mean.double(), self.loadings.double(), noise)
        return marginal.log_prob(x.double())

    @torch.no_grad()
    def mean_field_gap(self) -> float:
        """What the best mean-field Gaussian loses, in nats a row: ½ (Σ ln M_ii − ln det M) ≥ 0."""
        m = self._m_matrix()
        return 0.5 * float(m.diagonal().log().sum() - torch.linalg.slogdet(m).logabsdet)

    def views(self, context: ViewContext) -> list[View]:
        """The loadings by feature, and the eigenvalues of the training data's covariance."""
        (x, *_), noise = context.training, float(self.noise_scale.detach()) ** 2
        return axes_views(self.loadings.detach().cpu().numpy(), noise, x, self.feature_names, "the model's")

    def _m_matrix(self) -> Tensor:
        loadings = self.loadings.double()
        identity = torch.eye(self.latent_dim, dtype=torch.float64, device=loadings.device)
        return loadings.T @ loadings + self.noise_scale.double().square() * identity

    def event_dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the latent's event dimension."""
        return {"z": ("component",)}

    def coords(self) -> dict[str, list[Any]]:
        """Labels of the components."""
        return {"component": list(range(1, self.latent_dim + 1))}


def _gram(x: Tensor) -> Tensor:
    """XᵀX. NumPy sees that it is symmetric and computes half of it."""
    if x.is_cuda:
        return x.T @ x
    array = x.numpy()
    return torch.from_numpy(array.T @ array)


def check_latent_dim(latent_dim: int, limit: int, what: str = "the number of features") -> None:
    """Refuse a latent dimension outside 1, …, limit − 1.

    Raises:
        InputError: naming both numbers.
    """
    check_whole(1, latent_dim=latent_dim)
    if latent_dim >= limit:
        raise InputError(f"latent_dim is {latent_dim}; it must be less than {what}, {limit}")


def axes_views(
    weights: np.ndarray, noise_variance: float, x: Tensor, feature_names: Sequence[str], whose: str
) -> list[View]:
    """What the principal axes of W are made of, and how many stand out from the noise.

    Args:
        weights: W of any rotation, shape (d, q).
        noise_variance: σ².
        x: the training data, shape (num_data, d).
        feature_names: d names, or none.
        whose: the axes are, in words.
    """
    caption = (
        f"What {whose} principal axes are made of, the longest axis first: features with large "
        "loadings of one sign rise and fall together. The sign of a whole axis means nothing."
    )
    axes = principal_axes(weights)
    names = list(feature_names) or [f"feature {k + 1}" for k in range(len(axes))]
    kept = np.sort(np.argsort(-np.linalg.norm(axes, axis=1), kind="stable")[:MAX_FEATURES])
    kept = kept[np.argsort(-axes[kept, 0], kind="stable")]
    labels, chosen = [names[k] for k in kept], axes[kept]
    loadings: View = Matrix(
        caption=caption, values=chosen, row_names=labels, column_label="principal axis",
        column_names=[str(k + 1) for k in range(axes.shape[1])],
    )  # fmt: skip
    if axes.shape[1] <= 2:
        panels = {f"axis {k + 1}": column for k, column in enumerate(chosen.T)}
        loadings = Bars(caption=caption, names=labels, panels=panels, label="loading")
    return [loadings, _scree(x, axes.shape[1], noise_variance)]


def principal_axes(weights: np.ndarray) -> np.ndarray:
    """W rotated to its principal axes: W R = U S, columns by decreasing length, shape (d, q).

    W is determined up to a rotation of the latent space; this one makes WᵀW diagonal. Each column's largest
    entry is positive. Source: Tipping and Bishop (1999), section 3.2 and appendix A.
    """
    left, sizes, _ = np.linalg.svd(np.asarray(weights, dtype=float), full_matrices=False)
    axes = left * sizes
    largest = np.abs(axes).argmax(0)
    return axes * np.where(axes[largest, np.arange(axes.shape[1])] < 0, -1.0, 1.0)


def _scree(x: Tensor, latent_dim: int, noise_variance: float) -> Scatter:
    """Eigenvalues of the 1/N covariance. At the maximum of the likelihood σ² is the mean of those that are
    not kept (Tipping and Bishop 1999, equation 8)."""
    values = np.linalg.eigvalsh(np.cov(x.double().cpu().numpy().T, bias=True))[::-1]
    points = np.column_stack([np.arange(1, len(values) + 1), values])[: max(MAX_FEATURES, latent_dim + 5)]
    kept = f"kept ({values[:latent_dim].sum() / values.sum():.0%} of the variance)"
    return Scatter(
        caption="Eigenvalues of the data's covariance: the kept axes should stand out from the rest, and the "
        "noise level should run through the middle of what is left.",
        groups={kept: points[:latent_dim], "left to noise": points[latent_dim:]},
        x_label="principal axis",
        y_label="eigenvalue",
        joined=True,
        hollow={"left to noise"},
        levels={"noise level σ²": noise_variance},
    )
