"""In which places the sides of a game come, each by a performance of its own: races, free-for-alls, teams.

Side k performs at p_k = u_k + c_k times noise, standard normal ("probit") or Gumbel ("gumbel", which is
Plackett and Luce's model), and sides come in the order of their performances. With a margin ε a side that is
placed before another is ahead of it by more than ε: the order of p_k + ε · (places before it). Games of two
sides are `links.Duel`.

What sides share a place means has to be said:

* "unordered": in which order they came is not known (it was not written down, or they retired from a race).
  Exact: the sum over their orders, which for the last place is an integral of products of Φ, and ends the
  product of Plackett and Luce. Symmetric in the sides.
* "draw": they were within the margin of each other; of more than two sides each and the next, as TrueSkill
  has it (`drawn_orders`), which depends on the order in which they stand.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from ppl_vae.base.errors import InputError
from ppl_vae.models.skills.drawn_orders import log_drawn_orders
from ppl_vae.models.skills.links import duel_log_prob
from ppl_vae.models.skills.orders import log_orders, num_panels, order_moments
from ppl_vae.models.skills.shared_places import Pattern, all_orders, num_orders

__all__ = ["NOISES", "TIES", "Ranking", "truncated_moments"]

NOISES = ("probit", "gumbel")
TIES = ("unordered", "last", "none", "draw")
ONE_DRAW = torch.Size()
# Standard deviations below all others at which a side that is not there is put.
NOWHERE = 100.0
Margin = Tensor | float


@dataclass(frozen=True)
class _Rules:
    """What a likelihood of places holds fixed: see `Ranking`."""

    link: str
    ties: str
    panels: int | None
    padded: bool = False

    def check(self) -> None:
        """Refuse names that are not known."""
        if self.link not in NOISES:
            raise InputError(
                f"link {self.link!r} is not known for games of many sides; it is probit or gumbel"
            )
        if self.ties not in TIES:
            raise InputError(
                f"ties {self.ties!r} are not known; they are {', '.join(TIES[:-1])} or {TIES[-1]}"
            )


class Ranking(TorchDistribution):  # type: ignore[misc]
    """Places of the sides of games, 0 the best; shape (*batch, K), NaN where a game has fewer than K sides.

    Args:
        location: u of every side, in units of skill, shape (…, K); what stands at missing sides is ignored.
        scale: c > 0 of every performance, in units of skill; broadcast to the location's shape. For Gumbel
            noise the same for all sides of a game, as Plackett and Luce's model has it.
        margin: ε ≥ 0, in units of skill, by which a side must be ahead.
        sides: how many sides each game has, shape (G,), the batch's last dimension: games of one number are
            computed together. Without, the values say it, and all games cost what the largest does.
        link: "probit" or "gumbel".
        ties: what a shared place means, "unordered" or "draw"; "none" or "last" promise that no place is
            shared, or the last alone, so that a program need not look at the places to be traced.
        panels: of the integrals, as `orders.num_panels` gives them for sides of other than equal scales.

    Raises:
        InputError: for a link or ties that are not known; and of a value, for ties that cannot be computed.
    """

    arg_constraints: Mapping[str, constraints.Constraint] = {}

    def __init__(
        self,
        location: Tensor,
        scale: Tensor | float = 1.0,
        margin: Margin = 0.0,
        sides: Tensor | Sequence[int] | None = None,
        link: str = "probit",
        ties: str = "unordered",
        panels: int | None = None,
        validate_args: bool | None = None,
    ) -> None:
        scale = torch.as_tensor(scale, dtype=location.dtype, device=location.device)
        self.location, self.scale = self._parts = torch.broadcast_tensors(location, scale)
        self.margin, self.rules = margin, _Rules(link, ties, panels, padded=sides is None)
        self.rules.check()
        self.sides = sides.tolist() if isinstance(sides, Tensor) else None if sides is None else list(sides)
        shape = self.location.shape
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Whole numbers from 0 on, or NaN."""
        return _Places()

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "Ranking":
        """A copy of another batch shape."""
        shape, rules = (*batch_shape, *self.event_shape), self.rules
        return Ranking(
            self.location.expand(shape), self.scale.expand(shape), self.margin, self.sides, rules.link,
            rules.ties, rules.panels, validate_args=False,
        )  # fmt: skip

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(places), of the batch shape, in nats; −∞ where it cannot be computed (`orders.log_orders`).

        Raises:
            InputError: for ties that cannot be computed.
        """
        shape = torch.broadcast_shapes(self.batch_shape, value.shape[:-1])
        size = value.shape[-1]
        # Places that have no particles of their own are looked at once.
        alone = value.shape[:-1].numel() == shape[-1:].numel()
        places = (value if alone else value.expand(*shape, size)).reshape(-1, size)
        games = len(places)
        location, scale = (part.expand(*shape, size).reshape(-1, games, size) for part in self._parts)
        margin = (
            self.margin.expand(shape).reshape(-1, games) if isinstance(self.margin, Tensor) else self.margin
        )
        sides = None if self.sides is None else self.sides * (games // max(len(self.sides), 1))
        parts, order = [], []
        for index, number in _by_sides(sides, games, size):
            chosen = location[:, index, :number], scale[:, index, :number], _of_games(margin, index)
            parts.append(_log_prob(*chosen, places[index, :number], self.rules))
            order += index
        found = parts[0] if len(parts) == 1 else torch.cat(parts, -1)[:, _inverse(order)]
        return found.reshape(shape).to(self.location.dtype)

    def sample(self, sample_shape: torch.Size = ONE_DRAW) -> Tensor:
        """Draws of places; sides whose performances are next to each other within the margin share one."""
        shape = self.shape(sample_shape)
        with torch.no_grad():
            noise = torch.randn(shape, dtype=self.location.dtype, device=self.location.device)
            if self.rules.link == "gumbel":
                noise = -torch.empty_like(noise).exponential_().log()
            performance = self.location + self.scale * noise
            if self.sides is not None:
                number = torch.tensor(self.sides, device=noise.device)[..., None]
                there = torch.arange(shape[-1], device=noise.device) < number
                performance = torch.where(there, performance, math.nan)
            return _places_of(performance, self.margin)


class _Places(constraints.Constraint):
    """Whole numbers from 0 on, or NaN, along the last dimension."""

    is_discrete, event_dim = True, 1

    def check(self, value: Tensor) -> Tensor:
        """Of every game."""
        return (value.isnan() | ((value >= 0) & (value == value.round()))).all(-1)


def truncated_moments(
    location: Tensor,
    variance: Tensor,
    places: Tensor,
    *,
    margin: float = 0.0,
    ties: str = "unordered",
) -> tuple[Tensor, Tensor, Tensor]:
    """Moments of performances p ~ N(location, variance), independent, given in which places they came: exact.

    What expectation propagation needs of a whole game at once, where TrueSkill iterates over its pairs.

    Args:
        location, variance: shape (G, K), float64.
        places: 0 the best, NaN where a side is missing, shape (G, K).
        margin, ties: as for `Ranking`.

    Returns:
        log P(places) in nats, shape (G,); means and variances given the places, (G, K), NaN at missing sides.

    Raises:
        InputError: for ties that cannot be computed, and for places that are too unlikely.
    """
    location, variance = location.detach(), variance.detach()
    sides = (~places.isnan()).sum(-1)
    log_z = location.new_zeros(len(location))
    mean, found = torch.full_like(location, math.nan), torch.full_like(location, math.nan)
    for index, number in _by_sides(sides.tolist(), len(places), places.shape[-1]):
        # Missing sides may stand anywhere.
        there = places[index].isnan().to(torch.uint8).argsort(dim=-1, stable=True)[:, :number]
        rows = torch.tensor(index, device=location.device)[:, None]
        chosen = location[rows, there], variance[rows, there], places[rows, there]
        log_z[index], mean[rows, there], found[rows, there] = _moments(*chosen, margin, ties)
    if bool(log_z.isinf().any()):
        game = int(log_z.isinf().nonzero()[0])
        raise InputError(
            f"the places of game {game} are too unlikely to be computed: its sides are hundreds of standard "
            "deviations out of order"
        )
    return log_z, mean, found


def _moments(
    location: Tensor, variance: Tensor, places: Tensor, margin: float, ties: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Of games that all have K sides."""
    scale, size = variance.sqrt(), location.shape[-1]
    ratio = float((scale.amax(-1) / scale.amin(-1)).max())
    rules = _Rules("probit", ties, num_panels(size, ratio))
    rules.check()
    order = places.argsort(-1)
    ordered = places.gather(-1, order)
    if size > 2 and not bool((ordered[:, 1:] == ordered[:, :-1]).any()):
        steps = margin * torch.arange(size, dtype=location.dtype, device=location.device)
        log_z, mean, found = order_moments(
            location.gather(-1, order) + steps, scale.gather(-1, order), rules.panels
        )
        back = order.argsort(-1)
        return log_z, (mean - steps).gather(-1, back), found.gather(-1, back)
    with torch.enable_grad():
        u, c = location.clone().requires_grad_(), scale.clone().requires_grad_()
        log_z = _log_prob(u[None], c[None], margin, places, rules)[0]
        by_u, by_c = torch.autograd.grad(log_z.sum(), (u, c))
    # Stein's identities: E(p − u) = c² ∂/∂u and E(p − u)² − c² = c³ ∂/∂c of log P.
    away = variance * by_u
    return log_z.detach(), location + away, variance * (1 + scale * by_c) - away.square()


