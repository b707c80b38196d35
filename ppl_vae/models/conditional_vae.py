"""Variational autoencoders of data given a condition (Sohn, Lee and Yan 2015)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, Unpack

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.base.arguments import check_whole
from ppl_vae.base.errors import InputError
from ppl_vae.data.dataset import Dataset
from ppl_vae.data.inputs import Condition, Features, Input
from ppl_vae.data.matching import resolve
from ppl_vae.data.rows import Rows
from ppl_vae.guides.amortised import Amortised, AmortisedNormal
from ppl_vae.guides.amortised_flow import AmortisedFlow
from ppl_vae.guides.means import posterior_mean
from ppl_vae.guides.normal import VARIANCE_FLOOR, num_raw, raw_normal
from ppl_vae.guides.per_datum import PerDatumNormal
from ppl_vae.guides.semi_amortised import SemiAmortised
from ppl_vae.models.base import DataType, FitDefaults, Unit, check_width, one_of
from ppl_vae.models.bits import bits_per_dim
from ppl_vae.models.conditions import Conditions, Joined, bayes_views
from ppl_vae.models.likelihoods.base import Likelihood, binarises
from ppl_vae.models.likelihoods.gaussian import Gaussian
from ppl_vae.models.likelihoods.named import completed, likelihood_of
from ppl_vae.models.linear_answers import LinearAnswers, affine, is_linear
from ppl_vae.models.networks.dense import mlp
from ppl_vae.models.networks.named import Architecture
from ppl_vae.models.scales import far_from_likelihood
from ppl_vae.models.vae import VAEKeywords, VAEOptions
from ppl_vae.program.shown import ViewContext
from ppl_vae.views import ImageGrid, View

__all__ = ["ConditionalVAE", "ConditionalVAEKeywords", "ConditionalVAEOptions", "LinearConditionalVAE"]

NUM_IMAGES = 8
PRIORS = ("standard", "conditional")


@dataclass(frozen=True)
class ConditionalVAEOptions(VAEOptions):
    """What a conditional VAE can be asked for.

    Attributes:
        prior: standard, the same N(0, I) for every condition; or conditional, a normal whose mean and
            variances a network reads off the condition.
    """

    prior: str = "standard"


class ConditionalVAEKeywords(VAEKeywords, total=False):
    """`ConditionalVAEOptions` as keywords."""

    prior: str


class ConditionalVAE(PyroModule):  # type: ignore[misc]
    """z_n ~ N(0, I_q) or p(z | c_n), x_n | z_n, c_n ~ likelihood(decoder(z_n, c_n)): a model of p(x | c).

    The condition c is a category, a vector or an image; it is given, and nothing is said of how it comes
    about. The guide reads both, q(z_n | x_n, c_n). Where c is a category, Bayes' rule makes a classifier of
    the model (`conditions.class_log_evidence`).

    Source: Sohn, Lee and Yan, "Learning Structured Output Representation using Deep Conditional Generative
    Models" (2015), section 3; Kingma et al., "Semi-supervised Learning with Deep Generative Models" (2014),
    section 2 (M2), for categories.

    Args:
        num_features: d.
        conditions: what the condition is.
        options: the other options.
        image_shape: (height, width) or (height, width, channels) of data that are images.

    Raises:
        InputError: for an unknown name among the options, or a width below 1.
    """

    data_type: ClassVar[type[DataType]] = Dataset
    inputs: ClassVar[Mapping[str, Input]] = {"x": Features(), "condition": Condition()}
    name: ClassVar[str] = "conditional-vae"
    Options: ClassVar[type[ConditionalVAEOptions]] = ConditionalVAEOptions
    unit: ClassVar[Unit] = "datum"
    oracle: ClassVar[str] = (
        "log p(x | c) and p(z | x, c) in closed form where all is linear, a grid over two latents, and the "
        "bounds of log p(x) by Bayes' rule on every row"
    )
    defaults: ClassVar[FitDefaults] = FitDefaults(
        num_steps=3000, lr=2e-3, batch_size=128, kl_warmup=0.1, split=(0.8, 0.1, 0.1), dtype="float32"
    )
    guides: ClassVar[Mapping[str, Callable[..., nn.Module]]] = {
        "amortised": lambda model, *data: model.encoder_guide("diagonal"),
        "amortised-full": lambda model, *data: model.encoder_guide("full"),
        "per-datum": PerDatumNormal.from_model,
        "amortised-flow": lambda model, *data: AmortisedFlow(model.encoder_guide("diagonal")),
        "semi-amortised": lambda model, *data: SemiAmortised(model.encoder_guide("diagonal"), len(data[0])),
    }

    def __init__(
        self,
        num_features: int,
        conditions: Conditions,
        options: ConditionalVAEOptions | None = None,
        *,
        image_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__("conditional_vae")
        asked = options or ConditionalVAEOptions()
        check_whole(1, latent_dim=asked.latent_dim)
        if asked.prior not in PRIORS:
            raise InputError(f"prior {asked.prior!r} is not known; there are {', '.join(PRIORS)}")
        self.num_features, self.latent_dim, self.conditions = num_features, asked.latent_dim, conditions
        self.networks = Architecture(
            asked.network, asked.hidden, asked.channels, asked.activation, asked.norm, image_shape
        )
        distribution = likelihood_of(asked, num_features, image_shape)
        self.embedding, width = conditions.embedding(self.networks)
        self.decoder = self.networks.decoder(asked.latent_dim + width, distribution.num_outputs(num_features))
        self.prior: nn.Module | None = None
        if asked.prior == "conditional":
            self.prior = mlp([width, *reversed(asked.hidden), 2 * asked.latent_dim], asked.activation)
        self.likelihood: Likelihood = distribution
        if is_linear(distribution, self.decoder):
            # Methods ask by type for what is known exactly.
            self.__class__ = LinearConditionalVAE

    @classmethod
    def defaults_for(cls, options: ConditionalVAEOptions) -> FitDefaults:
        """Greys are binarised for a likelihood that takes no greys."""
        return replace(cls.defaults, binarize="static" if binarises(options.likelihood) else "none")

    @classmethod
    def from_data(
        cls,
        data: Dataset,
        options: ConditionalVAEOptions | None = None,
        **keywords: Unpack[ConditionalVAEKeywords],
    ) -> Self:
        """A model for these data, its output bias giving their mean; options as one object or by name.

        Raises:
            InputError: if x is outside the likelihood's support, or a category never occurs.
        """
        ready = resolve(data, cls.inputs)
        x, condition = ready.arguments(cls.inputs, torch.float32)
        conditions = Conditions.of(ready["condition"])
        conditions.check_seen(condition)
        asked = completed(one_of(ConditionalVAEOptions, options, keywords), x)
        model = cls(x.shape[1], conditions, asked, image_shape=ready["x"].image_shape)
        model.check_data(x, condition)
        bias = model.decoder[-1].bias
        assert isinstance(bias, nn.Parameter)
        with torch.no_grad():
            bias.copy_(model.likelihood.start(x))
        return model

    @classmethod
    def scale_hint(cls, data: Dataset, options: ConditionalVAEOptions) -> str | None:
        """A sentence where a feature's size is far from 1: the networks are fed the values themselves."""
        return far_from_likelihood(Rows.of(data), options)

    def encoder_guide(self, covariance: str = "diagonal") -> AmortisedNormal:
        """An amortised guide of x and c, whose encoder mirrors the decoder."""
        embedding, width = self.conditions.embedding(self.networks)
        raw = num_raw(self.latent_dim, covariance)
        joined = Joined(self.networks, self.num_features, embedding, width, raw)
        network = self.likelihood.reads(joined)
        return AmortisedNormal(network, self.latent_dim, covariance=covariance, num_inputs=2)

    def prior_given(self, c: Tensor) -> dist.TorchDistribution:
        """p(z | c) for embedded conditions of shape (rows, width): batch shape (rows,), event shape (q,)."""
        if self.prior is not None:
            return raw_normal(self.prior(c), self.latent_dim, "diagonal", VARIANCE_FLOOR)
        zero = torch.zeros(self.latent_dim, dtype=c.dtype, device=c.device)
        return dist.Normal(zero, 1.0).expand([len(c), self.latent_dim]).to_event(1)

    def outputs(self, z: Tensor, c: Tensor, x: Tensor | None = None) -> Tensor:
        """What the decoder says of latents (*lead, rows, q) and embedded conditions (rows, width).

        Counts whose exposure is a total have those of the rows x, or the usual one where there are none.
        """
        outputs = self.decoder(torch.cat([z, c.expand(*z.shape[:-1], c.shape[-1])], -1))
        return self.likelihood.with_exposure(outputs, x)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """The Pyro program.

        Args:
            x: the full data, shape (num_data, num_features).
            condition: categories, int64 of shape (num_data,), or reals of shape (num_data, features).
        """
        with pyro.plate("data", len(x)) as i:
            c = self.embedding(condition[i])
            z = pyro.sample("z", self.prior_given(c))
            return pyro.sample("x", self.likelihood(self.outputs(z, c, x[i])), obs=x[i])

    def check_data(self, x: Tensor, condition: Tensor) -> None:
        """Refuse data of another width or outside the likelihood's support, and unknown conditions.

        Raises:
            InputError: naming the first wrong place.
        """
        check_width(x, self.num_features, f"conditional VAE of {self.networks.of_what(self.num_features)}")
        if len(condition) != len(x):
            raise InputError(f"{len(condition)} conditions were given for {len(x)} rows of data")
        self.conditions.check(condition)
        self.likelihood.check(x)

    @torch.no_grad()
    def decode(self, z: Tensor, condition: Tensor, *, draw: bool = False) -> Tensor:
        """The mean of p(x | z, c) for each row of z and its condition, or a draw; (rows, num_features)."""
        outputs = self.outputs(z, self.embedding(condition))
        return self.likelihood(outputs).sample() if draw else self.likelihood.mean(outputs)

    @torch.no_grad()
    def sample(self, condition: Tensor, *, draw: bool = False) -> Tensor:
        """Decode latents from the prior of each condition: means by default, draws of x on request."""
        return self.decode(self.prior_given(self.embedding(condition)).sample(), condition, draw=draw)

    def views(self, context: ViewContext) -> list[View]:
        """For images: reconstructions and samples by condition; of categories: how well they are told."""
        guide, (x, condition) = context.pair.guide, context.data
        if not isinstance(guide, Amortised):
            return [*bits_per_dim(context, self.likelihood)]
        found: list[View] = []
        shape = None if context.dataset is None else context.dataset["x"].image_shape
        if shape is not None:
            few, given = x[:NUM_IMAGES], condition[:NUM_IMAGES]
            rows = {
                f"{context.part} data": few,
                "reconstruction (decoder's mean)": self.decode(
                    posterior_mean(guide.encode(few, given)), given
                ),
                **self._samples(given),
            }
            caption = (
                "Reconstructions should keep the shape of the data above them, and samples should look like "
                f"data {'of their class' if self.conditions.classes else 'of the same condition'}."
            )
            found.append(ImageGrid(caption=caption, rows=rows, image_shape=shape))
        if self.conditions.classes and isinstance(guide, AmortisedNormal):
            found += bayes_views(self, guide, x, condition, part=context.part)
        return [*found, *bits_per_dim(context, self.likelihood)]

    def _samples(self, given: Tensor) -> dict[str, Tensor]:
        """Samples for every class, or for some conditions."""
        if not self.conditions.classes:
            return {"sample given the condition (decoder's mean)": self.sample(given)}
        codes = range(len(self.conditions.classes))
        return {
            f"samples of {name} (decoder's mean)": self.sample(given.new_full((NUM_IMAGES,), code))
            for name, code in zip(self.conditions.classes, codes, strict=True)
        }

    def event_dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the latent's event dimension."""
        return {"z": ("component",)}

    def coords(self) -> dict[str, list[Any]]:
        """Labels of the components."""
        return {"component": list(range(1, self.latent_dim + 1))}


