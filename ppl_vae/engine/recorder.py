"""Record the tensor operations of a function, without PyTorch's compiler being imported.

``make_fx`` records the same operations, but imports ``torch._inductor`` for it, which takes as long as a
small fit, and spends ten times as long on each operation. This is the part of it that static programs need:
a dispatch mode sees every operation below autograd, those of the backward pass included, and writes it
down. What it does not know it refuses, and `graph.trace` asks ``make_fx``.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from ppl_vae.base.clock import check_time

__all__ = ["Like", "Unrecordable", "record"]

aten = torch.ops.aten


class Unrecordable(Exception):
    """An operation that is not known here."""


@dataclass(frozen=True)
class Like:
    """What is known of the result of a random operation."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


def record(
    function: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor],
    decompositions: Mapping[Any, Callable[..., Any]],
) -> GraphModule:
    """The operations of one run of a function of tensors.

    Args:
        function: takes the inputs, or reads the very same tensor objects by closure. It runs for real.
        inputs: become the graph's placeholders, in order. Other tensors become attributes of its module.
        decompositions: operations that are written out by others; a function that gives NotImplemented
            leaves its operation as it is.

    Returns:
        The operations, to be changed and made a ``GraphModule`` of, which can run.

    Raises:
        Unrecordable: if a value is read out of a tensor that is no constant, or for tensors of other classes.
    """
    mode = _Recorder(inputs, decompositions)
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)  # casts of an earlier run would be taken for constants
    try:
        with mode:
            outputs = tuple(function(*inputs))
    finally:
        torch.set_autocast_cache_enabled(cached)
    mode.graph.output(tuple(mode.node_of(tensor) for tensor in outputs))
    return _Unwritten(mode.root, mode.graph)


class _Unwritten(GraphModule):
    """A graph that will be changed: its Python, half of what recording costs, is not written yet."""

    def recompile(self) -> Any:
        """Nothing: a ``GraphModule`` made of this one has the Python."""


class _Recorder(TorchDispatchMode):
    """Writes down every operation, and runs it."""

    def __init__(self, inputs: Sequence[Tensor], decompositions: Mapping[Any, Callable[..., Any]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph, self.root, self.decompositions = Graph(), nn.Module(), decompositions
        # Weakly: a view whose only owner is autograd is not copied once more.
        self.nodes, self.fixed = WeakTensorKeyDictionary(), WeakTensorKeyDictionary()
        self.constants: list[Tensor] = []
        for number, tensor in enumerate(inputs):
            self.nodes[tensor] = self.graph.placeholder(f"arg_{number}")
            self.nodes[tensor].meta["dtype"] = tensor.dtype

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the mode's first call would import torch._dynamo to keep it out

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        check_time()
        kwargs = kwargs or {}
        if func in self.decompositions:
            with self:
                written = self.decompositions[func](*args, **kwargs)
            if written is not NotImplemented:
                return written
        tensors: list[Tensor] = []
        map_aggregate((args, kwargs), lambda a: tensors.append(a) if isinstance(a, Tensor) else None)
        fixed = bool(tensors) and all(tensor in self.fixed for tensor in tensors)
        if torch.Tag.data_dependent_output in func.tags:
            if not fixed:
                raise Unrecordable(f"{func} reads a value out of a tensor")
            return func(*args, **kwargs)
        target = aten.lift_fresh_copy.default if func is aten.lift_fresh.default else func
        placed: Any = map_aggregate((args, kwargs), self._placed)
        node = self.graph.call_function(target, placed[0], dict(placed[1]))
        out = func(*args, **kwargs)
        random = torch.Tag.nondeterministic_seeded in func.tags
        if random and isinstance(out, Tensor):
            node.meta["val"] = Like(out.shape, out.dtype, out.device)
        self._track(out, node, func is aten.lift_fresh.default or (fixed and not random))
        return out

    def node_of(self, tensor: Tensor) -> Node:
        """The node of a tensor; of one that was there before, an attribute of the module."""
        found = self.nodes.get(tensor)
        if found is None:
            if type(tensor) not in (Tensor, nn.Parameter):
                raise Unrecordable(f"a tensor of class {type(tensor).__name__}")
            name = f"constant_{len(self.constants)}"
            self.constants.append(tensor)  # kept alive: its place in memory is its name
            setattr(self.root, name, tensor)
            found = self.nodes[tensor] = self.graph.get_attr(name)
            found.meta["dtype"] = tensor.dtype
        return found

    def _placed(self, value: Any) -> Any:
        return self.node_of(value) if isinstance(value, Tensor) else value

    def _track(self, out: Any, node: Node, fixed: bool) -> None:
        if isinstance(out, Tensor):
            self.nodes[out] = node
            node.meta["dtype"] = out.dtype
            if fixed and out.numel() == 1:
                self.fixed[out] = True
        elif isinstance(out, tuple | list):
            for number, part in enumerate(out):
                if isinstance(part, Tensor):
                    self._track(part, self.graph.call_function(operator.getitem, (node, number)), fixed)
        elif out is not None:
            raise Unrecordable(f"{node.target} gives {type(out).__name__}")
