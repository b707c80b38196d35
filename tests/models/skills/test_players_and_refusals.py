"""Tables of players, and what models of skills refuse."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.data.games import Games
from ppl_vae.models import Skills
from ppl_vae.models.skills.options import SkillsOptions, days_of
from tests.models.skills.made import made
from tests.models.skills.seasons import games_of

# Players -----------------------------------------------------------------------------------------


def test_players_have_priors_and_groups_of_their_own(tmp_path: Any) -> None:
    table = tmp_path / "players.csv"
    table.write_text("name,mean,sd,group,age\nA,1.5,0.2,old,20\nB,,,old,30\nC,,,new,40\nnobody,0,1,new,50\n")
    games = games_of([(("A", "B"), (0, 1)), (("C", "D"), (0, 1))])
    model, data = made(games, players=str(table), skill_sd=2.0, group_sd=0.5, skill_mean=0.3)
    _, chains = model.normal_prior()
    names = model.coords()["state"]
    assert names == ["A", "B", "C", "D", "effect of age", "group old", "group new"]
    assert chains.mean.tolist() == [1.5, 0.3, 0.3, 0.3, 0, 0, 0]
    assert chains.variance.tolist() == [pytest.approx(sd**2) for sd in (0.2, 2.0, 2.0, 2.0, 1.0, 0.5, 0.5)]
    # A strength is a player's own, its group's and its age's, in sds of those of the games.
    skill = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0, 10.0, 100.0]]).double()
    ages = (np.array([20, 30, 40]) - 30) / np.std([20, 30, 40])
    sides = torch.tensor([ages[0] + 10, ages[1] + 10, ages[2] + 100, 0.0], dtype=torch.float64)
    torch.testing.assert_close(model.lineup.total(skill)[0, :4], sides)
    torch.testing.assert_close(model.lineup.strengths(skill, *data[1:5])[0].reshape(-1), sides)
    column, value = model.lineup.matrix((1.0, -1.0), *data[1:5])
    torch.testing.assert_close((value * skill[0][column]).sum(-1), sides[::2] - sides[1::2])


BAD_PLAYERS = {
    "no names": ("who,mean\nA,1\n", "no column 'name'"),
    "twice": ("name,mean\nA,1\nA,2\n", "lines 1 and 2"),
    "sd of zero": ("name,sd\nA,0\n", "the sd of 'A' is 0; it must be positive"),
    "the same everywhere": ("name,age\nA,3\nB,3\n", "the same for all players"),
}


@pytest.mark.parametrize("case", BAD_PLAYERS)
def test_tables_of_players_that_cannot_be_read_are_refused(case: str, tmp_path: Any) -> None:
    text, words = BAD_PLAYERS[case]
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        Skills.from_data(games_of([(("A", "B"), (0, 1))]), players=str(tmp_path / "p.csv"))


# Bad input ---------------------------------------------------------------------------------------

DRAWN = games_of([(("A", "B"), (0, 1)), (("A", "B"), (0, 0))])
SCORED = games_of([(("A", "B"), (2.5, 1)), (("A", "B"), (0, 0))], scores=True)
BAD: Mapping[str, tuple[Games, dict[str, Any], str]] = {
    "ties without draws": (DRAWN, {}, "game 2 of season is a draw, and the model has none"),
    "no scores": (DRAWN, {"outcome": "score"}, "season has no scores, which outcome 'score' observes"),
    "goals that are not whole": (SCORED, {"outcome": "goals"}, "game 1 of season has the score 2.5"),
    "no dates": (DRAWN, {"drift": "1y", "draws": True}, "season has no dates, which drift needs"),
    "no home": (DRAWN, {"home": True, "draws": True}, "season has no column 'home' of its sides"),
    "no unit": (DRAWN, {"drift": "soon"}, "drift 'soon' is no unit of time"),
    "margin of scores": (SCORED, {"outcome": "score", "margin": 1.0}, "draws and margins belong to results"),
    "margin without draws": (SCORED, {"margin": 1.0}, "ask for draws as well"),
    "unknown link": (DRAWN, {"link": "cauchit"}, "link 'cauchit' is not known; it is probit or"),
    "sd of drift at rest": (DRAWN, {"drift_sd": 1.0}, "drift_sd belongs to skills that drift"),
    "negative sd": (DRAWN, {"skill_sd": -1.0}, "skill_sd"),
}


@pytest.mark.parametrize("case", BAD)
def test_games_and_options_that_do_not_go_together_are_refused(case: str) -> None:
    games, options, words = BAD[case]
    with pytest.raises(InputError, match=words) as caught:
        Skills.from_data(games, **options)
    assert "\n" not in str(caught.value)


WRONG: Mapping[str, tuple[int, Callable[[Tensor], Tensor], str]] = {
    "a tie": (0, lambda x: torch.zeros_like(x), "the model has no draws"),
    "places that skip": (0, lambda x: 2 * x, "places are how many sides finished ahead"),
    "no outcome": (0, lambda x: x / 0.0, "the outcome of every side must be finite"),
    "unknown players": (1, lambda x: x + 5, "players are 0 to 2"),
    "itself": (1, lambda x: 0 * x, "a player plays in it twice"),
    "one side": (1, lambda x: torch.cat([x[:, :1], x[:, :1] * 0 - 1], 1), "fewer than two sides"),
    "no weight": (2, lambda x: 0 * x, "weights .* must be positive"),
    "another date": (3, lambda x: x + 0.5, "when one of its players has no game"),
    "a power of zero": (5, lambda x: 0 * x, "counts 0 times"),
    "shape": (3, lambda x: x[:-1], "time of 2 games must have shape"),
}


@pytest.mark.parametrize("case", WRONG)
def test_tensors_that_are_no_games_of_the_model_are_refused(case: str) -> None:
    place, change, words = WRONG[case]
    games = games_of([(("A", "B"), (0, 1)), (("B", "C"), (1, 0))], time=np.array([0.0, 1.0]))
    model, data = made(games, drift="1")
    changed = (*data[:place], change(data[place]), *data[place + 1 :])
    with pytest.raises(InputError, match=words) as caught:
        model.check_data(*changed)
    assert "\n" not in str(caught.value)


def test_units_of_time_are_read() -> None:
    found = [days_of(text) for text in ("1y", "6m", "2w", "30d", "3", "0.5y")]
    assert found == pytest.approx([365.25, 182.625, 14.0, 30.0, 3.0, 182.625])
    assert SkillsOptions(home=True, covariates="rest, home,age").columns == ("home", "rest", "age")
