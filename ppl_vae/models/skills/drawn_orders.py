"""P(an order of sides some of whose neighbours draw), the performances being independent and normal.

As TrueSkill has it (Herbrich, Minka and Graepel 2007, section 2): of two neighbours in the order the first
is ahead by more than the margin ε, or they draw, |p_k − p_{k+1}| ≤ ε. Within a group that draws only
neighbours are compared, so that its order matters, which is the file's.

A chain of one-dimensional integrals, A_k(x) = ∫ φ_{k+1} A_{k+1} over all that x leaves open to the next side:
what is below x − ε, or from there to x + ε. Integrands are polynomials on panels of Gauss and Legendre's
nodes, which are integrated up to any point; an interval is taken from the side on which less lies, as log P
would else lose its digits where a draw is unlikely. Differentiable in locations, scales and margin.
"""

import math

import numpy as np
import torch
from torch import Tensor

from ppl_vae.models.skills.orders import LOG_SQRT_TWO_PI, NODES, SPAN, TINY, isotonic_means, num_panels

__all__ = ["log_drawn_orders"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(NODES)
# From values at the nodes to coefficients of Legendre's polynomials: (2 n + 1) / 2 w_j P_n(x_j).
_COEFFICIENTS = (
    np.polynomial.legendre.legvander(_NODES, NODES - 1) * (np.arange(NODES) + 0.5) * _WEIGHTS[:, None]
)
# Numbers of (games, points) that are worked on together.
TOGETHER = 2**20
# How far the logarithm of an integrand may rise over half a panel, by pressure alone: the error is 2e-9 then.
STEEPEST = 4.0


def log_drawn_orders(
    location: Tensor, scale: Tensor, margin: Tensor, drawn: Tensor, panels: int | None = None
) -> Tensor:
    """log P(the order, with its draws) in nats, shape (rows,).

    To 1e-8 nats, or refused: −∞, and no gradient, where neighbours are pressed together so hard that panels
    do not follow. That begins where log P is below about −100.

    Args:
        location, scale: of the performances, best first, shape (rows, K), float64.
        margin: ε > 0, shape (rows,).
        drawn: whether a side draws with the next, shape (rows, K − 1).
        panels: as for `orders.log_orders`; several times as many are taken, as nothing is tilted here.
    """
    sides = location.shape[-1]
    panels = math.ceil((panels or num_panels(sides)) * (3 + sides / 6))
    size = max(1, TOGETHER // (panels * NODES))
    parts = zip(*(part.split(size) for part in (location, scale, margin, drawn)), strict=True)
    return torch.cat([_log_probability(u, c, e, d, panels) for u, c, e, d in parts])


def _log_probability(u: Tensor, c: Tensor, margin: Tensor, drawn: Tensor, panels: int) -> Tensor:
    nodes, weights = (torch.as_tensor(part, device=u.device) for part in (_NODES, _WEIGHTS))
    with torch.no_grad():
        centre, width, refused = _windows(u, c, margin, drawn, panels)
        inside = torch.arange(panels, device=u.device)[:, None] + (nodes + 1) / 2
        x = ((centre - panels / 2)[..., None, None] + inside) * width[..., None, None]
        shift = torch.diff(centre).neg()
    u = torch.where(refused, centre * width, u)
    height = ((centre * width - u.detach()) / c.detach()).square() / 2
    z = (x - u[..., None, None]) / c[..., None, None]
    density = (height[..., None, None] - z.square() / 2 - LOG_SQRT_TWO_PI).exp() / c[..., None, None]
    step, log_p = margin / width[:, 0], -height.sum(-1)
    f = density[:, -1]
    for k in reversed(range(u.shape[-1] - 1)):
        f = density[:, k] * _open(f, weights, nodes, shift[:, k], step, drawn[:, k])
        top = f.detach().flatten(1).amax(1).clamp_min(TINY)
        f, log_p = f / top[:, None, None], log_p + top.log()
    log_p = log_p + u.shape[-1] * (width[:, 0] / 2).log() + (f @ weights).sum(-1).log()
    return log_p.masked_fill(refused[:, 0], -math.inf)


def _windows(
    u: Tensor, c: Tensor, margin: Tensor, drawn: Tensor, panels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Where the panels are, and which games are refused.

    Sides that draw share a window: around what the isotonic regression makes of their mean.

    Returns: Centres of the sides' windows in panels, whole numbers of shape (rows, K); a panel's width,
    (rows, 1); and whether it is too wide for the pressure between neighbours, (rows, 1).
    """
    precision = c.pow(-2)
    group = torch.nn.functional.pad((~drawn).cumsum(-1), (1, 0))
    total, weight = (torch.zeros_like(u).scatter_add(-1, group, part) for part in (u * precision, precision))
    steps = margin[:, None] * group
    pooled = (total / weight.clamp_min(TINY)).gather(-1, group)
    mode = isotonic_means(pooled + steps, precision) - steps
    longest = drawn.sum(-1, keepdim=True) * margin[:, None]
    width = (2 * SPAN * c.amax(-1, keepdim=True) + longest) / (panels - 1)
    pressure = ((mode - u) * precision).cumsum(-1).abs().amax(-1, keepdim=True)
    return (mode / width).round(), width, pressure * width / 2 > STEEPEST


def _open(f: Tensor, weights: Tensor, nodes: Tensor, shift: Tensor, step: Tensor, drawn: Tensor) -> Tensor:
    """∫ f over what the points of the side before leave open, in half panels; shape (rows, P, nodes).

    Args:
        f: at the nodes of this side's window, (rows, P, nodes).
        weights, nodes: of a panel.
        shift: by how many panels the window of the side before lies higher, (rows,).
        step: ε in panels, (rows,).
        drawn: whether the side before draws with this one, (rows,).
    """
    each = f @ weights
    zero = torch.zeros_like(each[:, :1])
    before = torch.cat([zero, each.cumsum(-1)], -1)
    after = torch.cat([each.flip(-1).cumsum(-1).flip(-1), zero], -1)
    upper = _parted(f, before, after, nodes, shift, torch.where(drawn, step, -step))
    lower = _parted(f, before, after, nodes, shift, -step)
    from_left, from_right = upper[0] - lower[0], lower[1] - upper[1]
    between = torch.where(lower[0] < upper[1], from_left, from_right)
    return torch.where(drawn[:, None, None], between, upper[0])


def _parted(
    f: Tensor, before: Tensor, after: Tensor, nodes: Tensor, shift: Tensor, step: Tensor
) -> tuple[Tensor, Tensor]:
    """∫ f below and above every point of a window that is shifted and moved by a step, both in panels."""
    panels = f.shape[1]
    at = (nodes + 1) / 2 + step[:, None]
    whole = at.detach().floor()
    # ∫_{−1}^ρ of Legendre's polynomials, for the part of the panel that is below the point.
    rho = 2 * (at - whole) - 1
    legendre = [torch.ones_like(rho), rho]
    for n in range(1, NODES):
        legendre.append(((2 * n + 1) * rho * legendre[-1] - n * legendre[-2]) / (n + 1))
    integrals = [rho + 1, *((legendre[n + 1] - legendre[n - 1]) / (2 * n + 1) for n in range(1, NODES))]
    coefficients = torch.as_tensor(_COEFFICIENTS, device=f.device)
    part = f @ (torch.stack(integrals, -1) @ coefficients.mT).mT
    # What is above it, and not the whole panel's less that below: there may be little.
    integrals = [1 - rho, *(-integral for integral in integrals[1:])]
    rest = f @ (torch.stack(integrals, -1) @ coefficients.mT).mT
    panel = torch.arange(panels, device=f.device)[:, None] + (whole + shift[:, None])[:, None]
    index = panel.clamp(0, panels - 1).long()
    below = before[:, :-1, None].expand_as(part).gather(1, index) + part.gather(1, index)
    above = after[:, 1:, None].expand_as(part).gather(1, index) + rest.gather(1, index)
    total = before[:, -1, None, None]
    under, over = panel < 0, panel >= panels
    below = torch.where(under, 0.0, torch.where(over, total, below))
    return below, torch.where(under, total, torch.where(over, 0.0, above))
