"""Compiled graphs: what is kept on disk, and what happens where nothing can be compiled."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ppl_vae.engine import compiler, native, proven, shared_interface
from ppl_vae.engine.compiler import cache_folder, compile_graph, find_compiler
from ppl_vae.engine.graph import Graph, Untraceable, trace
from ppl_vae.inference import importance, nuts, svi
from ppl_vae.program.pair import Pair

DOUBLE = {"dtype": torch.float64}


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder, and a search for the compiler that starts anew."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("PPL_VAE_CACHE", str(folder))
    monkeypatch.setitem(proven.known, proven._key(find_compiler()), 0)
    find_compiler.cache_clear()
    native._library.cache_clear()
    yield folder
    find_compiler.cache_clear()
    native._library.cache_clear()


def _graph(factor: float = 2.0, length: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Graph, Tensor]:
    x, constant = torch.linspace(0, 1, length, dtype=dtype), torch.ones(length, dtype=dtype)
    return trace(lambda x: ((x * factor).exp().sum() + (constant * torch.randn_like(x)).sum(),), x), x


# The cache ---------------------------------------------------------------------------------------

SCRIPT = """
import json, sys, torch
from ppl_vae.engine.compiler import compile_graph
from ppl_vae.engine.graph import trace

torch.set_num_threads(int(sys.argv[1]))
torch.manual_seed(0)
x, constant = torch.linspace(0, 1, 5, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
graph = trace(lambda x: ((x * 2.0).exp().sum() + (constant * torch.randn_like(x)).sum(),), x)
compiled = compile_graph(graph, x)
torch.manual_seed(1)
value = compiled(x)[0].item()
print(json.dumps([compiled.from_cache, compiled.seconds, value, compiled.library.name]))
"""


@pytest.mark.usefixtures("plain_seeds")
def test_a_graph_is_compiled_once_and_then_loaded_by_any_process(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves: list[bool] = []
    plain = shared_interface._build_halves
    monkeypatch.setattr(
        shared_interface, "_build_halves", lambda builder: halves.append(plain(builder)) or halves[-1]
    )
    graph, x = _graph()
    first = compile_graph(graph, x)
    assert not first.from_cache
    # What is the same for every graph was not compiled for this one, unless PyTorch writes another text now.
    assert any(halves)
    assert first.library is not None
    assert first.library.parent == fresh
    # Nothing but the library is left.
    assert os.listdir(fresh) == [first.library.name]

    again = compile_graph(*_graph())
    assert again.from_cache
    assert again.library == first.library
    assert again.seconds < 0.2 * first.seconds

    other = [sys.executable, "-c", SCRIPT, str(torch.get_num_threads())]
    found = subprocess.run(other, capture_output=True, text=True, check=True)
    from_cache, seconds, value, name = json.loads(found.stdout)
    assert (from_cache, name) == (True, first.library.name)
    assert seconds < 0.2 * first.seconds
    torch.manual_seed(1)
    expected = graph(x)[0].item()
    assert value == pytest.approx(expected, rel=1e-14)
    torch.manual_seed(1)
    assert first(x)[0].item() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("damaged", [b"", b"no library", b"\x7fELF\x02\x01\x01" + bytes(100)])
def test_a_damaged_library_is_not_run(damaged: bytes, fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_build", lambda graph, everything, path: path.write_bytes(damaged))
    for _ in range(2):
        with pytest.raises(Untraceable, match="cannot be loaded") as caught:
            compile_graph(*_graph())
        assert "\n" not in str(caught.value)


def test_the_key_knows_operations_shapes_types_and_threads(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def instead(graph: Graph, everything: list[Tensor], path: Path) -> None:
        asked.append(path.name)
        raise Untraceable("not compiled here")

    monkeypatch.setattr(compiler, "_build", instead)

    def key(graph: Graph, *inputs: Tensor) -> str:
        with pytest.raises(Untraceable, match="not compiled here"):
            compile_graph(graph, *inputs)
        return asked[-1]

    plain = key(*_graph())
    assert key(*_graph()) == plain
    others = [key(*_graph(factor=2.5)), key(*_graph(length=6)), key(*_graph(dtype=torch.float32))]
    # A number in the program that differs in its last digit only.
    others.append(key(*_graph(factor=np.nextafter(2.0, 3.0))))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        others.append(key(*_graph()))
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr(compiler, "FORMAT", "another")
    others.append(key(*_graph()))
    monkeypatch.undo()
    assert len({plain, *others}) == 1 + len(others)


def test_a_constants_values_are_no_part_of_the_key_and_are_read_when_run(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors that a program closes over are inputs of the library, never numbers in it."""
    seen: list[str] = []
    monkeypatch.setattr(compiler, "_key", lambda graph, everything: seen.append(graph.module.code) or "same")
    monkeypatch.setattr(compiler, "_build", lambda graph, everything, path: None)
    for value in (1.0, 7.0):
        constant, x = torch.full((3,), value, **DOUBLE), torch.zeros(3, **DOUBLE)
        with pytest.raises(Untraceable, match="cannot be loaded"):
            compile_graph(trace(lambda x, c=constant: (x + c,), x), x)
    assert seen[0] == seen[1]


def test_the_folder_is_the_one_asked_for_else_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PPL_VAE_CACHE", "/somewhere/of/mine")
    assert cache_folder() == Path("/somewhere/of/mine")
    monkeypatch.delenv("PPL_VAE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/ppl_vae")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/ann")
    assert cache_folder() == Path("/home/ann/.cache/ppl_vae")


def test_one_tensor_given_for_two_inputs_is_refused(fresh: Path) -> None:
    x = torch.ones(3, **DOUBLE)
    graph = trace(lambda a, b: (a - 2 * b,), x, torch.ones(3, **DOUBLE))
    with pytest.raises(Untraceable, match="the same tensor is given for two inputs"):
        compile_graph(graph, x, x)


def test_a_failed_compilation_leaves_nothing_behind(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor

    def fail(*_: Any, options: dict[str, str]) -> str:
        Path(options["aot_inductor.output_path"]).write_bytes(b"half a library")
        raise RuntimeError("the linker\nhas said many\nlines")

    monkeypatch.setattr(torch._inductor, "aot_compile", fail)
    with pytest.raises(Untraceable, match=r"compilation failed: the linker$"):
        compile_graph(*_graph())
    assert os.listdir(fresh) == []


def test_an_interrupted_compilation_leaves_nothing_behind(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch._inductor

    def interrupt(*_: Any, **__: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch._inductor, "aot_compile", interrupt)
    with pytest.raises(KeyboardInterrupt):
        compile_graph(*_graph())
    assert os.listdir(fresh) == []


# Falling back ------------------------------------------------------------------------------------


def _fit(conjugate: Any, x: Tensor, compile: bool) -> np.ndarray:
    pair = Pair(conjugate.model, conjugate.guide)
    fit = svi.fit(pair, x, num_steps=12, lr=0.1, compile=compile, progress=False)
    assert fit.engine == "pyro"
    return np.concatenate([fit.elbo, *(leaf.detach().reshape(-1) for leaf in pair.parameters().values())])


def _evidence(conjugate: Any, x: Tensor, compile: bool) -> np.ndarray:
    pair = Pair(conjugate.model, conjugate.guide)
    return importance.log_evidence(pair, x, num_samples=50, compile=compile, progress=False).log_evidence


def _chains(sampler: str) -> Callable[..., np.ndarray]:
    def sample(conjugate: Any, x: Tensor, compile: bool) -> np.ndarray:
        drawn = nuts.sample(conjugate.model, x[:3], num_draws=8, warmup=20, chains=2, sampler=sampler,
                            compile=compile, progress=False)  # fmt: skip
        return drawn.draws["z"].to_numpy()

    return sample


def _no_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(folder))


def _wrong_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(folder / "no-such-compiler"))


def _unwritable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.parent.joinpath("file").write_text("in the way")
    monkeypatch.setenv("PPL_VAE_CACHE", str(folder.parent / "file" / "cache"))


MISSING = r"there is no C\+\+ compiler"
UNWRITABLE = "the cache folder .* is not writable"


@pytest.mark.parametrize(
    ("method", "trouble", "words"),
    [
        pytest.param(_fit, _no_compiler, MISSING, id="svi"),
        pytest.param(_fit, _unwritable, UNWRITABLE, id="svi-unwritable"),
        pytest.param(_evidence, _no_compiler, MISSING, id="importance"),
        pytest.param(_chains("nutpie"), _wrong_compiler, MISSING, id="nutpie"),
        pytest.param(_chains("hmc"), _no_compiler, MISSING, id="hmc"),
    ],
)
def test_without_a_compiler_or_a_folder_stock_pyro_answers_and_says_so_once(
    method: Any,
    trouble: Any,
    words: str,
    conjugate: Any,
    x: Tensor,
    fresh: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = method(conjugate, x, compile=False)
    trouble(fresh, monkeypatch)
    with pytest.warns(RuntimeWarning, match=f"runs through stock Pyro, uncompiled: {words}") as said:
        found = method(conjugate, x, compile=True)
    assert len(said) == 1
    assert "\n" not in str(said[0].message)
    np.testing.assert_array_equal(found, expected)
    # Once in a process: warnings are errors here.
    np.testing.assert_array_equal(method(conjugate, x, compile=True), expected)
    assert not fresh.exists() or os.listdir(fresh) == []
