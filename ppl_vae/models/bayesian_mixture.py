"""A Gaussian mixture with priors over all its parameters, its components in order and summed out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypedDict, Unpack

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal, init_to_value
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.base.arguments import check_whole
from ppl_vae.base.errors import InputError
from ppl_vae.data.inputs import Features, Input
from ppl_vae.data.rows import Rows
from ppl_vae.models.base import DataType, FitDefaults, Unit, check_width, one_of
from ppl_vae.models.mixture_em import Covariance, Mixture, best_of, k_means_start
from ppl_vae.models.mixture_priors import MixturePriors, mixture_of
from ppl_vae.models.mixture_views import mixture_views
from ppl_vae.models.ordered_normal import OrderedNormal
from ppl_vae.program.shown import ViewContext
from ppl_vae.views import View

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["BayesianMixture", "BayesianMixtureKeywords", "BayesianMixtureOptions"]

# Runs of EM behind the place where guides begin, and eigenvalues below which one does not count.
STARTS, BOUND, START_ROWS = 5, 1e-3, 2000
# Draws behind averages over the posterior.
MOST_DRAWS = 500


@dataclass(frozen=True)
class BayesianMixtureOptions:
    """What a Bayesian mixture can be asked for.

    Attributes:
        num_components: Components of the mixture.
        covariance: Covariances of the components: diagonal, or full (correlations with an LKJ prior).
    """

    num_components: int = 3
    covariance: Covariance = "diagonal"


class BayesianMixtureKeywords(TypedDict, total=False):
    """`BayesianMixtureOptions` as keywords."""

    num_components: int
    covariance: Covariance


class BayesianMixture(PyroModule):  # type: ignore[misc]
    """π ~ Dir(α), μ_k ~ N(0, s² I), σ_kj ~ LogNormal, correlations ~ LKJ(η); x_n ~ Σ_k π_k N(μ_k, Σ_k).

    Exchangeable components have K! posterior modes that differ in labels alone. Here components are in the
    order of their means along one direction a: what a mixture says of x is the same, its prior density is K!
    times that of exchangeable components, on the K!-th part of the space where they are in order, and so log
    p(x) is exactly that of exchangeable components, with no copies of a mode to be counted. With B an
    orthonormal basis beside a, μ_k = a position_k + B offset_k, whose coordinates are independent, too.

    Source: Stan Development Team, *User's Guide*, "Identifying mixture models"; order statistics have density
    n! times that of the unordered sample.

    Args:
        centre, scale: mean and standard deviation of the features, shape (d,), in the units of x.
        direction: a, shape (d,), of length 1; the first feature's by default.
        options: K and covariances.
        priors: of centred and scaled features.
        feature_names: labels of the features.

    Raises:
        InputError: for options out of range.
    """

    data_type: ClassVar[type[DataType]] = Rows
    inputs: ClassVar[Mapping[str, Input]] = {"x": Features()}
    name: ClassVar[str] = "bayesian-mixture"
    Options: ClassVar[type[BayesianMixtureOptions]] = BayesianMixtureOptions
    unit: ClassVar[Unit] = "data set"
    oracle: ClassVar[str] = "log p(x) by a sum over all assignments; posteriordb's low_dim_gauss_mix"
    defaults: ClassVar[FitDefaults] = FitDefaults(num_steps=3000, lr=0.02, num_particles=4, standardize=True)
    guides: ClassVar[Mapping[str, Callable[..., nn.Module]]] = {
        "mean-field": lambda model, x: AutoNormal(model, init_loc_fn=model.near(x), init_scale=0.05),
        "full-rank": lambda model, x: AutoMultivariateNormal(
            model, init_loc_fn=model.near(x), init_scale=0.05
        ),
    }

    def __init__(
        self,
        centre: Tensor,
        scale: Tensor,
        direction: Tensor | None = None,
        options: BayesianMixtureOptions | None = None,
        *,
        priors: MixturePriors | None = None,
        feature_names: tuple[str, ...] = (),
    ) -> None:
        super().__init__("bayesian_mixture")
        self.options, self.priors = options or BayesianMixtureOptions(), priors or MixturePriors()
        check_whole(1, num_components=self.options.num_components)
        if self.options.covariance not in ("diagonal", "full"):
            raise InputError(f"covariance is {self.options.covariance!r}; it is diagonal or full")
        self.num_features, self.num_components = len(centre), self.options.num_components
        self.feature_names = feature_names or tuple(f"x{j + 1}" for j in range(len(centre)))
        first = torch.eye(len(centre), dtype=centre.dtype)[0] if direction is None else direction
        basis, _ = torch.linalg.qr(torch.cat([first[:, None], torch.eye(len(centre)).to(centre)], 1))
        self.register_buffer("centre", centre.clone())
        self.register_buffer("scale", scale.clone())
        self.register_buffer("direction", first.clone())
        self.register_buffer("beside", basis[:, 1:])

    @classmethod
    def from_data(
        cls,
        rows: Rows,
        options: BayesianMixtureOptions | None = None,
        **keywords: Unpack[BayesianMixtureKeywords],
    ) -> Self:
        """A model whose priors have the features' scales, its components in order along the first axis.

        Raises:
            InputError: for fewer rows than components.
        """
        asked = one_of(BayesianMixtureOptions, options, keywords)
        values = torch.as_tensor(rows.values, dtype=torch.float64)
        if len(values) < asked.num_components:
            raise InputError(
                f"num_components is {asked.num_components}; it is at most the number of rows, {len(values)}"
            )
        centre, spread = values.mean(0), values.std(0, correction=0)
        scale = torch.where(spread > 0, spread, 1.0)
        scaled = (values - centre) / scale
        first = torch.linalg.eigh(scaled.T @ scaled).eigenvectors[:, -1]
        first = first * first[first.abs().argmax()].sign()
        return cls(centre, scale, first, asked, feature_names=rows.feature_names)

    def forward(self, x: Tensor) -> Tensor:
        """The Pyro program; x is the full data of shape (num_data, d)."""
        priors, count, size = self.priors, self.num_components, self.num_features
        centre, scale = self.centre.to(x), self.scale.to(x)
        weights = pyro.sample("weights", dist.Dirichlet(x.new_full((count,), priors.concentration)))
        position = pyro.sample("position", OrderedNormal(x.new_zeros(()), priors.mean_sd, count))
        means, factor = position.unsqueeze(-1) * self.direction.to(x), None
        # Components become the last batch dimension, right of that of the data.
        with pyro.plate("component", count):
            if size > 1:
                offset = pyro.sample("offset", dist.Normal(x.new_zeros(size - 1), priors.mean_sd).to_event(1))
                means = means + offset.unsqueeze(-3) @ self.beside.to(x).T
            sd = pyro.sample("sd", priors.of_sds(x.new_ones(size)).to_event(1)).unsqueeze(-3)
            if size > 1 and self.options.covariance == "full":
                factor = pyro.sample("factor", dist.LKJCholesky(size, x.new_tensor(priors.correlation)))
        with pyro.plate("data", len(x)) as i:
            marginal = mixture_of(weights, centre + scale * means, scale * sd, factor)
            return pyro.sample("x", marginal, obs=x[i])

    def check_data(self, x: Tensor) -> None:
        """Refuse data of another width.

        Raises:
            InputError: if x is not of shape (rows, d).
        """
        check_width(x, self.num_features, f"a mixture of {self.num_features} features")

    @torch.no_grad()
    def starting_latents(self, x: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
        """Latents by site at the best of a few runs of EM, where guides and chains begin.

        Args:
            x: rows, shape (num_data, d); of more than 2,000, the first.
            seed: of the runs.
        """
        scaled = (x[:START_ROWS].double() - self.centre) / self.scale
        kind = self.options.covariance
        try:
            best, _ = best_of(scaled, self.num_components, kind, num_starts=STARTS, bound=BOUND, seed=seed)
            mixture = best.mixture
        except InputError:  # all runs are singular; the prior keeps the posterior away from there
            mixture = k_means_start(scaled, self.num_components, kind, BOUND, seed)
        order = (mixture.means @ self.direction).argsort()
        weights, means, covariances = (
            part[order] for part in (mixture.weights, mixture.means, mixture.covariances)
        )
        found = {"weights": weights, "position": means @ self.direction}
        if self.num_features > 1:
            found["offset"] = means @ self.beside
        if kind == "diagonal":
            return found | {"sd": covariances.sqrt()}
        sd = covariances.diagonal(dim1=1, dim2=2).sqrt()
        correlations = covariances / (sd[:, :, None] * sd[:, None])
        found["sd"] = sd
        return found | ({"factor": torch.linalg.cholesky(correlations)} if self.num_features > 1 else {})

    def near(self, x: Tensor) -> Callable[..., Tensor]:
        """Where AutoGuides begin: `starting_latents`."""
        values = {name: value.to(x) for name, value in self.starting_latents(x).items()}
        return partial(init_to_value, values=values)

    @torch.no_grad()
    def identifiable(self, draws: xr.Dataset) -> xr.Dataset:
        """Weights, means, standard deviations and correlations of the components in their order, in the units
        of x: functions that a change of labels leaves as they are."""
        import xarray as xr

        over, dims = ("chain", "draw"), ("chain", "draw", "component")
        weights, means, covariances = self._components(draws)
        sds = np.sqrt(np.diagonal(covariances, axis1=-2, axis2=-1))
        found = {
            "weight": (dims, weights), "mean": ((*dims, "feature"), means), "sd": ((*dims, "feature"), sds),
        }  # fmt: skip
        coords: dict[str, Any] = {
            **self.coords(),
            **{name: draws[name] for name in over if name in draws.coords},
        }
        if "factor" in draws:
            rows, columns = np.triu_indices(self.num_features, 1)
            of_pairs = (covariances / (sds[..., :, None] * sds[..., None, :]))[..., rows, columns]
            found["correlation"] = ((*dims, "pair"), of_pairs)
            names = self.feature_names
            coords["pair"] = [f"{names[i]} × {names[j]}" for i, j in zip(rows, columns, strict=True)]
        return xr.Dataset(found, {name: value for name, value in coords.items() if name != "axis"})

    def _components(self, draws: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weights (chain, draw, K), means (…, K, d) and covariances (…, K, d, d), in the units of x."""
        order = {name: ("chain", "draw", *dims) for name, dims in self._dims().items() if name in draws}
        values = {name: draws[name].transpose(*dims).to_numpy() for name, dims in order.items()}
        centre, scale, direction, beside = (
            part.cpu().numpy() for part in (self.centre, self.scale, self.direction, self.beside)
        )
        means = values["position"][..., None] * direction
        if "offset" in values:
            means = means + values["offset"] @ beside.T
        factor = values.get("factor", np.eye(self.num_features))
        roots = (values["sd"] * scale)[..., None] * factor
        return values["weights"], centre + scale * means, roots @ roots.swapaxes(-1, -2)

    @torch.no_grad()
    def responsibilities(self, draws: xr.Dataset, x: Tensor) -> Tensor:
        """p(k_n = k | x) of every row, over draws of the parameters, shape (num_data, K).

        Args:
            draws: of the latents, as every `Posterior` holds them; some hundreds of them are taken.
            x: rows, shape (num_data, d).
        """
        parts = (torch.as_tensor(part.reshape(-1, *part.shape[2:])) for part in self._components(draws))
        weights, means, covariances = parts
        step = -(-len(weights) // MOST_DRAWS)
        total = torch.zeros(len(x), self.num_components, dtype=torch.float64)
        chosen = range(0, len(weights), step)
        for at in chosen:
            total += Mixture(weights[at], means[at], covariances[at]).log_joint(x.double()).softmax(1)
        return total / len(chosen)

    def views(self, context: ViewContext) -> list[View]:
        """As `GaussianMixture.views`, of the posterior means of weights, means and covariances."""
        if "svi" not in context.draws:
            return []
        draws, x = context.draws["svi"], context.data[0]
        weights, means, covariances = (torch.as_tensor(part.mean((0, 1))) for part in self._components(draws))
        shares = self.responsibilities(draws, x)
        mixture = Mixture(weights, means, covariances)
        return mixture_views(mixture, x, shares, self.feature_names, context.training[0])

    def _dims(self) -> dict[str, tuple[str, ...]]:
        """Dimensions of the latent sites."""
        within = ("offset", "sd", "factor")
        return {n: (*(["component"] if n in within else []), *d) for n, d in self.event_dims().items()}

    def event_dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the event dimensions."""
        return {
            "weights": ("component",),
            "position": ("component",),
            "offset": ("axis",),
            "sd": ("feature",),
            "factor": ("row", "column"),
        }

    def coords(self) -> dict[str, list[Any]]:
        """Labels of components, features and the axes beside the direction of order."""
        return {
            "component": list(range(1, self.num_components + 1)),
            "feature": list(self.feature_names),
            "axis": list(range(2, self.num_features + 1)),
        }
