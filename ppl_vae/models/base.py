"""What a model of the suite is: a Pyro program that says what it takes, and how it is made and fitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, TypeVar, runtime_checkable

from torch import Tensor, nn

from ppl_vae.base.errors import InputError

if TYPE_CHECKING:
    from ppl_vae.data.dataset import Dataset
    from ppl_vae.data.inputs import Input

__all__ = [
    "AdaptsDefaults",
    "AdaptsInputs",
    "FitDefaults",
    "HintsAtScale",
    "OffersChoices",
    "SuiteModel",
    "Unit",
    "check_width",
    "defaults_of",
    "inputs_of",
    "one_of",
]

Unit = Literal["datum", "data set"]
Options = TypeVar("Options")


@dataclass(frozen=True)
class FitDefaults:
    """How a model is prepared for and fitted when nobody says otherwise.

    Attributes:
        num_steps: Adam steps, where a fit takes a fixed number of them.
        lr: learning rate of the first step.
        batch_size: data a step; None for all.
        num_particles: draws of the guide a step.
        kl_warmup: fraction of the steps over which the KL's weight rises from 0 to 1.
        standardize: whether features are centred and scaled.
        binarize: "static", "dynamic" or "none": what greys become.
        split: fractions of train, validation and test rows.
        dtype: of parameters and features.
        max_steps: Adam steps at most, where a fit ends by itself.
    """

    num_steps: int = 3000
    lr: float = 0.01
    batch_size: int | None = None
    num_particles: int = 1
    kl_warmup: float = 0.0
    standardize: bool = False
    binarize: str = "none"
    split: tuple[float, float, float] = (1.0, 0.0, 0.0)
    dtype: str = "float64"
    max_steps: int = 20_000


class DataType(Protocol):
    """A way to look at a data set: `Dataset` itself, `Rows` or `Games`."""

    @classmethod
    def of(cls, dataset: Dataset) -> Any:
        """The data set in this way."""
        ...


class SuiteModel(Protocol):
    """A model that the command line, reports and `ppl_vae.fit` know by its class alone.

    Attributes:
        name: on the command line.
        inputs: what its program takes of a data set, in the order of its parameters: what is observed first.
        data_type: how `from_data` looks at the data set: `Dataset`, `Rows`, `IncompleteRows` or `Games`.
        Options: a frozen dataclass of its own options, with a line for each under ``Attributes:`` in its
            docstring. The command line's options, their help and defaults, and the settings that a run keeps
            come from it.
        defaults: of a fit.
        guides: by name, the first one the default; each makes a guide for a model and its data.
        unit: over what log p(x) factorises: a datum, or the data set, where latents are shared.
        oracle: the exact answers that its inference is tested against.
    """

    name: ClassVar[str]
    inputs: ClassVar[Mapping[str, Input]]
    data_type: ClassVar[type[DataType]]
    Options: ClassVar[type[Any]]
    defaults: ClassVar[FitDefaults]
    guides: ClassVar[Mapping[str, Callable[..., nn.Module]]]
    unit: ClassVar[Unit]
    oracle: ClassVar[str]

    @classmethod
    def from_data(cls, data: Any, options: Any = None) -> Self:
        """A model for these data, of initial parameters that suit them.

        Args:
            data: the training data, in the model's `data_type`.
            options: of the class `Options`; its defaults where None.

        Raises:
            InputError: for data that it cannot take, or options out of range.
        """
        ...

    def __call__(self, *data: Any) -> Any:
        """The Pyro program."""
        ...

    def check_data(self, *data: Tensor) -> None:
        """Refuse data that the program cannot take.

        Raises:
            InputError: naming what is wrong.
        """
        ...

    def event_dims(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the event dimensions of each latent site."""
        ...

    def coords(self) -> Mapping[str, list[Any]]:
        """Labels along named dimensions."""
        ...


@runtime_checkable
class AdaptsDefaults(Protocol):
    """A model whose defaults of a fit depend on its options."""

    @classmethod
    def defaults_for(cls, options: Any) -> FitDefaults:
        """The defaults under these options."""
        ...


@runtime_checkable
class AdaptsInputs(Protocol):
    """A model that takes other things of a data set under other options."""

    @classmethod
    def inputs_for(cls, options: Any) -> Mapping[str, Input]:
        """The inputs under these options, of the same names as the model's own."""
        ...


@runtime_checkable
class OffersChoices(Protocol):
    """A family of models of games, of which several may be tried on the same games."""

    @classmethod
    def choices(cls, games: Any, drifts: Sequence[str], links: Sequence[str] | None = None) -> dict[str, Any]:
        """Options by what they are called, all of them for these games.

        Args:
            games: with outcomes, of the model's type of data.
            drifts: units of time over which skills drift; "none" for skills at rest.
            links: how performances vary, and with them draws; the family's usual ones by default.

        Raises:
            InputError: for a drift or link that is none.
        """
        ...


@runtime_checkable
class HintsAtScale(Protocol):
    """A model that fits badly where features are far from the scale that it starts at."""

    @classmethod
    def scale_hint(cls, data: Any, options: Any) -> str | None:
        """A sentence to say before a fit of these training data, or None."""
        ...


def defaults_of(model: type[SuiteModel], options: Any) -> FitDefaults:
    """A model's defaults of a fit under its options."""
    return model.defaults_for(options) if isinstance(model, AdaptsDefaults) else model.defaults


def inputs_of(model: type[SuiteModel], options: Any) -> Mapping[str, Input]:
    """What a model takes of a data set under its options."""
    return model.inputs_for(options) if isinstance(model, AdaptsInputs) else model.inputs


def one_of(cls: type[Options], options: Options | None, keywords: Mapping[str, Any]) -> Options:
    """Options that were given as one object or as keywords.

    Raises:
        TypeError: if both were, or for a keyword that the class does not have.
    """
    if options is None:
        return cls(**keywords)
    if keywords:
        raise TypeError(f"give {cls.__name__} or {', '.join(keywords)}, not both")
    return options


def check_width(x: Tensor, num_features: int, whose: str) -> None:
    """Refuse data that are no rows of so many features.

    Args:
        x: the data.
        num_features: of each row.
        whose: of what they are to be, such as "a mixture of 4 features".

    Raises:
        InputError: naming the shape that they have.
    """
    if x.dim() != 2 or x.shape[1] != num_features:
        raise InputError(f"{whose} was given data of shape {tuple(x.shape)}")
