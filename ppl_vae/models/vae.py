"""Variational autoencoders (Kingma and Welling 2014)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, Unpack, cast

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.base.arguments import check_whole
from ppl_vae.base.errors import InputError
from ppl_vae.data.inputs import Features, Input
from ppl_vae.data.rows import Rows
from ppl_vae.guides.amortised import Amortised, AmortisedNormal
from ppl_vae.guides.amortised_flow import AmortisedFlow
from ppl_vae.guides.means import posterior_mean
from ppl_vae.guides.normal import num_raw
from ppl_vae.guides.per_datum import PerDatumNormal
from ppl_vae.guides.semi_amortised import SemiAmortised
from ppl_vae.models.base import DataType, FitDefaults, Unit, check_width, one_of
from ppl_vae.models.bits import bits_per_dim
from ppl_vae.models.likelihoods.base import Likelihood, binarises
from ppl_vae.models.likelihoods.named import completed, likelihood_of
from ppl_vae.models.likelihoods.options import LikelihoodKeywords, LikelihoodOptions
from ppl_vae.models.networks.named import Architecture
from ppl_vae.models.scales import far_from_likelihood
from ppl_vae.program.shown import ViewContext
from ppl_vae.views import ImageGrid, View

__all__ = ["VAE", "VAEKeywords", "VAEOptions", "encode", "interpolate", "reconstruct"]

NUM_IMAGES = 8


@dataclass(frozen=True)
class VAEOptions(LikelihoodOptions):
    """What a VAE can be asked for.

    Attributes:
        latent_dim: Latent dimensions.
        hidden: Widths of the decoder's hidden layers, from the latent side, or none; the encoder mirrors
            them.
        activation: relu, tanh, softplus, silu or identity.
        network: mlp, or for images conv or resnet; the guide's encoder mirrors the decoder.
        channels: Channels of the maps of a decoder of images, from the latent side; sides double as often.
        norm: none, batch or group: what comes between a layer and its activation.
    """

    latent_dim: int = 10
    hidden: tuple[int, ...] = (200, 200)
    activation: str = "relu"
    network: str = "mlp"
    channels: tuple[int, ...] = (64, 32)
    norm: str = "none"


class FurtherVAEKeywords(LikelihoodKeywords, total=False):
    """`VAEOptions` as keywords, but for the first."""

    hidden: tuple[int, ...]
    activation: str
    network: str
    channels: tuple[int, ...]
    norm: str


class VAEKeywords(FurtherVAEKeywords, total=False):
    """`VAEOptions` as keywords."""

    latent_dim: int


class VAE(PyroModule):  # type: ignore[misc]
    """z_n ~ N(0, I_q), x_n | z_n ~ likelihood(decoder(z_n)), the decoder a neural network.

    The guide q(z_n | x_n) is amortised by an encoder (diagonal or full covariance) or has one set of
    parameters for every datum. The ELBO is the reconstruction E_q[log p(x | z)] minus
    KL(q ‖ p) = ½ Σ(μ² + σ² − 1 − ln σ²) for a diagonal q.

    Source: Kingma and Welling, "Auto-Encoding Variational Bayes" (2014), sections 2–3, appendix B.

    Args:
        num_features: d.
        latent_dim: q ≥ 1.
        image_shape: (height, width) or (height, width, channels) of data that are images, which networks
            other than "mlp" need; in a row the channels of a pixel stand together.
        keywords: the other options of `VAEOptions`.

    Raises:
        InputError: for an unknown likelihood, network, norm or activation, a width below 1, or images whose
            sides cannot be halved as often as there are convolutions.
    """

    data_type: ClassVar[type[DataType]] = Rows
    inputs: ClassVar[Mapping[str, Input]] = {"x": Features()}
    name: ClassVar[str] = "vae"
    Options: ClassVar[type[VAEOptions]] = VAEOptions
    unit: ClassVar[Unit] = "datum"
    made_whole: ClassVar[bool] = True
    oracle: ClassVar[str] = "log p(x) by a grid over a latent of two dimensions"
    # Without a warm-up the first steps may switch the latents off for good: the KL falls faster than
    # the decoder learns to use them (posterior collapse).
    defaults: ClassVar[FitDefaults] = FitDefaults(
        num_steps=3000, lr=2e-3, batch_size=128, kl_warmup=0.1, split=(0.8, 0.1, 0.1), dtype="float32"
    )
    guides: ClassVar[Mapping[str, Callable[..., nn.Module]]] = {
        "amortised": lambda model, x: model.encoder_guide("diagonal"),
        "amortised-full": lambda model, x: model.encoder_guide("full"),
        "per-datum": lambda model, x: PerDatumNormal(len(x), model.latent_dim),
        "amortised-flow": lambda model, x: AmortisedFlow(model.encoder_guide("diagonal")),
        "semi-amortised": lambda model, x: SemiAmortised(model.encoder_guide("diagonal"), len(x)),
    }

    def __init__(
        self,
        num_features: int,
        latent_dim: int = VAEOptions.latent_dim,
        *,
        image_shape: Sequence[int] | None = None,
        **keywords: Unpack[FurtherVAEKeywords],
    ) -> None:
        super().__init__("vae")
        check_whole(1, latent_dim=latent_dim)
        options = VAEOptions(latent_dim, **keywords)
        self.num_features, self.latent_dim = num_features, latent_dim
        self.networks = Architecture(
            options.network, options.hidden, options.channels, options.activation, options.norm, image_shape
        )
        distribution = likelihood_of(options, num_features, image_shape)
        self.decoder = self.networks.decoder(latent_dim, distribution.num_outputs(num_features))
        self.likelihood: Likelihood = distribution

    @classmethod
    def defaults_for(cls, options: VAEOptions) -> FitDefaults:
        """Greys are binarised for a likelihood that takes no greys."""
        return replace(cls.defaults, binarize="static" if binarises(options.likelihood) else "none")

    @classmethod
    def from_data(
        cls, rows: Rows, options: VAEOptions | None = None, **keywords: Unpack[VAEKeywords]
    ) -> Self:
        """A model for these rows, its output bias giving their mean (Burda et al. 2016, section 5).

        Options are given as one object or by name.

        Raises:
            InputError: if the rows are outside the likelihood's support.
        """
        (x,) = rows.tensors(torch.float32)
        chosen = completed(one_of(VAEOptions, options, keywords), x)
        model = cls(rows.num_features, image_shape=rows.image_shape, **cast(VAEKeywords, vars(chosen)))
        model.check_data(x)
        bias = model.decoder[-1].bias
        assert isinstance(bias, nn.Parameter)
        with torch.no_grad():
            bias.copy_(model.likelihood.start(x))
        return model

    @classmethod
    def scale_hint(cls, rows: Rows, options: VAEOptions) -> str | None:
        """A sentence where a feature's size is far from 1: the networks are fed the values themselves."""
        return far_from_likelihood(rows, options)

    def encoder_guide(self, covariance: str = "diagonal") -> AmortisedNormal:
        """An amortised guide whose encoder mirrors the decoder."""
        network = self.networks.encoder(self.num_features, num_raw(self.latent_dim, covariance))
        return AmortisedNormal(self.likelihood.reads(network), self.latent_dim, covariance=covariance)

    def forward(self, x: Tensor) -> Tensor:
        """The Pyro program; x is the full data of shape (num_data, num_features)."""
        zero = torch.zeros(self.latent_dim, dtype=x.dtype, device=x.device)
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            outputs = self.likelihood.with_exposure(self.decoder(z), x[i])
            return pyro.sample("x", self.likelihood(outputs), obs=x[i])

    def check_data(self, x: Tensor) -> None:
        """Refuse data of another width or outside the likelihood's support.

        Raises:
            InputError: naming the first wrong place.
        """
        check_width(x, self.num_features, f"VAE of {self.networks.of_what(self.num_features)}")
        self.likelihood.check(x)

    @torch.no_grad()
    def decode(self, z: Tensor, *, draw: bool = False, like: Tensor | None = None) -> Tensor:
        """The mean of p(x | z) for each row of z, or a draw from it; shape (rows, num_features).

        Counts whose exposure is a total have those of the rows ``like``, or the usual one.
        """
        outputs = self.likelihood.with_exposure(self.decoder(z), like)
        if draw:
            return self.likelihood(outputs).sample()
        return self.likelihood.mean(outputs)

    @torch.no_grad()
    def sample(self, num_rows: int, *, draw: bool = False) -> Tensor:
        """Decode latents from the prior: means by default, draws of x on request."""
        parameter = next(self.decoder.parameters())
        z = torch.randn(num_rows, self.latent_dim, dtype=parameter.dtype, device=parameter.device)
        return self.decode(z, draw=draw)

    def views(self, context: ViewContext) -> list[View]:
        """For images and an amortised guide: reconstructions, samples, a line between two; bits of greys."""
        guide = context.pair.guide
        shape = None if context.dataset is None else Rows.of(context.dataset).image_shape
        if shape is None or not isinstance(guide, Amortised):
            return [*bits_per_dim(context, self.likelihood)]
        x = context.data[0][:NUM_IMAGES]
        rows = {
            f"{context.part} data": x,
            "reconstruction (decoder's mean)": reconstruct(self, guide, x),
            "sample from the prior (decoder's mean)": self.sample(NUM_IMAGES),
            "sample from the prior (draw)": self.sample(NUM_IMAGES, draw=True),
            "interpolation of the first two (decoder's mean)": interpolate(
                self, guide, x[0], x[min(1, len(x) - 1)], num_steps=NUM_IMAGES
            ),
        }
        caption = (
            "Reconstructions should keep the shape of the data above them, samples should look like data, "
            "and the line between two images should pass through images that look like data."
        )
        grid = ImageGrid(caption=caption, rows=rows, image_shape=shape)
        return [grid, *bits_per_dim(context, self.likelihood)]

    def event_dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the latent's event dimension."""
        return {"z": ("component",)}

    def coords(self) -> dict[str, list[Any]]:
        """Labels of the components."""
        return {"component": list(range(1, self.latent_dim + 1))}