def _by_sides(sides: list[int] | None, games: int, size: int) -> Iterator[tuple[list[int], int]]:
    """Games by their number of sides: their indices, and the number."""
    if sides is None:
        yield list(range(games)), size
        return
    groups: dict[int, list[int]] = {}
    for game, number in enumerate(sides):
        groups.setdefault(number, []).append(game)
    for number, index in sorted(groups.items()):
        yield index, number


def _inverse(order: list[int]) -> Tensor:
    return torch.tensor(order).argsort()


def _log_prob(location: Tensor, scale: Tensor, margin: Margin, places: Tensor, rules: _Rules) -> Tensor:
    """log P(places), shape (S, G): location and scale are (S, G, K), a margin (S, G), places (G, K)."""
    if places.shape[-1] == 2:
        return _two(location, scale, margin, places, rules)
    if rules.ties in ("last", "none"):
        return _rows(
            location, scale, margin, places, rules, Pattern((), rules.ties == "last" or rules.padded)
        )
    patterns: dict[Pattern, list[int]] = {}
    for game, row in enumerate(places.tolist()):
        patterns.setdefault(Pattern.of(row), []).append(game)
    parts, order = [], []
    for pattern, games in patterns.items():
        chosen = location[:, games], scale[:, games], _of_games(margin, games), places[games]
        parts.append(_rows(*chosen, rules, pattern))
        order += games
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)[:, _inverse(order)]


