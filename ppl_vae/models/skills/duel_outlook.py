"""How duels of players with one skill each are expected to end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.data.games import Games
from ppl_vae.models.skills.forecasts import duel_probabilities
from ppl_vae.models.skills.further import matrix_of
from ppl_vae.models.skills.results import THREE_WAYS, TWO_WAYS, number_of
from ppl_vae.program.design import Design

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["DuelOutlook"]


class DuelOutlook:
    """What `KnowsOutcomes` asks for, of a model whose program takes (outcome, players)."""

    num_players: int
    link: str
    draw_margin: float
    performance_sd: float

    def arguments_of(self, games: Games) -> tuple[Tensor, ...]:
        """See `KnowsOutcomes`.

        Raises:
            InputError: for games that are no duels.
        """
        return games.duels(torch.float64)

    def appearances(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """See `KnowsOutcomes`: players have one skill each."""
        return np.arange(self.num_players), np.full(self.num_players, np.nan)

    def places_in(self, larger: DuelOutlook) -> Tensor:
        """See `KnowsOutcomes`: the states are the players."""
        return torch.arange(self.num_players)

    def level_rows(self, player: NDArray[np.int64], time: NDArray[np.float64]) -> csr_array:
        """See `KnowsOutcomes`: skills do not change."""
        return self._rows(torch.as_tensor(player)[:, None])

    def predictor_rows(self, *data: Tensor) -> csr_array:
        """See `KnowsOutcomes`: the skills of both players."""
        return self._rows(data[1].reshape(-1, 1))

    def _rows(self, player: Tensor) -> csr_array:
        return matrix_of(Design.of_entries(player, torch.ones(1, dtype=torch.float64)), self.num_players)

    @property
    def side_columns(self) -> tuple[str, ...]:
        """See `KnowsOutcomes`: nothing but who plays."""
        return ()

    @property
    def outcomes(self) -> tuple[str, ...]:
        """See `KnowsOutcomes`: of the first player."""
        return THREE_WAYS if self.draw_margin else TWO_WAYS

    @torch.no_grad()
    def outcome_probabilities(self, mean: Tensor, covariance: Tensor, *data: Tensor) -> Tensor:
        """See `KnowsOutcomes`."""
        variance = covariance[:, 0, 0] + covariance[:, 1, 1] - 2 * covariance[:, 0, 1]
        scale = 1.0 if self.link == "logistic" else 2**0.5 * self.performance_sd
        found = duel_probabilities(
            mean[:, 0] - mean[:, 1], variance.clamp_min(0.0), torch.full_like(variance, scale),
            self.draw_margin, self.link,
        )  # fmt: skip
        return found if self.draw_margin else found[:, ::2]

    def outcome_numbers(self, *data: Tensor) -> Tensor:
        """See `KnowsOutcomes`."""
        return number_of(data[0], len(self.outcomes))
