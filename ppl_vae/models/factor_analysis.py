"""Factor analysis: as PPCA, with a noise variance for every feature (Rubin and Thayer 1982)."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from ppl_vae.base.arguments import check_real
from ppl_vae.data.dataset import Dataset
from ppl_vae.data.rows import Rows
from ppl_vae.models.axes import loadings_view, principal_axes
from ppl_vae.models.base import one_of
from ppl_vae.models.linear_gaussian import LinearGaussian, centred_start, with_every_feature
from ppl_vae.models.linear_gaussian_em import EM, Rule
from ppl_vae.program.shown import ViewContext
from ppl_vae.views import Bars, View

__all__ = ["FactorAnalysis", "FactorAnalysisKeywords", "FactorAnalysisOptions"]

# Features in the picture of the noise.
MAX_FEATURES = 30
# A noise variance within this factor of its bound is said to have gone there.
NEAR = 1.5


@dataclass(frozen=True)
class FactorAnalysisOptions:
    """What factor analysis can be asked for.

    Attributes:
        latent_dim: Latent dimensions (factors).
        min_noise: Lower bound of each feature's noise variance, as a share of its variance.
    """

    latent_dim: int = 2
    min_noise: float = 0.005


class FactorAnalysisKeywords(TypedDict, total=False):
    """`FactorAnalysisOptions` as keywords."""

    latent_dim: int
    min_noise: float


class FactorAnalysis(LinearGaussian):
    """z_n ~ N(0, I_q), x_n | z_n ~ N(W z_n + μ, diag ψ_1 … ψ_d); W, μ and ψ are parameters.

    Integrating z out gives x_n ~ N(μ, W Wᵀ + Ψ), and with Λ = I + Wᵀ Ψ⁻¹ W the posterior is
    z_n | x_n ~ N(Λ⁻¹ Wᵀ Ψ⁻¹ (x_n − μ), Λ⁻¹). W is determined only up to a rotation of the latent space;
    unlike PPCA's, the fit does not depend on the units of the features. Of missing values see
    `LinearGaussian`.

    The likelihood of some data rises until the noise of a feature is gone (a Heywood case): the variances
    are bounded below, and the features at their bounds are named. The default bound is the one that R's
    ``factanal`` has.

    Source: Rubin and Thayer, "EM algorithms for ML factor analysis" (1982).

    Args:
        num_features: d.
        latent_dim: q, with 1 ≤ q < d.
        min_noise: lower bound of each ψ as a share of the feature's variance.
        variances: of the features; 1 by default.
        dtype: of the parameters; exact answers are always computed in float64.
        feature_names: labels of the features.

    Raises:
        InputError: if q or the bound is out of range.
    """

    name: ClassVar[str] = "factor-analysis"
    Options: ClassVar[type[FactorAnalysisOptions]] = FactorAnalysisOptions
    oracle: ClassVar[str] = "closed forms of log p(x) and posterior; scikit-learn's maximum of the likelihood"
    noise_floor: Tensor

    def __init__(
        self,
        num_features: int,
        latent_dim: int = FactorAnalysisOptions.latent_dim,
        *,
        min_noise: float = FactorAnalysisOptions.min_noise,
        variances: Tensor | None = None,
        dtype: torch.dtype = torch.float64,
        feature_names: tuple[str, ...] = (),
    ) -> None:
        check_real(lambda share: 0 < share < 1, "must be between 0 and 1", min_noise=min_noise)
        super().__init__("factor-analysis", num_features, latent_dim, dtype, feature_names)
        self.log_noise_scale = nn.Parameter(torch.zeros(num_features, dtype=dtype))
        scales = torch.ones(num_features) if variances is None else variances
        self.register_buffer("noise_floor", min_noise * scales.to(dtype))

    @classmethod
    def from_data(
        cls,
        data: Rows | Dataset,
        options: FactorAnalysisOptions | None = None,
        **keywords: Unpack[FactorAnalysisKeywords],
    ) -> Self:
        """A model for these rows, started at their means and scales; options as one object or by name.

        Raises:
            InputError: if the latent dimension reaches the rank of the centred data, or a feature has no
                value, or always the same.
        """
        asked = one_of(FactorAnalysisOptions, options, keywords)
        rows = with_every_feature(data, varying=True)
        mean, centred, _ = centred_start(rows, asked.latent_dim)
        counts = torch.as_tensor(~np.isnan(rows.values)).sum(0)
        variances = centred.square().sum(0) / counts
        model = cls(
            rows.num_features, asked.latent_dim, min_noise=asked.min_noise, variances=variances,
            feature_names=rows.feature_names,
        )  # fmt: skip
        with torch.no_grad():
            model.mean.copy_(mean)
            model.loadings.mul_(variances.sqrt()[:, None])
            model.log_noise_scale.copy_(0.5 * variances.log())
        return model

    @property
    def noise_scale(self) -> Tensor:
        """The square root of ψ, in the units of x, shape (d,)."""
        return ((2 * self.log_noise_scale).exp() + self.noise_floor).sqrt()

    @property
    def heywood_cases(self) -> tuple[str, ...]:
        """The features whose noise has gone to its bound: the factors explain all of them."""
        near = self.noise_scale.detach().square() < NEAR * self.noise_floor
        return tuple(self._label(k) for k in near.nonzero().flatten().tolist())

    def _label(self, feature: int) -> str:
        return self.feature_names[feature] if self.feature_names else f"feature {feature + 1}"

    @torch.no_grad()
    def set_maximum_likelihood(self, x: Tensor, *, x_observed: Tensor | None = None) -> Self:
        """Set W, μ and ψ to the maximum of the likelihood that EM finds, Wᵀ Ψ⁻¹ W diagonal.

        Warns of features whose noise is at its bound, by name.

        Args:
            x: shape (num_data, d).
            x_observed: where there is a value; everywhere if None.
        """
        self.take(self.em(x, x_observed))
        return self

    def em_rule(self, x: Tensor, observed: Tensor) -> Rule:
        """A noise variance for each feature, above its bound."""
        return Rule(shared=False, floor=self.noise_floor.double())

    @torch.no_grad()
    def take(self, found: EM) -> None:
        """Take over what EM found, Wᵀ Ψ⁻¹ W diagonal; warns of features whose noise is at its bound."""
        left, sizes, _ = torch.linalg.svd(found.loadings / found.noise.sqrt()[:, None], full_matrices=False)
        self.loadings.copy_(left * sizes * found.noise.sqrt()[:, None])
        self.mean.copy_(found.mean)
        floor = self.noise_floor.double()
        # At the bound itself the logarithm would be infinite.
        self.log_noise_scale.copy_(0.5 * (found.noise - floor).clamp_min(1e-6 * floor).log())
        if found.bounded:
            warnings.warn(_heywood([self._label(k) for k in found.bounded]), stacklevel=3)

    def views(self, context: ViewContext) -> list[View]:
        """The loadings by feature, the share of each feature that is noise, and what was imputed."""
        noise = self.noise_scale.detach().cpu().numpy()
        weights = self.loadings.detach().cpu().numpy()
        axes = principal_axes(weights / noise[:, None]) * noise[:, None]
        loadings = loadings_view(axes, self.feature_names, "the model's")
        return [loadings, self._noise_view(weights, noise), *self.imputed_views(context)]

    def _noise_view(self, weights: np.ndarray, noise: np.ndarray) -> View:
        share = noise**2 / (noise**2 + (weights**2).sum(1))
        kept = np.argsort(share, kind="stable")[:MAX_FEATURES]
        cases = self.heywood_cases
        said = f" {_heywood(cases)}" if cases else ""
        return Bars(
            caption="The share of each feature's variance that no factor explains (its uniqueness)." + said,
            names=[self._label(k) for k in kept],
            panels={"": share[kept]},
            label="share of the variance",
        )


def _heywood(names: Sequence[str]) -> str:
    """A Heywood case in a sentence."""
    return (
        f"The noise variance of {', '.join(names)} has gone to its lower bound (a Heywood case): the data "
        "would have a factor explain it wholly, as they do where there are too many factors."
    )
