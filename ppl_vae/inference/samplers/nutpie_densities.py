"""What nutpie samples from: the one file that depends on nutpie's version.

nutpie's open door for densities that are not PyMC's or Stan's, `from_pyfunc`, takes Python functions; no
open door takes a C function. The class that does, made for PyMC's models, changes its fields between patch
releases, so it is used only where its fields and the version are known; elsewhere the same C function is
called through Python, which gives the same draws and costs some microseconds a gradient.
"""

import ctypes
import dataclasses
import inspect
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from ppl_vae.engine.compiler import fall_back
from ppl_vae.engine.graph import Untraceable
from ppl_vae.engine.native import NativeDensity

__all__ = [
    "DRAWS",
    "Evaluate",
    "NotFinite",
    "Start",
    "import_nutpie",
    "mass_matrix",
    "native_model",
    "python_model",
]

DRAWS = "position"
# Releases whose C functions were tried: their arguments cannot be asked for.
TRIED = ("0.16",)

Start = Callable[[int], np.ndarray]
Evaluate = Callable[[np.ndarray], tuple[float, np.ndarray]]


class NotFinite(ValueError):
    """Takes the sampler back, as a divergence does."""

    is_recoverable = True


def import_nutpie() -> ModuleType:
    """nutpie, without what its imports announce."""
    with warnings.catch_warnings():
        # ArviZ 0.23, which nutpie imports, announces its successor.
        warnings.simplefilter("ignore", FutureWarning)
        import nutpie
    return nutpie


def mass_matrix(low_rank: bool) -> dict[str, Any]:
    """The keyword of `nutpie.sample` that chooses the mass matrix, which 0.16.9 renamed."""
    if "adaptation" in inspect.signature(import_nutpie().sample).parameters:
        return {"adaptation": "low_rank" if low_rank else "diag"}
    return {"low_rank_modified_mass_matrix": low_rank}


def native_model(native: NativeDensity, dim: int, start: Start) -> Any:
    """A model for nutpie on a C function, called without Python where nutpie's version allows it.

    Args:
        native: the density, open for as long as nutpie samples.
        dim: length of a position.
        start: a starting point for a chain's seed.
    """
    try:
        return _private_model(native, dim, start)
    except Untraceable as reason:
        fall_back("NUTS", reason, "calls its compiled gradient through Python")
        return python_model(dim, _Called(native, dim), start)


def python_model(dim: int, evaluate: Evaluate, start: Start) -> Any:
    """A model for nutpie on a Python function.

    Args:
        dim: length of a position.
        evaluate: the log density and its gradient, float64, at a position of shape (dim,).
        start: a starting point for a chain's seed.
    """
    from nutpie.compiled_pyfunc import from_pyfunc

    def keep(position: np.ndarray) -> dict[str, np.ndarray]:
        return {DRAWS: position.copy()}

    return from_pyfunc(
        dim,
        lambda: evaluate,
        lambda *_: keep,
        [np.dtype(np.float64)],
        [(dim,)],
        [DRAWS],
        make_initial_point_fn=start,
    )


class _Called:
    """The C function as a Python function. It runs without Python's lock, so chains run side by side."""

    def __init__(self, native: NativeDensity, dim: int) -> None:
        pointer = ctypes.c_void_p
        kind = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_uint64, pointer, pointer, pointer, pointer)
        self.function, self.context, self.dim = kind(native.gradient), native.context, dim

    def __call__(self, position: np.ndarray) -> tuple[float, np.ndarray]:
        position = np.ascontiguousarray(position, dtype=np.float64)
        slope, value = np.empty(self.dim), ctypes.c_double()
        status = self.function(
            self.dim, position.ctypes.data, slope.ctypes.data, ctypes.addressof(value), self.context
        )
        if status:
            raise NotFinite
        return value.value, slope


class _Function:
    """What nutpie expects of a compiled function: its address."""

    def __init__(self, address: int) -> None:
        self.address = address


def _private_model(native: NativeDensity, dim: int, start: Start) -> Any:
    """nutpie's class for PyMC's models, holding our functions.

    Raises:
        Untraceable: if this version of nutpie is not known, or the class has changed.
    """
    version = str(import_nutpie().__version__)
    if ".".join(version.split(".")[:2]) not in TRIED:
        raise Untraceable(f"nutpie {version} was not tried with C functions")
    try:
        from nutpie.compile_pymc import CompiledPyMCModel
    except ImportError as error:
        raise Untraceable(f"nutpie {version} has no CompiledPyMCModel") from error

    # nutpie hands the address of this array on to the functions as their last argument.
    class _Context:
        class ctypes:
            data = native.context

    needed = {
        "compiled_logp_func": _Function(native.gradient),
        "compiled_expand_func": _Function(native.keep),
        "initial_point_func": start,
        "user_data": _Context,
        "n_expanded": dim,
        "shape_info": ([DRAWS], [slice(0, dim)], [(dim,)]),
        "_n_dim": dim,
        "_shapes": {DRAWS: (dim,)},
    }
    # What PyMC's models have and ours do not: given where it is asked for.
    empty: dict[str, Any] = {
        **{name: {} for name in ("dims", "shared_data", "shared_var_keys", "_coords")},
        **dict.fromkeys(("logp_func", "expand_func")),
    }
    fields = {field.name: field for field in dataclasses.fields(CompiledPyMCModel)}
    missing = dataclasses.MISSING
    required = {name for name, field in fields.items() if field.default is field.default_factory is missing}
    if strange := (required - needed.keys() - empty.keys()) | (needed.keys() - fields.keys()):
        raise Untraceable(f"nutpie {version} changed the fields {', '.join(sorted(strange))} of its models")
    return CompiledPyMCModel(**needed, **{name: value for name, value in empty.items() if name in fields})
