"""Trace a static Pyro program once into a graph of tensor operations.

A Pyro program costs hundreds of microseconds of Python per evaluation, its arithmetic tens. `trace`
runs a function of such a program once and records every tensor operation, those of the backward pass
included, and gives back a pure function: parameters, data, indices and weights
are its inputs, every random number that the program draws becomes an input too, and so do all other
tensors that the program closes over. Pyro is not involved in running it.

A graph freezes shapes and control flow. Reading a number out of a tensor while tracing is refused, and
`check_graph` compares the graph with the program at random points; what cannot be traced raises
`Untraceable`, and the caller runs the program itself.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ppl_vae.base.clock import no_deadline
from ppl_vae.base.errors import InputError
from ppl_vae.base.fallback import Untraceable
from ppl_vae.base.seeds import keep_generator, seeded
from ppl_vae.engine.decompositions import DECOMPOSITIONS
from ppl_vae.engine.simplify import drop_copies, fold, functional, is_view, quickened, share
from ppl_vae.engine.torch_internals import make_fx, operator_name, schema

__all__ = [
    "Compile",
    "Graph",
    "Noise",
    "Untraceable",
    "check_compile",
    "check_graph",
    "operations",
    "trace",
    "vmap_graph",
]

Compile = Literal["auto", "on", "off", True, False]
Outputs = tuple[Tensor, ...]


def check_compile(value: Any) -> Literal["auto", "on", "off"]:
    """Whether to compile, in one word; True means "on" and False "off".

    Raises:
        InputError: for anything else.
    """
    if value is True or value == "on":
        return "on"
    if value is False or value == "off":
        return "off"
    if value == "auto":
        return "auto"
    raise InputError(f"compile={value!r} is not known; it is 'auto', 'on' or 'off' (or True or False)")


@dataclass(frozen=True)
class Noise:
    """One random operation of a program: how to draw it outside the graph.

    Attributes:
        operator: the operation, in place on an empty tensor (``normal_``) or a factory (``randperm``).
        arguments: its arguments, without the tensor that is filled.
        options: its keyword arguments.
        shape, dtype, device: of the result.
        in_place: which of the two kinds it is.
    """

    operator: Callable[..., Tensor]
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    in_place: bool

    def empty(self, *lead: int) -> Tensor:
        """Room for one draw, or for a stack of them."""
        return torch.empty((*lead, *self.shape), dtype=self.dtype, device=self.device)

    def draw(self) -> Tensor:
        """One draw from the current generator."""
        out = self.empty()
        self.fill(out)
        return out

    def fill(self, out: Tensor) -> None:
        """Draw from the current generator into ``out``, exactly as the program would have drawn."""
        if self.in_place:
            self.operator(out, *self.arguments, **self.options)
        else:
            out.copy_(self.operator(*self.arguments, **self.options))


@dataclass(frozen=True, eq=False)
class Graph:
    """A traced program: ``module(*inputs, *constants, *noise)`` gives its outputs.

    Attributes:
        module: the operations.
        num_inputs: how many inputs the traced function has.
        constants: every other tensor that the program read, by reference: changed in place, they
            change what the graph computes.
        noise: the program's random operations, in its own order.
    """

    module: GraphModule
    num_inputs: int
    constants: tuple[Tensor, ...]
    noise: tuple[Noise, ...]

    def draw(self) -> list[Tensor]:
        """The random numbers of one run, as the program would draw them from the current generator."""
        return [noise.draw() for noise in self.noise]

    @torch.no_grad()
    def __call__(self, *inputs: Tensor, noise: Sequence[Tensor] | None = None) -> Outputs:
        """Run the operations one by one, without compiling them."""
        drawn = self.draw() if noise is None else noise
        return tuple(self._run(*inputs, *self.constants, *drawn))

    def first(self) -> Callable[..., Tensor]:
        """What runs its first output alone, of inputs without noise: what others need does not run."""
        graph = torch.fx.Graph()
        outputs: Any = graph.graph_copy(self.module.graph, {})
        graph.output(outputs[0])
        graph.eliminate_dead_code()
        run, constants = quickened(self.module, graph).forward, self.constants
        return torch.no_grad()(lambda *inputs: run(*inputs, *constants))

    @cached_property
    def _run(self) -> Callable[..., Sequence[Tensor]]:
        return quickened(self.module).forward

    @property
    def size(self) -> int:
        """Number of operations."""
        return sum(node.op == "call_function" for node in self.module.graph.nodes)


def trace(function: Callable[..., Outputs], *inputs: Tensor) -> Graph:
    """Trace a function of tensors.

    Args:
        function: takes the inputs, or reads the very same tensor objects by closure, as Pyro programs
            read their parameters. May use autograd; its outputs are tensors.
        inputs: tensors that will change from run to run; their shapes are frozen.

    Raises:
        Untraceable: if control flow depends on the inputs' values, if random numbers depend on them
            other than by reparameterisation, if a tensor is changed in place, or if an operation
            cannot be recorded.
    """
    with keep_generator():
        try:
            module = operations(function, inputs)
        except Untraceable:
            raise
        except Exception as error:  # whatever the program's own operations raise under tracing
            raise Untraceable(_sentence(error)) from error
    last = _placeholder(module)
    noise = _lift_noise(module)
    functional(module)
    fold(module)
    constants = _lift_constants(module, last)
    module.graph.eliminate_dead_code()
    _refuse_mutation(module)
    drop_copies(module)
    share(module)
    return Graph(GraphModule(module, module.graph), len(inputs), constants, noise)


def operations(function: Callable[..., Outputs], inputs: Sequence[Tensor]) -> GraphModule:
    """What a function does, by our recorder; where that gives up, by PyTorch's, which knows more.

    Of the result a ``GraphModule`` is made, when it has been simplified, to run it.
    """
    try:
        from ppl_vae.engine import recorder

        return recorder.record(function, inputs, DECOMPOSITIONS)
    except Untraceable:
        raise
    except Exception:  # of whatever kind: the other one's words are then shown
        return make_fx(lambda *given: function(*given), DECOMPOSITIONS)(*inputs)


def check_graph(
    graph: Graph,
    function: Callable[..., Outputs],
    *inputs: Tensor,
    vary: Sequence[tuple[Tensor, Callable[[Tensor], Tensor]]],
    run: Callable[..., Outputs] | None = None,
    points: int = 3,
    tolerance: float | None = None,
) -> None:
    """Compare the graph with its function at random points, with the same random numbers.

    Args:
        graph: of the function.
        function: what was traced.
        inputs: as for `trace`; those that vary are changed in place and put back.
        vary: inputs, each with a function from its value to another.
        run: another way of running the graph (compiled), called as the graph is.
        points: how many random points, after the inputs as they are. Where the program itself fails at one,
            there is nothing to compare.
        tolerance: largest difference as a fraction of an output's largest magnitude; by default 10⁻⁴
            for float32 and 10⁻⁹ for float64.

    Raises:
        Untraceable: if they differ.
    """
    saved = [tensor.detach().clone() for tensor, _ in vary]
    try:
        for point in range(points + 1):
            if point:  # at first, as they are
                with seeded(7919 + point), torch.no_grad():
                    for tensor, other in vary:
                        tensor.copy_(other(tensor))
            with seeded(point):
                try:
                    expected = function(*inputs)
                except Exception:  # the program itself does not run there
                    continue
            with seeded(point), torch.no_grad():
                try:
                    found = (run or graph)(*inputs)
                except Exception as error:
                    raise Untraceable(
                        f"the graph fails where the program runs: {_sentence(error)}"
                    ) from error
            for a, b in zip(expected, found, strict=True):
                _compare(a.detach(), b, tolerance)
    finally:
        with no_deadline(), torch.no_grad():
            for (tensor, _), value in zip(vary, saved, strict=True):
                tensor.copy_(value)


def vmap_graph(graph: Graph, batched: Sequence[bool], example: Sequence[Tensor], noise: bool = True) -> Graph:
    """The same graph for many data sets (or chains) at once, side by side in one run.

    Args:
        graph: of one.
        batched: for each input, whether it gets a leading dimension.
        example: inputs of the new graph, those that are batched with their leading dimension.
        noise: whether every member of the batch has its own random numbers.

    Returns:
        A graph whose outputs all have the leading dimension.

    Raises:
        Untraceable: if an operation cannot be batched.
    """
    size = next(len(tensor) for tensor, lead in zip(example, batched, strict=True) if lead)
    lead = [0 if is_batched else None for is_batched in batched]
    lead += [None] * len(graph.constants) + [0 if noise else None] * len(graph.noise)
    lifted = [_batched_noise(one, size) if noise else one for one in graph.noise]
    drawn = [one.empty() for one in lifted]
    for one, values in zip(lifted, drawn, strict=True):
        one.fill(values)
    together = torch.vmap(lambda *given: tuple(graph.module(*given)), in_dims=tuple(lead))
    try:
        with torch.no_grad():
            module = operations(together, [*(t.detach() for t in example), *graph.constants, *drawn])
    except Exception as error:
        raise Untraceable(_sentence(error)) from error
    functional(module)
    fold(module)
    extra = _lift_constants(module, _placeholder(module, len(example) + len(graph.constants)))
    drop_copies(module)
    share(module)
    return Graph(GraphModule(module, module.graph), len(example), (*graph.constants, *extra), tuple(lifted))


@dataclass(frozen=True)
class _Stack:
    """Draws one operation for every member of a batch, one after another."""

    noise: Noise
    size: int

    def __call__(self) -> Tensor:
        out = self.noise.empty(self.size)
        for one in out:
            self.noise.fill(one)
        return out


def _batched_noise(noise: Noise, size: int) -> Noise:
    shape = torch.Size((size, *noise.shape))
    return Noise(_Stack(noise, size), (), {}, shape, noise.dtype, noise.device, in_place=False)


# Random operations that make a tensor, and the in-place ones that draw the same numbers.
_FACTORIES = {
    torch.ops.aten.randn.default: torch.Tensor.normal_,
    torch.ops.aten.randn_like.default: torch.Tensor.normal_,
    torch.ops.aten.rand.default: torch.Tensor.uniform_,
    torch.ops.aten.rand_like.default: torch.Tensor.uniform_,
}
_EMPTY = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided")


def _lift_noise(module: GraphModule) -> tuple[Noise, ...]:
    """Turn random operations into inputs at the end, and say how to draw them."""
    found = []
    graph = module.graph
    for node in list(graph.nodes):
        if node.op != "call_function" or not _is_random(node):
            continue
        value = node.meta["val"]
        about = (torch.Size(value.shape), value.dtype, value.device)
        tensors = list(node.all_input_nodes)
        if node.target in _FACTORIES:
            found.append(Noise(_FACTORIES[node.target], (), {}, *about, in_place=True))
        elif not tensors:
            found.append(Noise(node.target, tuple(node.args), dict(node.kwargs), *about, in_place=False))
        elif tensors == [node.args[0]] and _is_empty(tensors[0]):
            # The tensor's method costs a third of the operator's Python overhead.
            method = getattr(torch.Tensor, _name(node))
            found.append(Noise(method, tuple(node.args[1:]), dict(node.kwargs), *about, in_place=True))
        else:
            raise Untraceable(f"{_name(node)} draws numbers that depend on the parameters or the data")
        with graph.inserting_after(_placeholder(module)):
            placeholder = graph.placeholder(f"noise_{len(found) - 1}")
        node.replace_all_uses_with(placeholder)
        graph.erase_node(node)
    return tuple(found)


def _lift_constants(module: GraphModule, after: Node | None) -> tuple[Tensor, ...]:
    """Turn tensors that the graph closes over into inputs behind the function's own."""
    known: dict[int, Node] = {}
    constants: list[Tensor] = []
    for node in list(module.graph.nodes):
        if node.op != "get_attr":
            continue
        value = operator.attrgetter(node.target)(module)
        if id(value) not in known:
            first = next(iter(module.graph.nodes))
            place = module.graph.inserting_after(after) if after else module.graph.inserting_before(first)
            with place:
                after = known[id(value)] = module.graph.placeholder(f"held_{len(constants)}")
            constants.append(value.detach())
        node.replace_all_uses_with(known[id(value)])
        module.graph.erase_node(node)
    return tuple(constants)


