"""Which columns of a table of games are what, by their names in the header or as the user says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ppl_vae.base.errors import InputError, listed

__all__ = ["ROLES", "GameRoles", "find_roles", "is_role", "names_sides"]

# What a user may name a column for; and side1, side2, …, score1, … and place1, ….
ROLES = (
    "winner", "loser", "draw", "home", "away", "home_score", "away_score", "result", "neutral", "date",
    "game_weight", "game", "side", "player", "shared", "place", "order", "score", "weight", "covariate",
)  # fmt: skip

# Names in the header that are taken for a role, with blanks and hyphens as underscores, in any case.
_ALSO = {
    "draw": ("draw", "draws", "drawn", "is_draw", "tie", "ties", "tied", "is_tie"),
    "result": ("result", "outcome"),
    "game": ("game", "game_id", "match", "match_id", "race"),
    "player": ("player", "driver"),
    "place": ("place", "position"),
    "home_score": ("home_score", "home_goals"),
    "away_score": ("away_score", "away_goals"),
}
_COUNTS = ("game_weight", "weight", "weights", "count", "counts", "games", "num_games", "times")
# Two sides of a player each, and what the first one's ground is called.
_PAIRS = (
    ("home", "away"), ("home_team", "away_team"), ("white", "black"), ("player1", "player2"),
    ("player_1", "player_2"), ("team1", "team2"), ("team_1", "team_2"), ("side1", "side2"),
)  # fmt: skip
_MEMBER = re.compile(r"(team|side)_?(\d+)_(\d+)")
_NUMBERED = re.compile(r"(side|score|place)(\d+)")
_NEEDED = (
    "; or home and away with home_score and away_score or a result, or team1_1, …, team2_1, … with a result, "
    "or game and player with place, score or a named order, a row a player (--column winner=NAME, or "
    "order=NAME, says which is what)"
)


@dataclass(frozen=True)
class GameRoles:
    """Names of columns by what they say; "" or () where there is none.

    Attributes:
        sides: of the players of each side, where a row is a game; () where a row is a player.
        winner_first: whether the first side is the winner.
        home: what playing on the first side is a covariate by the name of.
        scores, places: of each side.
        draw, result, neutral, date, game_weight: one a game.
        game, side, player, place, score, weight, at_home: where a row is a player, or several of one side.
        order: of numbers in place of places, less being better: finishing times, or places with gaps.
        covariates: by the name of each, its columns: one, or one a side where a row is a game.
        shared: of further players that several sides of a game may have in common, such as a car.
    """

    sides: tuple[tuple[str, ...], ...] = ()
    winner_first: bool = False
    home: str = ""
    scores: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    draw: str = ""
    result: str = ""
    neutral: str = ""
    date: str = ""
    game_weight: str = ""
    game: str = ""
    side: str = ""
    player: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    place: str = ""
    order: str = ""
    score: str = ""
    weight: str = ""
    at_home: str = ""
    covariates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are read, each once."""
        single = (
            self.draw, self.result, self.neutral, self.date, self.game_weight, self.game, self.side,
            self.place, self.order, self.score, self.weight, self.at_home,
        )  # fmt: skip
        groups = (*self.sides, self.scores, self.places, self.player, self.shared, *self.covariates.values())
        several = [name for group in groups for name in group]
        return tuple(dict.fromkeys(name for name in (*several, *single) if name))


def is_role(name: str) -> bool:
    """Whether a user may name a column for this."""
    return name in ROLES or _NUMBERED.fullmatch(name) is not None


class _Header:
    """The names in a header, and those that the user gives roles to."""

    def __init__(self, name: str, header: Sequence[str], given: Mapping[str, str | Sequence[str]]) -> None:
        self.name, self.header = name, header
        self.by = {_plain(column): column for column in reversed(header)}
        self.given = {role: [of] if isinstance(of, str) else [*of] for role, of in given.items()}
        for role, columns in self.given.items():
            if not is_role(role):
                raise InputError(
                    f"A table of games has no {role!r}: its columns are {listed(ROLES, len(ROLES))}, and "
                    "side1, score1 and place1, … of sides by number."
                )
            if role == "covariate":
                continue
            if absent := [column for column in columns if column not in header]:
                raise InputError(f"{name} has no column {absent[0]!r}: it has {listed(header)}.")

    def check(self, role: str) -> None:
        """Refuse columns of a role that there are not."""
        if absent := [column for column in self.given.get(role, ()) if column not in self.header]:
            raise InputError(f"{self.name} has no column {absent[0]!r}: it has {listed(self.header)}.")

    def several(self, role: str, *also: str) -> tuple[str, ...]:
        """The columns of a role."""
        if role in self.given:
            return tuple(self.given[role])
        known = (*_ALSO.get(role, (role,)), *also)
        return tuple(self.by[alias] for alias in known if alias in self.by)[:1]

    def one(self, role: str, *also: str) -> str:
        """The one column of a role, "" where there is none."""
        found = self.several(role, *also)
        if len(found) > 1:
            raise InputError(f"{self.name}: {role} is one column, not {len(found)} ({listed(found)}).")
        return found[0] if found else ""


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().casefold())


def find_roles(
    name: str, header: Sequence[str], given: Mapping[str, str | Sequence[str]] | None = None
) -> GameRoles:
    """What the columns of a table of games are.

    Args:
        name: of the table, for sentences.
        header: the columns' names.
        given: by role, the column or the columns of it; the header decides about others.

    Raises:
        InputError: for a header that says of no games, and for roles or columns that there are not.
    """
    head = _Header(name, header, given or {})
    found = _of_games(head) or _of_players(head)
    if "order" in head.given and not found.order:
        raise InputError(
            f"{name} has a row a game, and order is of tables with a row a player: name a result, scores or "
            "places"
        )
    return found


