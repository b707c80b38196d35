"""One look at a pair on its data: a run of both programs, on shortened plates where they index them."""

import weakref
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from pyro.util import check_site_shape
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import seeded
from ppl_vae.program.abilities import ChecksData
from ppl_vae.program.improper import Feasible
from ppl_vae.program.layout import Layout, plates_of, sample_sites
from ppl_vae.program.pair import Pair, Program, said_by
from ppl_vae.program.tensor_versions import changes

__all__ = [
    "PROBE_SIZE",
    "Look",
    "check_data",
    "in_pyros_words",
    "known_layout",
    "look",
    "remember",
]

PROBE_SIZE = 64
DO_NOT_RUN = "the model and the guide do not run on these data"
# Layouts that a pair remembers: of training, validation and test data, and a few parts of them.
REMEMBERED = 8
# What Pyro and PyTorch raise where a program does not run on shortened plates.
MISFIT = (RuntimeError, ValueError, IndexError, AssertionError)


@dataclass(frozen=True)
class Look:
    """One run of both programs.

    Attributes:
        model_trace, guide_trace: with log densities; where plates could be shortened, of a few entries.
        indexable: those plates.
        subsampled: plates of which the programs take a part by themselves, in words.
    """

    model_trace: poutine.Trace
    guide_trace: poutine.Trace
    indexable: frozenset[str]
    subsampled: Mapping[str, str]


class _Probe(Messenger):  # type: ignore[misc]
    """Shorten plates, so that the structure of a program on large data is read cheaply.

    A plate with a fixed ``subsample_size`` (as AutoGuides make around local latents) cannot be.

    Args:
        shorten: names of the plates to shorten, or None for all.
        order: "some" entries, always fewer than there are; or the first ones "forwards" or "backwards",
            all of them where there are few.
    """

    def __init__(
        self,
        shorten: Collection[str] | None = None,
        order: Literal["some", "forwards", "backwards"] = "some",
    ) -> None:
        super().__init__()
        self.shorten, self.order = shorten, order
        self.plates: set[str] = set()
        self.fixed: set[str] = set()
        self.subsampled: dict[str, str] = {}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not site_is_subsample(msg):
            return
        fn, name = msg["fn"], msg["name"]
        self.plates.add(name)
        if msg["done"]:  # the model's plate takes the guide's indices
            return
        if msg["value"] is not None:
            self.fixed.add(name)
            if len(msg["value"]) != fn.size:
                self.subsampled[name] = f"{len(msg['value'])} of its {fn.size} entries (subsample=)"
        elif fn.subsample_size is not None:
            self.fixed.add(name)
            if fn.subsample_size < fn.size:
                self.subsampled[name] = f"{fn.subsample_size} of its {fn.size} entries (subsample_size=)"
        elif self.shorten is None or name in self.shorten:
            # Only if they are fewer than all does it show whether the program indexes.
            most = fn.size - 1 if self.order == "some" else fn.size
            index = torch.arange(max(1, min(PROBE_SIZE, most)))
            msg["value"] = index.flip(0) if self.order == "backwards" else index
            msg["done"] = True


def look(pair: Pair, *data: Any) -> Look:
    """Run both programs once, on shortened plates if they index their data.

    Raises:
        InputError: if a site's density does not fit its plates, or Pyro finds a value outside a support.
        Exception: whatever a program itself raises, with a note that names the program.
    """
    with pair.scope(), seeded(0), torch.no_grad(), Feasible():
        if (found := _short(pair, data, _Probe())) is not None:
            return found
        probe = _Probe([])
        whole = _whole(pair, data, probe)
        candidates = sorted(probe.plates - probe.fixed)
        indexable = [name for name in candidates if _short(pair, data, _Probe([name])) is not None]
        if len(candidates) < 2 or not indexable:
            return whole
        return _short(pair, data, _Probe(indexable)) or whole


def _whole(pair: Pair, data: tuple[Any, ...], probe: _Probe) -> Look:
    """A look at all the data.

    A latent's draw may put data beyond a support that depends on it: there they have no probability. Data
    that Pyro refuses and that would have a finite density all the same are no data of their distribution.
    """
    try:
        return _run(pair, data, probe)
    except ValueError as error:
        refused = InputError(f"{DO_NOT_RUN}: {_words(error)}")
        try:
            with pyro.validation_enabled(False):
                found = _run(pair, data, probe)
        except MISFIT:
            raise refused from error
        for _, site in sample_sites(found.model_trace):
            valid = site["fn"].support.check(site["value"])
            if bool((~valid & (site["log_prob"] > -torch.inf)).any()):
                raise refused from error
        return found


def _short(pair: Pair, data: tuple[Any, ...], probe: _Probe) -> Look | None:
    """A look on shortened plates; None where the programs do not index them."""
    try:
        found = _run(pair, data, probe)
        return found if _follows(pair, data, found, probe) else None
    except MISFIT:
        return None


