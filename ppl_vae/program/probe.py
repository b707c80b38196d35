"""What a pair looks like on its data: its sites, plates and units, read off one run of both programs."""

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
from ppl_vae.program.enumeration import is_marked
from ppl_vae.program.improper import Feasible, is_improper
from ppl_vae.program.layout import Layout, full_size, plates_of, sample_sites, user_scale
from ppl_vae.program.pair import ChecksData, Pair, Program, said_by
from ppl_vae.program.tensor_versions import changes

__all__ = [
    "PROBE_SIZE",
    "Look",
    "check_data",
    "in_pyros_words",
    "known_layout",
    "look",
    "read_layout",
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


def check_data(program: Program, *data: Any) -> None:
    """Refuse non-finite data that the program does not mask itself, and what a model says it cannot take.

    Raises:
        InputError: naming the argument, row and column.
    """
    for position, values in enumerate(data):
        if isinstance(values, Tensor) and not values.numel():
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


def read_layout(pair: Pair, found: Look) -> Layout:
    """The layout of a pair from one look at it.

    Raises:
        InputError: if the model observes nothing or has no latent sites, or the guide's are not the model's.
    """
    model_sites, guide_sites = dict(sample_sites(found.model_trace)), dict(sample_sites(found.guide_trace))
    latent = {name: site for name, site in model_sites.items() if not site["is_observed"]}
    observed = {name: site for name, site in model_sites.items() if site["is_observed"]}
    drawn = {name for name, site in guide_sites.items() if not site["is_observed"]}
    summed = tuple(n for n, site in latent.items() if n not in drawn and is_marked(site))
    _check_sites(latent, observed, guide_sites, summed)
    every_site = [*model_sites.values(), *(s for s in guide_sites.values() if not s["is_observed"])]
    frames = {frame.name: frame for site in every_site for frame in plates_of(site)}
    batch = _outermost_common(list(observed.values()), found.subsampled)
    unit = _outermost_common(every_site, found.subsampled)
    kept = {name: site for name, site in latent.items() if name not in summed}
    loose = {name: _loose_dims(name, site) for name, site in kept.items()}
    return Layout(
        latents={name: tuple(frame.name for frame in plates_of(site)) for name, site in kept.items()},
        event_dims={name: site["fn"].event_dim + loose.get(name, 0) for name, site in latent.items()},
        observed=tuple(observed),
        unit_plate=unit,
        batch_plate=batch,
        batch_plate_size=full_size(frames[batch]) if batch else 1,
        dims={name: frame.dim for name, frame in frames.items()},
        num_units=full_size(frames[unit]) if unit else 1,
        nesting=_nesting(every_site),
        event_size=_event_size(every_site, unit),
        indexable=found.indexable,
        vectorized=not found.subsampled,
        loose_dims={name: dims for name, dims in loose.items() if dims},
        summed=summed,
        discrete=tuple(name for name, site in kept.items() if site["fn"].support.is_discrete),
        marked=tuple(n for n in kept if is_marked(latent[n]) or is_marked(guide_sites[n])),
        improper=tuple(name for name, site in kept.items() if is_improper(site)),
        partly_masked=tuple(name for name, site in kept.items() if _is_partly_masked(site)),
        tempered=_tempered(model_sites, guide_sites),
        subsampled=found.subsampled,
        points=_points(kept, guide_sites),
        summed_plates={name: tuple(frame.name for frame in plates_of(latent[name])) for name in summed},
    )


def _points(latent: Mapping[str, Any], guide: Mapping[str, Any]) -> tuple[str, ...]:
    """Latents that the guide draws from a Delta; where it draws auxiliary sites, Deltas follow from them."""
    if any(site["infer"].get("is_auxiliary") for site in guide.values()):
        return ()
    return tuple(name for name in latent if _is_delta(guide[name]["fn"]))


def _is_delta(fn: Any) -> bool:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, dist.Delta)


def _outermost_common(sites: list[Any], subsampled: Mapping[str, str]) -> str | None:
    common = set.intersection(*({frame.name for frame in plates_of(site)} for site in sites))
    dims = {frame.name: frame.dim for site in sites for frame in plates_of(site)}
    return min(common - subsampled.keys(), key=lambda name: dims[name], default=None)


def _nesting(sites: list[Any]) -> int:
    """Dimensions from the right that belong to plates, or to densities without a plate."""
    plates = [-frame.dim for site in sites for frame in plates_of(site)]
    return max([0, *plates, *(site["log_prob"].dim() for site in sites)])


