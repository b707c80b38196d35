"""The layout of a pair, from one look at both of its programs."""

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.program.enumeration import is_marked
from ppl_vae.program.improper import is_improper
from ppl_vae.program.layout import Layout, full_size, plates_of, sample_sites, user_scale
from ppl_vae.program.probe import Look

__all__ = ["read_layout"]


def read_layout(found: Look) -> Layout:
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
        tempered=_scaled(latent, {name: guide_sites[name] for name in drawn}),
        weighted=_scaled(observed),
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


def _scaled(*programs: Mapping[str, Any]) -> tuple[str, ...]:
    """Sites with a scale of the program's own, each once.

    One number for each entry is a scale whatever the numbers are: the look may have been at a few entries, of
    which all count once.
    """
    names: dict[str, None] = {}
    for sites in programs:
        for name, site in sites.items():
            scale = torch.as_tensor(user_scale(site), dtype=torch.float64)
            if scale.numel() > 1 or not torch.allclose(scale, torch.ones_like(scale)):
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
