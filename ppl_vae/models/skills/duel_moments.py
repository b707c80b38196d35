"""Games of two sides under normal strengths, with the probit link: normalisers and moments in closed form.

Where the difference of two strengths is d ~ N(μ, v) and performances add N(0, c²), that of performances is
N(μ, c² + v): P(win) = Φ((μ − ε) / √(c² + v)), and draws and losses likewise (Herbrich, Minka and Graepel,
"TrueSkill", NIPS 2006, section 2).
"""

import math

import torch
from torch import Tensor

from ppl_vae.models.skills.links import log_draw, log_normal_cdf
from ppl_vae.program.factors import Tilted

__all__ = ["probit_moments"]

SQRT_TWO = math.sqrt(2.0)


def probit_moments(
    mean: Tensor, variance: Tensor, outcome: Tensor, scale: Tensor | float, margin: Tensor | float
) -> Tilted:
    """What games make of independent normal differences N(μ, v), elementwise.

    Args:
        mean, variance: μ and v, shape (R,).
        outcome: 1 the first side wins, 0 the second does, .5 a draw, shape (R,).
        scale: c > 0, the sd of the difference of performances, one number or of shape (R,).
        margin: ε ≥ 0, one number or of shape (R,).
    """
    wide = (torch.as_tensor(scale, dtype=mean.dtype) ** 2 + variance).sqrt()
    margin = torch.as_tensor(margin, dtype=mean.dtype).expand_as(mean)
    log_total, slope, curvature = _decided(mean, wide, margin, 2 * outcome - 1)
    drawn = (outcome == 0.5).nonzero()[:, 0]
    if len(drawn):
        parts = _drawn(mean[drawn], wide[drawn], margin[drawn])
        for whole, part in zip((log_total, slope, curvature), parts, strict=True):
            whole[drawn] = part
    return Tilted(log_total, slope, curvature)


def _decided(mean: Tensor, wide: Tensor, margin: Tensor, sign: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    at = (sign * mean - margin) / wide
    # The scaled complementary error function loses no digits in the tail, where φ and Φ underflow.
    ratio = math.sqrt(2 / math.pi) / torch.special.erfcx(-at / SQRT_TWO)
    return log_normal_cdf(at), sign * ratio / wide, ratio * (ratio + at) / wide**2


@torch.enable_grad()
def _drawn(mean: Tensor, wide: Tensor, margin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    at = mean.detach().clone().requires_grad_()
    log_total = log_draw(at, wide, margin, "probit")
    (slope,) = torch.autograd.grad(log_total.sum(), at, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), at)
    return log_total.detach(), slope.detach(), -bend
