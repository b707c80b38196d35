"""Variational autoencoders with several layers of latents (Burda et al. 2016; Sønderby et al. 2016)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
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
from ppl_vae.guides.layered import BottomUp, Ladder
from ppl_vae.guides.normal import VARIANCE_FLOOR, raw_normal
from ppl_vae.guides.per_datum import PerDatum, PerDatumNormal
from ppl_vae.models.base import DataType, FitDefaults, Unit, one_of
from ppl_vae.models.bits import bits_per_dim
from ppl_vae.models.hierarchical_options import (
    FurtherHierarchicalVAEKeywords,
    HierarchicalVAEKeywords,
    HierarchicalVAEOptions,
)
from ppl_vae.models.hierarchical_views import NUM_IMAGES, active_units, layer_images
from ppl_vae.models.likelihoods.base import Likelihood, binarises
from ppl_vae.models.likelihoods.gaussian import Gaussian
from ppl_vae.models.likelihoods.named import completed, likelihood_of
from ppl_vae.models.linear_answers import LinearAnswers, affine, is_linear, stacked
from ppl_vae.models.networks.constant_spread import ConstantSpread
from ppl_vae.models.networks.dense import activation_layer, mlp
from ppl_vae.models.networks.norms import norm_layers
from ppl_vae.models.scales import far_from_likelihood
from ppl_vae.program.abilities import Joint
from ppl_vae.program.shown import ViewContext
from ppl_vae.views import View

__all__ = [
    "HierarchicalVAE",
    "HierarchicalVAEKeywords",
    "HierarchicalVAEOptions",
    "LinearHierarchicalVAE",
]


class HierarchicalVAE(PyroModule):  # type: ignore[misc]
    """z_L ~ N(0, I), z_l | z_{l+1} ~ N(μ_l(z_{l+1}), diag σ_l²(z_{l+1})), x | z_1 ~ likelihood(f(z_1)).

    f and the functions between layers are multilayer perceptrons. The sites are z1 (next to the data) to zL,
    all in one plate, so that log p(x) and its estimates are per row. One layer is a VAE.

    Source: Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders" (2016), section 2; Sønderby et
    al., "Ladder variational autoencoders" (2016), section 2.

    Args:
        num_features: d.
        latent_dims: q_1, …, q_L, from the data upwards.
        image_shape: as of a `VAE`.
        keywords: the other options of `HierarchicalVAEOptions`.

    Raises:
        InputError: for an unknown likelihood, activation or norm, no layers, or a width below 1.
    """

    data_type: ClassVar[type[DataType]] = Rows
    inputs: ClassVar[Mapping[str, Input]] = {"x": Features()}
    name: ClassVar[str] = "hierarchical-vae"
    Options: ClassVar[type[HierarchicalVAEOptions]] = HierarchicalVAEOptions
    unit: ClassVar[Unit] = "datum"
    oracle: ClassVar[str] = (
        "evidence, joint posterior and the guides' losses in closed form where all is linear"
    )
    # As a VAE's; the more layers there are, the more a warm-up decides how many of them are used.
    defaults: ClassVar[FitDefaults] = FitDefaults(
        num_steps=3000, lr=2e-3, batch_size=128, kl_warmup=0.1, split=(0.8, 0.1, 0.1), dtype="float32"
    )
    guides: ClassVar[Mapping[str, Callable[..., nn.Module]]] = {
        "bottom-up": lambda model, x: model.bottom_up_guide(),
        "ladder": lambda model, x: model.ladder_guide(),
        "per-datum": PerDatumNormal.from_model,
    }

    def __init__(
        self,
        num_features: int,
        latent_dims: Sequence[int] = HierarchicalVAEOptions.latent_dims,
        *,
        image_shape: Sequence[int] | None = None,
        **keywords: Unpack[FurtherHierarchicalVAEKeywords],
    ) -> None:
        super().__init__("hierarchical_vae")
        options = HierarchicalVAEOptions(tuple(latent_dims), **keywords)
        if not latent_dims:
            raise InputError("latent_dims is empty; a hierarchical VAE has at least one layer of latents")
        for layer, size in enumerate(latent_dims):
            check_whole(1, **{f"the size of latent layer {layer + 1}": size})
        self.num_features, self.latent_dims = num_features, tuple(latent_dims)
        self.hidden, self.between = tuple(options.hidden), tuple(options.between)
        self.activation, self.norm = options.activation, options.norm
        self.sites = tuple(f"z{layer + 1}" for layer in range(len(latent_dims)))
        distribution = likelihood_of(options, num_features, image_shape)
        num_outputs = distribution.num_outputs(num_features)
        self.decoder = self._mlp(latent_dims[0], *self.hidden, num_outputs)
        if options.spread not in ("network", "constant"):
            raise InputError(f"spread is {options.spread!r}; it is network or constant")
        self.priors = nn.ModuleList(
            ConstantSpread(self._mlp(above, *self.between, below), below)
            if options.spread == "constant"
            else self._mlp(above, *self.between, 2 * below)
            for below, above in pairwise(latent_dims)
        )
        self.likelihood: Likelihood = distribution
        means = [network.means for network in self.priors if isinstance(network, ConstantSpread)]
        if len(means) == len(self.priors) and is_linear(distribution, self.decoder, *means):
            # Methods ask by type for what is known exactly.
            self.__class__ = LinearHierarchicalVAE

    @classmethod
    def defaults_for(cls, options: HierarchicalVAEOptions) -> FitDefaults:
        """Greys are binarised for a likelihood that takes no greys."""
        return replace(cls.defaults, binarize="static" if binarises(options.likelihood) else "none")

    @classmethod
    def from_data(
        cls,
        rows: Rows,
        options: HierarchicalVAEOptions | None = None,
        **keywords: Unpack[HierarchicalVAEKeywords],
    ) -> Self:
        """A model for these rows, its output bias giving their mean; options as one object or by name.

        Raises:
            InputError: if the rows are outside the likelihood's support.
        """
        (x,) = rows.tensors(torch.float32)
        chosen = completed(one_of(HierarchicalVAEOptions, options, keywords), x)
        given = cast(HierarchicalVAEKeywords, vars(chosen))
        model = cls(rows.num_features, image_shape=rows.image_shape, **given)
        model.check_data(x)
        last = model.decoder[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.bias.copy_(model.likelihood.start(x))
        return model

    @classmethod
    def scale_hint(cls, rows: Rows, options: HierarchicalVAEOptions) -> str | None:
        """A sentence where a feature's size is far from 1: the networks are fed the values themselves."""
        return far_from_likelihood(rows, options)

    def _mlp(self, *widths: int) -> nn.Sequential:
        return mlp(widths, self.activation, self.norm)

    def bottom_up_guide(self) -> BottomUp:
        """A guide whose networks mirror the model's, in the order z1, z2, …."""
        below = [self.num_features, *self.latent_dims[:-1]]
        widths = [self.hidden, *(self.between for _ in self.priors)]
        networks: list[nn.Module] = [
            self._mlp(size, *reversed(width), 2 * latent)
            for size, width, latent in zip(below, widths, self.latent_dims, strict=True)
        ]
        networks[0] = self.likelihood.reads(networks[0])
        return BottomUp(networks, sites=self.sites)

    def ladder_guide(self) -> Ladder:
        """A guide that goes up without draws and comes down with the model's own conditional priors."""
        upward: list[nn.Module] = []
        sizes, size = [], self.num_features
        for width in (self.hidden, *(self.between for _ in self.priors)):
            # Its last units are hidden ones, too.
            below, size = size, width[0] if width else size
            last = [*norm_layers(self.norm, size), activation_layer(self.activation)]
            upward.append(
                nn.Sequential(self._mlp(below, *reversed(width)), *last) if width else nn.Identity()
            )
            sizes.append(size)
        upward[0] = self.likelihood.reads(upward[0])
        beliefs = [nn.Linear(size, 2 * latent) for size, latent in zip(sizes, self.latent_dims, strict=True)]
        return Ladder(upward, beliefs, self.prior, sites=self.sites)

    def prior(self, layer: int, above: Tensor) -> dist.TorchDistribution:
        """p(z_{layer+1} | z_{layer+2}) at values ``above`` of the latter; ``layer`` is 0 next to the data."""
        return raw_normal(self.priors[layer](above), self.latent_dims[layer], "diagonal", VARIANCE_FLOOR)

    def forward(self, x: Tensor) -> Tensor:
        """The Pyro program; x is the full data of shape (num_data, num_features)."""
        zero = torch.zeros(self.latent_dims[-1], dtype=x.dtype, device=x.device)
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample(self.sites[-1], dist.Normal(zero, 1.0).to_event(1))
            for layer in reversed(range(len(self.priors))):
                z = pyro.sample(self.sites[layer], self.prior(layer, z))
            outputs = self.likelihood.with_exposure(self.decoder(z), x[i])
            return pyro.sample("x", self.likelihood(outputs), obs=x[i])

    def check_data(self, x: Tensor) -> None:
        """Refuse data of another width or outside the likelihood's support.

        Raises:
            InputError: naming the first wrong place.
        """
        if x.dim() != 2 or x.shape[1] != self.num_features:
            raise InputError(
                f"hierarchical VAE of {self.num_features} features was given data of shape {tuple(x.shape)}"
            )
        self.likelihood.check(x)

    @torch.no_grad()
    def decode(self, z: Tensor, layer: int = 1, *, draw: bool = False) -> Tensor:
        """The mean of p(x | z_1), or a draw of x, at given latents; shape (rows, num_features).

        Args:
            z: latents of one layer, shape (rows, q_layer).
            layer: which one, 1 next to the data; the layers below it are drawn from the model.
            draw: a draw of x instead of its mean.
        """
        for below in reversed(range(layer - 1)):
            z = self.prior(below, z).sample()
        outputs = self.likelihood.with_exposure(self.decoder(z), None)
        return self.likelihood(outputs).sample() if draw else self.likelihood.mean(outputs)

    @torch.no_grad()
    def sample(self, num_rows: int, *, draw: bool = False) -> Tensor:
        """Decode latents from the prior: means of x by default, draws of x on request."""
        like = next(self.decoder.parameters())
        z = torch.randn(num_rows, self.latent_dims[-1], dtype=like.dtype, device=like.device)
        return self.decode(z, len(self.latent_dims), draw=draw)

    def views(self, context: ViewContext) -> list[View]:
        """Active units by layer; for images what each layer keeps of them, and samples."""
        bits = bits_per_dim(context, self.likelihood)
        if isinstance(context.pair.guide, PerDatum):
            return [*bits]
        units = active_units(dict(zip(self.sites, self.latent_dims, strict=True)), context)
        shape = None if context.dataset is None else Rows.of(context.dataset).image_shape
        if shape is None:
            return [units, *bits]
        samples = {
            "sample from the prior (decoder's mean)": self.sample(NUM_IMAGES),
            "sample from the prior (draw)": self.sample(NUM_IMAGES, draw=True),
        }
        return [units, layer_images(self.sites, self.decode, samples, context, shape), *bits]

    def event_dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the latents' event dimensions."""
        return {site: (f"{site}_component",) for site in self.sites}

    def coords(self) -> dict[str, list[Any]]:
        """Labels of the components."""
        return {f"{site}_component": list(range(1, size + 1))
                for site, size in zip(self.sites, self.latent_dims, strict=True)}  # fmt: skip


