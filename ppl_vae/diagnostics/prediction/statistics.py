"""Test statistics of data, by the kind of data: what a posterior predictive check looks at.

Every function takes many data sets at once and reduces each to a number.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pyro.distributions import Categorical
from torch import Tensor
from torch.distributions import Independent, constraints

__all__ = ["MAX_FEATURES", "Kind", "binary", "categories", "counts", "distribution_kind", "games", "real"]

Kind = Literal["real", "counts", "binary", "categories", "games"]

# Beyond so many features (players, categories) each for itself says less than they do together.
MAX_FEATURES = 128
# Correlations pair by pair up to so many features.
MAX_PAIRS = 8


def distribution_kind(fn: Any) -> Kind:
    """The kind of data that a distribution draws, read off its support."""
    while isinstance(fn, Independent) or (hasattr(fn, "base_dist") and not hasattr(fn, "transforms")):
        fn = fn.base_dist
    try:
        support = fn.support
    except NotImplementedError:
        return "real"
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if not support.is_discrete:
        return "real"
    if isinstance(fn, Categorical):
        return "categories"
    return "binary" if support in (constraints.boolean, constraints.one_hot) else "counts"


def real(values: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Mean, sd, extremes and skewness, feature by feature and of all together; correlations.

    Args:
        values: shape (sets, rows, features), float64.
        names: of the features.

    Returns:
        By name, one value a data set: shape (sets,).
    """
    return _in_all_and_by_feature(_moments, values, names, components=True)


