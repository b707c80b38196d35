"""A guide with one set of variational parameters for every datum."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.base.errors import InputError
from ppl_vae.guides.local import LocalVector
from ppl_vae.guides.normal import VARIANCE_FLOOR, num_raw, raw_normal
from ppl_vae.program.pair import Program

__all__ = ["PerDatum", "PerDatumNormal"]


class PerDatum(PyroModule):  # type: ignore[misc]
    """What guides with parameters for every datum share: the distribution of a datum's vector is `at`.

    The vector is that of all latent sites of a datum, one after another, unconstrained (`LocalVector`).
    A subclass has the vectors' parameters with a leading dimension of data.
    """

    vector: LocalVector
    latent_dim: int

    def at(self, index: Tensor, *data: Any) -> TorchDistribution:
        """The distribution of the vectors at given indices of the data: batch theirs, event (q,)."""
        raise NotImplementedError

    def forward(self, *data: Any) -> Any:
        """The Pyro program."""
        return self.vector.program(lambda index: self.at(index, *data), self.vector.rows(*data))

    def auxiliary_values(self, latents: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What its own sample statements must draw for it to arrive at given latents."""
        return self.vector.auxiliary_values(latents)

    def check_data(self, *data: Any) -> None:
        """Refuse data of another length.

        Raises:
            InputError: if the first argument is a tensor of another number of rows than there were.
        """
        num_data, found = self.vector.num_units, self.vector.rows(*data)
        if found != num_data:
            raise InputError(
                f"this guide has parameters for {num_data} data and was given {found}; a per-datum guide "
                "knows only the data it was trained on"
            )


class PerDatumNormal(PerDatum):
    """q(z_n) = N(μ_n, Σ_n) with free μ_n and Σ_n: no amortisation, hence no amortisation gap.

    z_n is all that the model draws for datum n: `from_model` reads the sites off the model, those under
    inner plates included, and puts them one after another in unconstrained space. With covariance "full"
    all of them are correlated. It knows only the data it was trained on; other data need a new guide,
    trained with the model held (``train="guide"``).

    Args:
        num_data: N, the number of data.
        latent_dim: q, the size of z.
        covariance: "diagonal" or "full".
        floor: lower bound on the variances, in squared units of z.
        dtype: of the parameters.
        site, plate: names of the latent site and of its plate in the model, where there is one site.
        vector: the sites instead, ``num_data`` and ``latent_dim`` being theirs.
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
        vector: LocalVector | None = None,
    ) -> None:
        super().__init__("guide")
        self.raw = nn.Parameter(torch.zeros(num_data, num_raw(latent_dim, covariance), dtype=dtype))
        # Equal starts would keep the latent dimensions exchangeable until noise tells them apart.
        nn.init.normal_(self.raw.data[:, :latent_dim], std=0.1)
        self.latent_dim, self.covariance, self.floor = latent_dim, covariance, floor
        self.vector = vector or LocalVector.one(site, latent_dim, plate, num_data)

    @classmethod
    def from_model(
        cls,
        model: Program,
        *data: Any,
        covariance: str = "diagonal",
        floor: float = VARIANCE_FLOOR,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """A guide for whatever latents a model draws for every datum.

        Args:
            model: a Pyro program with one plate that contains all its sites; it is run once.
            data: its data.
            covariance, floor: as above, in unconstrained space.
            dtype: of the parameters; that of the model's values by default.

        Raises:
            InputError: if a latent is shared by all data, or discrete and not marked for enumeration.
        """
        vector = LocalVector.of(model, *data)
        return cls(
            vector.num_units, vector.size, covariance=covariance, floor=floor, dtype=dtype or vector.dtype,
            vector=vector,
        )  # fmt: skip

    def at(self, index: Tensor, *data: Any) -> TorchDistribution:
        """q(z_n) for the data at the given indices."""
        return raw_normal(self.raw[index], self.latent_dim, self.covariance, self.floor)