def _of_games(head: _Header) -> GameRoles | None:
    """Of a table with a row a game; None for another."""
    winner, loser = head.several("winner"), head.several("loser")
    if winner and loser:
        return GameRoles(
            (winner, loser), winner_first=True, draw=head.one("draw"), result=head.one("result"),
            date=head.one("date"), game_weight=head.one("game_weight", *_COUNTS),
        )  # fmt: skip
    sides, first, numbered = _sides(head)
    return _ended(head, sides, first, numbered) if sides else None


def _of_players(head: _Header) -> GameRoles:
    """Of a table with a row a player."""
    head.check("covariate")
    game, player = head.one("game"), head.several("player")
    # Lists of results have an order of lines as well: it is taken only where it is asked for.
    order = head.one("order") if "order" in head.given else ""
    place, score = ("", "") if order else (head.one("place"), head.one("score"))
    if game and player and (order or place or score):
        return GameRoles(
            game=game, player=player, shared=tuple(head.given.get("shared", ())),
            covariates={name: (name,) for name in head.given.get("covariate", ())},
            place=place, order=order, score=score, side=head.one("side", "team"),
            weight=head.one("weight"), at_home=head.one("home"), date=head.one("date"),
            game_weight=head.one("game_weight"),
        )  # fmt: skip
    missing = "loser" if head.several("winner") else "winner"
    raise InputError(
        f"{head.name} has no column '{missing}': games need the columns winner and loser, and it has "
        f"{listed(head.header)}{_NEEDED}."
    )


def names_sides(
    name: str, header: Sequence[str], given: Mapping[str, str | Sequence[str]] | None = None
) -> bool:
    """Whether a row of the table is a game whose sides are in columns, however it ended.

    Args:
        name, header, given: as for `find_roles`.

    Raises:
        InputError: for roles or columns that there are not.
    """
    return bool(_sides(_Header(name, header, given or {}))[0])


def _sides(head: _Header) -> tuple[tuple[tuple[str, ...], ...], str, str]:
    """The columns of each side's players, the first side's name, and what the sides are numbered by."""
    numbers = sorted(int(role[4:]) for role in head.given if re.fullmatch(r"side\d+", role))
    if numbers:
        return tuple(tuple(head.given[f"side{number}"]) for number in numbers), "", "side"
    if {"home", "away"} & {*head.given}:
        home, away = head.several("home", "home_team"), head.several("away", "away_team")
        return ((home, away), "home", "") if home and away else ((), "", "")
    for one, other in _PAIRS:
        if one in head.by and other in head.by:
            numbered = one.rstrip("1_") if one.endswith("1") else ""
            first = "" if numbered else one.removesuffix("_team")
            return ((head.by[one],), (head.by[other],)), first, numbered
    members: dict[int, dict[int, str]] = {}
    kind = ""
    for plain, column in head.by.items():
        if match := _MEMBER.fullmatch(plain):
            kind = match[1]
            members.setdefault(int(match[2]), {})[int(match[3])] = column
    found = tuple(tuple(of[key] for key in sorted(of)) for _, of in sorted(members.items()))
    return (found, "", kind) if len(found) > 1 else ((), "", "")


def _ended(head: _Header, sides: tuple[tuple[str, ...], ...], first: str, numbered: str) -> GameRoles:
    """How the games ended, where a row is a game."""
    scores: tuple[str, ...]
    places: tuple[str, ...] = ()
    if numbered:
        scores, places = (_each(head, what, numbered, len(sides)) for what in ("score", "place"))
    else:
        other = {"home": "away", "white": "black"}[first]
        pair = (head.one("home_score", f"{first}_score"), head.one("away_score", f"{other}_score"))
        scores = pair if all(pair) else ()
    result = head.one("result", "winner")
    if not (scores or places or result):
        what = f"{first}_score and the other side's" if first else "score1, score2, …"
        raise InputError(
            f"{head.name} says in none of its columns how the games ended: it has {listed(head.header)}, and "
            f"a result, or {what}, is needed (--column result=NAME says which column is what)."
        )
    return GameRoles(
        sides, home=first, covariates=_of_sides(head, first, numbered, len(sides)), scores=scores,
        places=places, result=result, neutral=head.one("neutral") if first else "", date=head.one("date"),
        game_weight=head.one("game_weight", "weight", "count"),
    )  # fmt: skip


def _of_sides(head: _Header, first: str, numbered: str, count: int) -> dict[str, tuple[str, ...]]:
    """The columns of each covariate, one a side: home_age and away_age of age, or age1 and age2."""
    found = {}
    for name in head.given.get("covariate", ()):
        plain = _plain(name)
        if numbered:
            columns = _each(head, plain, numbered, count)
        else:
            other = {"home": "away", "white": "black"}[first]
            pair = (head.by.get(f"{side}_{plain}", "") for side in (first, other))
            columns = tuple(column for column in pair if column)
        if len(columns) != count:
            wanted = f"{plain}1, {plain}2" if numbered else f"{first}_{plain} and the other side's"
            raise InputError(
                f"{head.name} has no column of {name!r} for each side, such as {wanted}: it has "
                f"{listed(head.header)}."
            )
        found[name] = columns
    return found


def _each(head: _Header, what: str, numbered: str, count: int) -> tuple[str, ...]:
    """One column of a kind for each of the numbered sides; () where one lacks it."""
    found = [
        head.one(f"{what}{k}", f"{what}_{k}", f"{numbered}{k}_{what}", f"{numbered}_{k}_{what}")
        for k in range(1, count + 1)
    ]
    return tuple(found) if all(found) else ()
