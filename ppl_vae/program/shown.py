"""What the programs of a pair have to show, and what they are given to make it of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import seeded
from ppl_vae.program.pair import Pair, said_by
from ppl_vae.views import View

if TYPE_CHECKING:
    import xarray as xr

    from ppl_vae.data.dataset import Dataset

__all__ = ["HasViews", "ViewContext", "views_of"]


@dataclass(frozen=True, eq=False)
class ViewContext:
    """What there is to show of a fit.

    Attributes:
        pair: model and guide, with the parameters learnt.
        data: the programs' arguments of the units to show: test units where there are any.
        training: those that the parameters were learnt from.
        draws: of the latents, by answer: "svi" for the guide's, and the references' that were made. Draws of
            latents of single units are of some of the units alone.
        part: which units ``data`` are, in a word.
        dataset: these units with labels and shapes of images; None for a pair that was given tensors.
    """

    pair: Pair
    data: tuple[Any, ...]
    training: tuple[Any, ...]
    draws: Mapping[str, xr.Dataset] = field(default_factory=dict)
    part: str = "train"
    dataset: Dataset | None = None


@runtime_checkable
class HasViews(Protocol):
    """A model or a guide that has something of its own to show: pictures, tables, scores."""

    def views(self, context: ViewContext) -> Sequence[View]:
        """What the report shows, in its order, as plain values (`ppl_vae.views`); [] for nothing.

        Args:
            context: the fitted pair, its data and draws of its latents.
        """
        ...


@torch.no_grad()
def views_of(context: ViewContext, *, seed: int = 0) -> tuple[View, ...]:
    """The views of the model, then those of the guide; none of programs that have none.

    Args:
        context: what they are given.
        seed: of what either draws at random.

    Raises:
        InputError: if one of them answers with something else than views.
    """
    found: list[View] = []
    for role, program in (("model", context.pair.model), ("guide", context.pair.guide)):
        if not isinstance(program, HasViews):
            continue
        with context.pair.scope(), seeded(seed), said_by(program, role):
            views = list(program.views(context))
        if wrong := [view for view in views if not isinstance(view, View)]:
            raise InputError(f"the views of the {role} hold a {type(wrong[0]).__name__}; see ppl_vae.views")
        found += views
    return tuple(found)
