"""Every name of PyTorch's that is not public, in one file, with what is done where a version lacks it.

Tracing (`make_fx`) and compiling ahead of time (AOT Inductor) have no public equivalent that records a
backward pass, or that calls a graph without Python: where they are missing, `Untraceable` sends the caller to
the traced graph, run by operations, or to stock Pyro. Adam on all parameters at once, and operations on
lists of tensors, are written out with the same numbers.
"""

import ctypes
import logging
import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppl_vae.base.fallback import Untraceable, fall_back
from ppl_vae.engine.shared_interface import interface_shared

__all__ = [
    "adam",
    "check_errors",
    "compile_ahead",
    "foreach",
    "load_ahead",
    "make_fx",
    "operator_name",
    "schema",
]

SCHEMA = "_schema"


def make_fx(function: Callable[..., Any], *arguments: Any, **options: Any) -> Callable[..., Any]:
    """PyTorch's tracer of a function of tensors, its backward passes included.

    Raises:
        Untraceable: if this version has none.
    """
    try:
        from torch.fx.experimental.proxy_tensor import make_fx as tracer
    except ImportError as error:
        raise _lacks("torch.fx.experimental.proxy_tensor.make_fx") from error
    return tracer(function, *arguments, **options)


def compile_ahead(module: Any, inputs: Sequence[Tensor], library: Path) -> Path:
    """Compile a traced graph into a shared library (AOT Inductor).

    Args:
        module: the graph, a ``GraphModule`` traced with fake tensors.
        inputs: of the graph.
        library: where to write.

    Returns:
        The library's path.

    Raises:
        Untraceable: if this version has no such compiler.
    """
    try:
        import torch._inductor

        compiler = torch._inductor.aot_compile
    except (ImportError, AttributeError) as error:
        raise _lacks("torch._inductor.aot_compile") from error
    # They warn of a missing CUDA runtime, and of operations without a C interface, which run all the same.
    for name in ("torch.utils.cpp_extension", "torch._inductor"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with interface_shared():
        return Path(str(compiler(module, tuple(inputs), options={"aot_inductor.output_path": str(library)})))


def load_ahead(library: Path) -> Callable[[list[Tensor]], Sequence[Tensor]]:
    """What runs a library of `compile_ahead` on the CPU.

    Its standard library of C++ must be PyTorch's, also where the compiler puts one of its own into all that
    it makes (as with ``-static-libstdc++``): two of them end the process by a signal. What is loaded for
    everybody comes before what a library brings.

    Raises:
        RuntimeError: if the library is damaged.
        Untraceable: if this version cannot load any.
    """
    try:
        runner = torch._C._aoti.AOTIModelContainerRunnerCpu
    except AttributeError as error:
        raise _lacks("torch._C._aoti") from error
    if (present := getattr(os, "RTLD_NOLOAD", None)) is not None:
        with suppress(OSError):  # another standard library, or none
            ctypes.CDLL("libstdc++.so.6", mode=ctypes.RTLD_GLOBAL | present)
    return runner(str(library), 1).run


def adam(
    leaves: list[Tensor],
    gradients: list[Tensor],
    mean: list[Tensor],
    square: list[Tensor],
    counts: list[Tensor],
    *,
    rate: float,
    betas: tuple[float, float],
    epsilon: float,
) -> None:
    """One step of Adam (Kingma and Ba 2015) on all parameters, in place on them and on both moments.

    Args:
        leaves, gradients, mean, square: for each parameter, tensors of one shape; all but the gradients are
            contiguous in memory.
        counts: for each parameter, the number of this step, from 1.
        rate: the learning rate.
        betas, epsilon: Adam's constants.
    """
    # The kernel goes through memory and not through indices. Gradients of convolutions have their channels
    # last; autograd would have brought them to their parameter's order.
    gradients = [gradient.contiguous() for gradient in gradients]
    try:
        torch._fused_adam_(
            leaves, gradients, mean, square, [], counts, lr=rate, beta1=betas[0], beta2=betas[1],
            weight_decay=0.0, eps=epsilon, amsgrad=False, maximize=False,
        )  # fmt: skip
    except (AttributeError, TypeError):  # it is gone, or takes other arguments
        fall_back("Adam", _lacks("torch._fused_adam_"), "steps one parameter after another")
        for leaf, gradient, first, second, count in zip(leaves, gradients, mean, square, counts, strict=True):
            first.lerp_(gradient, 1 - betas[0])
            second.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
            size = second.sqrt().div_(math.sqrt(1 - betas[1] ** count.item())).add_(epsilon)
            leaf.addcdiv_(first, size, value=-rate / (1 - betas[0] ** count.item()))


def foreach(name: str) -> Callable[..., Any]:
    """An operation on lists of tensors in one call: ``foreach("mul")(a, b)`` multiplies them pair by pair.

    Args:
        name: a method of tensors, as ``add_``.
    """
    together: Callable[..., Any] | None = getattr(torch, f"_foreach_{name}", None)
    if together is not None:
        return together
    fall_back("Arithmetic on lists of tensors", _lacks(f"torch._foreach_{name}"), "runs one tensor at a time")

    def one_by_one(tensors: Sequence[Tensor], *others: Any, **options: Any) -> list[Tensor]:
        method = getattr(torch.Tensor, name)
        return [
            method(tensor, *(o[at] if isinstance(o, list | tuple) else o for o in others), **options)
            for at, tensor in enumerate(tensors)
        ]

    return one_by_one


def schema(target: Any) -> Any:
    """What an operator declares of its arguments; None for what is no operator of PyTorch's.

    Raises:
        Untraceable: if this version's operators declare nothing: whether they change their arguments cannot
            be known then.
    """
    found = getattr(target, SCHEMA, None)
    if found is None and type(target).__name__ == "OpOverload":
        raise _lacks("the schema of an operator")
    return found


def operator_name(target: Any) -> str:
    """``randn_like`` for the operator ``aten::randn_like.default``."""
    name = getattr(target, "name", None)
    return str(name()).rpartition("::")[2].split(".")[0] if callable(name) else str(target)


def check_errors() -> list[Any]:
    """The operator that raises the errors of a factorisation, if this version has one."""
    try:
        return [torch.ops.aten._linalg_check_errors.default]
    except AttributeError:
        return []


def _lacks(name: str) -> Untraceable:
    return Untraceable(f"PyTorch {torch.__version__} lacks {name}")
