"""What a model of skills says of its draws: what games determine, what leaderboards show, its pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.views import Intervals, Scatter, TableView, View

if TYPE_CHECKING:
    import xarray as xr

    from ppl_vae.models.skills.lineup import Lineup
    from ppl_vae.models.skills.numbers import Numbers
    from ppl_vae.program.shown import ViewContext

__all__ = ["identifiable", "leaders", "reported", "state_names", "totals", "views"]

MAX_PLAYERS_FOR_PAIRS = 10
# States along the chains that are compared: more would not be looked at.
MAX_STATES = 2000
BOARD_PLAYERS, CURVES = 25, 6
# Days between 1978 and 2243: numbers such as these are dates, counted from 1970.
DATES = (3000.0, 100_000.0)

Array = NDArray[np.float64]


def state_names(lineup: Lineup) -> list[str]:
    """Of every state: the player, with a date where skills drift; or what else it is of."""
    states, names = lineup.schedule.states_by_rounds, lineup.roster.names
    others = {
        "effect": "effect of {}",
        "group": "group {}",
        "base": "{}",
    }
    fixed = [
        others[kind].format(name)
        for kind, name in zip(lineup.effects.kinds, lineup.effects.names, strict=True)
    ]
    every = (*names, *fixed)
    if not lineup.schedule.dated:
        return [every[chain] for chain in states.chain]
    dates = _dates(states.time)
    return [
        every[chain] + (f" {date}" if chain < len(names) else "")
        for chain, date in zip(states.chain, dates, strict=True)
    ]


def totals(model: Numbers, draws: xr.Dataset) -> Array:
    """Players' skills with their groups' means at all states, shape (chains, draws, states)."""
    with torch.no_grad():
        found: Array = model.lineup.total(torch.as_tensor(_states(draws))).numpy()
    return found


def _states(draws: xr.Dataset) -> Array:
    """All states, shape (chains, draws, states)."""
    found: Array = draws["skill"].transpose("chain", "draw", "state").to_numpy()
    return found


def leaders(model: Numbers) -> NDArray[np.int64]:
    """The state that each player has at its last date, shape (players,)."""
    return model.lineup.schedule.states_by_rounds.last[: model.lineup.schedule.num_players]


def identifiable(model: Numbers, draws: xr.Dataset) -> xr.Dataset:
    """What games determine, draw by draw.

    Skills at the players' last dates relative to their mean; for up to ten players every difference of two;
    where skills drift, the states relative to the mean of all; the effects of home and other covariates, and
    the base rate of goals.
    """
    import xarray as xr

    lineup = model.lineup
    skill, last = totals(model, draws), leaders(model)
    names, player = lineup.roster.names, skill[..., last]
    found = xr.Dataset(
        {"relative_skill": (("chain", "draw", "player"), player - player.mean(-1, keepdims=True))},
        coords={"player": list(names)},
    )
    if len(names) <= MAX_PLAYERS_FOR_PAIRS:
        first, second = np.triu_indices(len(names), k=1)
        labels = [f"{names[i]} − {names[j]}" for i, j in zip(first, second, strict=True)]
        found["difference"] = (("chain", "draw", "pair"), player[..., first] - player[..., second])
        found = found.assign_coords(pair=labels)
    if lineup.schedule.dated:
        found = found.merge(_curves(model, skill))
    effects = [at for at, kind in enumerate(lineup.effects.kinds) if kind != "group"]
    if effects:
        found["effect"] = (("chain", "draw", "of"), _states(draws)[..., [lineup.rows[at] for at in effects]])
        found = found.assign_coords(of=[lineup.effects.names[at] for at in effects])
    return found


def _curves(model: Numbers, skill: Array) -> xr.Dataset:
    """States of players before their last, relative to the mean of all."""
    import xarray as xr

    states = model.lineup.schedule.states_by_rounds
    own = states.chain < model.lineup.schedule.num_players
    earlier = np.setdiff1d(np.flatnonzero(own), leaders(model))
    if not len(earlier):
        return xr.Dataset()
    chosen = earlier[np.linspace(0, len(earlier) - 1, min(len(earlier), MAX_STATES)).round().astype(int)]
    names = state_names(model.lineup)
    values = skill[..., chosen] - skill[..., own].mean(-1, keepdims=True)
    return xr.Dataset(
        {"relative_state": (("chain", "draw", "at"), values)}, coords={"at": [names[k] for k in chosen]}
    )


def reported(model: Numbers, draws: xr.Dataset) -> xr.Dataset:
    """What a leaderboard shows, draw by draw: skills at the last dates, and the places that they give.

    ``expected_place`` is 1 and the number of others who would win a game against the player, in expectation,
    were there no draws. The places themselves are whole numbers, and often one: their quantiles jump, and no
    sd of them has a useful error.
    """
    import xarray as xr

    player = totals(model, draws)[..., leaders(model)]
    base = _states(draws)[..., model.lineup.rows[-1]] if model.options.outcome == "goals" else None
    dims = ("chain", "draw", "player")
    found = {"player_skill": (dims, player), "expected_place": (dims, _expected_place(model, player, base))}
    return xr.Dataset(found, coords={"player": list(model.lineup.roster.names)})


def _expected_place(model: Numbers, skill: Array, base: Array | None) -> Array:
    place = np.ones_like(skill)
    with torch.no_grad():
        values, rate = torch.as_tensor(skill), None if base is None else torch.as_tensor(base)[..., None]
        for other in values.unbind(-1):
            place += _wins(model, other[..., None] - values, rate).numpy()
    # The player itself would win half of the games against itself.
    return place - 0.5


def _wins(model: Numbers, ahead: Tensor, base: Tensor | None) -> Tensor:
    """P(a player so far ahead wins a game against one other), were there no draws.

    Goals are Poisson with log rates b ± d; their difference is taken as normal.
    """
    if base is not None:
        mean, variance = 2 * base.exp() * torch.sinh(ahead), 2 * base.exp() * torch.cosh(ahead)
        return torch.special.ndtr(mean / variance.sqrt())
    own = model.number("performance_sd")
    if model.options.link == "probit":
        return torch.special.ndtr(ahead / (2**0.5 * own))
    return torch.sigmoid(ahead / own)


# Pictures -----------------------------------------------------------------------------------------


def views(model: Numbers, context: ViewContext) -> list[View]:
    """The leaderboard, skills over time where they drift, and the model's numbers."""
    found: list[View] = [_numbers(model, next(iter(context.draws.values()), None))]
    if not context.draws:
        return found
    skills = {name: totals(model, draws) for name, draws in context.draws.items()}
    last = leaders(model)
    flat = {name: values[..., last].reshape(-1, len(last)) for name, values in skills.items()}
    first = next(iter(flat.values()))
    order = np.argsort(-(first.mean(0) - 3 * first.std(0)), kind="stable")[:BOARD_PLAYERS]
    board = Intervals(
        caption="The leaderboard, by conservative skill (mean − 3 sd) at each player's last date: "
        "overlapping bars are players that the games do not tell apart.",
        names=[model.lineup.roster.names[k] for k in order],
        answers={name: _interval(values[:, order]) for name, values in flat.items()},
        label="skill: posterior mean, 5 % to 95 %",
    )
    over_time = [_over_time(model, next(iter(skills.values())), order)] if model.lineup.schedule.dated else []
    return [board, *over_time, *found]


