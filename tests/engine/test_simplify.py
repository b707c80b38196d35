"""Graphs without what need not run give the program's numbers, whatever changes between calls."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ppl_vae.engine import simplify
from ppl_vae.engine.graph import Graph, trace
from ppl_vae.engine.simplify import FOLDED, quickened

Function = Callable[..., tuple[Tensor, ...]]
X = torch.tensor([0.5, -1.0, 2.0])


def written_into_zeros(x: Tensor) -> tuple[Tensor, ...]:
    room = torch.zeros(2, 3)
    room[1] = x
    return (room * 2,)


def added_to_ones(x: Tensor) -> tuple[Tensor, ...]:
    room = torch.ones(3) + 1
    room.add_(x)
    return (room * 3,)


def read_before_it_is_written(x: Tensor) -> tuple[Tensor, ...]:
    room = torch.zeros(3)
    before = room + x
    room.add_(1.0)
    return before, room * x


def read_through_a_view(x: Tensor) -> tuple[Tensor, ...]:
    room = torch.zeros(2, 3)
    row = room[0]
    before = row * x
    room.add_(torch.arange(3))
    return before, row * x, room.t() + 0 * x[0]


def written_through_a_view(x: Tensor) -> tuple[Tensor, ...]:
    room = torch.zeros(2, 3)
    low, high = room.unbind()
    low.copy_(x)
    return room + 1, high * x


def a_table_in_place(x: Tensor) -> tuple[Tensor, ...]:
    table = torch.zeros(3, 3)
    table[torch.arange(3), torch.arange(1, 4) % 3] = torch.tensor(4.0)
    return (table @ x,)


def parts_of_which_one_is_written(x: Tensor) -> tuple[Tensor, ...]:
    low, high = (torch.zeros(2, 3) + 1).unbind()
    high.mul_(x)
    return low * x, high + low


def in_place_in_the_gradient(x: Tensor) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        held = at.clamp(-0.7, 1.0).where(at > 0, at.exp()) * at.abs().clamp(min=0.1).log()
        (slope,) = torch.autograd.grad(held.sum(), at)
    return held.detach(), slope


def in_place_on_temporaries(x: Tensor) -> tuple[Tensor, ...]:
    mask = (x > 0).logical_and_(x < 1)
    return (x.exp().add_(x).mul_(x.neg()).masked_fill_(mask, 3.0),)


def in_place_of_another_type(x: Tensor) -> tuple[Tensor, ...]:
    return x.exp().add_(x.double()), x.neg().logical_and_(x > 0)


def in_place_and_looked_at_later(x: Tensor) -> tuple[Tensor, ...]:
    room = x.exp()
    part = room[:2]
    room.mul_(x)
    return part + 1, x.cos().add_(room)


def a_result_without_inputs(x: Tensor) -> tuple[Tensor, ...]:
    return torch.zeros(3) + 2, x


def a_literal_as_a_result(x: Tensor) -> tuple[Tensor, ...]:
    return torch.tensor(2.0), x * torch.tensor(2.0)


def one_result_twice(x: Tensor) -> tuple[Tensor, ...]:
    return x.exp(), x.exp()


PROGRAMS = (
    written_into_zeros, added_to_ones, read_before_it_is_written, read_through_a_view,
    written_through_a_view, a_table_in_place, in_place_in_the_gradient, in_place_on_temporaries,
    in_place_of_another_type, in_place_and_looked_at_later, parts_of_which_one_is_written,
    a_result_without_inputs, a_literal_as_a_result, one_result_twice,
)  # fmt: skip


def _names(graph: Graph) -> list[str]:
    return [str(node.target) for node in graph.module.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("function", PROGRAMS, ids=lambda f: f.__name__)
def test_every_call_gives_what_the_program_gives(function: Function) -> None:
    graph = trace(function, X)
    # Whoever gets a result may write to it.
    for x in (X, X + 1, X):
        for found, expected in zip(graph(x), function(x), strict=True):
            torch.testing.assert_close(found, expected, rtol=0.0, atol=0.0)
            found.add_(17.0)


@pytest.mark.parametrize(
    ("function", "left"),
    [(in_place_in_the_gradient, 0), (in_place_on_temporaries, 0), (in_place_of_another_type, 2),
     (in_place_and_looked_at_later, 1)],
)  # fmt: skip
def test_operations_in_place_go_where_nobody_looks_at_what_was_there(function: Function, left: int) -> None:
    in_place = [name for name in _names(trace(function, X)) if name.split(".")[1].endswith("_")]
    assert len(in_place) == left


def test_what_depends_on_no_input_is_kept() -> None:
    assert _names(trace(a_table_in_place, X)) == ["aten.mv.default"]
    x, weights = torch.randn(3), torch.arange(3.0) + 1

    def program(x: Tensor) -> tuple[Tensor, ...]:
        scale = torch.ones(3).expand(2, 3).log().exp() * torch.tensor(0.5)
        return ((x / scale * weights).sum(),)

    graph = trace(program, x)
    assert len(_names(graph)) == 3
    assert graph(x)[0] == program(x)[0]
    weights.mul_(2.0)  # what the program closes over is read, not kept
    assert graph(x)[0] == program(x)[0]


def test_an_array_of_the_program_s_owner_is_read_at_every_call() -> None:
    array = np.arange(3.0, dtype=np.float32)

    def program(x: Tensor) -> tuple[Tensor, ...]:
        return (x * (torch.as_tensor(array) + 1),)

    graph = trace(program, X)
    array += 5
    torch.testing.assert_close(graph(X), program(X))


def test_large_tensors_are_made_anew() -> None:
    graph = trace(lambda x: ((torch.arange(FOLDED + 1) + 1).sum() * x,), X)
    assert _names(graph)[0] == "aten.arange.default"
    assert max(tensor.numel() for tensor in graph.constants or (X,)) <= FOLDED
    assert graph(X)[0].tolist() == ((FOLDED + 1) * (FOLDED + 2) // 2 * X).tolist()


def test_what_is_there_twice_runs_once() -> None:
    def program(x: Tensor) -> tuple[Tensor, ...]:
        return ((x.exp() * (x.exp() + torch.pow(x, 2)) + torch.pow(x, 3)).sum(),)

    graph = trace(program, X)
    assert _names(graph).count("aten.exp.default") == 1
    assert _names(graph).count("aten.pow.Tensor_Scalar") == 2
    torch.testing.assert_close(graph(X), program(X))


def test_many_tensors_that_are_kept_stay_apart() -> None:
    """Their names in the graph are those of none that the program closes over."""
    closed = [torch.full((3,), float(number)) for number in range(4)]

    def program(x: Tensor) -> tuple[Tensor, ...]:
        for number, constant in enumerate(closed):
            x = x * torch.arange(1 + number, 4 + number) + constant
        return (x,)

    torch.testing.assert_close(trace(program, X)(X), program(X))


# Arguments by the rest of the name, and of operators that take others.
POSITIVE, MATRIX = torch.rand(3, 3) + 0.1, torch.randn(3, 3)
BY_OVERLOAD: dict[str, tuple[Any, ...]] = {
    "default": (POSITIVE,), "Tensor": (MATRIX, POSITIVE), "Scalar": (MATRIX, 0.5),
    "Tensor_Scalar": (POSITIVE, 1.5), "Tensor_Tensor": (POSITIVE, MATRIX), "dim": (MATRIX[:, None], 1),
    "self": (MATRIX > 0, MATRIX, POSITIVE), "dim_IntList": (MATRIX, [1], True),
}  # fmt: skip
BY_NAME: dict[str, tuple[Any, ...]] = {
    "maximum.default": (MATRIX, POSITIVE), "minimum.default": (MATRIX, POSITIVE),
    "clamp.default": (MATRIX, None, 0.3), "logical_and.default": (MATRIX > 0, POSITIVE > 0.5),
    "mm.default": (MATRIX, POSITIVE), "bmm.default": (MATRIX[None], POSITIVE[None]),
    "addmm.default": (MATRIX[0], MATRIX, POSITIVE), "permute.default": (MATRIX, [1, 0]),
    "transpose.int": (MATRIX, 0, 1), "unsqueeze.default": (MATRIX, -1), "select.int": (MATRIX, 0, 2),
    "logsumexp.default": (MATRIX, [0], True), "cumsum.default": (MATRIX, 1),
    "stack.default": ([MATRIX, POSITIVE], 1), "cat.default": ([MATRIX, POSITIVE], 1),
    "gather.default": (MATRIX, 1, torch.tensor([[0, 2], [1, 1], [2, 0]])),
    "index_select.default": (MATRIX, 1, torch.tensor([2, 0])), "diag_embed.default": (MATRIX, 1),
    "unbind.int": (MATRIX, 1), "view.default": (MATRIX, [9, 1]), "expand.default": (MATRIX, [2, -1, 3]),
}  # fmt: skip


@pytest.mark.parametrize("operator", simplify.SHORTEST, ids=str)
def test_the_shortest_way_gives_the_operator_s_numbers(operator: Any) -> None:
    name = str(operator).removeprefix("aten.")
    arguments = BY_NAME.get(name) or BY_OVERLOAD[name.partition(".")[2]]
    graph = torch.fx.Graph()
    graph.output(graph.call_function(operator, arguments and _held(graph, arguments)))
    module = torch.fx.GraphModule(_holder(arguments), graph)
    quick = quickened(module)
    assert str(operator) in module.code
    assert str(operator) not in quick.code
    torch.testing.assert_close(quick(), operator(*arguments), rtol=0.0, atol=0.0)


def _tensors(arguments: tuple[Any, ...]) -> list[Tensor]:
    flat = [a for argument in arguments for a in (argument if isinstance(argument, list) else [argument])]
    return [a for a in flat if isinstance(a, Tensor)]


def _holder(arguments: tuple[Any, ...]) -> torch.nn.Module:
    root = torch.nn.Module()
    for number, tensor in enumerate(_tensors(arguments)):
        root.register_buffer(f"given_{number}", tensor)
    return root


def _held(graph: torch.fx.Graph, arguments: tuple[Any, ...]) -> Any:
    nodes = iter([graph.get_attr(f"given_{number}") for number in range(len(_tensors(arguments)))])
    return torch.fx.node.map_aggregate(arguments, lambda a: next(nodes) if isinstance(a, Tensor) else a)
