"""A compiled log density as a plain C function, which threads call without Python's lock."""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from ppl_vae.engine.compiler import Compiled, cache_folder, find_compiler
from ppl_vae.engine.graph import Untraceable

__all__ = ["NativeDensity"]

SOURCE = Path(__file__).with_name("native.cpp")
# c10's numbering of scalar types, which PyTorch's C interface keeps.
_DTYPES = {torch.uint8: 0, torch.int8: 1, torch.int16: 2, torch.int32: 3, torch.int64: 4,
           torch.float32: 6, torch.float64: 7, torch.bool: 11}  # fmt: skip


class NativeDensity:
    """The C function of a compiled log density: position in, value and gradient out. A context manager.

    Args:
        compiled: a graph whose first input is the position, a float64 vector, and whose outputs are the
            log density and its gradient.
        held: its other inputs.
        threads: how many callers there may be at once.

    Attributes:
        gradient: address of ``int64 f(uint64 dim, double* position, double* gradient, double* log_density,
            void* context)``, which returns 0, or 1 where the result is not finite.
        keep: address of the function that copies a position.
        context: the last argument.

    Raises:
        Untraceable: if there is no C++ compiler or the library cannot be opened.
    """

    def __init__(self, compiled: Compiled, held: list[Tensor], threads: int) -> None:
        if compiled.library is None or compiled.library.with_suffix(".json").exists():
            raise Untraceable("the density has operations without a C interface")
        self._library = _library()
        # Kept alive here: the C side only has their addresses.
        self._held = [tensor.detach().contiguous() for tensor in (*held, *compiled.graph.constants)]
        if unknown := {t.dtype for t in self._held} - _DTYPES.keys():
            raise Untraceable(f"tensors of type {unknown} cannot be passed to the compiled density")
        sizes = [size for tensor in self._held for size in tensor.shape]
        count = len(self._held)
        self.context = self._library.ppl_vae_open(
            os.fsencode(str(compiled.library)),
            ctypes.c_uint64(threads),
            ctypes.c_uint64(count),
            (ctypes.c_void_p * count)(*(tensor.data_ptr() for tensor in self._held)),
            (ctypes.c_int64 * count)(*(tensor.dim() for tensor in self._held)),
            (ctypes.c_int64 * len(sizes))(*sizes),
            (ctypes.c_int32 * count)(*(_DTYPES[tensor.dtype] for tensor in self._held)),
        )
        if not self.context:
            raise Untraceable("the compiled density cannot be opened")
        self.gradient = _address(self._library.ppl_vae_gradient)
        self.keep = _address(self._library.ppl_vae_keep)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._library.ppl_vae_close(ctypes.c_void_p(self.context))
        self.context = None

    @property
    def kept(self) -> int:
        """How many draws samplers have stored so far, those of the warm-up included."""
        return int(self._library.ppl_vae_kept(ctypes.c_void_p(self.context)))

    @property
    def broken(self) -> bool:
        """Whether the compiled graph has failed at a call, which is not that its result is not finite."""
        return bool(self._library.ppl_vae_broken(ctypes.c_void_p(self.context)))


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


@cache
def _library() -> ctypes.CDLL:
    """The caller of compiled densities, built once for each version of PyTorch."""
    compiler = find_compiler()
    include, lib = Path(torch.__file__).with_name("include"), Path(torch.__file__).with_name("lib")
    key = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode() + str(lib).encode()).hexdigest()[
        :16
    ]
    path = cache_folder() / f"native-{key}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as work:
            built = Path(work, "native.so")
            command = [compiler, "-O2", "-std=c++17", "-shared", "-fPIC", str(SOURCE), "-o", str(built),
                       f"-I{include}", f"-L{lib}", "-ltorch_cpu", f"-Wl,-rpath,{lib}", "-ldl"]  # fmt: skip
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                line = next((t for t in result.stderr.splitlines() if "error" in t), "the compiler failed")
                raise Untraceable(f"the C++ compiler failed: {line[:200]}")
            shutil.move(built, path)
    library = ctypes.CDLL(str(path))
    library.ppl_vae_open.restype = ctypes.c_void_p
    library.ppl_vae_kept.restype = ctypes.c_uint64
    library.ppl_vae_broken.restype = ctypes.c_int64
    return library