def _loose_dims(name: str, site: Any) -> int:
    """How many batch dimensions right of all its plates a latent has: they count as event dimensions.

    Raises:
        InputError: if they lie between plates.
    """
    shape = site["fn"].batch_shape
    taken = {frame.dim for frame in plates_of(site)}
    free = [dim for dim in range(-len(shape), 0) if dim not in taken and shape[dim] != 1]
    most = -max(taken) - 1 if taken else len(shape)
    if any(-dim > most for dim in free):
        raise InputError(
            f"site {name} has batch dimensions left of a plate that belong to no plate; enclose it in a "
            "plate, or make them event dimensions (.to_event)"
        )
    return max((-dim for dim in free), default=0)


def _event_size(sites: list[Any], unit: str | None) -> int:
    """Numbers per unit in the largest site, on all the data."""
    sizes = [1]
    for site in sites:
        size = site["value"].numel() if isinstance(site["value"], Tensor) else 1
        for dims in (site["value"], site["log_prob"]):
            size = max(size, dims.numel() if isinstance(dims, Tensor) else 1)
        for frame in plates_of(site):
            size = size // max(1, frame.size) * (1 if frame.name == unit else full_size(frame))
        sizes.append(size)
    return max(sizes)


def _is_partly_masked(site: Any) -> bool:
    return isinstance(site["mask"], Tensor) and not bool(site["mask"].all())


def _tempered(*programs: Mapping[str, Any]) -> tuple[str, ...]:
    """Sites with a scale of the program's own, each once."""
    names: dict[str, None] = {}
    for sites in programs:
        for name, site in sites.items():
            scale = torch.as_tensor(user_scale(site), dtype=torch.float64)
            if not torch.allclose(scale, torch.ones_like(scale)):
                names[name] = None
    return tuple(names)


def _check_sites(
    latent: Mapping[str, Any], observed: Mapping[str, Any], guide: Mapping[str, Any], summed: tuple[str, ...]
) -> None:
    guided = {
        name: site
        for name, site in guide.items()
        if not site["infer"].get("is_auxiliary") and not site["is_observed"]
    }
    if not observed:
        raise InputError("the model observes nothing: give one of its pyro.sample statements obs=")
    if not latent:
        raise InputError(
            "the model has no latent sites, so there is no posterior: its parameters are fitted by maximum "
            "likelihood, without a guide"
        )
    if missing := sorted(latent.keys() - guided.keys() - set(summed)):
        discrete = [name for name in missing if latent[name]["fn"].support.is_discrete]
        way_out = (
            f"; {', '.join(discrete)} can be summed out: mark it with infer={{'enumerate': 'parallel'}} "
            "(pyro.infer.config_enumerate)"
        )
        raise InputError(
            f"the guide misses the model's latent sites {', '.join(missing)}{way_out if discrete else ''}"
        )
    if extra := sorted(guided.keys() - latent.keys()):
        raise InputError(
            f"the guide samples {', '.join(extra)}, which the model does not; auxiliary sites need "
            'infer={"is_auxiliary": True}'
        )
    for name, site in latent.items():
        if name in summed:
            continue
        own, other = site["fn"].shape(), guided[name]["fn"].shape()
        if own != other:
            raise InputError(
                f"site {name} has shape {tuple(own)} in the model and {tuple(other)} in the guide"
            )
        if _is_partly_masked(site) and not _same_mask(site, guided[name]):
            raise InputError(
                f"site {name} is masked in part in the model and not in the guide (as with obs_mask=): its "
                "masked entries have no density. Mask the observed site instead (NanMaskedNormal, or "
                "poutine.mask around obs=), which integrates missing values out exactly"
            )


def _same_mask(site: Any, other: Any) -> bool:
    if other["mask"] is None:
        return False
    shape = site["fn"].batch_shape
    one, two = (torch.as_tensor(mask).expand(shape) for mask in (site["mask"], other["mask"]))
    return bool((one == two).all())


def _words(error: Exception) -> str:
    """Pyro's sentence, in one line and without tensors and hints."""
    text = str(error).partition(", but found invalid values")[0].partition("Try one of")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):
        lines = [f"{lines[0]} {lines[1]}", *lines[2:]]
    return (
        ": ".join(lines[:2]) if lines and lines[0].endswith("shape") else (lines or [type(error).__name__])[0]
    )
