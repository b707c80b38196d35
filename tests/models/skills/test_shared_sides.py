"""What several sides of a game have in common, such as a car."""

import pytest
import torch
from pyro import poutine

from ppl_vae.base.errors import InputError
from ppl_vae.data import read_games
from ppl_vae.models import Skills


def test_what_all_sides_have_in_common_decides_nothing(tmp_path) -> None:
    path = tmp_path / "g.csv"
    path.write_text(
        "game,player,place,car\n1,a,1,ford\n1,b,3,ford\n1,c,2,ford\n2,a,2,ford\n2,c,3,fiat\n2,b,1,fiat\n"
    )
    games = read_games(path, quiet=True, shared="car")
    data = games.tensors(torch.float64)
    model = Skills.from_data(games)
    model.check_data(*data)
    skill = torch.linspace(-1, 1, games.num_players, dtype=torch.float64)
    moved = skill.clone()
    moved[games.players.index("ford")] += 1.5

    def log_probs(values: torch.Tensor) -> torch.Tensor:
        trace = poutine.trace(poutine.condition(model, {"skill": values})).get_trace(*data)
        node = trace.nodes["outcome"]
        return node["fn"].log_prob(node["value"])

    before, after = log_probs(skill), log_probs(moved)
    assert float(before[0]) == pytest.approx(float(after[0]), rel=1e-9)
    assert abs(float(before[1] - after[1])) > 0.1
    twice = data[1].clone()
    twice[0, 0, 1] = twice[0, 0, 0]
    with pytest.raises(InputError, match=r"game 0 is .*: a player plays in it twice"):
        model.check_data(data[0], twice, *data[2:])
