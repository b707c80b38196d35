"""Adam written out computes what PyTorch's own does, step after step."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ppl_vae.engine.torch_internals import adam
from ppl_vae.inference.fitting.adam import BETA1, BETA2, EPSILON, in_graph, of_each

STEPS, RATE = 7, 0.03
# Of ε's size too, where its place in the quotient shows.
SCALES = (1.0, 1e3, 1e-7)

Way = Callable[[list[Tensor], list[Tensor], list[Tensor], list[Tensor], int], list[Tensor]]


def _gradients(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    drawn = [scale * torch.randn(4, 3, dtype=torch.float64, generator=generator) for scale in SCALES]
    # In memory by columns, as gradients of convolutions may be in another order than their parameters.
    return [drawn[0], *(gradient.T.contiguous().T for gradient in drawn[1:])]


def _in_graph(
    leaves: list[Tensor], g: list[Tensor], m: list[Tensor], s: list[Tensor], step: int
) -> list[Tensor]:
    count = step + 1
    rates = torch.tensor([RATE / (1 - BETA1**count), math.sqrt(1 - BETA2**count)], dtype=torch.float64)
    moved, mean, square = in_graph(leaves, g, m, s, rates)
    m[:], s[:] = mean, square
    return moved


def _of_each(
    leaves: list[Tensor], g: list[Tensor], m: list[Tensor], s: list[Tensor], step: int
) -> list[Tensor]:
    # Four fits, of which each has its rate, halved for all.
    rates = [torch.full((4, 1), 2 * RATE, dtype=torch.float64) for _ in leaves]
    return of_each(leaves, g, m, s, rates, step=step, share=0.5)


def _fused(
    leaves: list[Tensor], g: list[Tensor], m: list[Tensor], s: list[Tensor], step: int
) -> list[Tensor]:
    counts = [torch.tensor(float(step + 1)) for _ in leaves]
    adam(leaves, g, m, s, counts, rate=RATE, betas=(BETA1, BETA2), epsilon=EPSILON)
    return leaves


@pytest.mark.parametrize("way", [_in_graph, _of_each, _fused])
def test_every_way_is_pytorchs_adam(way: Way) -> None:
    theirs = [torch.nn.Parameter(torch.ones(4, 3, dtype=torch.float64)) for _ in SCALES]
    optimizer = torch.optim.Adam(theirs, lr=RATE, betas=(BETA1, BETA2), eps=EPSILON)
    leaves = [leaf.detach().clone() for leaf in theirs]
    mean, square = ([torch.zeros_like(leaf) for leaf in leaves] for _ in range(2))
    for step in range(STEPS):
        for leaf, gradient in zip(theirs, _gradients(step), strict=True):
            leaf.grad = gradient
        optimizer.step()
        leaves = way(leaves, _gradients(step), mean, square, step)
        # A few roundings a step in float64.
        torch.testing.assert_close(leaves, [leaf.detach() for leaf in theirs], rtol=1e-13, atol=0)
