"""Models of differences of two normals as models of linear predictors, of which they are a simple case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ppl_vae.program.chains import Chains
from ppl_vae.program.design import Design
from ppl_vae.program.factors import LinearFactors, PairwiseFactors

__all__ = ["as_linear"]


def as_linear(model: Any) -> LinearFactors | None:
    """A model as one of linear predictors: itself, or what it is as `PairwiseFactors`; None where neither."""
    if isinstance(model, LinearFactors):
        return model
    return _Differences(model) if isinstance(model, PairwiseFactors) else None


@dataclass(frozen=True, eq=False)
class _Differences:
    """Every datum is a row with the two entries 1 and −1."""

    model: PairwiseFactors

    def __call__(self, *data: Any) -> Any:
        """The Pyro program."""
        return self.model(*data)

    def normal_prior(self) -> tuple[str, Chains]:
        """Independent normals, chains of one state."""
        site, prior = self.model.normal_prior()
        return site, Chains.static(prior.loc, prior.scale**2)

    def rows(self, *data: Any) -> Design:
        """The signed incidence matrix of the pairs."""
        pairs = torch.stack([index.long() for index in self.model.index_pairs(*data)], 1)
        return Design.of_entries(pairs, torch.tensor([1.0, -1.0], dtype=torch.float64, device=pairs.device))

    def log_likelihood(self, predictor: Tensor, *observed: Tensor) -> Tensor:
        """ℓ of the differences."""
        return self.model.log_likelihood(predictor)
