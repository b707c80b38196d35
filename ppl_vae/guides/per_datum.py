"""A guide with one set of variational parameters for every datum."""

import pyro
import torch
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.errors import InputError
from ppl_vae.guides.normal import VARIANCE_FLOOR, num_raw, raw_normal

__all__ = ["PerDatumNormal"]


class PerDatumNormal(PyroModule):  # type: ignore[misc]
    """q(z_n) = N(μ_n, Σ_n) with free μ_n and Σ_n: no amortisation, hence no amortisation gap.

    It knows only the data it was trained on; other data need a new guide, trained with the model
    held (``train="guide"``).

    Args:
        num_data: N, the number of data.
        latent_dim: q, the size of z.
        covariance: "diagonal" or "full".
        floor: lower bound on the variances, in squared units of z.
        dtype: of the parameters.
        site, plate: names of the latent site and of its plate in the model.
    """

    def __init__(
        self,
        num_data: int,
        latent_dim: int,
        *,
        covariance: str = "diagonal",
        floor: float = VARIANCE_FLOOR,
        dtype: torch.dtype | None = None,
        site: str = "z",
        plate: str = "data",
    ) -> None:
        super().__init__("guide")
        self.raw = nn.Parameter(torch.zeros(num_data, num_raw(latent_dim, covariance), dtype=dtype))
        # Equal starts would keep the latent dimensions exchangeable until noise tells them apart.
        nn.init.normal_(self.raw.data[:, :latent_dim], std=0.1)
        self.latent_dim, self.covariance, self.floor = latent_dim, covariance, floor
        self.site, self.plate = site, plate

    def check_data(self, x: Tensor) -> None:
        """Refuse data of another length.

        Raises:
            InputError: if x has not ``num_data`` rows.
        """
        if len(x) != len(self.raw):
            raise InputError(
                f"this guide has parameters for {len(self.raw)} data and was given {len(x)}; a per-datum "
                "guide knows only the data it was trained on"
            )

    def at(self, index: Tensor) -> TorchDistribution:
        """q(z_n) for the data at the given indices."""
        return raw_normal(self.raw[index], self.latent_dim, self.covariance, self.floor)

    def forward(self, x: Tensor) -> Tensor:
        """The Pyro program; x is the full data of shape (num_data, features)."""
        with pyro.plate(self.plate, len(x)) as i:
            return pyro.sample(self.site, self.at(i))