def _two(location: Tensor, scale: Tensor, margin: Margin, places: Tensor, rules: _Rules) -> Tensor:
    """Games of two sides."""
    ahead, behind = places.unbind(-1)
    tied = ahead == behind
    outcome = torch.where(ahead < behind, 1.0, 0.0).to(location.dtype)
    if rules.ties == "draw":
        outcome = torch.where(tied, 0.5, outcome)
    joint = scale.square().sum(-1).sqrt() if rules.link == "probit" else scale[..., 0]
    link = "probit" if rules.link == "probit" else "logistic"
    found = duel_log_prob(location[..., 0] - location[..., 1], outcome, joint, margin, link)
    return found if rules.ties == "draw" else torch.where(tied, 0.0, found)


def _rows(
    location: Tensor, scale: Tensor, margin: Margin, places: Tensor, rules: _Rules, pattern: Pattern
) -> Tensor:
    """log P of games that share places in one pattern."""
    if rules.ties == "draw" and (pattern.ahead or pattern.shared):
        return _drawn(location, scale, margin, places, rules)
    if rules.link == "probit" and num_orders(pattern.ahead) > num_orders(pattern.groups[1:]):
        # Normal performances are as likely from the other end, where more sides share the last place.
        location, places, pattern = -location, -places, pattern.backwards
    location, scale, place = _sorted(location, scale, margin, places)
    worst = place.masked_fill(place.isinf(), -math.inf).amax(-1, keepdim=True)
    last = place >= worst if pattern.shared or pattern.missing else None
    orders = all_orders(pattern.ahead, location.shape[-1], location.device)
    if orders is not None:
        location, scale = location[..., orders], scale[..., orders]
        last = last if last is None else last[..., None, :].expand_as(location)
    if rules.link == "gumbel":
        found = _plackett_luce(location / scale, last)
    else:
        shape = location.shape
        flat = [part.reshape(-1, shape[-1]).double() for part in (location, scale)]
        shared = last if last is None else last.reshape(-1, shape[-1])
        found = log_orders(flat[0], flat[1], rules.panels, shared).reshape(shape[:-1])
    return found if orders is None else found.logsumexp(-1)


