"""Which sides of a game share a place, and every order of them that the places leave open."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ppl_vae.base.errors import InputError

__all__ = ["Pattern", "all_orders", "num_orders"]

# Orders of sides that share a place that are added up one by one.
MOST_ORDERS = 5040


@dataclass(frozen=True)
class Pattern:
    """Which places of a game are shared.

    Attributes:
        groups: how many sides have each place, from the best; nothing where no place but the last is shared.
        shared: whether the last place is shared.
        missing: whether sides are missing, which come after all others.
    """

    groups: tuple[int, ...] = ()
    shared: bool = False
    missing: bool = False

    @classmethod
    def of(cls, places: Sequence[float]) -> "Pattern":
        """That of a game's places."""
        there = sorted(place for place in places if not math.isnan(place))
        groups = tuple(len(list(group)) for _, group in itertools.groupby(there))
        ahead = groups if max(groups[:-1], default=1) > 1 else ()
        return cls(ahead, max(groups[-1:], default=1) > 1, len(there) < len(places))

    @property
    def ahead(self) -> tuple[int, ...]:
        """How many sides have each place but the last."""
        return self.groups[:-1]

    @property
    def backwards(self) -> "Pattern":
        """That of the same game from its end."""
        return Pattern(self.groups[::-1], self.groups[0] > 1, self.missing)


def num_orders(pattern: tuple[int, ...]) -> int:
    """In how many orders sides may have come of which so many share each place."""
    return math.prod(math.factorial(size) for size in pattern)


@lru_cache
def all_orders(pattern: tuple[int, ...], sides: int, device: torch.device) -> Tensor | None:
    """Every order of the sides that agrees with the places, shape (orders, K); None for one.

    Raises:
        InputError: for more than can be added up.
    """
    count = num_orders(pattern)
    if count == 1:
        return None
    if count > MOST_ORDERS:
        raise InputError(
            f"a game has {max(pattern)} sides that share a place before the last, in {count:,} possible "
            f"orders; at most {MOST_ORDERS:,} are added up"
        )
    starts = itertools.accumulate(pattern, initial=0)
    groups = [itertools.permutations(range(at, at + size)) for at, size in zip(starts, pattern, strict=False)]
    rest = tuple(range(sum(pattern), sides))
    found = [(*itertools.chain(*chosen), *rest) for chosen in itertools.product(*groups)]
    return torch.tensor(found, device=device)
