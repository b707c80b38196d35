"""The loop of a fit: its steps one by one, what looks at them, and what is kept of both."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ppl_vae.base.clock import OutOfTime, deadline
from ppl_vae.base.errors import InputError
from ppl_vae.inference import elbo, svi
from ppl_vae.models import PPCA
from ppl_vae.program.pair import Pair

OPTIONS: dict[str, Any] = {"num_steps": 60, "batch_size": 7, "lr": 0.05, "kl_warmup": 9, "seed": 3}


def _ppca(seed: int = 0) -> tuple[Pair, Tensor]:
    torch.manual_seed(seed)
    x = torch.randn(30, 4, dtype=torch.float64)
    model = PPCA(4, 2)
    return Pair(model, PPCA.guides["linear"](model, x)), x


def _fitted(**options: Any) -> tuple[svi.Fit, dict[str, Tensor]]:
    pair, x = _ppca()
    found = svi.fit(pair, x, progress=False, **OPTIONS | options)
    return found, pair.state_dict()


def _equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


# Steps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_steps", [60, 110], ids=["stock Pyro", "a graph"])
def test_steps_of_ones_own_are_those_of_a_fit_whatever_is_drawn_between_them(num_steps: int) -> None:
    fitted, expected = _fitted(num_steps=num_steps)
    pair, x = _ppca()
    before = torch.get_rng_state()
    state = svi.init(pair, x, **OPTIONS | {"num_steps": num_steps})
    losses = [svi.step(state), svi.step(state, 4)]
    assert torch.equal(torch.get_rng_state(), before)
    while state.step < num_steps:
        torch.rand(3)
        losses.append(svi.step(state, 5))
    np.testing.assert_array_equal(-np.concatenate(losses), fitted.elbo)
    np.testing.assert_array_equal(state.elbo, fitted.elbo)
    _equal(pair.state_dict(), expected)
    with pytest.raises(InputError, match=f"step {num_steps + 1} is past the num_steps={num_steps}"):
        svi.step(state)
    assert state.stepper.engine == fitted.engine == ("pyro" if num_steps < 100 else "traced")


@pytest.mark.parametrize("num_steps", [60, 110], ids=["stock Pyro", "a graph"])
@pytest.mark.parametrize("at", [0, 13])
def test_a_state_goes_back_to_where_it_was_and_on_in_another(num_steps: int, at: int) -> None:
    options = OPTIONS | {"num_steps": num_steps}
    pair, x = _ppca()
    state = svi.init(pair, x, refresh=lambda epoch: (x + 0.1 * epoch,), **options)
    if at:
        svi.step(state, at)
    kept = {name: value.clone() for name, value in state.tensors().items()}
    losses, reached = svi.step(state, 20), pair.state_dict()
    state.load(kept)
    assert state.step == at
    np.testing.assert_array_equal(svi.step(state, 20), losses)
    _equal(pair.state_dict(), reached)
    other, _ = _ppca(seed=5)
    fresh = svi.init(other, x, refresh=lambda epoch: (x + 0.1 * epoch,), **options)
    fresh.load(kept)
    np.testing.assert_array_equal(svi.step(fresh, 20), losses)
    _equal(other.state_dict(), reached)


def test_a_rate_of_ones_own_is_asked_when_its_step_comes() -> None:
    pair, x = _ppca()
    asked = []
    rates = {"now": 0.0}

    def rate(at: int) -> float:
        asked.append(at)
        return rates["now"]

    state = svi.init(pair, x, rate=rate, **OPTIONS)
    start = pair.state_dict()
    svi.step(state, 3)
    _equal(pair.state_dict(), start)
    rates["now"] = 0.1
    svi.step(state)
    # Adam's steps are at most the rate long, but for its bias corrections: (1 − β₁) / √(1 − β₂) of them.
    moved = torch.cat([(value - start[name]).abs().ravel() for name, value in pair.state_dict().items()])
    assert 0 < moved.max() <= 0.1 * 0.1 / 0.001**0.5
    assert asked == [0, 1, 2, 3]


# Observers ----------------------------------------------------------------------------------------


class Nosy:
    """Draws, estimates, looks at odd steps, and remembers how often."""

    name = "nosy"

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.drawn: list[float] = []
        self.ends: list[int] = []

    def after(self, step: int) -> int:
        return step + 1 + step % 3 if step < 60 else step + 50 - step % 50

    def look(self, state: svi.State) -> None:
        self.seen.append(state.step)
        self.drawn.append(torch.rand(()).item())
        elbo(state.pair, *state.data, num_particles=2, seed=1)

    def finish(self, state: svi.State) -> None:
        self.ends.append(state.step)

    def tensors(self) -> dict[str, Tensor]:
        return {"seen": torch.tensor(self.seen)}

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.seen = tensors["seen"].tolist()


@pytest.mark.parametrize(
    "options", [{}, {"num_steps": 110, "average": 0.3}, {"num_steps": 450, "stop": True}]
)
def test_a_fit_is_the_same_with_and_without_observers(options: dict[str, Any], tmp_path: Path) -> None:
    plain, expected = _fitted(**options)
    nosy = Nosy()
    found, parameters = _fitted(
        observers=[nosy, svi.Log(tmp_path / "log.csv", every=20), svi.Callback(lambda state: None, every=9)],
        checkpoint=tmp_path / "checkpoint", checkpoint_every=17, **options,
    )  # fmt: skip
    _equal(parameters, expected)
    np.testing.assert_array_equal(found.elbo, plain.elbo)
    assert (found.reason, found.final) == (plain.reason, plain.final)
    assert nosy.ends == [found.steps]
    assert len(set(nosy.drawn)) == len(nosy.drawn)
    assert nosy.seen[:4] == [1, 3, 4, 6]
    rows = np.loadtxt(tmp_path / "log.csv", delimiter=",", skiprows=1)
    np.testing.assert_array_equal(rows[:, 0], 20 * np.arange(1, found.steps // 20 + 1))
    np.testing.assert_allclose(rows[1, 1], found.elbo[20:40].mean(), rtol=1e-14)


@pytest.mark.parametrize("options", [{}, {"num_steps": 400, "stop": True}])
def test_an_observer_may_end_a_fit(options: dict[str, Any]) -> None:
    end = svi.Callback(lambda state: state.step >= 40, every=10)
    _, x = _ppca()
    found, _ = _fitted(observers=[end], held_out=(x[:9],), check_every=35, **options)
    assert found.steps == 40
    assert len(found.elbo) == 40
    assert found.held_out[:, 0].tolist() == [35, 40]
    assert "an observer ended the fit after 40 steps" in found.reason
    assert found.converged is (False if options else None)


class _Killed(Exception):
    pass


def _kill(state: svi.State) -> None:
    if state.step == 41:
        raise _Killed


def test_what_observers_keep_is_resumed_with_the_fit(tmp_path: Path) -> None:
    whole, nosy = _fitted(observers=[Nosy()], checkpoint=tmp_path / "whole"), Nosy()
    options = {"checkpoint": tmp_path / "killed", "checkpoint_every": 12}
    with pytest.raises(_Killed):
        _fitted(observers=[Nosy(), svi.Callback(_kill, every=41)], **options)
    resumed = _fitted(observers=[nosy], resume=True, **options)
    np.testing.assert_array_equal(resumed[0].elbo, whole[0].elbo)
    _equal(resumed[1], whole[1])
    # The steps from 36 on are looked at in this process, those before it were read.
    assert nosy.seen[:3] == [1, 3, 4]
    assert nosy.seen[-1] >= 58
    assert len(nosy.drawn) < len(nosy.seen)
    np.testing.assert_array_equal(np.unique(nosy.seen), nosy.seen)
    # An observer that the saved fit did not have begins anew.
    assert _fitted(observers=[], resume=True, **options)[0].steps == 60


def test_observers_that_cannot_work_are_refused(tmp_path: Path) -> None:
    class Stuck(Nosy):
        def after(self, step: int) -> int:
            return 20

    with pytest.raises(InputError, match=r"after\(20\) is 20; it must be at least 21"):
        _fitted(observers=[Stuck()])
    with pytest.raises(InputError, match="two observers are named 'nosy'"):
        _fitted(observers=[Nosy(), Nosy()], checkpoint=tmp_path)
    with pytest.raises(InputError, match="every is 0"):
        svi.Callback(_kill, every=0)


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("ppl_vae.inference.fitting.checkpoint.FORMAT", "1")
        _fitted(checkpoint=tmp_path)
    with pytest.raises(InputError, match="is of another version: fit from the start"):
        _fitted(checkpoint=tmp_path, resume=True)


def test_a_wrong_option_is_the_usual_type_error() -> None:
    pair, x = _ppca()
    with pytest.raises(TypeError, match="unexpected keyword argument 'steps'"):
        svi.fit(pair, x, steps=3)  # type: ignore[call-arg]


def test_steps_of_ones_own_end_at_a_deadline() -> None:
    pair, x = _ppca()
    state = svi.init(pair, x, **OPTIONS)
    with pytest.raises(OutOfTime), deadline(0.0):
        svi.step(state, 10)
    assert state.step == 0
    assert len(svi.step(state, 10)) == 10
