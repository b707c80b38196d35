"""A problem: some of its units are those units, however they are asked for."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import seeded
from ppl_vae.program.layout import Layout
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem

INDEX = torch.tensor([7, 0, 12])


@pytest.fixture
def whole(conjugate: Any, x: Tensor) -> Problem:
    return Problem.of(Pair(conjugate.model, conjugate.guide), x.clone())


def test_rows_and_a_data_set_of_these_rows_have_the_densities_of_the_whole(whole: Problem) -> None:
    """Units are independent: with the data or the index cut, log p and log q of a unit's z stay."""
    with seeded(3):
        drawn = whole.terms(5)
    z = {"z": drawn.draws["z"][:, INDEX]}
    some = whole.rows(INDEX)
    alone = Problem.of(whole.pair, *some.cut())
    assert (whole.num_units, some.num_units, alone.num_units) == (40, 3, 3)
    for found in (some.terms(5, latents=z), alone.terms(5, latents=z)):
        torch.testing.assert_close(found.log_p, drawn.log_p[:, INDEX])
        torch.testing.assert_close(found.log_q, drawn.log_q[:, INDEX])
    assert some.rows(None).units.tolist() == list(range(40))


def test_a_problem_is_read_once_for_the_same_data(whole: Problem) -> None:
    assert Problem.of(whole.pair, *whole.data).layout is whole.layout
    copied = tuple(values.clone() for values in whole.data)
    assert Problem.of(whole.pair, *copied).layout is not whole.layout
    whole.data[0].add_(1.0)  # changed in place, they are other data
    assert Problem.of(whole.pair, *whole.data).layout is not whole.layout


def test_blocks_add_up_within_their_budget_and_are_of_one_where_no_more_go_together(
    whole: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Layout, "particles_per_chunk", lambda self, units, budget=0: budget // units)
    assert whole.blocks(25, budget=400) == [10, 10, 5]
    assert whole.rows(INDEX).blocks(25, budget=30) == [10, 10, 5]

    def model(x: Tensor) -> None:
        theta = pyro.sample("theta", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)):  # indexed from the left, it takes one draw at a time
            pyro.sample("x", dist.Normal(theta[0], theta[1].exp()), obs=x)

    assert Problem.of(Pair(model, AutoNormal(model)), torch.randn(6)).blocks(3) == [1, 1, 1]


def test_units_that_nothing_holds_cannot_be_taken() -> None:
    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0).expand([4]).to_event(1), obs=x)

    problem = Problem.of(Pair(model, AutoNormal(model)), torch.zeros(4)).rows(torch.tensor([0]))
    with pytest.raises(InputError, match="no plate of units that it indexes"):
        problem.terms()
    with pytest.raises(InputError, match="no data tensor has them as its first dimension, here 1"):
        problem.cut()
