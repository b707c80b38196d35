"""Discrete latents summed out: log Σ_z p(x, z, u) of a model at given continuous latents u.

The model runs with every value of its discrete sites side by side, and the sum is contracted by variable
elimination through plates, as Pyro's ``TraceEnum_ELBO`` does it (Obermeyer et al., "Tensor variable
elimination for plated factor graphs", 2019). Adding up whole log densities by hand would be wrong where
``pyro.markov`` recycles dimensions, and where a site outside a plate is summed after the plate's product.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pyro import poutine
from pyro.ops import packed
from pyro.ops.contract import contract_to_tensor
from pyro.ops.rings import LogRing
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.program.pyro_internals import packed_dims

__all__ = ["enumerating", "is_marked", "joint_log_prob"]


class _Marked(Messenger):  # type: ignore[misc]
    """Mark sites for enumeration in parallel, whoever wrote them."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self.names = names

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.names and not msg["is_observed"]:
            msg["infer"] = {**msg["infer"], "enumerate": "parallel"}


class _Enumerating(EnumMessenger):  # type: ignore[misc]
    """`EnumMessenger` for models whose other latents have been given their values by a handler inside of it.

    It would pass those by, and so would not know that their densities depend on what is enumerated.
    """

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        given = msg["done"] and not msg["is_observed"] and not site_is_subsample(msg)
        if given and msg["infer"].get("enumerate") != "parallel":
            msg["done"] = False
            super()._pyro_sample(msg)  # notes the dimensions in scope, and draws nothing
            msg["done"] = True
        else:
            super()._pyro_sample(msg)


def is_marked(site: Mapping[str, Any]) -> bool:
    """Whether a site asks to be enumerated in parallel (``infer={"enumerate": "parallel"}``)."""
    return bool(site["infer"].get("enumerate") == "parallel" and not site["infer"].get("num_samples"))


@contextmanager
def enumerating(names: Collection[str], nesting: int) -> Iterator[None]:
    """Run a model with all values of its discrete latents side by side.

    Args:
        names: the sites to enumerate; nothing happens where there are none.
        nesting: dimensions from the right that plates (and particles) occupy.
    """
    if not names:
        yield
        return
    with _Enumerating(first_available_dim=-1 - nesting), _Marked(names):
        yield


def joint_log_prob(
    trace: poutine.Trace,
    summed: Collection[str],
    plates: tuple[str, ...] = (),
    names: Collection[str] | None = None,
) -> Tensor:
    """The log density of a model's trace, its enumerated sites summed out, by the entries of some plates.

    Sites' masks are applied, scales are not.

    Args:
        trace: of a model run under `enumerating`.
        summed: the enumerated sites.
        plates: names of plates to keep; one that the trace does not have counts as of size 1.
        names: the sites that count, all by default; the summed ones always do.

    Returns:
        A tensor whose axes are the plates, in their order.

    Raises:
        InputError: naming the sites, where the sum is not tractable: plates that overlap without one holding
            the other, or batch dimensions that belong to no plate.
    """

    def counts(name: str, _: Any) -> bool:
        return names is None or name in names or name in summed

    trace.compute_log_prob(counts)
    factors, sizes = _factors(trace, counts)
    symbols = [trace.plate_to_symbol.get(name) for name in plates]
    target = frozenset(symbol for symbol in symbols if symbol is not None)
    enumerated = {trace.nodes[name]["infer"]["_enumerate_symbol"] for name in summed if name in trace.nodes}
    try:
        found = contract_to_tensor(
            factors, enumerated, target_ordinal=target, ring=LogRing(dim_to_size=sizes)
        )
    except (NotImplementedError, ValueError) as error:
        raise InputError(
            f"the discrete site{'s' * (len(summed) > 1)} {', '.join(sorted(summed))} cannot be summed out: "
            f"{str(error).splitlines()[0]}"
        ) from error
    axes = packed_dims(found)
    found = found.permute([axes.index(symbol) for symbol in symbols if symbol is not None])
    for axis, symbol in enumerate(symbols):
        if symbol is None:
            found = found.unsqueeze(axis)
    return found


def _factors(
    trace: poutine.Trace, counts: Callable[[str, Any], bool]
) -> tuple[OrderedDict[frozenset[str], list[Tensor]], dict[str, int]]:
    """The sites' masked log densities by the plates around them, and the size of every dimension."""
    trace.symbolize_dims()
    factors: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
    sizes: dict[str, int] = {}
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site_is_subsample(site) or not counts(name, site):
            continue
        dims = site["infer"]["_dim_to_symbol"]
        try:
            term = packed.pack(site["unscaled_log_prob"], dims)
            mask = packed.pack(site["mask"], dims)
        except (ValueError, AssertionError, KeyError) as error:
            raise InputError(
                f"site {name} has batch dimensions that belong to no plate, so that discrete latents cannot "
                "be summed out; enclose it in a plate or make them event dimensions (.to_event)"
            ) from error
        term = packed.scale_and_mask(term, mask=mask)
        sizes |= dict(zip(packed_dims(term), term.shape, strict=True))
        frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
        sizes |= {dims[frame.dim]: frame.size for frame in frames}
        ordinal = frozenset(trace.plate_to_symbol[frame.name] for frame in frames)
        factors.setdefault(ordinal, []).append(term)
    return factors, sizes
