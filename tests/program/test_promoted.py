"""Programs that close over float32 tensors, in float64."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor

from ppl_vae import Pair
from ppl_vae.base.errors import InputError
from ppl_vae.engine.density import density
from ppl_vae.engine.gradients import gradient
from ppl_vae.guides import Prior
from ppl_vae.inference import nuts

X = torch.tensor([[0.5, -1.0], [1.5, 0.25], [-0.75, 1.0], [1.0, 1.0]])
Y = torch.tensor([0.3, 1.1, -0.2, 1.4])


def _regression(mean: Callable[[Tensor], Tensor]) -> Callable[..., None]:
    def model(y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        with pyro.plate("data", 4):
            pyro.sample("y", dist.Normal(mean(w), 0.5), obs=y)

    return model


class Holding(PyroModule):
    """A module whose tensor is no buffer, so that ``.to(dtype)`` leaves it."""

    def __init__(self) -> None:
        super().__init__()
        self.x = [X]

    def forward(self, y: Tensor) -> None:
        _regression(lambda w: w @ self.x[0].T)(y)


PROGRAMS = [
    pytest.param(_regression(lambda w: w @ X.T), id="a global design matrix"),
    pytest.param(_regression(lambda w: torch.einsum("nk,k->n", X, w)), id="in an einsum"),
    pytest.param(_regression(lambda w: torch.nn.functional.linear(w, X, bias=Y * 0)), id="in a layer"),
    pytest.param(Holding(), id="in a module"),
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_float32_tensors_that_a_program_closes_over_are_taken(program: Any) -> None:
    """Normal: the exact posterior's mean is the oracle, within five Monte Carlo errors."""
    draws = nuts.sample(program, Y, num_draws=100, warmup=60, chains=2, progress=False)
    precision = torch.eye(2).double() + X.double().T @ X.double() / 0.25
    exact, covariance = torch.linalg.solve(precision, X.double().T @ Y.double() / 0.25), precision.inverse()
    found = torch.from_numpy(draws.draws["w"].mean(("chain", "draw")).to_numpy())
    ess = draws.summary()["ess_bulk"].min()
    assert draws.draws["w"].dtype == "float64"
    assert ((found - exact).abs() < 5 * (covariance.diagonal() / ess).sqrt()).all()


@pytest.mark.parametrize("program", PROGRAMS)
def test_stock_pyro_and_the_graph_take_them_alike(program: Any) -> None:
    with nuts.default_dtype(torch.float64), pyro.validation_enabled(False):
        pair = Pair(program, program).cast_model(torch.float64, Prior)
        target = density(pair, Y.double())
        position = torch.tensor([0.3, -0.8], dtype=torch.float64)
        value, slope = gradient(target, "traced")(position)
        expected, slope_expected = target.value_and_gradient(position)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(slope, slope_expected)


def _written_into(w: Tensor) -> Tensor:
    room = torch.zeros(4, dtype=torch.float32)
    room[torch.arange(4)] = X.to(w) @ w
    return room


def test_what_would_be_written_into_a_copy_is_refused_in_a_sentence() -> None:
    with pytest.raises(InputError, match=r"does not run in torch\.float64.*precision of its data"):
        nuts.sample(_regression(_written_into), Y, num_draws=5, warmup=5, chains=2, progress=False)
