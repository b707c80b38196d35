"""Fixtures that several tests share."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pyro
import pytest
import torch

from ppl_vae.inference import fallback

ROOT = Path(__file__).parents[1]


def pytest_configure() -> None:
    # Small problems lose time to threads, and workers would fight for the cores.
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder of compiled graphs for all tests of a run and all its workers, and none of the user's."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PPL_VAE_CACHE", str(base / "compiled"))
        yield base / "compiled"


@pytest.fixture(autouse=True)
def _own_start() -> None:
    """Every test starts from the same generators and an empty parameter store, whatever ran before."""
    torch.manual_seed(0)
    pyro.clear_param_store()
    # What is said once in a process is said once in a test.
    fallback._said.clear()


@pytest.fixture(scope="session")
def oracles() -> ModuleType:
    """Exact answers by closed form and quadrature; see ``oracles.py``."""
    spec = importlib.util.spec_from_file_location("oracles", Path(__file__).with_name("oracles.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """A file of the shared folder, or a skip that names it."""
    folder = Path(os.environ.get("PPL_VAE_SHARED", ROOT.parent / "shared"))

    def find(name: str) -> Path:
        if not (folder / name).exists():
            pytest.skip(f"{name} is not in the shared folder {folder} (set PPL_VAE_SHARED)")
        return folder / name

    return find


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Call the command in this process; gives (exit code, stdout, stderr)."""
    from ppl_vae import cli

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ppl-vae", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short PPCA fit on iris."""
    folder = tmp_path_factory.mktemp("runs") / "ppca"
    command = ("fit", "ppca", "iris", "--steps", "60", "--out", str(folder))
    subprocess.run([sys.executable, "-m", "ppl_vae.cli", *command], check=True, capture_output=True)
    return folder
