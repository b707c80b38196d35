"""An encoder's answer with a correction for every datum: what is between amortised and per datum."""

from typing import Any

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from ppl_vae.base.arguments import check_whole
from ppl_vae.base.errors import InputError
from ppl_vae.guides.amortised import AmortisedNormal
from ppl_vae.guides.local import LocalVector
from ppl_vae.guides.normal import multivariate_normal
from ppl_vae.guides.per_datum import PerDatum

__all__ = ["SemiAmortised"]


class SemiAmortised(PerDatum):
    """q(z_n) = N(μ(x_n) + δ_n, S_n Σ(x_n) S_n), S_n = diag e^{ε_n}: δ_n and ε_n are free for every datum.

    Both start at zero, where q is the encoder's answer and the ELBO the encoder's; what is left at the end is
    the family's gap, and no amortisation gap. It knows only the data it was trained on; other data need a new
    one around the same encoder, trained with the model held (``train="guide"``), which a few hundred steps
    do where free parameters from nothing would take thousands.

    Source: Kim, Wiseman, Miller, Sontag and Rush, "Semi-amortized variational autoencoders" (2018), section
    3, with parameters that are kept in place of a few steps for each batch.

    Args:
        encoder: the guide that it starts as, fitted or not. It becomes a part of this one, and is trained on
            with it.
        num_data: N, the number of data.

    Raises:
        InputError: if the encoder is another guide, or there are no data.
    """

    def __init__(self, encoder: AmortisedNormal, num_data: int) -> None:
        super().__init__("guide")
        if not isinstance(encoder, AmortisedNormal):
            raise InputError(
                f"a semi-amortised guide corrects an AmortisedNormal, not a {type(encoder).__name__}"
            )
        check_whole(1, num_data=num_data)
        self.encoder, self.latent_dim = encoder, encoder.latent_dim
        self.covariance, self.floor = encoder.covariance, encoder.floor
        like = next(encoder.parameters())
        self.shift = nn.Parameter(torch.zeros(num_data, encoder.latent_dim).to(like))
        self.log_scale = nn.Parameter(torch.zeros(num_data, encoder.latent_dim).to(like))
        self.vector = LocalVector.one(encoder.site, encoder.latent_dim, encoder.plate, num_data)

    def at(self, index: Tensor, *data: Any) -> TorchDistribution:
        """q(z_n) for the data at the given indices."""
        answer = self.encoder.encode(*(values[index] for values in data[: self.encoder.num_inputs]))
        shift, scale = self.shift[index], self.log_scale[index].exp()
        if isinstance(answer, MultivariateNormal):
            return multivariate_normal(answer.loc + shift, scale.unsqueeze(-1) * answer.scale_tril)
        return Normal(answer.mean + shift, answer.stddev * scale).to_event(1)
