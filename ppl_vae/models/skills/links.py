"""How a game of two sides ends, given by how much one is ahead of the other: win, draw or loss.

With a difference d, a scale c, a margin ε, x = d / c and e = ε / c, the first side wins, draws or loses with

    probit      Φ(x − e),   Φ(e − x) − Φ(−e − x),             Φ(−x − e)     (Herbrich, Minka and Graepel 2007)
    logistic    σ(x − e),   σ(e − x) σ(e + x) (1 − e^(−2e)),   σ(−x − e)     (Rao and Kupper 1967)
    davidson    exp(x / 2), ν,                                 exp(−x / 2)   over their sum (Davidson 1970)

ν = exp(e) − 1 makes draws of equal sides as likely as the logistic link does: with no margin there are none.
All is elementwise, accurate where probabilities underflow, and twice differentiable.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid

from ppl_vae.base.errors import InputError

__all__ = [
    "LINKS",
    "Duel",
    "duel_log_prob",
    "log_draw",
    "log_normal_cdf",
    "log_normal_cdf_of_many",
    "log_win",
]

LINKS = ("probit", "logistic", "davidson")
ONE_DRAW = torch.Size()
SQRT_TWO = math.sqrt(2.0)
SQRT_TWO_OVER_PI = math.sqrt(2 / math.pi)
LOG_SQRT_TWO_PI = 0.5 * math.log(2 * math.pi)
# From here on Φ(x) is no subnormal number, and has all its digits.
FAR = -30.0
# Gauss and Legendre's rule of ten nodes on [−1, 1]: it is symmetric, and the positive half is enough.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(10)
HALF_RULE = tuple((float(t), float(w)) for t, w in zip(_NODES, _WEIGHTS, strict=True) if t > 0)


def duel_log_prob(
    difference: Tensor, outcome: Tensor, scale: Tensor | float, margin: Tensor | float, link: str
) -> Tensor:
    """log P(outcome) of games between two sides, elementwise, in nats; all arguments broadcast.

    Args:
        difference: the first side's strength less the second's, in units of skill.
        outcome: 1 the first wins, 0 the second does, .5 a draw.
        scale: c > 0, in units of skill; for the probit link the sd of the difference of performances.
        margin: ε ≥ 0, in units of skill. Zero means that there are no draws: log P(draw) is −∞.
        link: "probit", "logistic" or "davidson".

    Raises:
        InputError: for a link that is not known.
    """
    draw = outcome == 0.5
    sign = 2 * outcome - 1
    # What is asked for elsewhere must not overflow, or its zero gradient would become NaN.
    decided = log_win(torch.where(draw, 1.0, sign) * difference, scale, margin, link)
    if isinstance(margin, float | int) and margin == 0:
        return torch.where(draw, -math.inf, decided)
    wide = torch.where(
        draw, difference.new_tensor(margin) if isinstance(margin, float | int) else margin, 1.0
    )
    return torch.where(draw, log_draw(difference, scale, wide, link), decided)


def log_win(difference: Tensor, scale: Tensor | float, margin: Tensor | float, link: str) -> Tensor:
    """log P(the first side wins), elementwise, in nats; see `duel_log_prob`."""
    _check_link(link)
    if link == "probit":
        return log_normal_cdf((difference - margin) / scale)
    if link == "logistic":
        return logsigmoid((difference - margin) / scale)
    x, e = difference / scale, margin / scale
    return logsigmoid(x) + logsigmoid(_log_odds_of_no_draw(x, e))


def log_draw(difference: Tensor, scale: Tensor | float, margin: Tensor | float, link: str) -> Tensor:
    """log P(neither side wins), elementwise, in nats; the margin must be positive. See `duel_log_prob`."""
    _check_link(link)
    x, e = broadcast_all(difference / scale, margin / scale)
    if link == "probit":
        return _log_normal_between(x, e)
    if link == "logistic":
        return logsigmoid(e - x) + logsigmoid(e + x) + torch.log(-torch.expm1(-2 * e))
    return logsigmoid(-_log_odds_of_no_draw(x, e))


def log_normal_cdf(x: Tensor) -> Tensor:
    """log Φ(x), elementwise, with derivatives that are right in the far tail.

    PyTorch's takes its derivative from exp(−x²/2 − log Φ), which loses digits as x² grows: its second
    derivative at −10,000 is −1.5 where −1 is right.
    """
    found: Tensor = _LogNormalCdf.apply(x)
    return found


def log_normal_cdf_of_many(x: Tensor) -> Tensor:
    """log Φ(x), elementwise, for the quadrature of many games; no graph can trace it.

    With its slope it costs a fourth of `log_normal_cdf`, which it is where some x is below −30; what it loses
    are digits of what is next to zero: it is exact to a relative 1e-15 or an absolute 2e-16.
    """
    if x.dtype != torch.float64 or not x.numel() or x.detach().amin() < FAR:
        return log_normal_cdf(x)
    found: Tensor = _LogOfNormalCdf.apply(x)
    return found


def _log_normal_between(x: Tensor, e: Tensor) -> Tensor:
    """log[Φ(e − x) − Φ(−e − x)] for e > 0, of one shape.

    A narrow interval is integrated by Gauss and Legendre's rule, which subtracts no nearly equal numbers; its
    error is below 1e-15 for e max(|x|, 1) ≤ 1. A wide one's ends are far enough apart to be subtracted.
    """
    # Not |x|, whose second derivative would be lost at zero.
    h = torch.where(x < 0, -x, x)
    narrow = (e * h <= 1) & (e <= 1)
    inside, width = torch.where(narrow, x, 0.0), torch.where(narrow, e, 1.0)
    total = sum(
        w * torch.cosh(inside * width * t) * torch.exp(-(width * t).square() / 2) for t, w in HALF_RULE
    )
    by_rule = torch.log(2 * width) + torch.log(torch.as_tensor(total)) - inside.square() / 2 - LOG_SQRT_TWO_PI
    far, wide = torch.where(narrow, 0.0, h), torch.where(narrow, 2.0, e)
    near_end, far_end = log_normal_cdf(wide - far), log_normal_cdf(-wide - far)
    by_ends = near_end + torch.log1p(-torch.exp(far_end - near_end))
    return torch.where(narrow, by_rule, by_ends)


def _log_odds_of_no_draw(x: Tensor, e: Tensor | float) -> Tensor:
    """log[(exp(x / 2) + exp(−x / 2)) / (exp(e) − 1)], finite where the margin is zero."""
    e = torch.as_tensor(e, dtype=x.dtype, device=x.device)
    log_nu = e + torch.log(-torch.expm1(-e) + torch.finfo(x.dtype).tiny)
    return x / 2 - logsigmoid(x) - log_nu


def _check_link(link: str) -> None:
    if link not in LINKS:
        raise InputError(f"link {link!r} is not known; it is {', '.join(LINKS[:-1])} or {LINKS[-1]}")


class _LogNormalCdf(torch.autograd.Function):
    """log Φ(x). Its derivative φ / Φ has all digits where a second one is asked for, and else costs half."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        found = torch.special.log_ndtr(x)
        context.save_for_backward(x, found)
        return found

    @staticmethod
    def backward(context: Any, *slopes: Tensor) -> Tensor:
        x, found = context.saved_tensors
        if torch.is_grad_enabled():
            return slopes[0] * _Hazard.apply(x)
        return slopes[0] * torch.exp(-0.5 * x * x - LOG_SQRT_TWO_PI - found)


