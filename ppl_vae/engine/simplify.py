"""Leave out of a traced graph what need not run at every call, and call the rest by the shortest way.

Small programs spend their time on the number of operations. A recorded program has many that depend on no
input (ranges, zeros, index tables), many twice (what the backward pass computes again), and gradients leave
copies behind. What remains is called through PyTorch's own Python functions where there is one: the
general way to call an operator takes half as long again.
"""

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from ppl_vae.base.clock import check_time
from ppl_vae.engine.torch_internals import schema

__all__ = ["SHORTEST", "drop_copies", "fold", "functional", "is_view", "quickened", "share"]

aten = torch.ops.aten

# Numbers in a tensor that is kept instead of being made at every call: larger ones would fill the memory.
FOLDED = 2**12

# Operations that give their argument's values; without operations in place nobody can tell them apart.
SAME = (aten.detach.default, aten.alias.default, aten.lift_fresh_copy.default)
_LITERAL = aten.lift_fresh_copy.default


def functional(module: GraphModule) -> None:
    """Write operations in place on a tensor that nothing else looks at afterwards as what gives a new one.

    Gradients hold a few (of ``clamp``, of ``where``); what follows leaves graphs with operations in place as
    they are.
    """
    calls = _calls(module.graph)
    written = [node for node in calls if _changes(node)]
    if not written:
        return
    places = {node: place for place, node in enumerate(module.graph.nodes)}
    roots = {node: _root(node) for node in calls}
    alike: dict[Node, list[Node]] = {}
    for node, root in roots.items():
        alike.setdefault(root, []).append(node)
    for node in written:
        pure = _out_of_place(node)
        root, place = roots[node], places[node]
        # Placeholders and attributes belong to somebody; what came of the result is the result's own.
        if pure is None or root.op != "call_function":
            continue
        before = [alias for alias in alike[root] if places[alias] < place]
        if all(places[user] <= place for alias in before for user in alias.users):
            node.target = pure


# Operations in place, with what gives the same numbers of the same type where all arguments have one type.
_ARITHMETIC: dict[Any, Any] = {
    aten.add_.Tensor: aten.add.Tensor,
    aten.sub_.Tensor: aten.sub.Tensor,
    aten.mul_.Tensor: aten.mul.Tensor,
    aten.div_.Tensor: aten.div.Tensor,
}
_LOGICAL: dict[Any, Any] = {
    aten.logical_and_.default: aten.logical_and.default,
    aten.logical_or_.default: aten.logical_or.default,
}
_MASKED: dict[Any, Any] = {aten.masked_fill_.Scalar: aten.masked_fill.Scalar}


def _out_of_place(node: Node) -> Any:
    """The operation that gives a new tensor, or None where it might be of another type."""
    kinds = {_dtype(used) for used in node.all_input_nodes}
    if node.target in _MASKED:
        return _MASKED[node.target]
    if node.target in _LOGICAL:
        return _LOGICAL[node.target] if kinds == {torch.bool} else None
    return _ARITHMETIC.get(node.target) if len(kinds) == 1 and None not in kinds else None


def _dtype(node: Node) -> torch.dtype | None:
    kind = node.meta.get("dtype")
    return kind if kind is not None else getattr(node.meta.get("val"), "dtype", None)


def fold(module: GraphModule) -> None:
    """Compute what depends on no input now, and keep it as an attribute of the module.

    Tensors that the program closes over are inputs in this sense: they may be changed in place.
    """
    values = _fixed(module)
    for number, (node, value) in enumerate(values.items()):
        users = [user for user in node.users if user not in values]
        if users:
            name = f"folded_{number}"
            module.register_buffer(name, value)
            with module.graph.inserting_before(node):
                kept = module.graph.get_attr(name)
            for user in users:
                user.replace_input_with(node, kept)
    for node in reversed(values):
        if not node.users:
            module.graph.erase_node(node)


def share(module: GraphModule) -> None:
    """Run what is there twice once. A graph with operations in place is left as it is."""
    if any(_changes(node) for node in _calls(module.graph)):
        return
    seen: dict[tuple[Any, str, str], Node] = {}
    for node in _calls(module.graph):
        check_time()
        first = seen.setdefault((node.target, repr(node.args), repr(node.kwargs)), node)
        if first is not node and not _is_result(node):
            node.replace_all_uses_with(first)
            module.graph.erase_node(node)


def drop_copies(module: GraphModule) -> None:
    """Leave out what only passes a tensor on, of which gradients leave many behind.

    A graph with operations in place is left as it is: there a copy is not what it was copied from.
    """
    if any(_changes(node) for node in _calls(module.graph)):
        return
    for node in _calls(module.graph):
        # A number of the program's text that is a result is copied: callers may write to it.
        if node.target in SAME and not (node.target is _LITERAL and _is_result(node)):
            node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
            module.graph.erase_node(node)


def is_view(node: Node) -> bool:
    """Whether a result may share the memory of an argument."""
    about = schema(node.target)
    return bool(about and any(a.alias_info is not None for a in about.arguments))


def _calls(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.op == "call_function"]


def _changes(node: Node) -> bool:
    about = schema(node.target)
    return about is not None and about.is_mutable


def _is_result(node: Node) -> bool:
    """Whether callers get the tensor, and may write to it."""
    return any(user.op == "output" for user in node.users)


