"""A user's own Pyro programs, named on the command line: ``my.py:model``."""

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ppl_vae.base.errors import InputError

__all__ = ["blamed", "digest_of", "is_class", "is_program", "load_program"]

# Of the names that users' files have as modules.
PREFIX = "_ppl_vae_user_"


def is_program(text: str) -> bool:
    """Whether it names an object in a Python file."""
    return ".py:" in text


def load_program(text: str) -> Callable[..., Any]:
    """The callable that ``FILE.py:NAME`` names. The file is run, once for all names in it.

    Raises:
        InputError: if there is no such file or name, the file does not run, or it is no callable.
    """
    file, _, name = text.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise InputError(f"there is no file {path}; a program is named as FILE.py:NAME")
    module = _module(path.resolve())
    if not hasattr(module, name):
        known = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        own = [n for n in known if getattr(getattr(module, n), "__module__", None) == module.__name__]
        raise InputError(f"{path} has no {name!r}; it has {', '.join(own or known) or 'no callables'}")
    program = getattr(module, name)
    if not callable(program):
        raise InputError(f"{text} is a {type(program).__name__}; a model or a guide is a callable")
    return program


def is_class(text: str) -> bool:
    """Whether ``FILE.py:NAME`` names a class, as models that are fitted by name are.

    Raises:
        InputError: as `load_program`.
    """
    return isinstance(load_program(text), type)


def digest_of(text: str, folder: Path | None = None) -> str | None:
    """SHA-256 of the file that ``FILE.py:NAME`` names; None for what names no file.

    Args:
        text: the name of a model.
        folder: a run's, which must not hold the file: opening a run runs no code that came with it.
    """
    if not is_program(text):
        return None
    path = Path(text.rpartition(":")[0])
    if not path.is_file() or (folder is not None and path.resolve().is_relative_to(folder.resolve())):
        return ""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _module(path: Path) -> ModuleType:
    name = f"{PREFIX}{path.stem}_{abs(hash(str(path)))}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # The file may import its neighbours.
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's file raises
        del sys.modules[name]
        raise InputError(f"{path} does not run: {_where(error, path)}{_said(error)}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def blamed(error: BaseException) -> str | None:
    """What a user's program raised, in one line: file, line and exception; None if it raised nothing.

    Args:
        error: any exception. What it was raised from is looked at, too.
    """
    files = {module.__file__ for name, module in sys.modules.items() if name.startswith(PREFIX)}
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        frames = [frame for frame in traceback.extract_tb(cause.__traceback__) if frame.filename in files]
        if frames:
            return f"{_shown(frames[-1].filename)}, line {frames[-1].lineno}: {_said(cause)}"
        cause = cause.__cause__ or cause.__context__
    return None


def _where(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: "
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
    ]
    return f"line {lines[-1]}: " if lines else ""


def _said(error: BaseException) -> str:
    """An exception's type and the first line of its message."""
    if isinstance(error, SystemExit):
        return f"it ends Python itself (SystemExit: {error.code})"
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _shown(file: str) -> str:
    """A file as the user would type it."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
