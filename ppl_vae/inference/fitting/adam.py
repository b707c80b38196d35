"""Adam (Kingma and Ba 2015, algorithm 1), written out where PyTorch's own optimiser cannot be.

Stock steps use ``torch.optim.Adam``, and traced ones its fused kernel (`torch_internals.adam`). Neither can
be part of a graph of several steps, whose tensors are replaced and not changed, nor give every data set of a
batch a rate of its own. All of them compute the same to rounding.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from ppl_vae.engine.torch_internals import foreach

__all__ = ["BETA1", "BETA2", "EPSILON", "in_graph", "of_each"]

# Adam's constants, the same in all ways to take a step.
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


def in_graph(
    leaves: list[Tensor], gradients: list[Tensor], mean: list[Tensor], square: list[Tensor], rates: Tensor
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """One step as new tensors, in the order in which PyTorch computes it.

    Args:
        leaves, gradients, mean, square: for each parameter, tensors of one shape.
        rates: the learning rate over the first moment's correction, and the root of the second's, shape (2,).
    """
    mean = [m + (1 - BETA1) * (g - m) for m, g in zip(mean, gradients, strict=True)]
    square = [s * BETA2 + (1 - BETA2) * (g * g) for s, g in zip(square, gradients, strict=True)]
    moved = [
        leaf - rates[0].to(leaf.dtype) * m / (s.sqrt() / rates[1].to(leaf.dtype) + EPSILON)
        for leaf, m, s in zip(leaves, mean, square, strict=True)
    ]
    return moved, mean, square


def of_each(
    leaves: list[Tensor],
    gradients: list[Tensor],
    mean: list[Tensor],
    square: list[Tensor],
    rates: Sequence[Tensor],
    *,
    step: int,
    share: float,
) -> list[Tensor]:
    """One step of many fits side by side; both moments are changed in place, and new parameters returned.

    Args:
        leaves, gradients, mean, square: for each parameter, tensors of one shape, fits first.
        rates: for each parameter, the fits' learning rates, in a shape that broadcasts.
        step: number of this step, from 0.
        share: of the learning rates, which is the same for all fits.
    """
    foreach("lerp_")(mean, gradients, 1 - BETA1)
    foreach("lerp_")(square, foreach("mul")(gradients, gradients), 1 - BETA2)
    size = foreach("sqrt")(square)
    foreach("div_")(size, math.sqrt(1 - BETA2 ** (step + 1)))
    foreach("add_")(size, EPSILON)
    moved = foreach("div")(foreach("mul")(mean, rates), size)
    return list(foreach("sub")(leaves, moved, alpha=share / (1 - BETA1 ** (step + 1))))
