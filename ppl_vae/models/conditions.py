"""What conditional models are conditioned on, how networks read it, and Bayes' rule over classes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from ppl_vae.base.arguments import check_whole
from ppl_vae.base.errors import InputError, listed
from ppl_vae.base.seeds import derived
from ppl_vae.data.dataset import Variable
from ppl_vae.guides.amortised import AmortisedNormal
from ppl_vae.models.networks.dense import activation_layer, mlp
from ppl_vae.models.networks.named import Architecture
from ppl_vae.models.networks.shapes import OneHot
from ppl_vae.views import Matrix, Score, View

__all__ = ["Conditions", "Joined", "bayes_views", "class_log_evidence"]

# Width of what a network of images says of one image, where the model has no hidden layers that tell.
WIDTH = 64
# Rows and draws behind the pictures of a report; numbers that one pass of a decoder may hold.
ROWS, DRAWS, NUMBERS = 100, 30, 2**22


@dataclass(frozen=True)
class Conditions:
    """What a condition is.

    Attributes:
        classes: names of the categories; empty where the condition is a vector or an image.
        num_features: numbers of a vector, pixels of an image.
        image_shape: (height, width) or (height, width, channels) of conditions that are images.
    """

    classes: tuple[str, ...] = ()
    num_features: int = 0
    image_shape: tuple[int, ...] | None = None

    @classmethod
    def of(cls, variable: Variable) -> Self:
        """Of a prepared `data.inputs.Condition`."""
        if variable.kind == "category":
            return cls(classes=tuple(map(str, variable.levels)))
        return cls(num_features=variable.values.shape[1], image_shape=variable.image_shape)

    def embedding(self, networks: Architecture) -> tuple[nn.Module, int]:
        """A module that makes vectors (rows, width) of conditions, and their width.

        Categories become indicators, vectors stay as they are; images do so too for a multilayer perceptron,
        and are read by a network of images otherwise.
        """
        if self.classes:
            return OneHot(len(self.classes)), len(self.classes)
        if networks.network == "mlp" or self.image_shape is None:
            return nn.Identity(), self.num_features
        own = Architecture(
            networks.network, networks.hidden, networks.channels, networks.activation, networks.norm,
            self.image_shape,
        )  # fmt: skip
        width = _width(networks.hidden)
        return nn.Sequential(*own.encoder(self.num_features, width), activation_layer(own.activation)), width

    def check(self, condition: Tensor) -> None:
        """Refuse conditions of another kind or size, and unknown classes.

        Raises:
            InputError: naming the first.
        """
        if not self.classes:
            if condition.dim() != 2 or condition.shape[1] != self.num_features:
                what = "images" if self.image_shape else "vectors"
                raise InputError(
                    f"conditions are {what} of {self.num_features} numbers, not values of shape "
                    f"{tuple(condition.shape)}"
                )
            return
        if condition.dim() != 1 or condition.is_floating_point():
            raise InputError(
                f"a condition is one of {len(self.classes)} classes, int64 of shape (rows,), not "
                f"{condition.dtype} of shape {tuple(condition.shape)}"
            )
        wrong = (condition < 0) | (condition >= len(self.classes))
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise InputError(
                f"row {row} has class number {int(condition[row])}, and the model has the "
                f"{len(self.classes)} classes {listed(self.classes)}"
            )

    def check_seen(self, condition: Tensor) -> None:
        """Refuse classes of which there is nothing to learn from.

        Raises:
            InputError: naming them.
        """
        if not self.classes:
            return
        counts = torch.bincount(condition[condition >= 0], minlength=len(self.classes))
        if missing := [name for name, count in zip(self.classes, counts, strict=True) if count == 0]:
            raise InputError(
                f"the class{'es' * (len(missing) > 1)} {listed(missing)} never "
                f"occur{'s' * (len(missing) == 1)} in the training rows; leave such rows out, or split the "
                "data otherwise (--split, --seed)"
            )


class Joined(nn.Module):
    """A network of a datum and its condition: (rows, d) and conditions to (rows, num_outputs).

    Args:
        networks: how x is read.
        num_features: d.
        embedding, width: of the condition, see `Conditions.embedding`.
        num_outputs: size of the answer.
    """

    def __init__(
        self, networks: Architecture, num_features: int, embedding: nn.Module, width: int, num_outputs: int
    ) -> None:
        super().__init__()
        self.embedding = embedding
        if networks.network == "mlp":
            self.trunk: nn.Module = nn.Identity()
            self.head = networks.encoder(num_features + width, num_outputs)
            return
        size = _width(networks.hidden)
        activation = activation_layer(networks.activation)
        self.trunk = nn.Sequential(*networks.encoder(num_features, size), activation)
        self.head = mlp([size + width, size, num_outputs], networks.activation, networks.norm)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """The answer for each row."""
        return self.head(torch.cat([self.trunk(x), self.embedding(condition)], -1))


class _Conditional(Protocol):
    """What Bayes' rule needs of a conditional VAE."""

    conditions: Conditions
    latent_dim: int
    num_features: int
    embedding: nn.Module
    likelihood: nn.Module

    def prior_given(self, c: Tensor) -> TorchDistribution:
        """p(z | c)."""
        ...

    def outputs(self, z: Tensor, c: Tensor, x: Tensor | None = None) -> Tensor:
        """Of the decoder, for data x."""
        ...


