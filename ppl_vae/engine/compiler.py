"""Compile graphs to machine code, and keep the result on disk.

On the CPU a graph becomes a shared library (PyTorch's ahead-of-time Inductor) that is called without
Python in between: about 1.5 µs a call beyond its arithmetic. Libraries are kept in a folder of their own
under a name that is a hash of the graph, its inputs' shapes, the thread setting, the processor and the
versions, so that the second run of the same program, in any process, only loads one. On CUDA,
``torch.compile`` captures the graph.
"""

import hashlib
import math
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ppl_vae.base.clock import time_left
from ppl_vae.base.fallback import Untraceable, fall_back
from ppl_vae.engine import compile_apart
from ppl_vae.engine.compile_apart import Signalled, TooSlow
from ppl_vae.engine.graph import Graph, Outputs
from ppl_vae.engine.proven import Crash, is_proven, keep, processor, refuse_crashing
from ppl_vae.engine.torch_internals import compile_ahead, load_ahead, make_fx

__all__ = [
    "Compiled",
    "TooSlow",
    "begin_compiling",
    "cache_folder",
    "compile_graph",
    "fall_back",
    "find_compiler",
]

# Part of every key: change it when what is compiled from a graph changes.
FORMAT = "2"


@dataclass(frozen=True, eq=False)
class Compiled:
    """A compiled graph, called as the graph is.

    Attributes:
        graph: what was compiled.
        run: takes the list of all inputs: the function's, the constants, the noise.
        library: the shared library, on the CPU.
        seconds: what compiling or loading took.
        from_cache: whether it was found on disk.
    """

    graph: Graph
    run: Callable[[list[Tensor]], Sequence[Tensor]]
    library: Path | None
    seconds: float
    from_cache: bool

    @torch.no_grad()
    def __call__(self, *inputs: Tensor, noise: Sequence[Tensor] | None = None) -> Outputs:
        """Run it, drawing the noise from the current generator unless it is given."""
        drawn = self.graph.draw() if noise is None else noise
        return tuple(self.run([*(t.contiguous() for t in inputs), *self.graph.constants, *drawn]))


def cache_folder() -> Path:
    """Where libraries are kept: ``PPL_VAE_CACHE``, else ``ppl_vae`` in the user's cache folder."""
    chosen = os.environ.get("PPL_VAE_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ppl_vae"


def compile_graph(graph: Graph, *inputs: Tensor) -> Compiled:
    """Compile a graph for inputs of these shapes, or load it from disk.

    The number of threads is the one in force. Within a deadline, and the first time on a machine, it runs in
    a process of its own, which is ended where it takes too long.

    Raises:
        Untraceable: without a C++ compiler or a writable cache folder, or if compilation fails; `TooSlow`
            where a deadline leaves no time for it, `Crash` where compiled code ends its process.
    """
    start = time.perf_counter()
    everything = _everything(graph, inputs)
    graph = replace(graph, constants=tuple(everything[len(inputs) : len(inputs) + len(graph.constants)]))
    if any(tensor.is_cuda for tensor in everything):
        return _compile_cuda(graph, everything, start)
    path = _folder() / f"{_key(graph, everything)}.so"
    found = path.exists()
    if not found:
        _build(graph, everything, path)
    try:
        run = load_ahead(path)
    except RuntimeError:  # damaged on disk
        path.unlink(missing_ok=True)
        found = False
        _build(graph, everything, path)
        try:
            run = load_ahead(path)
        except RuntimeError as error:
            raise Untraceable(f"the compiled library {path.name} cannot be loaded: {error}") from error
    return Compiled(graph, run, path, time.perf_counter() - start, found)


def begin_compiling(graph: Graph, *inputs: Tensor) -> None:
    """Begin what `compile_graph` will be asked for, inside `compile_apart.ahead`, and do not wait for it.

    Raises:
        Untraceable: without a C++ compiler or a writable cache folder.
    """
    refuse_crashing(_folder(), find_compiler())
    everything = _everything(graph, inputs)
    if not any(tensor.is_cuda for tensor in everything):
        compile_apart.begin(graph.module, everything, _folder() / f"{_key(graph, everything)}.so", graph.size)


def _everything(graph: Graph, inputs: Sequence[Tensor]) -> list[Tensor]:
    """All inputs, contiguous as a library expects them; so does everything that calls it."""
    given = [*inputs, *graph.constants, *graph.draw()]
    if len({id(tensor) for tensor in given}) < len(given):
        raise Untraceable("the same tensor is given for two inputs, which would be compiled as one")
    return [tensor.detach().contiguous() for tensor in given]


def _folder() -> Path:
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise Untraceable(f"the cache folder {folder} is not writable ({error.strerror})") from error
    return folder


def _key(graph: Graph, everything: list[Tensor]) -> str:
    """Shapes and types of all inputs, and every operation with its arguments."""
    about = [
        FORMAT,
        torch.__version__,
        processor(),
        torch.backends.cpu.get_cpu_capability(),
        str(torch.get_num_threads()),
        *(f"{tensor.dtype}{tuple(tensor.shape)}" for tensor in everything),
        graph.module.code,
    ]
    return hashlib.sha256("\n".join(about).encode()).hexdigest()[:40]


@cache
def find_compiler() -> str:
    """The C++ compiler: ``CXX``, else g++ or clang++.

    Raises:
        Untraceable: if there is none.
    """
    named = os.environ.get("CXX")
    for name in [named] if named else ["g++", "clang++", "c++"]:
        if found := shutil.which(name):
            return found
    raise Untraceable("there is no C++ compiler (g++ or clang++)")


def _build(graph: Graph, everything: list[Tensor], path: Path) -> None:
    """Compile into a folder beside the library's place, then move it there whole."""
    compiler = find_compiler()
    refuse_crashing(path.parent, compiler)
    if math.isfinite(time_left()) or not is_proven(path.parent, compiler):
        try:
            compile_apart.build_in_time(graph.module, everything, path, graph.size)
        except Signalled as ended:
            keep(path.parent, compiler, ended.number)
            raise Crash(compiler, ended.number, path.parent) from ended
        except TooSlow:
            if math.isfinite(time_left()):
                raise
            # It cannot be sent to another process: it is compiled here.
        else:
            keep(path.parent, compiler)
            return
    with tempfile.TemporaryDirectory(dir=path.parent) as work, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fake = make_fx(lambda *given: tuple(graph.module(*given)), tracing_mode="fake")(*everything)
            built = compile_ahead(fake, everything, Path(work, "graph.so"))
            # Operations without a C interface are listed beside the library, under its name.
            for listed in Path(work).glob("*.wrapper.json"):
                os.replace(listed, path.with_suffix(".json"))
            os.replace(built, path)
        except Untraceable:
            raise
        except Exception as error:  # a compiler has many ways to fail; the program itself still runs
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise Untraceable(f"compilation failed: {line[:200]}") from error


def _compile_cuda(graph: Graph, everything: list[Tensor], start: float) -> Compiled:
    try:
        # CUDA graphs: one launch for all kernels, which is what small models wait for.
        compiled = torch.compile(graph.module, mode="reduce-overhead", dynamic=False)
        with torch.no_grad():
            compiled(*everything)
    except Exception as error:
        raise Untraceable(f"compilation failed: {type(error).__name__}") from error

    def run(given: list[Tensor]) -> Sequence[Tensor]:
        torch.compiler.cudagraph_mark_step_begin()
        # CUDA graphs overwrite their outputs at the next call.
        return [tensor.clone() for tensor in compiled(*given)]

    return Compiled(graph, run, None, time.perf_counter() - start, False)
