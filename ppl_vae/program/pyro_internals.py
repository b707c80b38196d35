"""Every name of Pyro's that is not public, in one file, with what is done where a version lacks it.

The compiled engine puts a loss together from the traces that Pyro's own loss would draw; where they cannot
be had, `Untraceable` sends the caller to that loss itself, uncompiled.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pyro
from pyro import poutine
from pyro.infer import ELBO, traceenum_elbo
from torch import Tensor

from ppl_vae.base.fallback import Untraceable

__all__ = ["dice_elbo", "full_name", "is_deterministic", "packed_dims", "structured_sites", "traces"]

TRACES, DICE, DIMS = "_get_traces", "_compute_dice_elbo", "_pyro_dims"
NAME, SORTED = "_pyro_name", "_sorted_sites"


def traces(
    loss: ELBO, model: Any, guide: Any, data: tuple[Any, ...]
) -> Iterable[tuple[poutine.Trace, poutine.Trace]]:
    """Traces of model and guide for each particle of a loss, enumerated as it would enumerate them.

    Raises:
        Untraceable: if this version's losses do not give them.
    """
    draw = getattr(loss, TRACES, None)
    if draw is None:
        raise _lacks(f"ELBO.{TRACES}")
    return draw(model, guide, data, {})


def dice_elbo(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Tensor:
    """The ELBO of one draw with enumerated latents summed out, as ``TraceEnum_ELBO`` does.

    Raises:
        Untraceable: if this version has no such function.
    """
    contract = getattr(traceenum_elbo, DICE, None)
    if contract is None:
        raise _lacks(DICE)
    return contract(model_trace, guide_trace)


def packed_dims(values: Tensor) -> str:
    """The symbols of a packed tensor's dimensions, one letter each, which Pyro keeps as an attribute."""
    return str(getattr(values, DIMS))


def full_name(module: Any) -> str:
    """What Pyro calls a module, with the names of those that hold it; its class's where Pyro keeps none."""
    return str(getattr(module, NAME, type(module).__name__))


def structured_sites(guide: Any) -> list[tuple[str, Any]]:
    """The sites of an ``AutoStructured`` that has run, in the order in which it draws them.

    Raises:
        Untraceable: if this version's guides do not keep them.
    """
    if (found := getattr(guide, SORTED, None)) is None:
        raise _lacks(f"AutoStructured.{SORTED}")
    return list(found)


def is_deterministic(site: Mapping[str, Any]) -> bool:
    """Whether a sample site is ``pyro.deterministic``'s, which only Pyro's mark tells from a user's Delta."""
    return bool(site["infer"].get("_deterministic"))


def _lacks(name: str) -> Untraceable:
    return Untraceable(f"Pyro {pyro.__version__} lacks {name}")
