"""Evaluation and learning: whatever a program does to reach its modules, their modes come back."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from ppl_vae.program.modes import evaluation, learning
from ppl_vae.program.pair import Pair
from ppl_vae.program.terms import layout


class _Part(nn.Module):
    """Says whether it is in training mode, however it is reached."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> bool:
        return self.training or self.inner.training

    def method(self, x: Tensor) -> bool:
        return self.forward(x)


X = torch.zeros(3)


def test_a_module_is_evaluated_when_it_is_called_and_learns_again_after() -> None:
    part = _Part()
    with evaluation():
        assert not part(X)
    assert part(X)


@pytest.mark.parametrize("wrap", [lambda part: part.method, lambda part: partial(part.method)])
def test_a_program_that_is_a_method_has_its_module_evaluated(wrap: object) -> None:
    part = _Part()
    assert callable(wrap)
    program = wrap(part)
    with evaluation(program):
        assert not program(X)
    assert part.training
    assert part.inner.training


def test_what_its_owner_put_into_evaluation_stays_there() -> None:
    part = _Part()
    part.inner.eval()
    with evaluation():
        part(X)
    assert part.training
    assert not part.inner.training


def test_modes_come_back_after_an_exception() -> None:
    part = _Part()

    def fails() -> None:
        assert not part(X)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), evaluation():
        fails()
    assert part.training
    with pytest.raises(AssertionError), evaluation(), learning():
        fails()
    assert part(X)


def test_evaluations_nest() -> None:
    part = _Part()
    with evaluation():
        with evaluation():
            assert not part(X)
        assert not part(X)
    assert part.training
    with evaluation():
        assert not part(X)
        with evaluation():
            pass
        assert not part.training
    assert part.training


def test_learning_inside_an_evaluation_learns_and_the_evaluation_goes_on() -> None:
    part = _Part()
    with evaluation():
        assert not part(X)
        with learning():
            assert part(X)
            with evaluation():
                assert not part(X)
            assert part(X)
        assert not part(X)
    assert part(X)


def _pair(network: nn.Module) -> Pair:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(network(z), 1.0).to_event(1), obs=x[i])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    return Pair(model, guide)


def test_a_pair_keeps_the_buffers_of_networks_that_its_programs_only_call() -> None:
    x = torch.randn(8, 2)
    networks = [nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(2)]
    first, second = (_pair(network) for network in networks)
    layout(first, x)
    layout(second, x)
    with torch.no_grad():
        networks[0][1].running_mean.fill_(3.0)
    second.load_state_dict(first.state_dict())
    assert torch.equal(networks[1][1].running_mean, torch.full((2,), 3.0))


def test_a_fit_of_the_guide_alone_only_evaluates_the_model() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    pair = _pair(network)
    layout(pair, torch.randn(8, 2))
    with pair.holding("guide"), pair.learning():
        assert not network.training
        assert not network[1].training
    with pair.holding("both"), pair.learning():
        assert network.training
    assert network.training
