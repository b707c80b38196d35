"""Probabilistic principal component analysis (Tipping and Bishop 1999)."""

from dataclasses import dataclass
from typing import ClassVar, Self, TypedDict, Unpack

import torch
from torch import Tensor, nn

from ppl_vae.base.errors import InputError
from ppl_vae.data.dataset import Dataset
from ppl_vae.data.rows import Rows
from ppl_vae.models.axes import axes_views, loadings_view, principal_axes
from ppl_vae.models.base import one_of
from ppl_vae.models.linear_gaussian import LinearGaussian, centred_start, with_every_feature
from ppl_vae.models.linear_gaussian_em import EM, Rule
from ppl_vae.program.shown import ViewContext
from ppl_vae.views import View

__all__ = ["PPCA", "PPCAKeywords", "PPCAOptions"]

# Noise below this share of the data's variance is none.
NO_NOISE = 1e-9


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


class PPCA(LinearGaussian):
    """z_n ~ N(0, I_q), x_n | z_n ~ N(W z_n + μ, σ² I_d); W, μ and σ are parameters.

    Integrating z out gives x_n ~ N(μ, W Wᵀ + σ² I), and with M = Wᵀ W + σ² I the posterior is
    z_n | x_n ~ N(M⁻¹ Wᵀ (x_n − μ), σ² M⁻¹): both are known exactly. W is determined only up to a
    rotation of the latent space. Of missing values see `LinearGaussian`.

    Source: Tipping and Bishop, "Probabilistic Principal Component Analysis" (1999), equations 2–8.

    Args:
        num_features: d.
        latent_dim: q, with 1 ≤ q < d.
        dtype: of the parameters; exact answers are always computed in float64.
        feature_names: labels of the features.

    Raises:
        InputError: if q is out of range.
    """

    name: ClassVar[str] = "ppca"
    Options: ClassVar[type[PPCAOptions]] = PPCAOptions
    oracle: ClassVar[str] = (
        "closed forms of log p(x), posterior and maximum likelihood (Tipping and Bishop 1999)"
    )

    def __init__(
        self,
        num_features: int,
        latent_dim: int = PPCAOptions.latent_dim,
        *,
        dtype: torch.dtype = torch.float64,
        feature_names: tuple[str, ...] = (),
    ) -> None:
        super().__init__("ppca", num_features, latent_dim, dtype, feature_names)
        self.log_noise_scale = nn.Parameter(torch.zeros((), dtype=dtype))

    @classmethod
    def from_data(
        cls, data: Rows | Dataset, options: PPCAOptions | None = None, **keywords: Unpack[PPCAKeywords]
    ) -> Self:
        """A model for these rows, started at their mean and overall scale; options as one object or by name.

        Raises:
            InputError: if the latent dimension reaches the rank of the centred data (σ² would be 0), or a
                feature has no value.
        """
        latent_dim = one_of(PPCAOptions, options, keywords).latent_dim
        rows = with_every_feature(data)
        mean, _, scale = centred_start(rows, latent_dim)
        model = cls(rows.num_features, latent_dim, feature_names=rows.feature_names)
        with torch.no_grad():
            model.mean.copy_(mean)
            model.loadings.mul_(scale)
            model.log_noise_scale.fill_(scale.log().item())
        return model

    @property
    def noise_scale(self) -> Tensor:
        """σ, in the units of x."""
        return self.log_noise_scale.exp()

    @torch.no_grad()
    def set_maximum_likelihood(
        self, x: Tensor, rotation: Tensor | None = None, *, x_observed: Tensor | None = None
    ) -> Self:
        """Set W, μ and σ to the maximum of the likelihood: the closed form (Tipping and Bishop, eq. 7–8), or
        what EM comes to where values are missing.

        W = U_q (Λ_q − σ² I)^½ R from the eigenvectors and eigenvalues of the 1/N covariance, and σ² is
        the mean of the discarded eigenvalues.

        Args:
            x: shape (num_data, d).
            rotation: R, an orthogonal q × q matrix; the identity by default, for which WᵀW is diagonal.
            x_observed: where there is a value; everywhere if None.

        Raises:
            InputError: where σ would be 0.
        """
        self.check_data(x, x_observed)
        if x_observed is not None:
            self.take(self.em(x, x_observed))
            return self._set(self.loadings.double(), self.mean, self.noise_scale.square(), rotation)
        x = x.double()
        mean = x.mean(0)
        values, vectors = torch.linalg.eigh(_gram(x - mean) / len(x))
        values, vectors = values.flip(0), vectors.flip(1)
        noise = values[self.latent_dim :].mean()
        if noise <= 1e-12 * values[0]:
            raise InputError(f"latent_dim is {self.latent_dim}; it must be less than the rank of the data")
        loadings = vectors[:, : self.latent_dim] * (values[: self.latent_dim] - noise).sqrt()
        return self._set(loadings, mean, noise, rotation)

    def _set(self, loadings: Tensor, mean: Tensor, noise: Tensor, rotation: Tensor | None) -> Self:
        if rotation is not None:
            loadings = loadings @ rotation.double()
        self.loadings.copy_(loadings)
        self.mean.copy_(mean)
        self.log_noise_scale.copy_(0.5 * noise.log())
        return self

    def em_rule(self, x: Tensor, observed: Tensor) -> Rule:
        """One noise variance, bounded far below the data's."""
        spread = torch.where(observed, x - torch.where(observed, x, torch.nan).nanmean(0), 0.0).square().sum()
        floor = NO_NOISE * spread / observed.sum()
        return Rule(shared=True, floor=floor.expand(self.num_features))

    @torch.no_grad()
    def take(self, found: EM) -> None:
        """Take over what EM found, Wᵀ W diagonal."""
        left, sizes, _ = torch.linalg.svd(found.loadings, full_matrices=False)
        self._set(left * sizes, found.mean, found.noise[0], None)

    def views(self, context: ViewContext) -> list[View]:
        """The loadings by feature, the eigenvalues of complete training data's covariance, imputed values."""
        (x, *observed), noise = context.training, float(self.noise_scale.detach()) ** 2
        weights = self.loadings.detach().cpu().numpy()
        if observed:
            axes = loadings_view(principal_axes(weights), self.feature_names, "the model's")
            return [axes, *self.imputed_views(context)]
        return axes_views(weights, noise, x, self.feature_names, "the model's")


def _gram(x: Tensor) -> Tensor:
    """XᵀX. NumPy sees that it is symmetric and computes half of it."""
    if x.is_cuda:
        return x.T @ x
    array = x.numpy()
    return torch.from_numpy(array.T @ array)
