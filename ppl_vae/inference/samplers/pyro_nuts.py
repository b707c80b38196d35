"""Pyro's own NUTS, its chains one after another."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor

from ppl_vae.base.clock import check_time
from ppl_vae.base.seeds import seeded
from ppl_vae.engine.gradients import Gradient
from ppl_vae.inference.samplers.chains import ChainSettings
from ppl_vae.program.pair import Program

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["sample_model", "sample_positions"]


def sample_positions(
    gradient: Gradient,
    starts: Tensor,
    settings: ChainSettings,
    *,
    dense: bool,
    advance: Callable[[int, str], None],
) -> tuple[Tensor, xr.Dataset]:
    """Chains in unconstrained space on a gradient of ours.

    Args:
        gradient: of one position.
        starts: positions (chains, dim) of finite density.
        settings: counts and tuning.
        dense: adapt a dense mass matrix.
        advance: called with (1, text) after each iteration.

    Returns:
        Positions (chains, num_draws, dim), and statistics under ArviZ's names.
    """

    class Potential(torch.autograd.Function):
        """−log density, with the gradient that comes along."""

        @staticmethod
        def forward(context: Any, position: Tensor) -> Tensor:
            check_time()
            values, slopes = gradient.of_each(position.detach().unsqueeze(0))
            context.save_for_backward(slopes[0])
            return -values[0]

        @staticmethod
        def backward(context: Any, outer: Tensor) -> Tensor:
            (slope,) = context.saved_tensors
            return -outer * slope

    runs = []
    for chain, start in enumerate(starts):
        with seeded(settings.seed * 1009 + chain):
            kernel = NUTS(
                potential_fn=lambda values: Potential.apply(values["position"]),
                target_accept_prob=settings.target_accept,
                max_tree_depth=settings.max_tree_depth,
                full_mass=dense,
            )
            first = {"position": start.clone()}
            runs.append(_chain(kernel, (), settings.num_draws, settings.warmup, advance, first))
    return torch.stack([run[0]["position"] for run in runs]), _statistics([run[1] for run in runs])


def sample_model(
    model: Program,
    data: tuple[Any, ...],
    settings: ChainSettings,
    *,
    dense: bool,
    jit_compile: bool,
    advance: Callable[[int, str], None],
) -> tuple[dict[str, Tensor], xr.Dataset]:
    """Draws by latent site, each of shape (chains, num_draws, …) as Pyro gives them, and statistics."""
    runs = []
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category, message=".*torch.jit.*")
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        for chain in range(settings.chains):
            with seeded(settings.seed * 1009 + chain):
                kernel = NUTS(
                    model,
                    target_accept_prob=settings.target_accept,
                    max_tree_depth=settings.max_tree_depth,
                    full_mass=dense,
                    jit_compile=jit_compile,
                    ignore_jit_warnings=True,
                )
                runs.append(_chain(kernel, data, settings.num_draws, settings.warmup, advance))
    draws = {name: torch.stack([run[0][name] for run in runs]) for name in runs[0][0]}
    return draws, _statistics([run[1] for run in runs])


def _chain(
    kernel: NUTS,
    data: tuple[Any, ...],
    num_draws: int,
    warmup: int,
    advance: Callable[[int, str], None],
    first: dict[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    steps: list[float] = []
    accepted = [np.nan]

    def hook(kernel: NUTS, _params: Any, stage: str, _number: int) -> None:
        if stage == "Sample":
            steps.append(float(kernel.step_size))
            # Pyro keeps the running mean of the acceptance probability nowhere else.
            accepted[0] = float(kernel.logging()["acc. prob"])
        advance(1, f"step {float(kernel.step_size):.2g}")

    mcmc = MCMC(
        kernel, num_samples=num_draws, warmup_steps=warmup, initial_params=first, disable_progbar=True,
        hook_fn=hook, num_chains=1,
    )  # fmt: skip
    mcmc.run(*data)
    # The kernel forgets its counts when the run ends; MCMC keeps them, by chain.
    diagnostics = mcmc.diagnostics()
    diverging = np.zeros(num_draws, dtype=bool)
    diverging[diagnostics["divergences"]["chain 0"]] = True
    statistics = {
        "diverging": diverging,
        "acceptance_rate": accepted[0],
        "step_size": np.asarray(steps),
    }
    return {name: value.detach() for name, value in mcmc.get_samples().items()}, statistics


def _statistics(runs: list[dict[str, Any]]) -> xr.Dataset:
    """Under ArviZ's names; the acceptance rate is a chain's mean, which is what Pyro keeps."""
    import xarray as xr

    num_draws = len(runs[0]["diverging"])
    return xr.Dataset(
        {
            "diverging": (("chain", "draw"), np.stack([run["diverging"] for run in runs])),
            "step_size": (("chain", "draw"), np.stack([run["step_size"] for run in runs])),
            "acceptance_rate": (
                ("chain", "draw"),
                np.stack([np.full(num_draws, run["acceptance_rate"]) for run in runs]),
            ),
        },
        coords={"chain": np.arange(len(runs)), "draw": np.arange(num_draws)},
    )