class _LogOfNormalCdf(torch.autograd.Function):
    """log of Φ(x), whose complement's function is computed for several numbers at once."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        below = torch.erfc(x * (-1 / SQRT_TWO)).mul_(0.5)
        context.save_for_backward(x, below)
        return below.log()

    @staticmethod
    def backward(context: Any, *slopes: Tensor) -> Tensor:
        x, below = context.saved_tensors
        if torch.is_grad_enabled():
            return slopes[0] * _Hazard.apply(x)
        return (x * x).mul_(-0.5).exp_().mul_(SQRT_TWO_OVER_PI / 2).div_(below).mul_(slopes[0])


class _Hazard(torch.autograd.Function):
    """r(x) = φ(x) / Φ(x) = √(2/π) / erfcx(−x/√2), and r′ = −r (x + r)."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        found = SQRT_TWO_OVER_PI / torch.special.erfcx(-x / SQRT_TWO)
        context.save_for_backward(x, found)
        return found

    @staticmethod
    def backward(context: Any, *slopes: Tensor) -> Tensor:
        x, found = context.saved_tensors
        return -slopes[0] * found * (x + found)


class _Outcome(constraints.Constraint):
    """1, .5 or 0."""

    is_discrete = True

    def check(self, value: Tensor) -> Tensor:
        """Elementwise."""
        return (value == 0) | (value == 0.5) | (value == 1)


class Duel(TorchDistribution):  # type: ignore[misc]
    """Outcome of a game between two sides: 1 the first wins, 0 the second does, .5 a draw.

    Args:
        difference: the first side's strength less the second's, in units of skill.
        scale: c > 0, in units of skill; for the probit link the sd of the difference of performances.
        margin: ε ≥ 0, in units of skill; the number 0 for games without draws.
        link: "probit", "logistic" (Rao and Kupper) or "davidson"; the formulas head this file.

    The batch shape is what difference, scale and margin broadcast to.

    Raises:
        InputError: for a link that is not known.
    """

    arg_constraints: Mapping[str, constraints.Constraint] = {}
    support = _Outcome()

    def __init__(
        self,
        difference: Tensor,
        scale: Tensor | float = 1.0,
        margin: Tensor | float = 0.0,
        link: str = "probit",
        validate_args: bool | None = None,
    ) -> None:
        _check_link(link)
        self.difference, self.scale, self.margin, self.link = difference, scale, margin, link
        shapes = [torch.as_tensor(part).shape for part in (difference, scale, margin)]
        super().__init__(torch.Size(np.broadcast_shapes(*shapes)), validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "Duel":
        """A copy of another batch shape."""
        difference = self.difference.expand(batch_shape)
        return Duel(difference, self.scale, self.margin, self.link, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(value), of the batch shape, in nats."""
        return duel_log_prob(self.difference, value, self.scale, self.margin, self.link)

    def sample(self, sample_shape: torch.Size = ONE_DRAW) -> Tensor:
        """Draws of 1, .5 and 0."""
        shape = self.shape(sample_shape)
        with torch.no_grad():
            win, lose = (p.exp().expand(shape) for p in self._decided())
            at = torch.rand(shape, dtype=win.dtype, device=win.device)
            return torch.where(at < win, 1.0, torch.where(at >= 1 - lose, 0.0, 0.5)).to(win.dtype)

    @property
    def probabilities(self) -> Tensor:
        """P(win), P(draw) and P(loss) of the first side, shape (*batch, 3)."""
        win, lose = self._decided()
        none = isinstance(self.margin, float | int) and self.margin == 0
        draw = torch.full_like(win, -math.inf) if none else self.log_prob(torch.full_like(win, 0.5))
        return torch.stack(torch.broadcast_tensors(win, draw, lose), -1).exp()

    def _decided(self) -> tuple[Tensor, Tensor]:
        """log P of a win and of a loss."""
        win = log_win(self.difference, self.scale, self.margin, self.link)
        return win, log_win(-self.difference, self.scale, self.margin, self.link)
