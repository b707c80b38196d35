"""Objectives: Pyro's by name, and one of a user's, whose own terms belong to learning alone."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.guides import LinearNormal
from ppl_vae.inference import elbo, svi
from ppl_vae.inference.fitting import state as fitting_state
from ppl_vae.models import PPCA
from ppl_vae.program.pair import Pair

OPTIONS: dict[str, Any] = {"num_steps": 30, "batch_size": 5, "lr": 0.05, "kl_warmup": 9, "num_particles": 2}


def _fitted(engine: str, *, model: type[PPCA] = PPCA, **options: Any) -> tuple[svi.Fit, Pair, Tensor]:
    torch.manual_seed(1)
    x = torch.randn(12, 4, dtype=torch.float64)
    pair = Pair(model(4, 2), LinearNormal(4, 2, covariance="diagonal", dtype=torch.float64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting_state, "engine_of_fit", lambda *_: engine)
        found = svi.fit(pair, x, progress=False, **OPTIONS | options)
    return found, pair, x


@dataclass(frozen=True)
class Penalised:
    """The ELBO and a penalty on the squares of the loadings."""

    weight: float

    def value(
        self, problem: svi.Problem, index: Tensor | None, scale: Tensor | float, beta: Tensor | float
    ) -> Tensor:
        loss = svi.TraceELBO(2).value(problem, index, scale, beta)
        return loss + self.weight * problem.pair.model.loadings.square().sum()


@pytest.mark.parametrize("engine", ["pyro", "traced"])
def test_the_mean_field_objective_is_pyros(engine: str) -> None:
    loss = TraceMeanField_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1)
    expected, one, _ = _fitted(engine, loss=loss)
    found, two, _ = _fitted(engine, objective="mean-field")
    np.testing.assert_array_equal(found.elbo, expected.elbo)
    for name, value in one.state_dict().items():
        assert torch.equal(two.state_dict()[name], value)
    # The analytic KL gives another estimate of the same ELBO than the draws'.
    assert found.elbo[0] != _fitted(engine)[0].elbo[0]


def test_an_objective_of_ones_own_is_traced_and_gives_the_numbers_of_stock_steps() -> None:
    (one, first, _), (two, second, _) = (_fitted(e, objective=Penalised(0.7)) for e in ("pyro", "traced"))
    assert (one.engine, two.engine) == ("pyro", "traced")
    np.testing.assert_allclose(two.elbo, one.elbo, rtol=1e-9)
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, rtol=1e-8, atol=1e-10)
    # Without its penalty it is the ELBO, minibatches and warm-up included.
    np.testing.assert_allclose(_fitted("traced", objective=Penalised(0.0))[0].elbo, _fitted("traced")[0].elbo)


@pytest.mark.parametrize("engine", ["pyro", "traced"])
def test_what_belongs_to_learning_alone_is_left_out_of_what_is_reported(engine: str) -> None:
    plain, _, _ = _fitted(engine, lr=1e-12)
    found, pair, x = _fitted(engine, lr=1e-12, objective=Penalised(3.0))
    penalty = 3.0 * pair.model.loadings.square().sum().item()
    np.testing.assert_allclose(plain.elbo - found.elbo, penalty, rtol=1e-6)
    assert found.final.value == pytest.approx(plain.final.value, rel=1e-9)
    assert found.final == elbo(pair, x, num_particles=found.final.num_particles)


def test_a_penalty_shrinks_what_it_penalises() -> None:
    options = {"num_steps": 300, "batch_size": None, "kl_warmup": 0}
    sizes = []
    for weight in (0.0, 100.0):
        _, pair, _ = _fitted("traced", objective=Penalised(weight), **options)
        sizes.append(pair.model.loadings.square().sum().item())
    # The data's sd is 1, so that the likelihood gains less than a nat a datum by loadings of size 0.1.
    assert sizes[1] < 0.1 < sizes[0]


class Learner(PPCA):
    """PPCA that is learnt with a penalty of its own."""

    def objective(self, usual: svi.Objective) -> svi.Objective:
        assert isinstance(usual, svi.TraceELBO)
        return Penalised(0.7)


@pytest.mark.parametrize("engine", ["pyro", "traced"])
def test_a_model_brings_what_belongs_to_its_learning(engine: str) -> None:
    """It is taken where the model is learnt, and not where the guide alone is."""
    expected, one, _ = _fitted(engine, objective=Penalised(0.7))
    found, two, _ = _fitted(engine, model=Learner)
    np.testing.assert_array_equal(found.elbo, expected.elbo)
    for name, value in one.state_dict().items():
        assert torch.equal(two.state_dict()[name], value)
    held, plain = (_fitted(engine, model=kind, train="guide")[0].elbo for kind in (Learner, PPCA))
    np.testing.assert_array_equal(held, plain)


def test_an_objective_that_cannot_be_traced_runs_through_stock_pyro_and_says_so() -> None:
    class Read(Penalised):
        def value(self, *given: Any) -> Tensor:
            loss = super().value(*given)
            return loss * (2.0 if loss.item() > 1e300 else 1.0)

    with pytest.warns(RuntimeWarning, match="this fit runs through stock Pyro, uncompiled"):
        found, _, _ = _fitted("traced", objective=Read(0.5))
    assert found.engine == "pyro"
    np.testing.assert_array_equal(found.elbo, _fitted("pyro", objective=Penalised(0.5))[0].elbo)


def test_what_is_no_objective_is_refused() -> None:
    class Many(Penalised):
        def value(self, *given: Any) -> Tensor:
            return super().value(*given) * torch.ones(3)

    with pytest.raises(InputError, match=re.escape("value is of shape (3,); it must be a tensor of one")):
        _fitted("pyro", objective=Many(0.0))
    with pytest.raises(InputError, match="it is 'elbo', 'mean-field' or 'iwae', or an object"):
        _fitted("pyro", objective=3)
    with pytest.raises(InputError, match="loss and objective='mean-field' exclude each other"):
        _fitted("pyro", objective="mean-field", loss=TraceMeanField_ELBO())


def test_mean_field_refuses_latents_that_are_to_be_summed_out() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[i])

    def guide(x: Tensor) -> None:
        pyro.param("unused", torch.tensor(0.0))

    with pytest.raises(InputError, match="does not sum out discrete latents, and z is one"):
        svi.fit(Pair(model, guide), torch.zeros(4), num_steps=2, objective="mean-field", progress=False)