def _drawn(location: Tensor, scale: Tensor, margin: Margin, places: Tensor, rules: _Rules) -> Tensor:
    """log P of games in which neighbours of one place draw, in the order in which they stand."""
    if rules.link != "probit":
        raise InputError(
            "draws of more than two sides are those of probit performances; of Gumbel's, ties are unordered"
        )
    location, scale, place = _there(location, scale, places)
    order = place.argsort(dim=-1, stable=True)
    location, scale, place = (part.gather(-1, order) for part in (location, scale, place))
    tied = (place[..., 1:] == place[..., :-1]) & place[..., 1:].isfinite()
    wide = torch.as_tensor(margin, dtype=location.dtype, device=location.device).expand(location.shape[:-1])
    size = location.shape[-1]
    found = log_drawn_orders(
        location.reshape(-1, size).double(),
        scale.reshape(-1, size).double(),
        wide.reshape(-1).double(),
        tied.reshape(-1, size - 1),
        rules.panels,
    )
    return found.reshape(location.shape[:-1])


def _there(location: Tensor, scale: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Locations, scales and places, of one shape; sides that are missing are far below all others."""
    missing = places.isnan()
    place = places.masked_fill(missing, math.inf).expand_as(location)
    scale = torch.where(missing, 1.0, scale)
    floor = torch.where(missing, math.inf, location).detach().amin(-1, keepdim=True)
    floor = floor - NOWHERE * scale.detach().amax(-1, keepdim=True)
    return torch.where(missing, floor, location), scale, place


def _sorted(location: Tensor, scale: Tensor, margin: Margin, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Locations with the margins made up for, scales and places, best first."""
    location, scale, place = _there(location, scale, places)
    # Sides that share a place by their locations: the isotonic mode of sides whose order is free.
    order = location.detach().argsort(dim=-1, descending=True)
    order = order.gather(-1, place.gather(-1, order).argsort(dim=-1, stable=True))
    location, scale, place = (part.gather(-1, order) for part in (location, scale, place))
    before = (place[..., 1:] > place[..., :-1]).cumsum(-1)
    steps = torch.nn.functional.pad(before, (1, 0)).to(location.dtype)
    return location + (margin[..., None] if isinstance(margin, Tensor) else margin) * steps, scale, place


def _of_games(margin: Margin, games: list[int]) -> Margin:
    return margin[:, games] if isinstance(margin, Tensor) else margin


def _plackett_luce(score: Tensor, last: Tensor | None) -> Tensor:
    """Σ_k score_k − log Σ_{j ≥ k} exp(score_j) over sides best first, but for a shared last place."""
    remaining = score.flip(-1).logcumsumexp(-1).flip(-1)
    terms = score - remaining
    return (terms if last is None else torch.where(last, 0.0, terms)).sum(-1)


def _places_of(performance: Tensor, margin: Margin) -> Tensor:
    """Places by performance, NaN where there is none."""
    missing = performance.isnan()
    known = torch.where(missing, -math.inf, performance)
    value, order = known.sort(-1, descending=True)
    if isinstance(margin, Tensor):
        margin = margin[..., None]
    apart = value[..., :-1] - value[..., 1:] > margin
    place = torch.nn.functional.pad(apart.cumsum(-1), (1, 0)).to(performance.dtype)
    return torch.empty_like(place).scatter_(-1, order, place).masked_fill(missing, math.nan)
