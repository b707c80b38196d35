"""What a case is made of: a model with data, and draws from its true posterior."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import pyro
import torch
import xarray as xr
from torch import Tensor

from ppl_vae.answers.labels import to_dataset
from ppl_vae.engine.density import Density, density
from ppl_vae.guides import Prior
from ppl_vae.program.abilities import HasIdentifiable
from ppl_vae.program.layout import Layout
from ppl_vae.program.pair import Pair, Program
from ppl_vae.program.terms import layout

__all__ = ["GLOBAL_GUIDES", "Group", "Problem", "Refusal"]

# Posteriors that the rule's thresholds were chosen beside, and two kinds that nobody tuned on.
Group = Literal["known before", "posteriordb, new", "another sampler's"]
# Whether a sentence in place of an answer is wrong, right as well, or all that is right.
Refusal = Literal["wrong", "allowed", "required"]

# Recipes of `guides.RECIPES` that apply to any posterior of several correlated numbers.
GLOBAL_GUIDES = (
    "full-rank", "almost", "narrow", "wide", "shifted", "mean-field", "mean-field optimum", "collapsed",
    "few steps",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Problem:
    """A posterior whose answer is known.

    Attributes:
        name: of the posterior.
        family: what is left out together when thresholds are tuned.
        model: the Pyro program, its parameters held.
        data: its arguments.
        reference: draws from p(z | x) by latent site, each of shape (draws, *plates, *event).
        guides: names of the recipes to try.
        own: guides of this problem's own, by name.
        identifiable: what is compared; the model's own, else the latents, by default.
        steps, lr: of the guides that are fitted.
        asked: the program and data that are checked, where a user wrote the same posterior in another way
            (``model`` and ``data`` are then a plain form of it, from which guides and truth are made).
        refusal: what refusing to answer is.
        shown: everything that a user reads off the answer, where that is more than is compared by default.
        answers: draws of what is compared, each of shape (draws, …), where they are known better than as
            functions of the reference.
        group: who has seen it before.
        draws: behind the truth of a guide; fewer of posteriors that are dear.
    """

    name: str
    family: str
    model: Program
    data: tuple[Tensor, ...]
    reference: Mapping[str, Tensor]
    guides: tuple[str, ...] = GLOBAL_GUIDES
    own: Mapping[str, Callable[["Problem"], Program]] = field(default_factory=dict)
    identifiable: Callable[[xr.Dataset], xr.Dataset] | None = None
    steps: int = 3000
    lr: float = 0.02
    asked: Callable[[], tuple[Program, tuple[Any, ...]]] | None = None
    refusal: Refusal = "wrong"
    shown: Callable[[xr.Dataset], xr.Dataset] | None = None
    answers: Mapping[str, Tensor] | None = None
    group: Group = "known before"
    draws: int = 10_000

    @cached_property
    def layout(self) -> Layout:
        """Sites and plates of the model (with its prior for a guide)."""
        # Draws of the prior may leave no room for the data: a uniform may end below the largest of them.
        with pyro.validation_enabled(False):
            return layout(Pair(self.model, Prior(self.model)), *self.data)

    @cached_property
    def density(self) -> Density:
        """The way to unconstrained space and back."""
        with pyro.validation_enabled(False):
            return density(Pair(self.model, Prior(self.model)), *self.data)

    @property
    def local(self) -> bool:
        """Whether every datum has a latent of its own, and nothing is shared."""
        return self.layout.unit_plate is not None

    @cached_property
    def per_datum(self) -> bool:
        """Whether those are one vector of real numbers a datum, as `PerDatumNormal` takes them."""
        if not self.local or len(self.layout.latents) != 1 or not self.layout.can_index:
            return False
        (site,) = self.layout.latents
        return self.layout.event_dims[site] == 1

    @property
    def quantities(self) -> Callable[[xr.Dataset], xr.Dataset] | None:
        """What the truth is measured in, if not the latents themselves."""
        if self.shown is not None:
            return self.shown
        if self.identifiable is not None:
            return self.identifiable
        return self.model.identifiable if isinstance(self.model, HasIdentifiable) else None

    @property
    def checked(self) -> tuple[Program, tuple[Any, ...]]:
        """The program and the data that a check is given."""
        return (self.model, self.data) if self.asked is None else self.asked()

    def truth(self) -> xr.Dataset:
        """The reference in the quantities that are compared."""
        if self.answers is not None:
            return xr.Dataset(
                {
                    name: (("chain", "draw", *(f"{name} {k}" for k in range(value.dim() - 1))), value[None])
                    for name, value in self.answers.items()
                }
            )
        draws = {name: self.reference[name][None] for name in self.layout.latents}
        return self.compared(to_dataset(draws, self.layout.latents, self.model))

    def compared(self, draws: xr.Dataset) -> xr.Dataset:
        """Draws of the latents in the quantities that are compared."""
        return draws if self.quantities is None else self.quantities(draws)

    def unconstrained(self) -> Tensor:
        """The reference in unconstrained space: shape (draws, units, numbers per unit)."""
        parts = []
        for name in self.density.names:
            value = self.reference[name]
            parts.append(self.density.transforms[name].inv(value).reshape(len(value), -1))
        flat = torch.cat(parts, -1)
        units = self.layout.num_units if self.local else 1
        # A vector for every datum, or one of everything.
        return flat.reshape(len(flat), units, -1)
