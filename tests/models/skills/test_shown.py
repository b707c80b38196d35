"""What models of skills say of draws: places by the law that games end by."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from ppl_vae.data.game_tables import read_games
from ppl_vae.data.games import games_between
from ppl_vae.models import Skills

DUELS = games_between("duels", ["Ann", "Bob", "Cyd"], ["Bob", "Cyd", "Ann"])


@pytest.mark.parametrize("link", ["probit", "logistic", "davidson"])
@pytest.mark.parametrize("performance_sd", [1.0, 2.5])
def test_expected_places_are_sums_of_chances_to_win(link: str, performance_sd: float) -> None:
    model: Any = Skills.from_data(DUELS, link=link, performance_sd=performance_sd)
    skill = np.array([0.7, -0.4, 1.9])
    draws = xr.Dataset({"skill": (("chain", "draw", "state"), skill[None, None])})
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    data = (torch.tensor([[0.0, 1.0]] * 6).double(), torch.tensor(pairs)[..., None],
            torch.ones(6, 2, 1).double(), torch.zeros(6).double(), torch.zeros(6, 2, 0).double(),
            torch.ones(6).double())  # fmt: skip
    mean = torch.as_tensor(skill)[torch.tensor(pairs)]
    chances = model.outcome_probabilities(mean, torch.zeros(6, 2, 2).double(), *data)[:, 0].numpy()
    expected = [1 + sum(c for c, (_, j) in zip(chances, pairs, strict=True) if j == at) for at in range(3)]
    np.testing.assert_allclose(model.reported(draws)["expected_place"].to_numpy()[0, 0], expected, rtol=1e-9)


def test_expected_places_of_goals_are_near_those_of_poisson_counts() -> None:
    games = pd.DataFrame(
        {"home": ["Ann", "Bob"], "away": ["Bob", "Cyd"], "home_score": [1, 2], "away_score": [0, 2]}
    )
    model: Any = Skills.from_data(read_games(games, quiet=True), outcome="goals")
    skill = np.array([0.5, -0.1, 0.2, 0.4])
    draws = xr.Dataset({"skill": (("chain", "draw", "state"), skill[None, None])})
    # P(more goals) + ½ P(as many), by summing over counts.
    k = np.arange(60)
    log_factorial = np.cumsum(np.log(np.maximum(k, 1)))

    def wins(ahead: float) -> float:
        one, two = (np.exp(k * r - np.exp(r) - log_factorial) for r in (0.4 + ahead, 0.4 - ahead))
        joint = np.outer(one, two)
        return float(np.tril(joint, -1).sum() + 0.5 * np.trace(joint))

    expected = [
        1 + sum(wins(skill[other] - skill[at]) for other in range(3) if other != at) for at in range(3)
    ]
    found = model.reported(draws)["expected_place"].to_numpy()[0, 0]
    np.testing.assert_allclose(found, expected, atol=0.02)
