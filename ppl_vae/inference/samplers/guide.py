"""The variational answer itself: draws from a fitted guide."""

from __future__ import annotations

import time
from typing import Any

import torch

from ppl_vae.answers.labels import to_dataset
from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.arguments import check_whole
from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import seeded
from ppl_vae.program.memory import refuse_too_many_draws
from ppl_vae.program.pair import Pair
from ppl_vae.program.point_mass import point_masses
from ppl_vae.program.problem import Problem

__all__ = ["draws"]


@torch.no_grad()
def draws(
    pair: Pair, *data: Any, num_draws: int = 1000, index: torch.Tensor | None = None, seed: int = 0
) -> Posterior:
    """Independent draws from the guide, with their log importance weights.

    Args:
        pair: model and guide; nothing is trained.
        data: the programs' full data.
        num_draws: number of draws.
        index: the units to draw for (all by default).
        seed: of the draws.

    Returns:
        One chain of ``num_draws`` independent draws; ``log_weights`` over (chain, draw, unit plate), or None
        where the draws have none: of a guide that puts a latent at a point, and of programs that take a part
        of their data or scale the densities of their latents.

    Raises:
        InputError: if num_draws is not positive, so many draws do not fit into memory, or all latents are
            summed out.
    """
    import xarray as xr

    check_whole(1, num_draws=num_draws)
    start = time.perf_counter()
    problem = Problem.of(pair, *data).rows(index)
    layout = problem.layout
    if not layout.latents:
        raise InputError(
            f"the guide draws nothing: {', '.join(layout.summed)} is summed out, and nothing is approximated"
            "; exact.draws draws from its posterior where the model knows it"
        )
    chunks = []
    with seeded(seed):
        for size in problem.blocks(num_draws):
            chunks.append(problem.terms(size))
            if len(chunks) == 1:
                one = [value[0] for value in chunks[0].draws.values()]
                refuse_too_many_draws(num_draws, sum(value.numel() for value in one), one[0].element_size())
    values = {name: torch.cat([chunk.draws[name] for chunk in chunks])[None] for name in layout.latents}
    weights = torch.cat([chunk.log_weights for chunk in chunks])[None].cpu().numpy()
    if layout.unit_plate is None:
        weights = weights[..., 0]
    # Points have no density, and a part of the data none of all of them.
    weighed = not (layout.subsampled or layout.tempered or point_masses(problem))
    coords = {layout.unit_plate: index.tolist()} if index is not None and layout.unit_plate else {}
    dims = ("chain", "draw", layout.unit_plate) if layout.unit_plate else ("chain", "draw")
    return Posterior(
        draws=to_dataset(values, layout.latents, pair.model, coords),
        method="guide",
        dependence="independent",
        log_weights=xr.DataArray(weights, dims=dims) if weighed else None,
        seconds=time.perf_counter() - start,
    )
