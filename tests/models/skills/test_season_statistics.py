"""What predictive checks compare of seasons, counted by hand."""

import numpy as np
import pytest
import torch

from ppl_vae.diagnostics import predictive_check
from ppl_vae.guides import Prior
from ppl_vae.models import Skills
from ppl_vae.models.skills.season_statistics import Season
from ppl_vae.program.pair import Pair
from tests.models.skills.seasons import games_of, season


def _season(rows: list, outcome: str, **options: bool) -> tuple[Season, torch.Tensor]:
    games = games_of(rows, time=np.arange(len(rows)) * 1.0, scores=outcome != "result")
    values, players, _, time, *_ = games.tensors(torch.float64, "place" if outcome == "result" else "score")
    return Season(players, time, games.players, outcome, options.get("draws", False), at_home=True), values[
        None
    ]


def test_points_of_results_are_shares_of_sides_beaten() -> None:
    rows = [(("A", "B"), (0, 1)), (("B", "A"), (0, 0)), (("A", "B", "C"), (1, 0, 1)), (("C", "A"), (1, 0))]
    found, values = _season(rows, "result")
    # In the third game A and C tie behind B: each beat nobody and was level with one of two.
    expected = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.25, 1.0, 0.25], [0.0, 1.0, 0.0]]
    assert found.points(values)[0].tolist() == expected
    statistics = found.statistics(values)
    sums = {name: float(statistics[f"points of {name}"]) for name in ("A", "B", "C")}
    assert sums == {"A": 1 + 0.5 + 0.25 + 1, "B": 0.5 + 1.0, "C": 0.25}
    assert float(statistics["mean points of the first side"]) == pytest.approx((1 + 0.5 + 0.25 + 0) / 4)
    means = [sums["A"] / 4, sums["B"] / 3, sums["C"] / 2]
    assert float(statistics["sd of mean points between players"]) == pytest.approx(np.std(means, ddof=1))
    torch.testing.assert_close(found.means(values)[0], torch.tensor(means, dtype=torch.float64))


def test_scores_count_by_who_is_ahead_and_goals_by_themselves() -> None:
    rows = [(("A", "B"), (3, 1)), (("B", "C"), (2, 2)), (("C", "A"), (0, 1)), (("A", "B"), (0, 4))]
    lead, values = _season(rows, "score")
    found = lead.statistics(values)
    assert [float(found[f"lead of {name}"]) for name in "ABC"] == [2 + 1 - 4, -2 + 4, -1]
    # What is the same for both sides of a game is not modelled, and not looked at.
    again = lead.statistics(values + 7)
    assert all(torch.equal(found[name], again[name]) for name in found)
    goals, values = _season(rows, "goals")
    found = goals.statistics(values)
    assert [float(found[f"goals of {name}"]) for name in "ABC"] == [4, 7, 2]
    assert float(found["share of draws"]) == 0.25
    assert float(found["mean goals"]) == 13 / 8
    # Of the later games of three players, against the earlier ones.
    change = [0.5 - 3, 4 - 1.5, 0 - 2]
    assert float(found["sd of the change of mean goals"]) == pytest.approx(np.std(change, ddof=1))


@pytest.mark.parametrize("outcome", ["result", "score", "goals"])
def test_what_the_model_made_looks_like_what_it_makes(outcome: str) -> None:
    games = season(30, 4, dates=4, scores={"score": "real", "goals": "whole"}.get(outcome, ""))
    options = {"draws": True} if outcome == "result" else {"outcome": outcome}
    model = Skills.from_data(games, skill_sd=0.1, **options)
    data = games.tensors(torch.float64, "place" if outcome == "result" else "score")
    found = predictive_check(Pair(model, Prior(model)), *data, num_draws=200, seed=1)
    assert found.kinds == {"outcome": "own"}
    assert any("of P0" in name for name in found.table["statistic"])
