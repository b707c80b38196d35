"""Small work runs on one thread whatever is set, large work on all; the setting comes back."""

from collections.abc import Iterator

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from ppl_vae import Pair
from ppl_vae.base.threads import one_thread
from ppl_vae.inference import nuts, svi
from ppl_vae.inference.fitting import state as fitting_state

Y = torch.linspace(-1.0, 1.0, 6)


@pytest.fixture(autouse=True)
def two() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Counted:
    """A model that notes how many threads it ran on."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, y: Tensor) -> None:
        self.seen.append(torch.get_num_threads())
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def _steps(model: Counted) -> None:
    svi.fit(Pair(model, AutoNormal(model)), Y, num_steps=4, compile=False, progress=False)


def _chains(sampler: str) -> object:
    def sample(model: Counted) -> None:
        nuts.sample(model, Y, num_draws=4, warmup=2, chains=2, sampler=sampler, compile=False, progress=False)

    return sample


WORK = [
    pytest.param(_steps, id="SVI"),
    pytest.param(_chains("nutpie"), id="chains"),
    pytest.param(_chains("pyro"), id="Pyro"),
]


@pytest.mark.parametrize("work", WORK)
def test_small_work_runs_on_one_thread(work) -> None:
    model = Counted()
    work(model)
    assert model.seen[-1] == 1
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("limit", "threads"), [(1, 2), (5, 2), (10**6, 1)])
def test_the_size_of_a_step_decides(limit: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of six data and two parameters is more than five multiplications, and less than a million."""
    monkeypatch.setattr(fitting_state, "SMALL_WORK", limit)
    model = Counted()
    _steps(model)
    assert threads in model.seen
    assert (1 in model.seen) == (threads == 1)


@pytest.mark.parametrize("use", [True, False])
def test_the_setting_comes_back_after_an_error(use: bool) -> None:
    def work() -> None:
        with one_thread(use):
            assert torch.get_num_threads() == (1 if use else 2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert torch.get_num_threads() == 2
