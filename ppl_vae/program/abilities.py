"""The small abilities that a model, or a layer in it, may have.

All are optional: methods ask for them by type and do without where they are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "ChecksData",
    "ExactEvidence",
    "ExactPosterior",
    "HasAuxiliary",
    "HasDegenerate",
    "HasEM",
    "HasIdentifiable",
    "HasObjective",
    "HasReported",
    "HasStarts",
    "HasStatistics",
    "Imputed",
    "Imputes",
    "Joint",
    "Labelled",
    "Maximum",
    "OwnStatistics",
    "SearchesStart",
    "Settles",
    "Unbounded",
]


@runtime_checkable
class ChecksData(Protocol):
    """A model or guide that says which data it cannot take."""

    def check_data(self, *data: Any) -> None:
        """Refuse data.

        Raises:
            InputError: naming what is wrong.
        """
        ...


@dataclass(frozen=True, eq=False)
class Joint:
    """A distribution of several latent sites that depend on each other given the data.

    Attributes:
        distribution: of the sites' vectors, one after another: batch shape (units,), event shape (sum of
            sizes,).
        sizes: of the vectors by site, in their order.
    """

    distribution: torch.distributions.Distribution
    sizes: Mapping[str, int]

    def sample(self, shape: torch.Size) -> dict[str, Tensor]:
        """Draws by site, each of shape (*shape, units, size)."""
        parts = self.distribution.sample(shape).split([*self.sizes.values()], -1)
        return dict(zip(self.sizes, parts, strict=True))


@runtime_checkable
class ExactPosterior(Protocol):
    """A model that can draw from p(z | x) exactly, with its parameters held."""

    def __call__(self, *data: Any) -> Any:
        """The Pyro program."""
        ...

    def exact_posterior(self, *data: Tensor) -> Mapping[str, torch.distributions.Distribution] | Joint:
        """One distribution per latent site (independent of each other given the data), of batch
        shape (units,) for local latents and () for global ones; or one of all of them together."""
        ...


@runtime_checkable
class ExactEvidence(Protocol):
    """A model that knows log p(x), with its parameters held."""

    def __call__(self, *data: Any) -> Any:
        """The Pyro program."""
        ...

    def exact_log_evidence(self, *data: Tensor) -> Tensor:
        """log p(x) in nats, one value per unit: shape (units,)."""
        ...


@runtime_checkable
class HasAuxiliary(Protocol):
    """A guide that draws something else than its latents, from which they follow one to one.

    Its latents are ``Delta`` sites whose log density is minus the log-determinant of that function: its log
    density at given latents is known.
    """

    def auxiliary_values(self, latents: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What its sample statements must draw for it to arrive at given latents.

        Args:
            latents: by site, as the model's own sample statements would give them.
        """
        ...


@runtime_checkable
class HasDegenerate(Protocol):
    """A model some of whose parameters are no estimate, however high their likelihood, such as a mixture with
    a component that sits on one row."""

    def degenerate(self) -> str | None:
        """What is wrong with the parameters that it has now, in a sentence; None where nothing is."""
        ...


@runtime_checkable
class SearchesStart(Protocol):
    """A class of models that searches the parameters to start at, such as by runs of EM, when one is made."""

    def without_start(self, data: Any, options: Any) -> Any:
        """The model that ``from_data`` makes, but for the values of its parameters, which are yet to be set:
        by a method with a search of its own, or from a file."""
        ...


@dataclass(frozen=True, eq=False)
class Maximum:
    """What expectation maximisation came to.

    Attributes:
        log_likelihood: log p(x) in nats of all data after every iteration of the run that was kept.
        converged: whether it ended because little was left to gain.
        reason: how it came about, in a sentence: the runs, and which of them were left out.
    """

    log_likelihood: Sequence[float]
    converged: bool
    reason: str


@runtime_checkable
class HasEM(Protocol):
    """A model whose likelihood expectation maximisation (EM) brings to a maximum."""

    def __call__(self, *data: Any) -> Any:
        """The Pyro program."""
        ...

    def fit_em(self, guide: Any, *data: Tensor, seed: int, seen: Callable[[float], None]) -> Maximum:
        """Set the model's parameters to a maximum of the likelihood, and the guide to the posterior there.

        Args:
            guide: of the model.
            data: the model's.
            seed: of the starts, where there are several.
            seen: told the log likelihood at every iteration.

        Raises:
            InputError: for a guide that cannot be set so, and where no maximum is found.
        """
        ...


