"""Laplace's approximation: a Gaussian at the posterior's mode, in unconstrained space.

Source: Tierney and Kadane, "Accurate approximations for posterior moments" (1986); MacKay, "Information
Theory, Inference, and Learning Algorithms" (2003), chapter 27.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoLaplaceApproximation
from pyro.ops.hessian import hessian
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.base.precision import cast_data, default_dtype
from ppl_vae.base.seeds import seeded
from ppl_vae.program.improper import Feasible
from ppl_vae.program.pair import Pair, Program
from ppl_vae.program.terms import check_data

__all__ = ["approximation"]

# Of the gradient's largest entry, in nats a unit of unconstrained space, at what counts as a mode.
AT_REST = 1e-3


def approximation(model: Program, *data: Any, max_iterations: int = 1000, seed: int = 0) -> tuple[Pair, Any]:
    """N(ẑ, H⁻¹) with the mode ẑ of log p(x, z) and its negative Hessian H there, both in unconstrained space.

    The model's parameters are held. The mode depends on the coordinates; Pyro's unconstrained ones are meant
    (logarithms of positive numbers), with their Jacobian.

    Args:
        model: a Pyro model with continuous latents; a module is copied into float64.
        data: its data; floating-point tensors are cast.
        max_iterations: of L-BFGS with a strong Wolfe line search.
        seed: of the starting point.

    Returns:
        The model with the Gaussian as its guide, and the data in float64 to run them on.

    Raises:
        InputError: where no mode is found, or the curvature there is not that of a maximum.
    """
    check_data(model, *data)
    cast = cast_data(data, torch.float64)
    pair = Pair(model, model).cast_model(torch.float64, lambda own: AutoLaplaceApproximation(Feasible()(own)))
    with pair.scope(), seeded(seed):
        auto: Any = pair.guide
        with default_dtype(torch.float64):
            auto(*cast)
            _climb(auto, cast, max_iterations)
            _check_curvature(auto, cast)
            gaussian = auto.laplace_approximation(*cast)
    return Pair(pair.model, gaussian), cast


def _negative_log_density(auto: Any, data: tuple[Any, ...]) -> Tensor:
    own = poutine.trace(auto).get_trace(*data)
    model = poutine.trace(poutine.replay(auto.model, trace=own)).get_trace(*data)
    return own.log_prob_sum() - model.log_prob_sum()


def _climb(auto: Any, data: tuple[Any, ...], max_iterations: int) -> None:
    steps = torch.optim.LBFGS(
        [auto.loc], max_iter=max_iterations, tolerance_grad=1e-6, tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        steps.zero_grad()
        loss = _negative_log_density(auto, data)
        loss.backward()
        return loss

    try:
        steps.step(closure)
        loss = closure()
    except (ValueError, RuntimeError) as error:
        raise InputError(f"Laplace's approximation finds no mode: {error}") from error
    slope = float(auto.loc.grad.abs().max())
    if not (torch.isfinite(loss) and slope < AT_REST):
        raise InputError(
            f"Laplace's approximation finds no mode: after L-BFGS the gradient is still {slope:.2g} (a "
            "funnel has none)"
        )


def _check_curvature(auto: Any, data: tuple[Any, ...]) -> None:
    curvature = hessian(_negative_log_density(auto, data), auto.loc)
    smallest = float(torch.linalg.eigvalsh(curvature).min())
    if not smallest > 0:
        raise InputError(
            f"Laplace's approximation needs a maximum, and the smallest curvature at the point found is "
            f"{smallest:.2g}"
        )