def binary(values: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """How many ones there are: in all, feature by feature, and how their number varies between rows."""
    found = {"share of ones": values.flatten(1).mean(1)}
    if len(names) == 1:
        return found
    number = values.sum(2)
    if number.shape[1] > 1:
        found["sd of the ones in a row"] = number.std(1)
    found["fewest ones in a row"] = number.amin(1)
    found["most ones in a row"] = number.amax(1)
    if len(names) <= MAX_FEATURES:
        means = values.mean(1)
        found |= {f"share of ones in {name}": means[:, k] for k, name in enumerate(names)}
    return found | _correlations(values, names, components=False)


def counts(values: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Mean, dispersion index (variance over mean; 1 for Poisson), zeros and maximum."""
    return _in_all_and_by_feature(_count_moments, values, names, components=False)


def _in_all_and_by_feature(
    moments: Callable[[Tensor, str], dict[str, Tensor]],
    values: Tensor,
    names: Sequence[str],
    *,
    components: bool,
) -> dict[str, Tensor]:
    found = moments(values.flatten(1), "")
    if len(names) == 1:
        return found
    if len(names) <= MAX_FEATURES:
        for k, name in enumerate(names):
            found |= moments(values[:, :, k], f" of {name}")
    return found | _correlations(values, names, components=components)


def categories(values: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """The share of each category.

    Args:
        values: shape (sets, rows, features).
        names: of the categories.
    """
    flat = values.flatten(1)
    return {f"share of {name}": (flat == k).double().mean(1) for k, name in enumerate(names[:MAX_FEATURES])}


def games(first_wins: Tensor, pairs: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Wins by player, and how far the results are from a ranking.

    Nothing here depends on the order of the games, which in a file need not be that in time.

    Args:
        first_wins: shape (sets, games): 1 where the first player of the pair wins.
        pairs: players by game, shape (games, 2).
        names: of the players.

    Returns:
        ``wins of …``; ``upsets``: the share of games won by the player with the lower share of wins in
        the same data (ties count a half); ``sd of win shares`` between players; ``one-sided pairings``:
        the share of pairs that met more than once and of whom one won always; ``cyclic triads``: triples
        of players of whom each beats the next more often than not (Kendall and Babington Smith 1940).
    """
    first_wins = first_wins.double()
    wins = wins_by_player(first_wins, pairs, len(names))
    played = torch.bincount(pairs.flatten(), minlength=len(names)).double()
    share = wins / played.clamp(min=1)
    ahead = (share[:, pairs[:, 0]] - share[:, pairs[:, 1]]).sign()
    found = {"upsets": (0.5 - 0.5 * ahead * (2 * first_wins - 1)).mean(1)}
    if int((played > 0).sum()) > 2:
        found["sd of win shares"] = share[:, played > 0].std(1)
    found |= _head_to_head(first_wins, pairs, len(names))
    if len(names) <= MAX_FEATURES:
        chosen = [k for k in range(len(names)) if played[k]]
        found |= {f"wins of {names[k]}": wins[:, k] for k in chosen}
    return found


def wins_by_player(first_wins: Tensor, pairs: Tensor, num_players: int) -> Tensor:
    """Number of wins, shape (sets, players)."""
    wins = first_wins.new_zeros(len(first_wins), num_players)
    return wins.index_add(1, pairs[:, 0], first_wins).index_add(1, pairs[:, 1], 1 - first_wins)


def _head_to_head(first_wins: Tensor, pairs: Tensor, num_players: int) -> dict[str, Tensor]:
    low, high = pairs.sort(1).values.unbind(1)
    keys, place = torch.unique(low * num_players + high, return_inverse=True)
    met = torch.bincount(place).double()
    low_wins = torch.where(pairs[:, 0] == low, first_wins, 1 - first_wins)
    won = first_wins.new_zeros(len(first_wins), len(keys)).index_add(1, place, low_wins)
    found = {}
    if (met > 1).any():
        one_sided = (won == 0) | (won == met)
        found["one-sided pairings"] = one_sided[:, met > 1].double().mean(1)
    if 3 <= num_players <= MAX_FEATURES:
        found["cyclic triads"] = _cycles(won, met, keys, num_players)
    return found


def _cycles(won: Tensor, met: Tensor, keys: Tensor, num_players: int) -> Tensor:
    """The trace of A³ counts each cycle once from each of its three players."""
    low, high = keys // num_players, keys % num_players
    found = []
    for part in won.split(max(1, 2**22 // num_players**2)):
        beats = part.new_zeros(len(part), num_players, num_players)
        beats[:, low, high] = (2 * part > met).double()
        beats[:, high, low] = (2 * part < met).double()
        found.append(torch.einsum("sij,sji->s", beats @ beats, beats) / 3)
    return torch.cat(found)


def _moments(flat: Tensor, suffix: str) -> dict[str, Tensor]:
    found = {"mean": flat.mean(1)}
    if flat.shape[1] > 1:
        found |= {"sd": flat.std(1), "minimum": flat.amin(1), "maximum": flat.amax(1)}
    if flat.shape[1] > 2:
        centred = flat - found["mean"][:, None]
        scale = centred.square().mean(1).sqrt()
        third = (centred / scale.clamp(min=1e-300)[:, None]).pow(3).mean(1)
        found["skewness"] = torch.where(scale > 0, third, torch.zeros_like(third))
    return {name + suffix: value for name, value in found.items()}


def _count_moments(flat: Tensor, suffix: str) -> dict[str, Tensor]:
    mean = flat.mean(1)
    found = {"mean": mean}
    if flat.shape[1] > 1:
        ratio = flat.var(1) / mean.clamp(min=1e-300)
        # A data set of zeros alone has no dispersion to speak of.
        found["dispersion index"] = torch.where(mean > 0, ratio, torch.ones_like(ratio))
        found["maximum"] = flat.amax(1)
    found["share of zeros"] = (flat == 0).double().mean(1)
    return {name + suffix: value for name, value in found.items()}


def _correlations(values: Tensor, names: Sequence[str], *, components: bool) -> dict[str, Tensor]:
    """Between features: pair by pair where there are few, else their mean size.

    Of more than 128 features as many are taken, evenly spaced: all pairs would cost more than the rest.
    """
    if values.shape[1] < 3:
        return {}
    if (number := values.shape[2]) > MAX_FEATURES:
        values = values[:, :, torch.linspace(0, number - 1, MAX_FEATURES).long()]
    features = values.shape[2]
    centred = values - values.mean(1, keepdim=True)
    covariance = centred.mT @ centred
    scale = covariance.diagonal(dim1=1, dim2=2).sqrt()
    # A feature that does not vary correlates with nothing.
    scale = torch.where(scale > 0, scale, torch.full_like(scale, torch.inf))
    correlation = covariance / scale[:, :, None] / scale[:, None, :]
    i, j = torch.triu_indices(features, features, offset=1)
    found = {"mean |correlation|": correlation[:, i, j].abs().mean(1)}
    if features <= MAX_PAIRS:
        for a, b in zip(i.tolist(), j.tolist(), strict=True):
            found[f"correlation of {names[a]} and {names[b]}"] = correlation[:, a, b]
    if components:
        spectrum = torch.linalg.eigvalsh(correlation)
        found["share of the first principal component"] = spectrum[:, -1] / spectrum.sum(1).clamp(min=1e-300)
    return found
