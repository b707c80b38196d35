"""What linear models with Gaussian noise share: the program, its exact answers, and imputation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.base.arguments import check_whole
from ppl_vae.base.errors import InputError, listed
from ppl_vae.data.dataset import Dataset
from ppl_vae.data.inputs import Features, Input, Mask
from ppl_vae.data.rows import IncompleteRows, Rows
from ppl_vae.guides.amortised import LinearNormal
from ppl_vae.guides.patterns import PatternNormal
from ppl_vae.guides.per_datum import PerDatumNormal
from ppl_vae.models.base import DataType, FitDefaults, Unit, check_width
from ppl_vae.models.linear_gaussian_em import EM, Rule, first_estimate, maximise
from ppl_vae.models.linear_gaussian_guides import check_settable, set_posterior
from ppl_vae.models.missing_values import NormalWhereObserved
from ppl_vae.models.scales import far_from_one
from ppl_vae.program.abilities import Imputed, Maximum
from ppl_vae.program.shown import ViewContext
from ppl_vae.views import Intervals, View

__all__ = ["LinearGaussian", "centred_start", "check_latent_dim", "with_every_feature"]

# Missing values in the picture of the imputed ones.
MOST_SHOWN = 24
# The normal distribution's 5th and 95th percentile are so many standard deviations from the mean.
NINETY_PER_CENT = 1.6449


class LinearGaussian(PyroModule):  # type: ignore[misc]
    """z_n ~ N(0, I_q), x_n | z_n ~ N(W z_n + μ, Ψ) with Ψ diagonal; W, μ and Ψ are parameters.

    Where some values of row n are missing, let o be those observed: x_no ~ N(μ_o, W_o W_oᵀ + Ψ_o), and with
    Λ_n = I + W_oᵀ Ψ_o⁻¹ W_o the posterior is z_n | x_no ~ N(Λ_n⁻¹ W_oᵀ Ψ_o⁻¹ (x_no − μ_o), Λ_n⁻¹); of a row
    without a value it is the prior. That values are missing is taken to tell nothing about them (missing at
    random, Rubin 1976).

    A subclass says what its noise is, and how EM is held to it. Exact answers are computed in float64.

    Args:
        name: of the program.
        num_features: d.
        latent_dim: q, with 1 ≤ q < d.
        dtype: of the parameters.
        feature_names: labels of the features.

    Raises:
        InputError: if q is out of range.
    """

    data_type: ClassVar[type[DataType]] = IncompleteRows
    inputs: ClassVar[Mapping[str, Input]] = {"x": Features(), "x_observed": Mask(optional=True)}
    unit: ClassVar[Unit] = "datum"
    defaults: ClassVar[FitDefaults] = FitDefaults(num_steps=3000, lr=0.05, standardize=True)
    guides: ClassVar[Mapping[str, Callable[..., nn.Module]]] = {
        "linear": lambda model, x, *observed: _linear(model, x, *observed, covariance="full"),
        "linear-mean-field": lambda model, x, *observed: _linear(model, x, *observed, covariance="diagonal"),
        "per-datum": lambda model, x, *_: PerDatumNormal(len(x), model.latent_dim, dtype=x.dtype),
    }

    def __init__(
        self,
        name: str,
        num_features: int,
        latent_dim: int,
        dtype: torch.dtype,
        feature_names: tuple[str, ...],
    ) -> None:
        super().__init__(name)
        check_latent_dim(latent_dim, num_features)
        self.num_features, self.latent_dim = num_features, latent_dim
        self.feature_names = feature_names
        self.loadings = nn.Parameter(
            torch.randn(num_features, latent_dim, dtype=dtype) / math.sqrt(latent_dim)
        )
        self.mean = nn.Parameter(torch.zeros(num_features, dtype=dtype))

    @property
    def noise_scale(self) -> Tensor:
        """The noise's standard deviation, in the units of x: shape () or (d,)."""
        raise NotImplementedError

    def em_rule(self, x: Tensor, observed: Tensor) -> Rule:
        """What EM is held to, for data in float64 and where they have values, both of shape (num_data, d)."""
        raise NotImplementedError

    def take(self, found: EM) -> None:
        """Take over the parameters that EM found, W turned so that Wᵀ Ψ⁻¹ W is diagonal."""
        raise NotImplementedError

    @classmethod
    def scale_hint(cls, rows: Rows, options: Any) -> str | None:
        """A sentence where a feature's spread is far from 1; the model starts at their means."""
        return far_from_one(rows, around_mean=True)

    def forward(self, x: Tensor, x_observed: Tensor | None = None) -> Tensor:
        """The Pyro program.

        Args:
            x: the full data, shape (num_data, d).
            x_observed: where there is a value, booleans of the same shape; everywhere if None.
        """
        loadings, mean, noise_scale = self.loadings, self.mean, self.noise_scale
        zero = torch.zeros(self.latent_dim, dtype=loadings.dtype, device=loadings.device)
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            loc = z @ loadings.T + mean
            if x_observed is None:
                return pyro.sample("x", dist.Normal(loc, noise_scale).to_event(1), obs=x[i])
            likelihood = NormalWhereObserved(loc, noise_scale).to_event(1)
            return pyro.sample("x", likelihood, obs=torch.where(x_observed[i], x[i], torch.nan))

    def check_data(self, x: Tensor, x_observed: Tensor | None = None) -> None:
        """Refuse data of another width, and a mask that does not fit them.

        Raises:
            InputError: if x is not of shape (rows, d), x_observed not booleans of its shape, or a value that
                is said to be observed is none.
        """
        check_width(x, self.num_features, f"{self.name} of {self.num_features} features")
        if x_observed is None:
            return
        if x_observed.shape != x.shape or x_observed.dtype != torch.bool:
            raise InputError(
                f"x_observed must be booleans of the data's shape {tuple(x.shape)}, not "
                f"{x_observed.dtype} of shape {tuple(x_observed.shape)}"
            )
        if len(wrong := (x_observed & ~x.isfinite()).nonzero()):
            row, column = wrong[0].tolist()
            raise InputError(f"row {row}, column {column} is {x[row, column]:g} and said to be observed")

    @torch.no_grad()
    def exact_posterior(
        self, x: Tensor, x_observed: Tensor | None = None
    ) -> dict[str, dist.TorchDistribution]:
        """p(z_n | x_n) for every row, given its observed values."""
        loc, precision, _ = self._posterior(x, x_observed)
        return {"z": dist.MultivariateNormal(loc, precision_matrix=precision)}

    @torch.no_grad()
    def exact_log_evidence(self, x: Tensor, x_observed: Tensor | None = None) -> Tensor:
        """log p(x_n) of the observed values of every row, in nats, shape (num_data,); 0 without any."""
        if x_observed is None:
            _, mean, noise = self._doubles()
            marginal = dist.LowRankMultivariateNormal(mean, self.loadings.double(), noise)
            return marginal.log_prob(x.double())
        _, mean, noise = self._doubles()
        loc, precision, weighted = self._posterior(x, x_observed)
        rest = torch.where(x_observed, (x - mean).square() / noise + (2 * math.pi * noise).log(), 0.0).sum(1)
        # Woodbury's identity and the determinant lemma.
        return -0.5 * (rest - (loc * weighted).sum(1) + torch.linalg.slogdet(precision).logabsdet)

    @torch.no_grad()
    def em(
        self,
        x: Tensor,
        x_observed: Tensor | None = None,
        *,
        tolerance: float = 1e-8,
        max_iterations: int = 10_000,
        seen: Callable[[float], None] = lambda value: None,
    ) -> EM:
        """The maximum of the likelihood by EM; the model is left as it is.

        Args:
            x: shape (num_data, d).
            x_observed: where there is a value; everywhere if None.
            tolerance: in nats a row, of what further iterations would gain.
            max_iterations: after which it ends at any rate.
            seen: told the log likelihood at every iteration.

        Raises:
            InputError: where noise that all features share goes to 0.
        """
        self.check_data(x, x_observed)
        x = x.double()
        rule = self.em_rule(x, torch.ones_like(x, dtype=torch.bool) if x_observed is None else x_observed)
        start = first_estimate(x, x_observed, self.latent_dim, rule)
        found = maximise(
            x, x_observed, start, rule, tolerance=tolerance, max_iterations=max_iterations, seen=seen
        )
        if rule.shared and found.bounded:
            raise InputError(
                f"latent_dim is {self.latent_dim}; the noise of these data then goes to 0: take fewer"
            )
        return found

    @torch.no_grad()
    def fit_em(
        self,
        guide: nn.Module,
        x: Tensor,
        x_observed: Tensor | None = None,
        *,
        seed: int = 0,
        seen: Callable[[float], None] = lambda value: None,
    ) -> Maximum:
        """Set the parameters to what EM finds, and the guide to the posterior; see `abilities.HasEM`.

        It starts at the principal components, and nothing in it is random.
        """
        check_settable(guide)
        found = self.em(x, x_observed, seen=seen)
        self.take(found)
        loc, precision, _ = self._posterior(x, x_observed)
        set_posterior(guide, *self._doubles(), loc, precision)
        count = len(found.log_likelihood) - 1
        reason = f"{count:,} iterations of EM from the principal components"
        return Maximum(found.log_likelihood.tolist(), found.converged, reason)

    def _doubles(self) -> tuple[Tensor, Tensor, Tensor]:
        """W, μ and the diagonal of Ψ."""
        noise = self.noise_scale.double().square().expand(self.num_features)
        return self.loadings.double(), self.mean.double(), noise

    def _posterior(self, x: Tensor, x_observed: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Means (num_data, q), precisions Λ (num_data, q, q) or (q, q), and Wᵀ Ψ⁻¹ (x − μ), (num_data, q)."""
        loadings, mean, noise = self._doubles()
        scaled = loadings / noise[:, None]
        residuals = x.double() - mean
        if x_observed is None:
            precision = _identity_like(loadings) + loadings.T @ scaled
            weighted = residuals @ scaled
            return torch.linalg.solve(precision, weighted.T).T, precision, weighted
        outer = (loadings[:, :, None] * scaled[:, None, :]).flatten(1)
        precision = (x_observed.double() @ outer).unflatten(1, (self.latent_dim, self.latent_dim))
        precision = precision + _identity_like(loadings)
        weighted = torch.where(x_observed, residuals, 0.0) @ scaled
        return torch.linalg.solve(precision, weighted), precision, weighted

    @torch.no_grad()
    def mean_field_gap(self) -> float:
        """What the best mean-field Gaussian loses of a complete row: ½ (Σ ln Λ_ii − ln det Λ) ≥ 0 nats."""
        loadings, _, noise = self._doubles()
        precision = _identity_like(loadings) + loadings.T @ (loadings / noise[:, None])
        return 0.5 * float(precision.diagonal().log().sum() - torch.linalg.slogdet(precision).logabsdet)

    @torch.no_grad()
    def impute(self, x: Tensor, x_observed: Tensor | None = None) -> Imputed:
        """The missing values given the observed ones: x_nd ~ N(w_dᵀ E[z_n] + μ_d, w_dᵀ Λ_n⁻¹ w_d + ψ_d).

        Args:
            x: shape (num_data, d).
            x_observed: where there is a value; where x is no NaN, if None.

        Returns:
            Both of shape (num_data, d), in float64.
        """
        there = ~x.isnan() if x_observed is None else x_observed
        self.check_data(x, there)
        loadings, mean, noise = self._doubles()
        loc, precision, _ = self._posterior(x, there)
        squares = (loadings[:, :, None] * loadings[:, None, :]).flatten(1)
        variance = torch.linalg.inv(precision).flatten(1) @ squares.T + noise
        filled = torch.where(there, x.double(), loc @ loadings.T + mean)
        return Imputed(filled, torch.where(there, 0.0, variance.sqrt()))

    def imputed_views(self, context: ViewContext) -> list[View]:
        """Some of the missing values with their 90 % intervals; nothing where none is missing."""
        if len(context.data) < 2 or not len(places := (~context.data[1]).nonzero().cpu().numpy()):
            return []
        found = self.impute(*context.data)
        chosen = places[np.linspace(0, len(places) - 1, min(len(places), MOST_SHOWN)).round().astype(int)]
        mean, sd = (values.cpu().numpy()[chosen[:, 0], chosen[:, 1]] for values in (found.mean, found.sd))
        labels = self.feature_names or tuple(f"feature {k + 1}" for k in range(self.num_features))
        some = "" if len(chosen) == len(places) else f"{len(chosen)} of "
        return [
            Intervals(
                caption=f"What the model says of {some}the {len(places):,} missing values of the "
                f"{context.part} rows, given the observed ones.",
                names=[f"{labels[column]}, row {row + 1}" for row, column in chosen],
                answers={
                    "imputed": np.stack([mean - NINETY_PER_CENT * sd, mean, mean + NINETY_PER_CENT * sd], 1)
                },
                label="value as the model is given it, 90 % interval",
            )
        ]

    def event_dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the latent's event dimension."""
        return {"z": ("component",)}

    def coords(self) -> dict[str, list[Any]]:
        """Labels of the components."""
        return {"component": list(range(1, self.latent_dim + 1))}


def _linear(model: LinearGaussian, x: Tensor, *observed: Tensor, covariance: str) -> nn.Module:
    """The family that contains the exact posterior, or its best mean-field approximation."""
    if observed:
        return PatternNormal(model.num_features, model.latent_dim, covariance=covariance, dtype=x.dtype)
    return LinearNormal(model.num_features, model.latent_dim, covariance=covariance, dtype=x.dtype)


def _identity_like(loadings: Tensor) -> Tensor:
    return torch.eye(loadings.shape[1], dtype=loadings.dtype, device=loadings.device)


def check_latent_dim(latent_dim: int, limit: int, what: str = "the number of features") -> None:
    """Refuse a latent dimension outside 1, …, limit − 1.

    Raises:
        InputError: naming both numbers.
    """
    check_whole(1, latent_dim=latent_dim)
    if latent_dim >= limit:
        raise InputError(f"latent_dim is {latent_dim}; it must be less than {what}, {limit}")


def with_every_feature(data: Rows | Dataset, *, varying: bool = False) -> Rows:
    """Rows whose missing values are NaN, each feature with a value in some row.

    Args:
        data: a data set, or rows.
        varying: whether each feature must have two different values.

    Raises:
        InputError: naming the features that have not.
    """
    rows = data if isinstance(data, Rows) else IncompleteRows.of(data)
    empty = np.isnan(rows.values).all(0)
    if empty.any():
        names = [rows.feature_names[k] for k in np.flatnonzero(empty)]
        raise InputError(f"{rows.name} has no value of {listed(names)} in any training row")
    if varying and (constant := np.nanmin(rows.values, 0) == np.nanmax(rows.values, 0)).any():
        names = [rows.feature_names[k] for k in np.flatnonzero(constant)]
        raise InputError(f"{rows.name} has only one value of {listed(names)}, which then needs no factor")
    return rows


def centred_start(rows: Rows, latent_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """The features' means, the residuals around them (0 where a value is missing) and their overall scale.

    Raises:
        InputError: if the latent dimension reaches the rank of the centred data.
    """
    values = torch.as_tensor(rows.values, dtype=torch.float64)
    missing = values.isnan()
    mean = values.nanmean(0) if missing.any() else values.mean(0)
    centred = torch.where(missing, 0.0, values - mean)
    check_latent_dim(latent_dim, int(torch.linalg.matrix_rank(centred)), what="the rank of the data")
    scale = centred.square().mean().sqrt()
    return mean, centred, scale * (missing.numel() / (~missing).sum()).sqrt() if missing.any() else scale