@torch.no_grad()
def encode(guide: nn.Module, x: Tensor) -> dist.TorchDistribution:
    """q(z | x) of an amortised guide for each row of x.

    Raises:
        InputError: for a guide that knows only the data it was trained on.
    """
    if not isinstance(guide, Amortised):
        raise InputError(f"{type(guide).__name__} cannot encode new data: it is not amortised")
    return guide.encode(x)


@torch.no_grad()
def reconstruct(model: VAE, guide: nn.Module, x: Tensor, *, draw: bool = False) -> Tensor:
    """Decode each row's posterior mean E_q[z | x], or, with ``draw``, a draw of z and then of x.

    Raises:
        InputError: for a guide that is not amortised.
    """
    q = encode(guide, x)
    return model.decode(q.sample() if draw else posterior_mean(q), draw=draw, like=x)


@torch.no_grad()
def interpolate(
    model: VAE, guide: nn.Module, first: Tensor, last: Tensor, *, num_steps: int = 8, draw: bool = False
) -> Tensor:
    """Decode the straight line between two data's posterior means, both ends included.

    Args:
        model, guide: a fitted pair.
        first, last: two data, each of shape (num_features,).
        num_steps: number of points.
        draw: draws of x instead of means.

    Returns:
        Shape (num_steps, num_features).

    Raises:
        InputError: for a guide that is not amortised, or fewer than 2 steps.
    """
    if num_steps < 2:
        raise InputError(f"num_steps is {num_steps}; interpolation needs both ends")
    ends = posterior_mean(encode(guide, torch.stack([first, last])))
    at = torch.linspace(0, 1, num_steps, dtype=ends.dtype, device=ends.device)[:, None]
    return model.decode((1 - at) * ends[0] + at * ends[1], draw=draw)
