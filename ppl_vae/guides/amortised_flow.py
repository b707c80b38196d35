"""A guide whose encoder gives a normalising flow for every datum: amortised, and richer than any Gaussian."""

import torch
from pyro.distributions import Normal, TorchDistribution, TransformedDistribution
from torch import Tensor, nn
from torch.distributions import AffineTransform, MultivariateNormal, Transform

from ppl_vae.base.arguments import check_whole
from ppl_vae.base.errors import InputError
from ppl_vae.guides.amortised import Amortised, AmortisedNormal
from ppl_vae.guides.per_datum_flow import Triangular
from ppl_vae.guides.spline_flow import Remembered, splines

__all__ = ["AmortisedFlow"]


class AmortisedFlow(Amortised):
    """z_n = μ(x_n) + L(x_n) s_K(… s_1(ε; x_n)), ε ~ N(0, I): an encoder's Normal, bent.

    Each s is an autoregressive rational-quadratic spline with a scale and a shift behind it (`SplineFlow`),
    given by a network of the coordinates before it and of what the encoder says of x_n. They start as the
    identity: q is then the encoder's Normal, the ELBO is that of the encoder, and training it on goes up
    from there. Draws take one pass, the density at given latents as many as there are coordinates.

    Source: Rezende and Mohamed, "Variational inference with normalizing flows" (2015), section 4.2; Kingma
    et al., "Improved variational inference with inverse autoregressive flow" (2016), section 3; splines of
    Durkan et al. (2019), by zuko.

    Args:
        encoder: the guide that it starts as, fitted or not. It becomes a part of this one, and is trained on
            with it.
        num_transforms: K ≥ 1.
        bins: of a spline.
        hidden: units of each of a spline network's two hidden layers.

    Raises:
        InputError: if the encoder is another guide, a number is out of range, or zuko is not installed.
    """

    def __init__(
        self, encoder: AmortisedNormal, *, num_transforms: int = 2, bins: int = 8, hidden: int = 64
    ) -> None:
        super().__init__("guide")
        if not isinstance(encoder, AmortisedNormal):
            raise InputError(f"a flow starts from an AmortisedNormal, not from {type(encoder).__name__}")
        check_whole(1, num_transforms=num_transforms, hidden=hidden)
        check_whole(2, bins=bins)
        self.encoder = encoder
        self.num_inputs, self.latent_dim = encoder.num_inputs, encoder.latent_dim
        self.site, self.plate = encoder.site, encoder.plate
        size = 2 * encoder.latent_dim
        like = next(encoder.parameters())
        self.splines = nn.ModuleList(
            splines(encoder.latent_dim, num_transforms, bins, hidden, context=size)
        ).to(like)

    def encode(self, *inputs: Tensor) -> TorchDistribution:
        """q(z | x) for each row of the inputs: batch shape (rows,), event shape (q,)."""
        normal = self.encoder.encode(*inputs)
        # Log scales, so that what the splines read is of the size of the means.
        said = torch.cat([normal.mean, normal.stddev.log()], -1)
        parts: list[Transform] = [Remembered(spline(said)) for spline in self.splines]
        base = Normal(torch.zeros_like(normal.mean), 1.0).to_event(1)
        return TransformedDistribution(base, [*parts, _standardised(normal)])


def _standardised(normal: TorchDistribution) -> Transform:
    """The affine map from a standard normal to a given one."""
    if isinstance(normal, MultivariateNormal):
        return Triangular(normal.loc, normal.scale_tril, upper=False)
    return AffineTransform(normal.mean, normal.stddev, event_dim=1, cache_size=1)