@torch.no_grad()
def class_log_evidence(
    model: _Conditional, guide: AmortisedNormal, x: Tensor, *, num_samples: int = 200, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """log p(x | c) of every row for every class c, by importance sampling from q(z | x, c).

    With the classes' shares π, log p(x) = log Σ_c π_c p(x | c) and p(c | x) = π_c p(x | c) / p(x): a
    classifier. Every class is given the same standard normal draws of a row, so that errors that the classes
    share cancel in p(c | x).

    Args:
        model, guide: a fitted pair whose condition is a class, in evaluation mode.
        x: shape (rows, num_features).
        num_samples: draws a row and class.
        seed: of the draws, which hang on the row's place.

    Returns:
        log p(x | c) in nats and its standard error by the delta method, both of shape (rows, classes).

    Raises:
        InputError: for conditions that are no classes, a guide that is not amortised, or one draw.
    """
    if not model.conditions.classes:
        raise InputError("Bayes' rule over classes needs a condition that is a class")
    if not isinstance(guide, AmortisedNormal):
        raise InputError(f"{type(guide).__name__} cannot encode a row as of another class: not amortised")
    check_whole(2, num_samples=num_samples)
    size = max(1, NUMBERS // (num_samples * max(model.num_features, model.latent_dim)))
    parts = [
        _block(model, guide, rows, _noise(first, len(rows), num_samples, model.latent_dim, seed).to(x))
        for first, rows in zip(range(0, len(x), size), x.split(size), strict=True)
    ]
    return torch.cat([value for value, _ in parts]), torch.cat([error for _, error in parts])


def _noise(first: int, count: int, num_samples: int, latent_dim: int, seed: int) -> Tensor:
    """Standard normals of some rows, shape (num_samples, count, q)."""
    drawn = [
        torch.empty(num_samples, latent_dim, dtype=torch.float64).normal_(
            generator=torch.Generator().manual_seed(derived(seed, row))
        )
        for row in range(first, first + count)
    ]
    return torch.stack(drawn, 1)


def _block(model: _Conditional, guide: AmortisedNormal, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    values, errors = [], []
    for code in range(len(model.conditions.classes)):
        condition = torch.full((len(x),), code, device=x.device)
        q, c = guide.encode(x, condition), model.embedding(condition)
        z = _at(q, noise)
        log_likelihood = model.likelihood(model.outputs(z, c, x)).log_prob(x)
        weights = (log_likelihood + model.prior_given(c).log_prob(z) - q.log_prob(z)).double()
        values.append(weights.logsumexp(0) - math.log(len(z)))
        relative = (weights - weights.amax(0)).exp()
        errors.append(relative.std(0) / relative.mean(0) / math.sqrt(len(z)))
    return torch.stack(values, 1), torch.stack(errors, 1)


def _at(q: TorchDistribution, noise: Tensor) -> Tensor:
    """The draws of a normal that standard normals give."""
    if isinstance(q, torch.distributions.MultivariateNormal):
        return q.loc + (q.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
    return q.mean + q.stddev * noise


def bayes_views(
    model: _Conditional, guide: AmortisedNormal, x: Tensor, label: Tensor, *, part: str
) -> list[View]:
    """How often the most probable class is the right one, on some rows, and which is taken for which."""
    x, label = x[:ROWS], label[:ROWS]
    if not len(x):
        return []
    log_p, _ = class_log_evidence(model, guide, x, num_samples=DRAWS)
    names = model.conditions.classes
    right = (log_p.argmax(1) == label).double()
    accuracy, most = float(right.mean()), int(torch.bincount(label).max())
    error = math.sqrt(max(accuracy * (1 - accuracy), 1 / len(x) / 4) / len(x))
    table = torch.zeros(len(names), len(names), dtype=torch.float64)
    table.index_put_((label, log_p.argmax(1)), torch.ones(len(x), dtype=torch.float64), accumulate=True)
    shares = table / table.sum(1, keepdim=True).clamp_min(1)
    of = f"{len(x)} {part} rows, {DRAWS} draws a class"
    return [
        Score(
            title="accuracy by Bayes' rule",
            value=accuracy,
            std_error=error,
            caption=f"How often p(c | x), equal before the data, is largest for the right class ({of}); the "
            f"most frequent class alone would be right in {most / len(x):.2f}.",
        ),
        Matrix(
            title="classes by Bayes' rule",
            values=shares.numpy(),
            row_names=names,
            column_names=names,
            row_label="class",
            column_label="most probable class",
            # Zero in the middle, where the colours have none.
            limits=(-1.0, 1.0),
            percent=True,
            caption=f"Which class is taken for which, in per cent of the rows of a class ({of}).",
        ),
    ]


def _width(hidden: Sequence[int]) -> int:
    return hidden[0] if hidden else WIDTH