class LinearConditionalVAE(ConditionalVAE):
    """A `ConditionalVAE` without hidden layers and with Gaussian noise of one size, or of one a feature.

    Given c all is Gaussian: p(z | x, c) and log p(x | c) are known. A `ConditionalVAE` becomes one when it is
    made.
    """

    @torch.no_grad()
    def exact_posterior(self, x: Tensor, condition: Tensor) -> dict[str, dist.TorchDistribution]:
        """p(z_n | x_n, c_n), of batch shape (num_data,)."""
        return {"z": self._answers(x, condition).posterior(x)}

    @torch.no_grad()
    def exact_log_evidence(self, x: Tensor, condition: Tensor) -> Tensor:
        """log p(x_n | c_n) in nats, shape (num_data,)."""
        return self._answers(x, condition).log_evidence(x)

    def _answers(self, x: Tensor, condition: Tensor) -> LinearAnswers:
        c = self.embedding(condition)
        both, constant = affine(self.decoder, self.latent_dim + c.shape[1], next(self.decoder.parameters()))
        prior = self.prior_given(c)
        mean, precision = prior.mean.double(), torch.diag_embed(prior.variance.double().reciprocal())
        if self.prior is None:
            mean, precision = mean[0], precision[0]
        loadings, offset = both[:, : self.latent_dim], c.double() @ both[:, self.latent_dim :].T + constant
        assert isinstance(self.likelihood, Gaussian)
        noise = self.likelihood.scale.double().square().expand(self.num_features)
        return LinearAnswers(mean, precision, loadings, offset, noise)