class LinearHierarchicalVAE(HierarchicalVAE):
    """A `HierarchicalVAE` without hidden layers, of constant spread, with noise as `Gaussian` has it.

    All layers and the data are then Gaussian together: p(z1, …, zL | x) and log p(x) are known. A
    `HierarchicalVAE` becomes one when it is made.
    """

    @torch.no_grad()
    def exact_posterior(self, x: Tensor) -> Joint:
        """p(z1_n, …, zL_n | x_n), of batch shape (num_data,)."""
        return Joint(self._answers().posterior(x), dict(zip(self.sites, self.latent_dims, strict=True)))

    @torch.no_grad()
    def exact_log_evidence(self, x: Tensor) -> Tensor:
        """log p(x_n) in nats, shape (num_data,)."""
        return self._answers().log_evidence(x)

    def _answers(self) -> LinearAnswers:
        like, sizes = next(self.decoder.parameters()), self.latent_dims
        mean, precision = like.new_zeros(sizes[-1]).double(), torch.eye(sizes[-1]).to(like).double()
        for layer in reversed(range(len(self.priors))):
            network = self.priors[layer]
            assert isinstance(network, ConstantSpread)
            scale = self.prior(layer, like.new_zeros(1, sizes[layer + 1])).stddev[0].double()
            link = affine(network.means, sizes[layer + 1], like)
            mean, precision = stacked(mean, precision, *link, scale)
        loadings, offset = affine(self.decoder, sizes[0], like)
        likelihood = self.likelihood
        assert isinstance(likelihood, Gaussian)
        return LinearAnswers(
            mean=mean,
            precision=precision,
            loadings=torch.nn.functional.pad(loadings, (0, sum(sizes[1:]))),
            offset=offset,
            noise=likelihood.scale.double().square().expand(self.num_features),
        )