# What depends on no input ------------------------------------------------------------------------


def _fixed(module: GraphModule) -> dict[Node, Any]:
    """The nodes that depend on no input, with their values."""
    calls = _calls(module.graph)
    places = {node: place for place, node in enumerate(calls)}
    barred: set[Node] = set()
    while True:
        found = _foldable(module, calls, barred)
        values = _values(module, found)
        now = {node for node in found if not _is_kept(node, values[node], found)}
        now |= set(_written(calls, places, found))
        if not now:
            return values
        barred |= now


def _foldable(module: GraphModule, calls: list[Node], barred: set[Node]) -> dict[Node, None]:
    found: dict[Node, None] = {}
    for node in calls:
        plain = schema(node.target) is not None or node.target is operator.getitem
        known = _is_literal(module, node) or all(used in found for used in node.all_input_nodes)
        if plain and known and node not in barred and not _is_result(node):
            found[node] = None
    return found


def _is_literal(module: GraphModule, node: Node) -> bool:
    """Whether it is a number of the program's own text; an array may be somebody's, and change."""
    if node.target is not _LITERAL:
        return False
    (source,) = node.all_input_nodes
    return source.op == "get_attr" and operator.attrgetter(str(source.target))(module).numel() == 1


def _values(module: GraphModule, nodes: Mapping[Node, None]) -> dict[Node, Any]:
    values: dict[Node, Any] = {}

    def value(node: Node) -> Any:
        return values[node] if node in values else operator.attrgetter(str(node.target))(module)

    with torch.no_grad():
        for node in nodes:
            check_time()
            args, kwargs = map_arg((node.args, node.kwargs), value)
            values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    return values


def _is_kept(node: Node, value: Any, found: Mapping[Node, None]) -> bool:
    """Whether a value is small, and a tensor wherever it is needed."""
    parts = value if isinstance(value, tuple | list) else (value,)
    inner = isinstance(value, Tensor) or all(user in found for user in node.users)
    return inner and sum(part.numel() for part in parts if isinstance(part, Tensor)) <= FOLDED


def _written(calls: list[Node], places: dict[Node, int], found: Mapping[Node, None]) -> Iterator[Node]:
    """What must not be kept, since it is written to when the graph runs, or read before it is written to."""
    roots = {node: _root(node) for node in calls}
    for node in calls:
        if _changes(node) and (root := roots[node]) in found:
            seen = (alias for alias in found if roots[alias] is root)
            users = (user for alias in seen for user in alias.users if user not in found)
            if node not in found or any(places.get(user, len(places)) < places[node] for user in users):
                yield root


def _root(node: Node) -> Node:
    """The node whose memory a node's result is in."""
    while node.op == "call_function" and (is_view(node) or node.target is operator.getitem):
        first = node.args[0] if node.args else None
        if not isinstance(first, Node):
            return node
        node = first
    return node


# The shortest way to call an operation -----------------------------------------------------------

# Functions of ``torch`` that take what the operators of their name take, in the same order.
_FUNCTIONS = (
    "add.Tensor sub.Tensor mul.Tensor div.Tensor neg.default exp.default log.default sqrt.default "
    "rsqrt.default reciprocal.default log1p.default expm1.default abs.default sign.default "
    "square.default sigmoid.default tanh.default sin.default cos.default erf.default relu.default "
    "lgamma.default digamma.default pow.Tensor_Scalar pow.Tensor_Tensor maximum.default "
    "minimum.default clamp.default where.self le.Tensor le.Scalar lt.Tensor lt.Scalar ge.Tensor "
    "ge.Scalar gt.Tensor gt.Scalar eq.Tensor eq.Scalar ne.Tensor ne.Scalar logical_and.default "
    "logical_not.default mm.default bmm.default addmm.default t.default permute.default transpose.int "
    "unsqueeze.default squeeze.dim select.int sum.default sum.dim_IntList logsumexp.default "
    "cumsum.default stack.default cat.default gather.default index_select.default diag_embed.default "
    "diagonal.default tril.default unbind.int "
)
_METHODS = "view.default expand.default"


def _shortest() -> dict[Any, tuple[str, Any]]:
    found: dict[Any, tuple[str, Any]] = {}
    for names, op in ((_FUNCTIONS, "call_function"), (_METHODS, "call_method")):
        for name in names.split():
            packet, _, overload = name.partition(".")
            target = packet if op == "call_method" else getattr(torch, packet, None)
            known = getattr(getattr(aten, packet, None), overload, None)
            if known is not None and target is not None:
                found[known] = (op, target)
    return found


SHORTEST = _shortest()


def quickened(module: GraphModule, of: Graph | None = None) -> GraphModule:
    """The same graph with operations called by the shortest way, for running it without compiling it.

    Args:
        module: has the tensors that the graph reads.
        of: another graph than the module's.
    """
    graph = Graph()
    copies: dict[Node, Node] = {}
    for node in (of or module.graph).nodes:
        check_time()
        copy = copies[node] = graph.node_copy(node, copies.__getitem__)
        op, target = SHORTEST.get(node.target, (node.op, node.target))
        if op != "call_method" or not node.kwargs:
            copy.op, copy.target = op, target
    return GraphModule(module, graph)
