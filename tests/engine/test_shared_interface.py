"""The part of a library that is the same for every graph: compiled once, and what happens where it is not."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from ppl_vae.engine import shared_interface
from ppl_vae.engine.shared_interface import END, _build_halves, interface_shared

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")

# What PyTorch includes, and the interface it writes, in a line each.
HEADER = """#pragma once
int own(int);
template <typename T> struct Base { T twice(T x) { return 2 * own(x); } };
"""
INCLUDE = '#include "header.h"\n'
INTERFACE = f'{INCLUDE}extern "C" {{\nint call(int x) {{ return Base<int>().twice(x); }}\n'


class Builder:
    """Builds a source of a few lines as PyTorch's builds one of thousands."""

    def __init__(self, folder: Path, text: str, name: str = "graph.wrapper") -> None:
        self.target = folder / f"{name}.o"
        source = self.target.with_suffix(".cpp")
        source.write_text(text)
        (folder / "header.h").write_text(HEADER)
        self.command = f"g++ {source} -fPIC -include {folder}/header.h -I{folder} -c -o {self.target}"

    def get_command_line(self) -> str:
        return self.command

    def get_target_file_path(self) -> str:
        return str(self.target)

    def call(self, x: int) -> int:
        """The interface's function, out of the library that PyTorch would link."""
        library = self.target.with_suffix(".so")
        subprocess.run(["g++", "-shared", str(self.target), "-o", str(library)], check=True)
        return int(ctypes.CDLL(str(library)).call(x))


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources that are compiled."""
    monkeypatch.setattr(shared_interface, "INCLUDE", INCLUDE)
    monkeypatch.setattr(shared_interface, "BASE", "template struct Base<int>;\n")
    seen: list[str] = []
    plain = shared_interface._execute

    def execute(words: list[str]) -> None:
        seen.extend(Path(word).name for word in words if word.endswith(".cpp"))
        plain(words)

    monkeypatch.setattr(shared_interface, "_execute", execute)
    return seen


def test_the_interface_is_compiled_once_and_every_graph_keeps_its_own_functions(
    tmp_path: Path, compiled: list[str]
) -> None:
    for number in (3, 5):
        builder = Builder(
            tmp_path, f"{INTERFACE}{END}int own(int x) {{ return {number} * x; }}\n", f"{number}.wrapper"
        )
        assert _build_halves(builder)
        assert builder.call(7) == 2 * number * 7
    assert compiled == ["interface.cpp", "own.cpp", "own.cpp"]
    # Nothing else is left beside the header.
    assert len(list(tmp_path.glob("*.interface.o"))) == 1
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_another_interface_or_another_command_has_an_object_of_its_own(
    tmp_path: Path, compiled: list[str]
) -> None:
    own = "int own(int x) { return x; }\n"
    builder = Builder(tmp_path, f"{INTERFACE}{END}{own}")
    assert _build_halves(builder)
    builder.command = builder.command.replace("-fPIC", "-fPIC -O1")
    assert _build_halves(builder)
    other = Builder(tmp_path, f"{INTERFACE}int more() {{ return 1; }}\n{END}{own}")
    assert _build_halves(other)
    assert other.call(2) == 4
    assert compiled == ["interface.cpp", "own.cpp"] * 3


@pytest.mark.parametrize(
    ("text", "name"),
    [
        pytest.param(f"{INTERFACE}}}\nint own(int x) {{ return x; }}\n", "graph.wrapper", id="no end"),
        pytest.param(f"{INTERFACE}{END}int own(int x) {{ return x }}\n", "graph.wrapper", id="no C++"),
        pytest.param(f"{INTERFACE}{END}int own(int x) {{ return x; }}\n", "graph.kernel", id="a kernel"),
        pytest.param(f'extern "C" {{\n{END}', "graph.wrapper", id="another header"),
    ],
)
def test_what_is_not_as_expected_is_left_to_pytorch(text: str, name: str, tmp_path: Path) -> None:
    builder = Builder(tmp_path, text, name)
    assert not _build_halves(builder)
    assert not builder.target.exists()


def test_a_damaged_object_is_no_reason_to_fail(tmp_path: Path) -> None:
    builder = Builder(tmp_path, f"{INTERFACE}{END}int own(int x) {{ return x; }}\n")
    assert _build_halves(builder)
    kept = next(tmp_path.glob("*.interface.o"))
    kept.write_bytes(kept.read_bytes()[:100])
    builder.target.unlink()
    assert not _build_halves(builder)
    # The next one is compiled anew.
    assert _build_halves(builder)
    assert builder.call(4) == 8


@pytest.mark.parametrize(("name", "changes"), [("CppBuilder", True), ("NoSuchBuilder", False)])
def test_pytorchs_builder_is_as_it_was_afterwards(
    name: str, changes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import codecache

    monkeypatch.setattr(shared_interface, "BUILDER", name)
    before = codecache.CppBuilder, codecache._precompile_header
    with interface_shared():
        assert (codecache.CppBuilder is not before[0]) == changes
    with pytest.raises(KeyboardInterrupt), interface_shared():
        raise KeyboardInterrupt
    assert (codecache.CppBuilder, codecache._precompile_header) == before


def test_a_precompiled_header_is_looked_for_once_while_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_interface, "_headers", {})
    made: list[str] = []

    def precompile(name: str, command: str, **options: object) -> str:
        made.append(f"{name} {options['isa']}")
        path = tmp_path / f"{len(made)}.h"
        path.write_text("")
        return str(path)

    for isa in ("avx2", "avx2", "default"):
        shared_interface._header(precompile, "cpu.h", "g++", isa=isa)
    assert made == ["cpu.h avx2", "cpu.h default"]
    (tmp_path / "1.h").unlink()
    assert shared_interface._header(precompile, "cpu.h", "g++", isa="avx2") == str(tmp_path / "3.h")
