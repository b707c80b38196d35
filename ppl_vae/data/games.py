"""Games between any number of sides of any number of players: what skill models take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from ppl_vae.base.errors import InputError
from ppl_vae.data.dataset import Columns, Dataset, Units
from ppl_vae.data.player_names import look_alikes, numbered_players

if TYPE_CHECKING:
    import torch

    from ppl_vae.data.game_export import Form
    from ppl_vae.data.game_inputs import Observes

__all__ = ["Games", "games_between", "places_of"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, eq=False)
class Games:
    """Who played whom, in what sides, and how it ended, game by game.

    A view of a `Dataset` of ragged columns: `Games.of(dataset)` reads it, `games.dataset` gives it back. G
    games have T sides and E entries of players in all; sides are in the file's order, the home side first.

    Attributes:
        name: the data set's name, or the file's.
        players: names, in order of first appearance.
        side_ptr: shape (G + 1,): game g has the sides from ``side_ptr[g]`` up to ``side_ptr[g + 1]``, two or
            more.
        entry_ptr: shape (T + 1,): side t has the entries from ``entry_ptr[t]`` up to ``entry_ptr[t + 1]``,
            one or more.
        player: shape (E,): positions in `players`.
        place: shape (T,), int32: how many sides of the game finished ahead, 0 the best; equal places are
            tied, two sides of the same place have drawn.
        weight: shape (E,), positive: which part of the game each played; None where all played all of it.
        score: shape (T,): points, more are better; None where there are none.
        time: shape (G,): days since the beginning of 1970 for dates, or plain numbers; None without time.
        game_weight: shape (G,), positive: the power that the game's likelihood is raised to; None for ones.
        covariates: by name, shape (T,): what else a side had, such as "home", 1 for the side at home and 0 on
            neutral ground.
        warnings: what the user should know about it, one sentence each.
        history: how it was read, a sentence each.

    Raises:
        InputError: naming the first game, counted from 1, that has one side, an empty side, a player twice or
            a weight that is not positive; the shapes do not agree, or a position is no player's.
    """

    name: str
    players: tuple[str, ...]
    side_ptr: Ints
    entry_ptr: Ints
    player: Ints
    place: NDArray[np.int32]
    weight: Floats | None = None
    score: Floats | None = None
    time: Floats | None = None
    game_weight: Floats | None = None
    covariates: Mapping[str, Floats] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    history: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        from ppl_vae.data.game_checks import check_games

        check_games(self)

    @classmethod
    def of(cls, dataset: Dataset, columns: Columns | None = None) -> Games:
        """The games in a data set.

        Args:
            dataset: what `Games.dataset` gives, the variables that a model of games takes, or a table that
                `read_games` understands.
            columns: which of a table's columns play which part, see `read_games`.

        Raises:
            InputError: where it holds no games, or some at fault.
        """
        from ppl_vae.data.game_columns import games_of

        return games_of(dataset, columns)

    @property
    def dataset(self) -> Dataset:
        """The data set that these games are a view of; arrays are shared."""
        from ppl_vae.data.game_columns import columns_of

        return Dataset(self.name, columns_of(self), history=self.history, warnings=self.warnings, unit="game")

    @property
    def num_games(self) -> int:
        """The number of games G."""
        return len(self.side_ptr) - 1

    @property
    def num_players(self) -> int:
        """The number of players, those who play no game among them."""
        return len(self.players)

    @property
    def sides(self) -> Ints:
        """How many sides each game has, shape (G,)."""
        return np.diff(self.side_ptr)

    @property
    def sizes(self) -> Ints:
        """How many players each side has, shape (T,)."""
        return np.diff(self.entry_ptr)

    @cached_property
    def is_duels(self) -> bool:
        """Whether every game is one player against another."""
        # Every game has two sides at least and every side one player: their numbers alone tell.
        return len(self.player) == len(self.place) == 2 * self.num_games

    @cached_property
    def has_ties(self) -> bool:
        """Whether in some game two sides finished level."""
        if len(self.place) == 2 * self.num_games:
            return bool((self.place[::2] == self.place[1::2]).any())
        keys = np.repeat(np.arange(self.num_games), self.sides) * (len(self.place) + 1) + self.place
        keys.sort()
        return bool((keys[1:] == keys[:-1]).any())

    @property
    def winners(self) -> Ints:
        """Who won each game, shape (G,).

        Raises:
            InputError: for games that are no duels, and draws.
        """
        return self._won(ahead=True)

    @property
    def losers(self) -> Ints:
        """Who lost each game, shape (G,).

        Raises:
            InputError: for games that are no duels, and draws.
        """
        return self._won(ahead=False)

    def _won(self, *, ahead: bool) -> Ints:
        if not self.is_duels or self.has_ties:
            raise InputError(
                f"{self.name} holds {'draws' if self.is_duels else 'games of more than two players'}: only a "
                "game of two players that one of them won has a winner and a loser."
            )
        first = self.place[::2] < self.place[1::2]
        return np.where(first == ahead, self.player[::2], self.player[1::2])

    def take(self, games: Units) -> Games:
        """Some games, in the order asked for; players keep their positions."""
        return Games.of(self.dataset.take(games))

    def to_csv(self, path: Path | str, form: Form = "long", *, dates: bool = False) -> None:
        """Write a table that `read_games` reads as the same games; whole or not at all.

        `Games.dataset` writes NetCDF (`to_netcdf`), which keeps all there is.

        Args:
            path: of the file.
            form: "long", a row a player; "wide", a row a game, for games of two sides.
            dates: whether times are days since the beginning of 1970, which are written as dates.

        Raises:
            InputError: for games that do not fit into the form.
        """
        from ppl_vae.data.game_export import write_games

        write_games(self, Path(path), form, dates=dates)

    def tensors(
        self, dtype: torch.dtype | None = None, outcome: Observes = "place"
    ) -> tuple[torch.Tensor, ...]:
        """What a program of games takes, padded to the largest game: K sides, M players a side, C covariates.

        Args:
            dtype: of reals; PyTorch's default if None.
            outcome: "place", or "score" where the program observes scores.

        Returns:
            outcome (G, K), places (0 the best) or scores, NaN where there is no such side; players (G, K, M),
            int64 positions, −1 where there is no such player; weight (G, K, M), 0 there; time (G,), float64,
            zeros without time; covariate (G, K, C); game_weight (G,), ones without weights.

        Raises:
            InputError: for scores that there are not.
        """
        from ppl_vae.data.game_inputs import game_inputs

        return self.dataset.arguments(game_inputs(outcome), dtype)

    def duels(self, dtype: torch.dtype | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """What a program of duels takes.

        Args:
            dtype: of the outcome; PyTorch's default if None.

        Returns:
            The outcome, shape (G,): 1 where the first side won, 0 where the second did and ½ for a draw; and
            both players' positions, int64 of shape (G, 2).

        Raises:
            InputError: for games that are no duels.
        """
        from ppl_vae.data.game_inputs import DUELS

        outcome, players = self.dataset.arguments(DUELS, dtype)
        return outcome, players


def games_between(
    name: str, winners: Sequence[str] | NDArray[Any], losers: Sequence[str] | NDArray[Any]
) -> Games:
    """Number the players of duels given by name, in order of first appearance; the winner is the first side.

    Names are compared in composed Unicode (NFC). Those that still look alike stay apart and are named in
    `warnings`: other case or spaces, compatible letters, invisible characters, 2 and 2.0.

    Args:
        name: what to call the games.
        winners: names, shape (num_games,); white space around a name is no part of it.
        losers: names, shape (num_games,).

    Raises:
        InputError: where a name is missing (None or NaN), or a player beats itself.
    """
    # Interleaved, so that "first" runs through the games and not through one column after the other.
    both = np.stack([np.asarray(winners, dtype=object), np.asarray(losers, dtype=object)], axis=1)
    codes, players = numbered_players(name, both.ravel())
    place = np.tile(np.array([0, 1], dtype=np.int32), len(both))
    return duels_of(name, players, codes, place, warnings=look_alikes(players))


def duels_of(
    name: str,
    players: tuple[str, ...],
    player: Ints,
    place: NDArray[np.int32],
    warnings: tuple[str, ...] = (),
    history: tuple[str, ...] = (),
) -> Games:
    """Games of two players each.

    Args:
        name: what to call them.
        players: names.
        player: shape (2 G,): both players' positions, game after game.
        place: shape (2 G,).
        warnings, history: see `Games`.
    """
    entries = np.arange(len(player) + 1)
    # Sides end where every second entry does: a view, for there may be ten million of them.
    return Games(name, players, entries[::2], entries, player, place, warnings=warnings, history=history)


def places_of(score: Floats, side_ptr: Ints) -> NDArray[np.int32]:
    """How many sides of the same game have a higher score, shape (T,), int32.

    Args:
        score: shape (T,), finite or −∞.
        side_ptr: see `Games`.
    """
    sides = np.diff(side_ptr)
    if len(sides) and (sides == 2).all():
        behind = np.empty(len(score), dtype=np.int32)
        behind[::2], behind[1::2] = score[::2] < score[1::2], score[1::2] < score[::2]
        return behind
    game = np.repeat(np.arange(len(sides)), sides)
    order = np.lexsort((-score, game))
    ranked = score[order]
    new = np.ones(len(score), dtype=bool)
    new[1:] = (ranked[1:] != ranked[:-1]) | (game[1:] != game[:-1])
    # The first of a tied group stands where the whole group does.
    leader = np.maximum.accumulate(np.where(new, np.arange(len(score)), 0))
    found = np.empty(len(score), dtype=np.int32)
    found[order] = leader - side_ptr[:-1][game]
    return found
