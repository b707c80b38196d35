"""Compiled code that ends its process: tried in another one first, kept, and done without."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ppl_vae.engine import compile_apart, compiler, proven
from ppl_vae.engine.compiler import compile_graph
from ppl_vae.engine.graph import Graph, Untraceable, trace
from ppl_vae.engine.proven import Crash
from ppl_vae.inference import importance, nuts, svi
from ppl_vae.program.pair import Pair

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals end processes")
# Makes a library, and is ended when it runs it; or before it has made one.
CRASHES = """
import os, pathlib, sys
folder = pathlib.Path(sys.argv[1])
(folder / "graph.so").write_bytes(b"a library")
{made}
os.kill(os.getpid(), {number})
"""
MADE = '(folder / "made").touch()'


@pytest.fixture
def untried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which nothing was compiled before: its folder of libraries."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("PPL_VAE_CACHE", str(folder))
    monkeypatch.setattr(proven, "known", {})
    return folder


def _crashing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, made: str = MADE) -> None:
    script = tmp_path / "child.py"
    script.write_text(CRASHES.format(number=int(number), made=made))
    monkeypatch.setattr(compile_apart, "SCRIPT", script)


def _graph(factor: float = 2.0) -> tuple[Graph, Tensor]:
    x = torch.linspace(0, 1, 5, dtype=torch.float64)
    return trace(lambda x: ((x * factor).exp().sum(),), x), x


def _no_more_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    def begun(*_: Any) -> None:
        raise AssertionError("tried again")

    monkeypatch.setattr(compile_apart, "_Build", begun)


@POSIX
@pytest.mark.parametrize("name", ["SIGSEGV", "SIGILL", "SIGABRT", "SIGBUS"])
def test_code_that_ends_its_process_is_refused_and_not_tried_again(
    name: str, untried: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = getattr(signal, name)
    _crashing(tmp_path, monkeypatch, number)
    words = rf"code that .* makes ends the process that loads it here \(signal {int(number)}\)"
    with pytest.raises(Crash, match=words):
        compile_graph(*_graph())
    assert [path.suffix for path in untried.iterdir()] == [".tried"]
    _no_more_trials(monkeypatch)
    for remembered in (proven.known, {}):  # in this process, and in the next
        monkeypatch.setattr(proven, "known", remembered)
        with pytest.raises(Crash, match=words):
            compile_graph(*_graph(3.0))
        with pytest.raises(Crash, match=words), compile_apart.ahead(600.0):
            compiler.begin_compiling(*_graph(3.0))


@POSIX
@pytest.mark.parametrize(
    ("number", "made"),
    [(signal.SIGKILL, MADE), (signal.SIGTERM, MADE), (signal.SIGSEGV, "")],
    ids=["killed", "terminated", "before"],
)
def test_a_process_ended_from_outside_or_in_compiling_says_nothing_of_the_machine(
    number: int, made: str, untried: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _crashing(tmp_path, monkeypatch, number, made)
    with pytest.raises(Untraceable, match="its process ended early") as error:
        compile_graph(*_graph())
    assert not isinstance(error.value, Crash)
    assert os.listdir(untried) == []


def _fit(conjugate: Any, x: Tensor, compile: bool) -> np.ndarray:
    return svi.fit(
        Pair(conjugate.model, conjugate.guide), x, num_steps=12, lr=0.1, compile=compile, progress=False
    ).elbo


def _evidence(conjugate: Any, x: Tensor, compile: bool) -> np.ndarray:
    pair = Pair(conjugate.model, conjugate.guide)
    return importance.log_evidence(pair, x, num_samples=50, compile=compile, progress=False).log_evidence


def _chains(conjugate: Any, x: Tensor, compile: bool) -> np.ndarray:
    drawn = nuts.sample(
        conjugate.model, x[:3], num_draws=8, warmup=20, chains=2, compile=compile, progress=False
    )
    return drawn.draws["z"].to_numpy()


@POSIX
@pytest.mark.parametrize("method", [_fit, _evidence, _chains])
@pytest.mark.usefixtures("untried")
def test_without_code_that_runs_every_method_gives_its_uncompiled_numbers(
    method: Any, conjugate: Any, x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = method(conjugate, x, compile=False)
    _crashing(tmp_path, monkeypatch, signal.SIGSEGV)
    with pytest.warns(RuntimeWarning, match="ends the process that loads it here") as said:
        found = method(conjugate, x, compile=True)
    assert len(said) == 1
    np.testing.assert_array_equal(found, expected)


def test_once_tried_graphs_are_compiled_in_the_process_itself(
    untried: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, x = _graph()
    found = compile_graph(graph, x)
    assert not found.from_cache
    torch.testing.assert_close(found(x)[0], (2 * x).exp().sum(), rtol=1e-14, atol=0)
    assert sorted(path.suffix for path in untried.iterdir()) == [".so", ".tried"]
    _no_more_trials(monkeypatch)
    other, x = _graph(3.0)
    torch.testing.assert_close(compile_graph(other, x)(x)[0], (3 * x).exp().sum(), rtol=1e-14, atol=0)


def test_a_graph_that_cannot_be_sent_is_compiled_in_the_process(
    untried: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile_apart, "NAMES", set())
    graph, x = _graph()
    torch.testing.assert_close(compile_graph(graph, x)(x)[0], (2 * x).exp().sum(), rtol=1e-14, atol=0)
    assert [path.suffix for path in untried.iterdir()] == [".so"]


def test_what_cannot_be_kept_is_known_to_the_process(untried: Path, tmp_path: Path) -> None:
    untried.write_text("in the way")
    own = tmp_path / "g++"
    own.write_text("a compiler")
    proven.keep(untried, str(own))
    assert proven.is_proven(untried, str(own))


@pytest.mark.parametrize("change", ["compiler", "processor", "damaged"])
def test_another_compiler_or_processor_is_tried_anew(
    change: str, untried: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    untried.mkdir()
    compilers = [tmp_path / name for name in ("g++", "clang++")]
    for path in compilers:
        path.write_text("a compiler")
    first, second = map(str, compilers)
    proven.keep(untried, first)
    assert proven.is_proven(untried, first)
    monkeypatch.setattr(proven, "known", {})
    if change == "processor":
        monkeypatch.setattr(proven, "processor", lambda: "another one")
    if change == "damaged":
        next(untried.glob("*.tried")).write_text("half")
    assert not proven.is_proven(untried, second if change == "compiler" else first)
    proven.refuse_crashing(untried, first)


def test_a_library_is_for_one_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, x = _graph()
    before = compiler._key(graph, [x])
    assert proven.processor() == proven.processor()
    monkeypatch.setattr(compiler, "processor", lambda: "another one")
    assert compiler._key(graph, [x]) != before


STATIC = """#!/bin/sh
case " $* " in *" -shared "*) exec "{compiler}" "$@" -static-libstdc++ -static-libgcc;; esac
exec "{compiler}" "$@"
"""
RUNS = """
import torch
from ppl_vae.engine.compiler import compile_graph
from ppl_vae.engine.graph import trace

x = torch.linspace(0, 1, 5, dtype=torch.float64)
graph = trace(lambda x: ((x * 2.0).exp().sum(),), x)
assert torch.allclose(compile_graph(graph, x)(x)[0], (2 * x).exp().sum())
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="is about GNU's standard library")
def test_a_compiler_with_a_standard_library_of_its_own_runs_too(tmp_path: Path) -> None:
    """A library that brings its own standard library of C++ ended the process by signal 11."""
    own = tmp_path / "g++"
    own.write_text(STATIC.format(compiler=compiler.find_compiler()))
    own.chmod(0o755)
    places = {"PPL_VAE_CACHE": str(tmp_path / "cache"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "torch")}
    done = subprocess.run(
        [sys.executable, "-c", RUNS], capture_output=True, text=True, check=False,
        env={**os.environ, **places, "CXX": str(own)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
