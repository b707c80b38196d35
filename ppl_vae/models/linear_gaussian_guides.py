"""Guides whose family holds a linear-Gaussian model's posterior, set to it."""

import torch
from torch import Tensor, nn

from ppl_vae.base.errors import InputError
from ppl_vae.guides.amortised import LinearNormal
from ppl_vae.guides.normal import raw_spread
from ppl_vae.guides.patterns import PatternNormal
from ppl_vae.guides.per_datum import PerDatumNormal

__all__ = ["check_settable", "set_posterior"]

SETTABLE = (LinearNormal, PatternNormal, PerDatumNormal)


def check_settable(guide: object) -> None:
    """Refuse a guide that `set_posterior` does not know.

    Raises:
        InputError: naming those that it knows.
    """
    if not isinstance(guide, SETTABLE):
        known = ", ".join(kind.__name__ for kind in SETTABLE)
        raise InputError(
            f"EM sets the guide to the model's posterior, which it can do for {known}, not for "
            f"{type(guide).__name__}"
        )


@torch.no_grad()
def set_posterior(
    guide: nn.Module, loadings: Tensor, mean: Tensor, noise: Tensor, loc: Tensor, precision: Tensor
) -> None:
    """Set a guide of z_n to N(Λ_n⁻¹ Wᵀ Ψ⁻¹ (x_n − μ), Λ_n⁻¹), or to the best of independent coordinates.

    Args:
        guide: one that `check_settable` takes.
        loadings, mean, noise: W of shape (d, q), μ and the diagonal of Ψ, of shape (d,).
        loc: the posterior means of the data at hand, shape (num_data, q).
        precision: Λ, shape (q, q), or one for every datum.
    """
    scaled = loadings / noise[:, None]
    if isinstance(guide, PatternNormal):
        guide.factors.copy_(loadings / noise.sqrt()[:, None])
        guide.slopes.copy_(scaled)
        guide.offsets.copy_(-scaled * mean[:, None])
    elif isinstance(guide, LinearNormal):
        slopes = torch.linalg.solve(precision, scaled.T)
        guide.loc.weight.copy_(slopes)
        guide.loc.bias.copy_(-slopes @ mean)
        guide.raw_spread.copy_(raw_spread(precision, guide.covariance, guide.floor))
    elif isinstance(guide, PerDatumNormal):
        spread = raw_spread(precision, guide.covariance, guide.floor)
        guide.raw.copy_(torch.cat([loc, spread.expand(len(loc), -1)], 1))
