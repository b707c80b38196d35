"""Our recorder of operations against PyTorch's."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ppl_vae.engine import recorder
from ppl_vae.engine.decompositions import DECOMPOSITIONS
from ppl_vae.engine.graph import Graph, Untraceable, trace

CONSTANT = torch.tensor([0.5, 2.0, 3.0])
Function = Callable[..., tuple[Tensor, ...]]


def gradient(x: Tensor) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        loss = (torch.special.log_ndtr(at).sum() + (at.exp() * CONSTANT).prod() + at[0] * at.mean()).tanh()
        (slope,) = torch.autograd.grad(loss, at)
    return loss.detach(), slope


def in_place(x: Tensor) -> tuple[Tensor, ...]:
    room = torch.zeros(2, 3)
    row = room[1]
    before = row.detach()
    row.copy_(x)
    room.mul_(2.0)
    return room, before + 1


def cholesky(x: Tensor) -> tuple[Tensor, ...]:
    matrix = torch.outer(x, x) + 4 * torch.eye(3)
    factor = torch.linalg.cholesky(matrix)
    return factor, torch.linalg.solve_triangular(factor, x[:, None], upper=False)


def random(x: Tensor) -> tuple[Tensor, ...]:
    noise = torch.randn(3)
    return (x + noise * torch.rand_like(x), torch.empty(2).normal_())


def known_number(x: Tensor) -> tuple[Tensor, ...]:
    power = torch.tensor(3.0)
    return (x ** (power + 1).item(),)


def several(x: Tensor) -> tuple[Tensor, ...]:
    values, order = x.sort()
    low, high = torch.stack([values, x]).unbind()
    return low * 2, high, order, CONSTANT


PROGRAMS = (gradient, in_place, cholesky, random, known_number, several)


@pytest.fixture
def by_pytorch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Graph]:
    """`trace` as it is where our recorder cannot be had."""

    def traced(function: Function, *inputs: Tensor) -> Graph:
        with monkeypatch.context() as patch:
            patch.setattr(recorder, "record", _gone)
            return trace(function, *inputs)

    return traced


def _gone(*_: object) -> None:
    raise ImportError("this version of PyTorch has no such mode")


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_recorded_and_traced_graphs_give_the_program_s_numbers(
    program: Function, by_pytorch: Callable[..., Graph]
) -> None:
    start = torch.tensor([0.3, -1.2, 0.7])
    ours, theirs = recorder.record(program, [start], DECOMPOSITIONS), by_pytorch(program, start)
    assert ours is not None
    recorded = trace(program, start)
    for seed, at in enumerate((start, torch.tensor([-2.0, 0.1, 1.5]))):
        found = []
        for run in (program, recorded, theirs):
            torch.manual_seed(seed)
            found.append(run(at))
        for expected, a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, expected)
            torch.testing.assert_close(b, expected)


@pytest.mark.parametrize(
    "program",
    [
        lambda x: (x * x.sum().item(),),
        lambda x: (x if x[0] > 0 else -x,),
        lambda x: (x * float(torch.randn(1)),),
    ],
)
def test_numbers_read_out_of_tensors_are_refused(program: Function) -> None:
    with pytest.raises(Untraceable, match="value"):
        trace(program, torch.ones(3))


def test_constants_are_kept_by_reference() -> None:
    held = torch.ones(3)
    graph = trace(lambda x: (x * held,), torch.ones(3))
    held.fill_(5.0)
    torch.testing.assert_close(graph(torch.ones(3))[0], held)
