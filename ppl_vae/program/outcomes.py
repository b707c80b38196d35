"""What models of games say of games that are not played yet.

All are optional, as those of `abilities`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from scipy.sparse import csr_array

    from ppl_vae.data.games import Games

__all__ = ["KnowsOutcomes", "KnowsPlaces", "KnowsScores"]


@runtime_checkable
class KnowsOutcomes(Protocol):
    """A model of games that knows how games at any dates, of any players, are expected to end.

    Its one latent site is a vector of N states of Gaussian Markov chains: those that each player has at the
    dates of its games, and what else moves strengths.
    """

    @property
    def outcomes(self) -> tuple[str, ...]:
        """What the possible outcomes of a game are called, such as win, draw and loss of its first side; ()
        where any of its sides may come first."""
        ...

    @property
    def side_columns(self) -> tuple[str, ...]:
        """Columns of a side, beside who plays on it, that outcomes hang on."""
        ...

    def __call__(self, *data: Any) -> Any:
        """The Pyro program."""
        ...

    def normal_prior(self) -> tuple[str, Any]:
        """The latent site's name, and its prior: `Chains`."""
        ...

    def arguments_of(self, games: Games) -> tuple[Tensor, ...]:
        """What the program takes of games that have its players' positions.

        Raises:
            InputError: for games that lack what the model needs.
        """
        ...

    def extended(
        self, players: Sequence[str], player: NDArray[np.int64], time: NDArray[np.float64]
    ) -> KnowsOutcomes:
        """The model, with the same parameters, of these appearances too.

        Args:
            players: names; the model's own come first.
            player: who appears, positions in ``players``, shape (appearances,).
            time: when, shape (appearances,).
        """
        ...

    def of_appearances(
        self, players: Sequence[str], player: NDArray[np.int64], time: NDArray[np.float64]
    ) -> KnowsOutcomes:
        """The model, with the same parameters, of these appearances alone, of which each player's first is
        taken for its first of all; arguments as for `extended`."""
        ...

    def appearances(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Whose each state is, and when: chains are numbered as players are, those of other things after
        them, and dates are NaN where there are none; each of shape (N,)."""
        ...

    def places_in(self, larger: Any) -> Tensor:
        """Where the model's states are among those of one that it was extended to, int64 of shape (N,)."""
        ...

    def level_rows(self, player: NDArray[np.int64], time: NDArray[np.float64]) -> csr_array:
        """How strong players are at dates at which they appear, as sums of states: shape (appearances, N)."""
        ...

    def predictor_rows(self, *data: Tensor) -> csr_array:
        """What the outcome of each side of a game hangs on, as sums of states: shape (G K, N)."""
        ...

    def outcome_probabilities(self, mean: Tensor, covariance: Tensor, *data: Tensor) -> Tensor:
        """Probabilities of the outcomes of games, shape (G, outcomes), or (G, K) of every side to come first.

        Args:
            mean, covariance: of the predictors of a game, shapes (G, K) and (G, K, K), float64.
            data: the program's arguments; the outcomes in them are not read.
        """
        ...

    def outcome_numbers(self, *data: Tensor) -> Tensor:
        """Which outcome each game had, int64 of shape (G,); −1 for what is none of them."""
        ...


@runtime_checkable
class KnowsPlaces(Protocol):
    """A model of rankings that knows all places, and who is ahead of whom."""

    def place_probabilities(self, mean: Tensor, covariance: Tensor, *data: Tensor, seed: int = 0) -> Tensor:
        """P(side k finishes on place r), shape (G, K, K); the arguments are those of `KnowsOutcomes`."""
        ...

    def pair_probabilities(self, mean: Tensor, covariance: Tensor, *data: Tensor) -> Tensor:
        """P(side i finishes ahead of side j), shape (G, K, K)."""
        ...


@runtime_checkable
class KnowsScores(Protocol):
    """A model of scores that knows the whole distribution of them."""

    def score_probabilities(self, mean: Tensor, covariance: Tensor, *data: Tensor) -> Tensor:
        """P(i points to j), shape (G, most + 1, most + 1); the arguments are those of `KnowsOutcomes`."""
        ...
