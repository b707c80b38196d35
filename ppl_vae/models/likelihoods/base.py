"""What a likelihood is: p(x | outputs of a decoder), with what it takes and where it starts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from ppl_vae.base.errors import InputError

if TYPE_CHECKING:
    from ppl_vae.data.dataset import VariableKind
    from ppl_vae.models.likelihoods.options import LikelihoodOptions

__all__ = [
    "LIKELIHOODS",
    "TAKES",
    "Likelihood",
    "binarises",
    "check_values",
    "taking",
]

# What values each takes, by name, so that this is known before one is made.
TAKES: Mapping[str, tuple[VariableKind, ...]] = {
    "bernoulli": ("binary",),
    "gaussian": ("real", "grey"),
    "gaussian-fixed": ("real", "grey"),
    "gaussian-pixel": ("real", "grey"),
    "gaussian-heteroscedastic": ("real", "grey"),
    "laplace": ("real", "grey"),
    "student-t": ("real", "grey"),
    "continuous-bernoulli": ("grey", "binary"),
    "discretised-logistic": ("grey", "binary"),
    "logistic-mixture": ("grey", "binary"),
    "categorical": ("category",),
    "poisson": ("count",),
    "negative-binomial": ("count",),
}
LIKELIHOODS = tuple(TAKES)
# Values that are looked at together.
BLOCK = 2**22


class Likelihood(nn.Module, ABC):
    """p(x | outputs): a distribution over the d features of a datum, which are independent given the outputs.

    Outputs stand in blocks of d along the last axis, each in the order of the features: with two outputs a
    feature the first d are those of one kind, the last d those of the other. What is learnt and does not
    depend on the outputs is a parameter of this module.

    Attributes:
        name: on the command line.
        own_options: those of `LikelihoodOptions` that it has.
    """

    name: str
    own_options: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_options(cls, options: LikelihoodOptions, num_features: int, num_channels: int) -> Self:
        """One for data of d features.

        Args:
            options: of which it reads its own.
            num_features: d.
            num_channels: values of a pixel, which stand side by side; 1 for what are no images.

        Raises:
            InputError: for an option out of range.
        """
        return cls()

    @property
    def takes(self) -> tuple[VariableKind, ...]:
        """Kinds of values that it is a distribution of."""
        return TAKES[self.name]

    def num_outputs(self, num_features: int) -> int:
        """How many numbers the decoder gives for d features."""
        return num_features

    @abstractmethod
    def forward(self, outputs: Tensor) -> TorchDistribution:
        """The distribution of x, of event shape (d,), for outputs of shape (*lead, `num_outputs(d)`)."""

    @abstractmethod
    def mean(self, outputs: Tensor) -> Tensor:
        """E[x | outputs], of shape (*lead, d), in the units of x."""

    @abstractmethod
    def start(self, x: Tensor) -> Tensor:
        """Biases of the decoder, of shape (`num_outputs(d)`,), that suit data of shape (N, d)."""

    def with_exposure(self, outputs: Tensor, x: Tensor | None) -> Tensor:
        """Outputs for data x of shape (N, d) whose exposure is known; others are the outputs themselves.

        Args:
            outputs: of the decoder, (*lead, N, `num_outputs(d)`).
            x: the data, or None for the exposure that is usual in the data it started from.
        """
        return outputs

    def reads(self, network: nn.Module) -> nn.Module:
        """An encoder's network, behind a step that brings the data to a scale which suits it."""
        return network

    def check(self, x: Tensor) -> None:
        """Refuse data outside the support; this default takes any finite number.

        Raises:
            InputError: naming the first wrong value, its row and its column.
        """


def taking(*kinds: VariableKind) -> str:
    """The names of the likelihoods that take one of these kinds of values."""
    return ", ".join(name for name, takes in TAKES.items() if set(takes) & set(kinds))


def binarises(name: str) -> bool:
    """Whether greys are made binary for a likelihood: where it takes binary values and no greys."""
    takes = TAKES.get(name, ())
    return "binary" in takes and "grey" not in takes


def check_values(x: Tensor, wrong: Callable[[Tensor], Tensor], needs: str, advice: str) -> None:
    """Refuse data that hold a wrong value, looking at a bounded number of rows at a time.

    Args:
        x: shape (N, d).
        wrong: of some rows, where the values are wrong.
        needs: what is taken, as the beginning of a sentence.
        advice: what to do.

    Raises:
        InputError: naming the first wrong value by row and column.
    """
    size = max(1, BLOCK // max(1, x.shape[-1]))
    for first, rows in zip(range(0, len(x), size), x.split(size), strict=True):
        if (found := wrong(rows)).any():
            row, column = torch.nonzero(found)[0].tolist()
            value = f"{rows[row, column].item():.4g}"
            raise InputError(f"{needs}, and row {first + row}, column {column} is {value}: {advice}")