def _run(pair: Pair, data: tuple[Any, ...], probe: _Probe) -> Look:
    with probe:
        with said_by(pair.guide, "guide"):
            guide_trace = poutine.trace(pair.guide).get_trace(*data)
        with said_by(pair.model, "model"):
            model = poutine.replay(pair.model, trace=guide_trace)
            model_trace = poutine.trace(model).get_trace(*data)
    for trace in (model_trace, guide_trace):
        trace.compute_log_prob()
        for _, site in sample_sites(trace):
            # As one unit, densities without any plate are added up.
            if plates_of(site):
                check_site_shape(site, torch.inf)
    free = probe.plates - probe.fixed
    indexable = frozenset(free if probe.shorten is None else free.intersection(probe.shorten))
    return Look(model_trace, guide_trace, indexable, probe.subsampled)


def _follows(pair: Pair, data: tuple[Any, ...], found: Look, probe: _Probe) -> bool:
    """Whether observed values go the other way round where a plate's indices do."""
    if not found.indexable:
        return probe.shorten is None
    there = _run(pair, data, _Probe(probe.shorten, "forwards")).model_trace
    back = _run(pair, data, _Probe(probe.shorten, "backwards")).model_trace
    for name, site in sample_sites(there):
        if not site["is_observed"]:
            continue
        dims = [f.dim - site["fn"].event_dim for f in plates_of(site) if f.name in found.indexable]
        value, turned = site["value"], back.nodes[name]["value"]
        if not isinstance(value, Tensor) or value.shape != turned.shape:
            return False
        dims = [dim for dim in dims if value.dim() >= -dim]
        if not torch.equal(value.flip(dims).nan_to_num(), turned.nan_to_num()):
            return False
    return True


@contextmanager
def in_pyros_words() -> Iterator[None]:
    """Turn what Pyro says of shapes and supports into one sentence."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        # Pyro's own words, without the tensors that it shows below them.
        raise InputError(f"{DO_NOT_RUN}: {_words(error)}") from error
    except NotImplementedError as error:
        if dist.ImproperUniform.__name__ not in str(error):
            raise
        raise InputError(
            f"{DO_NOT_RUN}: a flat prior ({dist.ImproperUniform.__name__}) has no draw to start at; a guide "
            "by its name, such as named_guide('mean-field', model), finds a start, and so does init_to_value"
        ) from error


def check_data(program: Program, *data: Any) -> None:
    """Refuse non-finite data that the program does not mask itself, and what a model says it cannot take.

    Raises:
        InputError: naming the argument, row and column.
    """
    for position, values in enumerate(data):
        # What is conditioned on may have no columns, such as the covariates of games without any.
        columnless = isinstance(values, Tensor) and bool(position and values.dim() > 1 and len(values))
        if isinstance(values, Tensor) and not values.numel() and not columnless:
            raise InputError(f"data argument {position} is empty, of shape {tuple(values.shape)}")
        if isinstance(values, Tensor) and values.is_floating_point() and not _all_finite(values):
            if _tolerates(program, data):
                break
            where = (~values.isfinite()).nonzero()[0].tolist()
            raise InputError(
                f"data argument {position} holds {values[tuple(where)].item()} at index {tuple(where)}; "
                "every value must be finite, unless the model masks it (NanMaskedNormal, or poutine.mask "
                "with another value in its place)"
            )
    if isinstance(program, ChecksData):
        program.check_data(*data)


def _all_finite(values: Tensor) -> bool:
    # The sum of finite numbers may overflow, but it is finite only if all of them are.
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def _tolerates(program: Program, data: tuple[Any, ...]) -> bool:
    """Whether the observed sites have finite densities nonetheless."""
    pair = Pair(program, program)
    try:
        with pair.scope(), seeded(0), torch.no_grad(), Feasible():
            trace = poutine.trace(program).get_trace(*data)
            trace.compute_log_prob(lambda _, site: site["is_observed"])
    except Exception:  # whatever a program that was not made for them does with such values
        return False
    observed = [site for _, site in sample_sites(trace) if site["is_observed"]]
    return bool(observed) and all(bool(site["log_prob"].isfinite().all()) for site in observed)


def known_layout(pair: Pair, data: tuple[Any, ...]) -> Layout | None:
    """The layout that was read off these very data, unless they have changed."""
    for keys, found in pair.known.layouts:
        if len(keys) == len(data) and all(_is(key, values) for key, values in zip(keys, data, strict=True)):
            return found
    return None


def remember(pair: Pair, data: tuple[Any, ...], found: Layout) -> None:
    """Keep a layout for as long as the data live."""
    pair.known.layouts[:] = [(tuple(map(_key, data)), found), *pair.known.layouts[: REMEMBERED - 1]]


def _key(values: Any) -> Any:
    return (weakref.ref(values), changes(values)) if isinstance(values, Tensor) else values


def _is(key: Any, values: Any) -> bool:
    if isinstance(values, Tensor):
        known = changes(values)
        return isinstance(key, tuple) and key[0]() is values and known is not None and key[1] == known
    return key is values


def _words(error: Exception) -> str:
    """Pyro's sentence, in one line and without tensors and hints."""
    text = str(error).partition(", but found invalid values")[0].partition("Try one of")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):
        lines = [f"{lines[0]} {lines[1]}", *lines[2:]]
    return (
        ": ".join(lines[:2]) if lines and lines[0].endswith("shape") else (lines or [type(error).__name__])[0]
    )
