"""Guides that look at the data before they start: mixtures, with a component at every mode that was found."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.base.precision import default_dtype
from ppl_vae.base.seeds import derived, seeded
from ppl_vae.guides.mixture import MixtureNormal
from ppl_vae.guides.named import named_guide, numbered
from ppl_vae.inference.samplers import pathfinder
from ppl_vae.program.improper import Feasible
from ppl_vae.program.pair import Program
from ppl_vae.program.user_program import is_program, load_program

__all__ = ["load_guide", "mixture_of_paths", "started_guide"]

# Paths for a mixture, and draws of each by which it is weighed.
PATHS, DRAWS = 8, 200
# Two ends are of one mode where the log density between them falls by less than this below both, in nats.
DIP, STEPS = 1.0, 16


def started_guide(name: str, model: Program, *data: Any, seed: int = 0) -> Program:
    """As `guides.named_guide`; a mixture starts from Pathfinder's paths where these come to an end.

    Raises:
        InputError: as `guides.named_guide`.
    """
    family, size = numbered(name)
    if family == "mixture":
        try:
            found = pathfinder.paths(
                model, *data, num_paths=PATHS, num_draws=DRAWS, seed=seed, progress=False
            )
            return mixture_of_paths(found, model, size, seed=seed)
        except InputError:  # a support that moves, or no mode: draws of the prior serve
            pass
    return named_guide(name, model)


def load_guide(text: str, model: Program, *data: Any, seed: int = 0) -> Program:
    """The guide that ``FILE.py:NAME`` names, or one for the model of a family such as mean-field.

    Raises:
        InputError: as `load_program`, or for an unknown family.
    """
    if is_program(text):
        return load_program(text)
    try:
        return started_guide(text, model, *data, seed=seed)
    except InputError as error:
        raise InputError(f"{error}, or FILE.py:NAME") from None


def mixture_of_paths(
    found: pathfinder.Paths, model: Program, num_components: int | None = None, *, seed: int = 0
) -> MixtureNormal:
    """A mixture guide that starts with the Gaussians of paths to different modes, weighted by their evidence.

    Args:
        found: the paths.
        model: theirs.
        num_components: K; as many as there are modes by default, at least two. Where there are fewer modes,
            further components begin at draws of the best one's Gaussian.
        seed: of those.
    """
    modes = _modes(found)
    size = num_components or max(2, len(modes))
    modes = modes[:size]
    normals = [path.normal for path in modes if path.normal is not None]
    locs = [normal.loc for normal in normals]
    best, more = normals[0], size - len(modes)
    with seeded(derived(seed, "components")):
        locs += list(best.rsample((more,)))
    trils = [torch.linalg.cholesky(normal.covariance_matrix) for normal in normals]
    evidence = torch.tensor([path.elbo for path in modes], dtype=torch.float64).softmax(0)
    # Those of the best share its weight.
    own = evidence[:1] / (more + 1)
    weights = torch.cat([own, evidence[1:], own.expand(more)])
    return MixtureNormal(
        Feasible()(model), locs=torch.stack(locs), scale_trils=torch.stack(trils + [trils[0]] * more),
        weights=weights.clamp_min(1e-6),
    )  # fmt: skip


def _modes(found: pathfinder.Paths) -> list[pathfinder.Path]:
    """One path for each mode, the best first."""
    kept: list[pathfinder.Path] = []
    for path in sorted(found.good, key=lambda path: -path.elbo):
        if all(_apart(found, path, other) for other in kept):
            kept.append(path)
    return kept


def _apart(found: pathfinder.Paths, one: pathfinder.Path, other: pathfinder.Path) -> bool:
    """Whether the log density dips on the way from one Gaussian's mean to the other's."""
    assert one.normal is not None
    assert other.normal is not None
    share = torch.linspace(0, 1, STEPS, dtype=one.normal.loc.dtype)[:, None]
    values = _log_density(found, one.normal.loc + share * (other.normal.loc - one.normal.loc))
    return bool(values.min() < min(values[0], values[-1]) - DIP)


@torch.no_grad()
def _log_density(found: pathfinder.Paths, positions: Tensor) -> Tensor:
    with default_dtype(torch.float64):
        values = torch.stack([found.density.value(position) for position in positions])
    return values.nan_to_num(-torch.inf, neginf=-torch.inf)
