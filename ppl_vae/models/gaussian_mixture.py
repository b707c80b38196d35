"""The Gaussian mixture of maximum likelihood, its components summed out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, Unpack

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import derived
from ppl_vae.data.inputs import Features, Input
from ppl_vae.data.rows import Rows
from ppl_vae.guides.enumerated import Enumerated
from ppl_vae.models.base import DataType, FitDefaults, Unit, check_width, one_of
from ppl_vae.models.mixture_covariances import covariances_of, factors_of
from ppl_vae.models.mixture_em import (
    FLOOR,
    EMRun,
    Mixture,
    best_of,
    k_means_start,
    log_normals,
    smallest,
)
from ppl_vae.models.mixture_options import GaussianMixtureKeywords, GaussianMixtureOptions, check_mixture
from ppl_vae.models.mixture_views import mixture_views
from ppl_vae.program.abilities import Maximum
from ppl_vae.program.shown import ViewContext
from ppl_vae.views import View

__all__ = ["GaussianMixture", "GaussianMixtureKeywords", "GaussianMixtureOptions"]

# Rows that EM looks at before a fit; the fit itself takes all of them.
START_ROWS = 2000


class GaussianMixture(PyroModule):  # type: ignore[misc]
    """k_n ~ Cat(π), x_n | k_n ~ N(μ_k, Σ_k); π, μ and Σ are parameters, and k is summed out.

    The posterior of k_n, the responsibilities, and log p(x) are known exactly. Inside, features are centred
    and scaled by their own mean and standard deviation; there Σ_k = δ I + F_k F_kᵀ (or δ + exp(2 l) for
    variances), so that the likelihood has a maximum.

    Args:
        centre, scale: mean and standard deviation of the features, shape (d,), in the units of x.
        options: K, covariances, starts, and the bound of which δ is a tenth.
        feature_names: labels of the features.

    Raises:
        InputError: for options out of range.
    """

    data_type: ClassVar[type[DataType]] = Rows
    inputs: ClassVar[Mapping[str, Input]] = {"x": Features()}
    name: ClassVar[str] = "gaussian-mixture"
    Options: ClassVar[type[GaussianMixtureOptions]] = GaussianMixtureOptions
    unit: ClassVar[Unit] = "datum"
    oracle: ClassVar[str] = (
        "responsibilities and log p(x) by Bayes' rule; the best of twenty EM runs of others"
    )
    defaults: ClassVar[FitDefaults] = FitDefaults(num_steps=1000, lr=0.01, standardize=True)
    guides: ClassVar[Mapping[str, Callable[..., nn.Module]]] = {"exact": lambda model, x: Enumerated()}

    def __init__(
        self,
        centre: Tensor,
        scale: Tensor,
        options: GaussianMixtureOptions | None = None,
        *,
        feature_names: tuple[str, ...] = (),
    ) -> None:
        super().__init__("gaussian_mixture")
        self.options = options or GaussianMixtureOptions()
        check_mixture(self.options)
        self.num_features, self.num_components = len(centre), self.options.num_components
        self.feature_names = feature_names or tuple(f"x{j + 1}" for j in range(len(centre)))
        self.register_buffer("centre", centre.clone())
        self.register_buffer("scale", scale.clone())
        count, size = self.num_components, self.num_features
        round_ = torch.eye(size, dtype=centre.dtype)
        starts = {"full": round_.repeat(count, 1, 1), "tied": round_, "diagonal": torch.zeros(count, size)}
        self.logits = nn.Parameter(centre.new_zeros(count))
        self.locs = nn.Parameter(centre.new_zeros(count, size))
        self.factors = nn.Parameter(starts.get(self.options.covariance, torch.zeros(count)).to(centre))

    @classmethod
    def from_data(
        cls,
        rows: Rows,
        options: GaussianMixtureOptions | None = None,
        **keywords: Unpack[GaussianMixtureKeywords],
    ) -> Self:
        """A model that starts at the best of several runs of EM; options as one object or by name.

        Of more than 2,000 rows EM takes that many, chosen at random as its starts are: from the global
        generator.

        Raises:
            InputError: for fewer rows than components, or where all runs are singular.
        """
        asked = one_of(GaussianMixtureOptions, options, keywords)
        model, values = cls.without_start(rows, asked), torch.as_tensor(rows.values, dtype=torch.float64)
        seed = int(torch.randint(2**62, ()))
        generator = torch.Generator().manual_seed(derived(seed, "rows"))
        some = values[torch.randperm(len(values), generator=generator)[:START_ROWS]]
        some = values if len(values) <= START_ROWS else some
        return model.set_maximum_likelihood(some, num_starts=asked.num_starts, seed=seed)

    @classmethod
    def without_start(cls, rows: Rows, options: GaussianMixtureOptions) -> Self:
        """See `abilities.SearchesStart`: a model of these rows before EM, its components all the same."""
        values = torch.as_tensor(rows.values, dtype=torch.float64)
        spread = values.std(0, correction=0)
        scale = torch.where(spread > 0, spread, 1.0)
        return cls(values.mean(0), scale, options, feature_names=rows.feature_names)

    @torch.no_grad()
    def set_maximum_likelihood(self, x: Tensor, *, num_starts: int = 10, seed: int = 0) -> Self:
        """Set π, μ and Σ to the best of several runs of EM that are not singular.

        Args:
            x: rows, shape (num_data, d).
            num_starts: runs, each from a k-means++ start of its own; with 0, the first start itself.
            seed: of the starts.

        Raises:
            InputError: for fewer rows than components, or where all runs are singular.
        """
        scaled, asked = self._scaled(x), self.options
        if num_starts:
            return self._set(self._best_run(scaled, num_starts, seed)[0].mixture)
        own = derived(seed, "start", 0)
        return self._set(
            k_means_start(scaled, self.num_components, asked.covariance, asked.min_eigenvalue, own)
        )

    @torch.no_grad()
    def fit_em(
        self, guide: object, x: Tensor, *, seed: int = 0, seen: Callable[[float], None] = lambda value: None
    ) -> Maximum:
        """Set the parameters to the best of several runs of EM on all rows; see `abilities.HasEM`.

        The guide draws nothing, and is left as it is. There are as many runs as ``num_starts``, at least one.
        """
        scaled = self._scaled(x)
        best, runs = self._best_run(scaled, max(1, self.options.num_starts), seed, seen)
        self._set(best.mixture)
        units = len(x) * float(self.scale.log().sum())
        singular = sum(run.singular for run in runs)
        left_out = f"; {singular} of them ended in singular solutions and are left out" if singular else ""
        reason = f"the best of {len(runs)} run{'s' * (len(runs) > 1)} of EM from k-means++ starts{left_out}"
        return Maximum((best.log_likelihood - units).tolist(), best.converged, reason)

    def _scaled(self, x: Tensor) -> Tensor:
        """Standardised rows in float64.

        Raises:
            InputError: for data of another width, or fewer rows than components.
        """
        self.check_data(x)
        if len(x) < self.num_components:
            raise InputError(
                f"num_components is {self.num_components}; it is at most the number of rows, {len(x)}"
            )
        return (x.double() - self.centre) / self.scale

    def _best_run(
        self, scaled: Tensor, num_starts: int, seed: int, seen: Callable[[float], None] = lambda value: None
    ) -> tuple[EMRun, list[EMRun]]:
        asked = self.options
        return best_of(
            scaled, self.num_components, asked.covariance, num_starts=num_starts, bound=asked.min_eigenvalue,
            seed=seed, seen=seen,
        )  # fmt: skip

    def _set(self, mixture: Mixture) -> Self:
        """Take over a mixture of standardised features, the heaviest component first."""
        order = mixture.weights.argsort(descending=True)
        mixture = Mixture(mixture.weights[order], mixture.means[order], mixture.covariances[order])
        asked, floor = self.options, FLOOR * self.options.min_eigenvalue
        self.logits.data.copy_(mixture.weights.log())
        self.locs.data.copy_(mixture.means)
        self.factors.data.copy_(factors_of(mixture.covariances, asked.covariance, floor))
        return self

    def _covariances(self) -> Tensor:
        """Of standardised features: variances (K, d), or matrices (K, d, d)."""
        floor, kind = FLOOR * self.options.min_eigenvalue, self.options.covariance
        return covariances_of(self.factors, kind, floor, self.num_components, self.num_features)

    @property
    def weights(self) -> Tensor:
        """π, shape (K,)."""
        return self.logits.softmax(0)

    @property
    def means(self) -> Tensor:
        """μ, shape (K, d), in the units of x."""
        return self.centre + self.scale * self.locs

    @property
    def covariances(self) -> Tensor:
        """Σ, shape (K, d, d), in the squared units of x."""
        found = self._covariances()
        found = torch.diag_embed(found) if found.dim() == 2 else found
        return self.scale[:, None] * found * self.scale

    def forward(self, x: Tensor) -> Tensor:
        """The Pyro program; x is the full data of shape (num_data, d)."""
        logits, means, covariances = self.logits, self.means, self._covariances()
        variances = covariances.dim() == 2
        roots = covariances.sqrt() if variances else torch.linalg.cholesky(covariances)
        roots = self.scale * roots if variances else self.scale[:, None] * roots
        with pyro.plate("data", len(x)) as i:
            k = pyro.sample("k", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
            component = (
                dist.Normal(means[k], roots[k]).to_event(1)
                if variances
                else dist.MultivariateNormal(means[k], scale_tril=roots[k])
            )
            return pyro.sample("x", component, obs=x[i])

    def check_data(self, x: Tensor) -> None:
        """Refuse data of another width.

        Raises:
            InputError: if x is not of shape (rows, d).
        """
        check_width(x, self.num_features, f"a mixture of {self.num_features} features")

    @torch.no_grad()
    def log_joint(self, x: Tensor) -> Tensor:
        """log p(x_n, k_n = k) in nats for every row and component, shape (num_data, K), in float64."""
        with poutine.block():
            covariances, scale = self._covariances().double(), self.scale.double()
            scaled = (x.double() - self.centre.double()) / scale
            found = log_normals(scaled, self.locs.double(), covariances) - scale.log().sum()
            return self.logits.double().log_softmax(0) + found

    def exact_posterior(self, x: Tensor) -> dict[str, dist.TorchDistribution]:
        """The responsibilities p(k_n | x_n), of batch shape (num_data,), in float64."""
        return {"k": dist.Categorical(logits=self.log_joint(x))}

    def exact_log_evidence(self, x: Tensor) -> Tensor:
        """log p(x_n) for every row, in nats, shape (num_data,), in float64."""
        return self.log_joint(x).logsumexp(1)

    @torch.no_grad()
    def smallest_eigenvalue(self) -> float:
        """The smallest eigenvalue of any covariance, of features divided by their standard deviations."""
        return smallest(self._covariances())

    def degenerate(self) -> str | None:
        """A sentence where the solution is singular, else None."""
        least, bound = self.smallest_eigenvalue(), self.options.min_eigenvalue
        if least >= bound:
            return None
        return (
            f"the solution is singular: a covariance has an eigenvalue of {least:.1g} of the features"
            f"' variance, below {bound:g}; a component sits on a few rows, and its likelihood has no maximum"
        )

    def views(self, context: ViewContext) -> list[View]:
        """The components' means and weights, and the rows with the components' ellipses."""
        mixture = Mixture(self.weights, self.means, self.covariances)
        shares = self.exact_posterior(context.data[0])["k"].probs
        return mixture_views(mixture, context.data[0], shares, self.feature_names, context.training[0])

    def event_dims(self) -> dict[str, tuple[str, ...]]:
        """No latent has an event dimension."""
        return {}

    def coords(self) -> dict[str, list[Any]]:
        """No dimension has labels."""
        return {}
