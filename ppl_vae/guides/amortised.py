"""Guides that read a datum's posterior off the datum itself."""

from typing import Any, ClassVar

import pyro
import torch
from pyro.distributions import Normal, TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.base.errors import InputError
from ppl_vae.guides.means import means_view
from ppl_vae.guides.normal import VARIANCE_FLOOR, multivariate_normal, num_raw, raw_normal, raw_scale_tril
from ppl_vae.program.shown import ViewContext
from ppl_vae.views import View

__all__ = ["Amortised", "AmortisedNormal", "LinearNormal"]


class Amortised(PyroModule):  # type: ignore[misc]
    """What guides share that read the posterior of one vector a datum off the datum: `encode` says it.

    Attributes:
        num_inputs: how many of the programs' data it reads, the first ones; rows of each are data.
        latent_dim: q, the size of z.
        site, plate: names of the latent site and of its plate in the model.
    """

    num_inputs: int
    latent_dim: int
    site: str
    plate: str

    def encode(self, *inputs: Tensor) -> TorchDistribution:
        """q(z | x) for each row of the inputs: batch shape (rows,), event shape (q,)."""
        raise NotImplementedError

    def views(self, context: ViewContext) -> list[View]:
        """The plane of the rows' posterior means."""
        return [means_view(self.encode(*context.data[: self.num_inputs]), context)]

    def forward(self, *data: Any) -> Tensor:
        """The Pyro program; takes the full data, of shape (num_data, …) each that it reads."""
        with pyro.plate(self.plate, len(data[0])) as i:
            return pyro.sample(self.site, self.encode(*(values[i] for values in data[: self.num_inputs])))


class AmortisedNormal(Amortised):
    """q(z_n | x_n) = N(μ(x_n), Σ(x_n)), the parameters given by one network for all data.

    Where the programs take further data, such as labels y that x is conditioned on, the network may read
    them as well: with ``num_inputs=2`` it is called with (x, y), and q(z_n | x_n, y_n) is its answer.

    Source: Kingma and Welling, "Auto-Encoding Variational Bayes" (2014), section 2.3.

    Args:
        network: maps (batch, features) to (batch, `num_raw(latent_dim, covariance)`); called with as many
            tensors as there are inputs.
        latent_dim: q, the size of z.
        covariance: "diagonal" or "full".
        floor: lower bound on the variances, in squared units of z.
        site, plate: names of the latent site and of its plate in the model.
        num_inputs: how many of the programs' data the network reads, the first ones; rows of each are data.
    """

    made_whole: ClassVar[bool] = True

    def __init__(
        self,
        network: nn.Module,
        latent_dim: int,
        *,
        covariance: str = "diagonal",
        floor: float = VARIANCE_FLOOR,
        site: str = "z",
        plate: str = "data",
        num_inputs: int = 1,
    ) -> None:
        super().__init__("guide")
        num_raw(latent_dim, covariance)
        self.num_inputs = num_inputs
        self.network = network
        self.latent_dim, self.covariance, self.floor = latent_dim, covariance, floor
        self.site, self.plate = site, plate

    def encode(self, *inputs: Tensor) -> TorchDistribution:
        """q(z | x) for each row of the network's inputs: batch shape (rows,), event shape (q,)."""
        return raw_normal(self.network(*inputs), self.latent_dim, self.covariance, self.floor)


class LinearNormal(PyroModule):  # type: ignore[misc]
    """q(z_n | x_n) = N(A x_n + b, S): a linear encoder with one covariance for all data.

    It contains the exact posterior of linear-Gaussian models when S is full, and the best mean-field one when
    S is diagonal (Tipping and Bishop 1999, section 3.1: the posterior covariance σ²M⁻¹ does not depend on x).

    Args:
        num_features: d, the size of x.
        latent_dim: q, the size of z.
        covariance: "diagonal" or "full".
        floor: lower bound on the variances, in squared units of z.
        dtype: of the parameters.
        site, plate: names of the latent site and of its plate in the model.
    """

    def __init__(
        self,
        num_features: int,
        latent_dim: int,
        *,
        covariance: str = "full",
        floor: float = VARIANCE_FLOOR,
        dtype: torch.dtype | None = None,
        site: str = "z",
        plate: str = "data",
    ) -> None:
        super().__init__("guide")
        num_spread = num_raw(latent_dim, covariance) - latent_dim
        self.loc = nn.Linear(num_features, latent_dim, dtype=dtype)
        self.raw_spread = nn.Parameter(torch.zeros(num_spread, dtype=dtype))
        self.latent_dim, self.covariance, self.floor = latent_dim, covariance, floor
        self.site, self.plate = site, plate

    def encode(self, x: Tensor) -> TorchDistribution:
        """q(z | x) for each row of x: batch shape (rows,), event shape (q,)."""
        loc = self.loc(x)
        if self.covariance == "diagonal":
            variance = nn.functional.softplus(self.raw_spread) + self.floor
            return Normal(loc, variance.sqrt()).to_event(1)
        scale_tril = raw_scale_tril(self.raw_spread, self.latent_dim, self.floor)
        return multivariate_normal(loc, scale_tril)

    def views(self, context: ViewContext) -> list[View]:
        """The plane of the rows' posterior means."""
        return [means_view(self.encode(context.data[0]), context)]

    def check_data(self, x: Tensor, *_: Any) -> None:
        """Refuse rows with missing values.

        Raises:
            InputError: naming the first.
        """
        if len(missing := x.isnan().nonzero()):
            row, column = missing[0].tolist()
            raise InputError(
                f"row {row}, column {column} is missing, and this guide was made for data without missing "
                "values"
            )

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        """The Pyro program; x is the full data of shape (num_data, num_features), and all that it reads."""
        with pyro.plate(self.plate, len(x)) as i:
            return pyro.sample(self.site, self.encode(x[i]))
