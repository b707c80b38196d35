"""What methods that work in unconstrained space share: the model in their precision, and labelled draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyro
import torch
from torch import Tensor

from ppl_vae.answers.labels import to_dataset
from ppl_vae.base.errors import InputError
from ppl_vae.base.precision import cast_data, default_dtype
from ppl_vae.base.threads import one_thread
from ppl_vae.guides.prior import Prior
from ppl_vae.inference.samplers.starts import Proposal, drawn_from
from ppl_vae.program.defined import require_all_data
from ppl_vae.program.improper import Feasible
from ppl_vae.program.layout import Layout
from ppl_vae.program.pair import Pair, Program
from ppl_vae.program.probe import check_data
from ppl_vae.program.problem import Problem

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["labelled", "prepare", "read", "without_padding"]


def prepare(
    model: Program | Pair, data: tuple[Any, ...], dtype: torch.dtype
) -> tuple[Problem, list[Proposal]]:
    """A model on its data in a precision, and where starts may be drawn from: a pair's guide, and the prior.

    Raises:
        InputError: if the model does not run in the precision, or takes a part of its data.
    """
    source = model if isinstance(model, Pair) else Pair(model, model)
    check_data(source.model, *data)
    cast = cast_data(data, dtype)
    with one_thread(), pyro.validation_enabled(False), Feasible():
        if isinstance(model, Pair):  # in its own precision
            model.initialise(*data)
        with default_dtype(dtype):
            pair = source.cast_model(dtype, Prior)
            problem = read(pair, cast, dtype)
            require_all_data(problem.layout)
    proposals = [drawn_from(pair.guide, pair, cast)]
    if isinstance(model, Pair):
        proposals.insert(0, drawn_from(model.guide, model, data))
    return problem, proposals


def read(pair: Pair, data: tuple[Any, ...], dtype: torch.dtype) -> Problem:
    """The problem of a pair that was cast.

    Raises:
        InputError: if its model does not run in the precision.
    """
    try:
        return Problem.of(pair, *data)
    except RuntimeError as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"the model does not run in {dtype}, the sampler's precision: {said}; let it make its tensors in "
            "the precision of its data (torch.zeros(3, dtype=x.dtype))"
        ) from error


def labelled(
    values: Mapping[str, Tensor], problem: Problem, coords: Mapping[str, Any] | None = None
) -> xr.Dataset:
    """Draws by site, of shape (chains, draws, …) as Pyro gives them, under the names of their dimensions.

    Sites without values are left out: discrete latents are summed out.
    """
    layout = problem.layout
    draws = {name: without_padding(values[name], name, layout) for name in layout.latents if name in values}
    return to_dataset(draws, layout.latents, problem.pair.model, coords)


def without_padding(value: Tensor, name: str, layout: Layout) -> Tensor:
    """Pyro keeps plate dimensions of size one to the right of a site's own; drop them."""
    num_event = layout.event_dims[name]
    event = value.shape[value.dim() - num_event :]
    batch = value.shape[2 : value.dim() - num_event]
    plates = [batch[layout.dims[plate]] for plate in layout.latents[name]]
    return value.reshape((*value.shape[:2], *plates, *event))