@runtime_checkable
class HasIdentifiable(Protocol):
    """A model whose latents are determined only up to a symmetry."""

    def identifiable(self, draws: xr.Dataset) -> xr.Dataset:
        """The functions of the latents that data can determine, draw by draw: a data set with the
        same (chain, draw) dimensions."""
        ...


@runtime_checkable
class HasObjective(Protocol):
    """A model that is not learnt by its ELBO alone: a penalty, a constraint, an auxiliary task."""

    def objective(self, usual: Any) -> Any:
        """What a fit of both programs minimises, an `inference.fitting.objective.Objective`.

        What it adds belongs to learning alone: ELBOs that are reported, and all evidence, leave it out.

        Args:
            usual: the objective that the fit's options name, whose value it may add to.
        """
        ...


@runtime_checkable
class HasReported(Protocol):
    """A model whose pictures and tables show other functions of the latents than those data determine."""

    def reported(self, draws: xr.Dataset) -> xr.Dataset:
        """What they show, draw by draw, where a verdict must cover it as well: a data set with the same
        (chain, draw) dimensions."""
        ...


@runtime_checkable
class HasStarts(Protocol):
    """A model whose posterior has modes of next to no probability, which chains from anywhere stay in."""

    def starting_latents(self, *data: Tensor, seed: int = 0) -> Mapping[str, Tensor]:
        """Where a chain may begin: values of all latents by site, others with every seed.

        Args:
            data: the model's data.
            seed: of the choice.
        """
        ...


@dataclass(frozen=True, eq=False)
class OwnStatistics:
    """What a predictive check looks at in the data of one site, in place of what all of their kind are for.

    Attributes:
        statistics: from data sets, shape (sets, rows, features), float64, to numbers by name, each of shape
            (sets,).
        levels: what the figure shows, from the same to (sets, levels).
        names: of the levels.
        label: what the levels are: of the figure's axis.
        caption: of the figure, a sentence.
    """

    statistics: Callable[[Tensor], dict[str, Tensor]]
    levels: Callable[[Tensor], Tensor]
    names: Sequence[str]
    label: str
    caption: str


@runtime_checkable
class HasStatistics(Protocol):
    """A model whose data predictive checks compare by statistics of its own."""

    def statistics(self, site: str, *data: Any) -> OwnStatistics | None:
        """Of an observed site; None for those of its kind.

        Args:
            site: its name.
            data: the program's.
        """
        ...


@dataclass(frozen=True, eq=False)
class Imputed:
    """What a model says of the values of its first argument that are missing, given those that are there.

    Attributes:
        mean: the expected value where one is missing, the value itself where it is observed.
        sd: its standard deviation, 0 where the value is observed; both of the argument's shape.
    """

    mean: Tensor
    sd: Tensor


@runtime_checkable
class Imputes(Protocol):
    """A model that takes missing values and says what they may have been, with its parameters held."""

    def impute(self, *data: Tensor) -> Imputed:
        """The missing values given the observed ones of the same unit."""
        ...


@runtime_checkable
class Labelled(Protocol):
    """A model that can name the dimensions of its latent sites."""

    def event_dims(self) -> Mapping[str, Sequence[str]]:
        """Names of the event dimensions of each latent site."""
        ...

    def coords(self) -> Mapping[str, Sequence[Any]]:
        """Labels along plates and event dimensions, by dimension name."""
        ...


@runtime_checkable
class Settles(Protocol):
    """A layer whose statistics learning leaves open, such as a batch norm.

    While learning it works with those of the batch at hand. After a fit it is given all that comes to it, and
    from then on what it does to one row does not depend on others.
    """

    def settle(self, inputs: Iterable[Tensor]) -> None:
        """Set the statistics, buffers of the layer, to those of all inputs together.

        Args:
            inputs: what the layer is called with, for one part of the training data after another. They are
                made one by one, and may be gone through once.
        """
        ...


@runtime_checkable
class Unbounded(Protocol):
    """A model, or a layer in it, whose likelihood may rise beyond all bounds as a parameter goes to an edge,
    such as a scale that may shrink to nothing."""

    def unbounded(self) -> str | None:
        """What has no bound, and why the likelihood has none then, in a sentence; None where it has one."""
        ...