def _refuse_mutation(module: GraphModule) -> None:
    """A graph that changes its inputs would not be a function of them."""
    for node in module.graph.nodes:
        about = schema(node.target)
        hidden = _name(node).endswith("batch_norm") and node.args[5] is True  # training, undeclared
        if node.op == "call_function" and about is not None and (about.is_mutable or hidden):
            source = node.args[3 if hidden else 0] if node.args else None
            while isinstance(source, Node) and source.op == "call_function" and is_view(source):
                source = source.args[0]
            if isinstance(source, Node) and source.op == "placeholder":
                raise Untraceable(f"{_name(node)} changes a tensor of the program in place")


def _is_random(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _is_empty(node: Node) -> bool:
    return node.op == "call_function" and _name(node) in _EMPTY


def _name(node: Node) -> str:
    return operator_name(node.target)


def _placeholder(module: GraphModule, count: int | None = None) -> Node | None:
    """The last of the first so many inputs, by default of all."""
    return next(reversed([node for node in module.graph.nodes if node.op == "placeholder"][:count]), None)


def _compare(expected: Tensor, found: Tensor, tolerance: float | None) -> None:
    if expected.shape != found.shape or expected.dtype != found.dtype:
        raise Untraceable(
            f"the graph gives {found.dtype} of shape {tuple(found.shape)} "
            f"where the program gives {expected.dtype} of shape {tuple(expected.shape)}"
        )
    if not expected.is_floating_point():
        return
    if tolerance is None:
        tolerance = 1e-9 if expected.dtype == torch.float64 else 1e-4
    finite = expected[expected.isfinite()].abs()
    scale = 1.0 + (float(finite.max()) if finite.numel() else 0.0)
    if not torch.allclose(found, expected, rtol=tolerance, atol=tolerance * scale, equal_nan=True):
        raise Untraceable(
            "the program computes something else at other values of its inputs, so its control flow "
            "depends on them"
        )


def _sentence(error: BaseException) -> str:
    """The kind of an error and the first sentence of its text."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0].split('. ')[0][:200]}" if text else type(error).__name__
