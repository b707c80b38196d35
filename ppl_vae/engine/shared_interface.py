"""Compile once what is the same in the library of every graph.

AOT Inductor puts a C interface around a graph's kernels, the same text for every graph, which takes the
compiler longer than a graph of ordinary size: regular expressions, string streams and maps of the standard
library. Here the interface becomes an object of its own, kept beside PyTorch's precompiled header and found
again by its text and the compiler's command; a graph's own functions are compiled alone and joined with it
into the object that PyTorch links. A small graph takes a third of the time. Where a version writes another
text, and where anything fails, PyTorch builds as it does by itself.
"""

import hashlib
import os
import re
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ppl_vae.engine.proven import processor

__all__ = ["interface_shared"]

# The line that ends the interface; a graph's own functions follow.
END = '} // extern "C"\n'
INCLUDE = "#include <torch/csrc/inductor/aoti_include/cpu.h>\n"
# The one template that both halves would instantiate: in the interface's object alone.
BASE = "template class torch::aot_inductor::AOTInductorModelBase<torch::aot_inductor::AOTInductorModel>;\n"

BUILDER, HEADERS = "CppBuilder", "_precompile_header"

_lock = threading.Lock()
_headers: dict[tuple[str, ...], str] = {}


@contextmanager
def interface_shared() -> Iterator[None]:
    """Within this block, libraries that PyTorch compiles ahead share the object of their interface."""
    from torch._inductor import codecache

    plain, precompile = getattr(codecache, BUILDER, None), getattr(codecache, HEADERS, None)
    if plain is None or precompile is None:
        yield
        return

    class Builder(plain):  # type: ignore[misc, valid-type]
        def build(self) -> Any:
            return None if _build_halves(self) else super().build()

    with _lock:
        setattr(codecache, BUILDER, Builder)
        setattr(codecache, HEADERS, partial(_header, precompile))
        try:
            yield
        finally:
            setattr(codecache, BUILDER, plain)
            setattr(codecache, HEADERS, precompile)


def _header(precompile: Callable[..., str], name: str, command: str, **options: Any) -> str:
    """PyTorch's precompiled header, looked for once in a process: each time it would run the preprocessor."""
    key = (name, command, *(f"{option}={value}" for option, value in sorted(options.items())))
    if not Path(_headers.get(key, "")).is_file():
        _headers[key] = precompile(name, command, **options)
    return _headers[key]


def _build_halves(builder: Any) -> bool:
    """Build the object that this builder would; False, with nothing built, if it has no interface."""
    try:
        command, target = builder.get_command_line(), Path(builder.get_target_file_path())
        source, header = target.with_suffix(".cpp"), re.search(r"-include (\S+)", command)
        if not (target.name.endswith(".wrapper.o") and header and str(source) in command):
            return False
        interface, end, own = source.read_text(encoding="utf-8").partition(END)
        if not (end and INCLUDE in interface):
            return False
        common = _Command(command, str(source), str(target))
        with tempfile.TemporaryDirectory(dir=target.parent) as work:
            first = _interface(common, interface + end + BASE, Path(header[1]).parent, Path(work))
            second = common.compile(f"{INCLUDE}extern {BASE}{own}", Path(work, "own.cpp"))
            return _joined(shlex.split(command)[0], second, first, target)
    except (AttributeError, OSError, subprocess.CalledProcessError):
        return False


def _joined(compiler: str, own: Path, interface: Path, target: Path) -> bool:
    try:
        _execute([compiler, "-r", "-nostdlib", str(own), str(interface), "-o", str(target)])
    except subprocess.CalledProcessError:
        interface.unlink(missing_ok=True)  # it may be damaged on disk
        target.unlink(missing_ok=True)
        return False
    return True


class _Command:
    """PyTorch's command for one source, for another."""

    def __init__(self, words: str, source: str, target: str) -> None:
        self.words, self.source, self.target = words, source, target

    def compile(self, text: str, source: Path) -> Path:
        source.write_text(text, encoding="utf-8")
        target = source.with_suffix(".o")
        _execute(shlex.split(self.words.replace(self.source, str(source)).replace(self.target, str(target))))
        return target

    def key(self, text: str) -> str:
        words = self.words.replace(self.source, "").replace(self.target, "")
        # "-march=native" in the command is another set of instructions on another processor.
        return hashlib.sha256(f"{words}\n{processor()}\n{text}".encode()).hexdigest()[:40]


def _interface(common: _Command, text: str, folder: Path, work: Path) -> Path:
    """The interface's object, as it was kept, or compiled and kept."""
    kept = folder / f"{common.key(text)}.interface.o"
    if not kept.exists():
        made = common.compile(text, work / "interface.cpp")
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as whole:
            whole.write(made.read_bytes())
        os.replace(whole.name, kept)
    return kept


def _execute(words: list[str]) -> None:
    subprocess.run(words, check=True, capture_output=True)
