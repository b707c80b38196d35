"""What likelihoods of counts share: rates that cannot overflow, exposure, and what an encoder reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor, nn

from ppl_vae.base.errors import InputError
from ppl_vae.models.likelihoods.base import Likelihood, check_values

if TYPE_CHECKING:
    from ppl_vae.models.likelihoods.options import LikelihoodOptions

__all__ = ["CountLikelihood", "ReadsLogs", "bounded"]

# A rate of exp(30) = 1e13 is beyond any count; from there on the rate grows linearly with its output.
MOST = 30.0


def bounded(log_rate: Tensor) -> Tensor:
    """A log rate whose exponential and gradients are finite: above 30 it grows as a logarithm."""
    beyond = (log_rate - MOST).clamp_min(0)
    return torch.where(log_rate > MOST, MOST + beyond.log1p(), log_rate)


class ReadsLogs(nn.Module):
    """A network that is given log (1 + x) in place of counts x, and whatever else it takes as it is."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        """Of the shape of the network's answer."""
        found: Tensor = self.network(x.log1p(), *others)
        return found


class CountLikelihood(Likelihood):
    """Counts whose means are given by the first d outputs.

    With ``exposure="none"`` the outputs are log means. With "total" a row's sum l_n is taken as known, the
    outputs are logits of the features' shares, and the means are l_n softmax(outputs): modelled is how a
    row's total is shared out, as with the library sizes of cells, and log p(x) is given the totals.

    Source: Lopez et al., "Deep generative modeling for single-cell transcriptomics" (2018), methods.

    Args:
        exposure: "none" or "total".

    Raises:
        InputError: for another exposure.
    """

    own_options: ClassVar[tuple[str, ...]] = ("exposure",)
    mean_total: Tensor

    def __init__(self, exposure: str = "none") -> None:
        super().__init__()
        if exposure not in ("none", "total"):
            raise InputError(f"exposure is {exposure!r}; it is none or total")
        self.exposure = exposure
        if exposure == "total":
            self.register_buffer("mean_total", torch.ones(()))

    @classmethod
    def from_options(cls, options: LikelihoodOptions, num_features: int, num_channels: int) -> Self:
        """See `Likelihood.from_options`."""
        return cls(options.exposure)

    def with_exposure(self, outputs: Tensor, x: Tensor | None) -> Tensor:
        """The outputs, the first d of which become log means where they are shares of a total."""
        if self.exposure == "none":
            return outputs
        total = self.mean_total if x is None else x.sum(-1, keepdim=True).clamp_min(1)
        width = outputs.shape[-1] // self.num_outputs(1)
        logits, others = outputs[..., :width], outputs[..., width:]
        return torch.cat([logits.log_softmax(-1) + total.log(), others], -1)

    def mean(self, outputs: Tensor) -> Tensor:
        """The means of the counts, of outputs with their exposure; see `with_exposure`."""
        return bounded(outputs[..., : outputs.shape[-1] // self.num_outputs(1)]).exp()

    def log_means(self, x: Tensor) -> Tensor:
        """Where the first d outputs start, the logs of the data's means; notes the usual total.

        A feature that is always zero counts as half a count in all.
        """
        means = x.mean(0).clamp_min(0.5 / len(x))
        if self.exposure == "none":
            return means.log()
        with torch.no_grad():
            self.mean_total.copy_(means.sum())
        return (means / means.sum()).log()

    def reads(self, network: nn.Module) -> nn.Module:
        """An encoder that is given log (1 + x)."""
        return ReadsLogs(network)

    def check(self, x: Tensor) -> None:
        """Refuse what are no counts, and with exposure "total" a row without any.

        Raises:
            InputError: naming the first wrong value, or row.
        """
        check_values(
            x,
            lambda rows: (rows < 0) | (rows != rows.round()),
            f"a {self.name} likelihood takes counts, whole and not negative",
            "use the counts themselves, neither standardised nor scaled, or a likelihood of reals "
            "(gaussian, laplace, student-t)",
        )
        if self.exposure == "total" and (empty := torch.nonzero(x.sum(-1) == 0)).numel():
            raise InputError(
                f"row {int(empty[0, 0])} has no counts at all, and the exposure is a row's total: leave such "
                "rows out, or use --exposure none"
            )
