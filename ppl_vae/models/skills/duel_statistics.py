"""Test statistics of the outcomes of duels: wins by player, and how far results are from a ranking."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["duel_statistics", "wins_by_player"]

# Beyond so many players each for itself says less than they do together.
MAX_PLAYERS = 128


def duel_statistics(
    outcome: Tensor, players: Tensor, names: Sequence[str], *, draws: bool = False
) -> dict[str, Tensor]:
    """Wins by player, and how far the results are from a ranking.

    Nothing here depends on the order of the games, which in a file need not be that in time.

    Args:
        outcome: shape (sets, games): 1 where the first player wins, 0 where the second does, ½ for a draw.
        players: of each game, shape (games, 2).
        names: of the players.
        draws: whether there may be any.

    Returns:
        By name, one value a data set: ``wins of …``; ``share of draws``, where there may be any; ``upsets``:
        the share of games won by the player with the lower share of points in the same data (draws, and ties
        between players, count a half); ``sd of win shares`` between players; ``one-sided pairings``: of the
        pairs that met more than once, the share in which one won always; ``cyclic triads``: triples of
        players of whom each beats the next more often than not (Kendall and Babington Smith 1940).
    """
    outcome = outcome.double()
    number = len(names)
    played = torch.bincount(players.flatten(), minlength=number).double()
    share = _sums(outcome, 1 - outcome, players, number) / played.clamp(min=1)
    ahead = (share[:, players[:, 0]] - share[:, players[:, 1]]).sign()
    found = {"upsets": (0.5 - 0.5 * ahead * (2 * outcome - 1)).mean(1)}
    if draws:
        found["share of draws"] = (outcome == 0.5).double().mean(1)
    if int((played > 0).sum()) > 2:
        found["sd of win shares"] = share[:, played > 0].std(1)
    found |= _head_to_head(outcome, players, number)
    if number <= MAX_PLAYERS:
        wins = wins_by_player(outcome, players, number)
        found |= {f"wins of {name}": wins[:, k] for k, name in enumerate(names) if played[k]}
    return found


def wins_by_player(outcome: Tensor, players: Tensor, num_players: int) -> Tensor:
    """Number of wins, shape (sets, players)."""
    return _sums((outcome == 1).double(), (outcome == 0).double(), players, num_players)


def _sums(of_first: Tensor, of_second: Tensor, players: Tensor, num_players: int) -> Tensor:
    """What either player of a game gets, added up by player."""
    found = of_first.new_zeros(len(of_first), num_players)
    return found.index_add(1, players[:, 0], of_first).index_add(1, players[:, 1], of_second)


def _head_to_head(outcome: Tensor, players: Tensor, num_players: int) -> dict[str, Tensor]:
    low, high = players.sort(1).values.unbind(1)
    keys, place = torch.unique(low * num_players + high, return_inverse=True)
    met = torch.bincount(place).double()
    of_low = torch.where(players[:, 0] == low, outcome, 1 - outcome)
    points = outcome.new_zeros(len(outcome), len(keys)).index_add(1, place, of_low)
    found = {}
    if (met > 1).any():
        one_sided = (points == 0) | (points == met)
        found["one-sided pairings"] = one_sided[:, met > 1].double().mean(1)
    if 3 <= num_players <= MAX_PLAYERS:
        found["cyclic triads"] = _cycles(points, met, keys, num_players)
    return found


def _cycles(points: Tensor, met: Tensor, keys: Tensor, num_players: int) -> Tensor:
    """The trace of A³ counts each cycle once from each of its three players."""
    low, high = keys // num_players, keys % num_players
    found = []
    for part in points.split(max(1, 2**22 // num_players**2)):
        beats = part.new_zeros(len(part), num_players, num_players)
        beats[:, low, high] = (2 * part > met).double()
        beats[:, high, low] = (2 * part < met).double()
        found.append(torch.einsum("sij,sji->s", beats @ beats, beats) / 3)
    return torch.cat(found)