def _interval(values: Array) -> Array:
    low, high = np.quantile(values, [0.05, 0.95], axis=0)
    return np.stack([low, values.mean(0), high], 1)


def _over_time(model: Numbers, skill: Array, order: NDArray[np.int64]) -> Scatter:
    """Means at the dates of games, with an outline of 5 % to 95 %, of those who lead the board."""
    states = model.lineup.schedule.states_by_rounds
    days = _are_dates(states.time)
    groups: dict[str, Any] = {}
    outlines: dict[str, Any] = {}
    for player in order[:CURVES]:
        at = np.flatnonzero(states.chain == player)
        low, mean, high = _interval(skill[..., at].reshape(-1, len(at))).T
        when = 1970 + states.time[at] / 365.25 if days else states.time[at]
        name = model.lineup.roster.names[player]
        groups[name] = np.stack([when, mean], 1)
        # There along the lower curve and back along the upper one, to where it began.
        outlines[name] = np.stack([np.r_[when, when[::-1], when[:1]], np.r_[low, high[::-1], low[:1]]], 1)
    return Scatter(
        caption="Skills at the dates of the players' games: posterior means, inside outlines of 5 % to 95 %.",
        groups=groups, outlines=outlines, x_label="year" if days else "date", y_label="skill",
    )  # fmt: skip


def _numbers(model: Numbers, draws: xr.Dataset | None) -> TableView:
    """What is given or learnt, and what the guide says of home, of other covariates and of groups."""
    rows = [
        (name.replace("_", " "), f"{value:.4g}", "given" if model.held[name] else "learnt")
        for name, value in model.numbers.items()
    ]
    effects, names = model.lineup.effects, state_names(model.lineup)
    if draws is not None and effects.kinds:
        skill = _states(draws)
        for row in model.lineup.rows[:BOARD_PLAYERS]:
            mean, sd = skill[..., row].mean(), skill[..., row].std()
            rows.append((names[row], f"{mean:.3g} ± {sd:.2g}", "posterior mean ± sd"))
    numbers, values, how = zip(*rows, strict=True)
    return TableView(
        caption="The model's numbers, in units of skill.",
        names=[*numbers],
        columns={"value": [*values], "how": [*how]},
        row_label="number",
    )


def _are_dates(time: Array) -> bool:
    there = time[~np.isnan(time)]
    return bool(len(there) and DATES[0] < there.max() < DATES[1])


def _dates(time: Array) -> list[str]:
    """Dates as they are written; plain numbers where they are none."""
    if not _are_dates(time):
        return [f"{when:g}" for when in time]
    seconds = (np.nan_to_num(time) * 86_400).round().astype("datetime64[s]")
    return [str(when).removesuffix("T00:00:00") for when in seconds]
