"""Fixtures that several tests share, and the settings of a whole run: other seeds, other threads.

No test may hang on the luck of a seed or on how a machine rounds: ``--seed-offset N`` gives every generator
another seed, ``OMP_NUM_THREADS`` and ``ATEN_CPU_CAPABILITY`` are obeyed, and the suite passes under all.
Its CPU time, that of the workers and the processes they start included, is printed at the end; ``--costs N``
prints the N files and tests that it went to.
"""

import importlib.util
import math
import os
import resource
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyro
import pytest
import torch

from ppl_vae.base import fallback
from ppl_vae.engine import compile_apart, compiler

ROOT = Path(__file__).parents[1]

pytest_plugins = ["tests.conjugate_programs"]


def pytest_addoption(parser: pytest.Parser) -> None:
    words = "shift by N every seed that tests or the library give to a generator of NumPy or PyTorch"
    parser.addoption("--seed-offset", type=int, default=0, metavar="N", help=words)
    words = "print the N files and the N tests that took most CPU time, their child processes included"
    parser.addoption("--costs", type=int, default=0, metavar="N", help=words)


def pytest_configure(config: pytest.Config) -> None:
    # Small problems lose time to threads, and workers would fight for the cores.
    threads = os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(int(threads))
    if offset := config.getoption("--seed-offset"):
        _shift_seeds(offset)


def pytest_report_header(config: pytest.Config) -> str:
    processor = torch.backends.cpu.get_cpu_capability()
    offset = config.getoption("--seed-offset")
    return f"seed offset {offset}, {torch.get_num_threads()} threads, kernels for {processor}"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for costs in _costs():
        for name, seconds in costs.most_common(terminalreporter.config.getoption("--costs")):
            terminalreporter.write_line(f"{seconds:7.1f} CPU s  {name}")
    terminalreporter.write_line(f"{_cpu_seconds() / 60:.1f} CPU minutes")


# Costs -------------------------------------------------------------------------------------------

_spent: dict[str, float] = {}


def _cpu_seconds() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(used.ru_utime + used.ru_stime for used in spent)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[Any]:
    item.stash[_started] = _cpu_seconds()
    return (yield)


_started = pytest.StashKey[float]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[Any]:
    # The last report of a test carries its cost, the fixtures' included, from a worker to the summary.
    report = yield
    if report.when == "teardown":
        report.user_properties = [*report.user_properties, ("cpu", _cpu_seconds() - item.stash[_started])]
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "teardown":
        _spent[report.nodeid] = dict(report.user_properties).get("cpu", 0.0)


def _costs() -> tuple[Counter[str], Counter[str]]:
    """CPU seconds by file and by test."""
    files: Counter[str] = Counter()
    for name, seconds in _spent.items():
        files[name.partition("::")[0]] += seconds  # type: ignore[assignment]
    return files, Counter(_spent)  # type: ignore[arg-type]


# Seeds -------------------------------------------------------------------------------------------

_shifting = {"on": True}


def _shift_seeds(offset: int) -> None:
    """Every generator that is given a seed gets another one; the same one gets the same."""
    # Tests use seeds that lie side by side: the shifted ones are none of those.
    step = offset * 1_000_003
    of_torch, of_numpy, plain = torch.manual_seed, np.random.default_rng, torch.Generator

    def moved(seed: int) -> int:
        return (int(seed) + step) % 2**63 if _shifting["on"] else int(seed)

    class Generator(plain):  # type: ignore[misc, valid-type]
        def manual_seed(self, seed: int) -> Any:
            return super().manual_seed(moved(seed))

    def default_rng(seed: Any = None) -> np.random.Generator:
        made = isinstance(seed, np.random.Generator | np.random.BitGenerator | np.random.RandomState)
        if seed is None or made or not _shifting["on"]:
            return of_numpy(seed)
        given = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
        entropy = [*np.atleast_1d(given.entropy).tolist(), offset]
        return of_numpy(np.random.SeedSequence(entropy, spawn_key=given.spawn_key))

    torch.manual_seed = lambda seed: of_torch(moved(seed))
    np.random.default_rng = default_rng
    torch.Generator = Generator  # type: ignore[misc]


@pytest.fixture
def plain_seeds() -> Iterator[None]:
    """For tests whose numbers are compared with those of another process, which no offset reaches."""
    _shifting["on"] = False
    yield
    _shifting["on"] = True


# What every test starts from ---------------------------------------------------------------------


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


# Where compiling in a process of its own, as within a budget, is the subject.
APART = ("test_compile_apart.py", "test_check_budget.py", "test_deadlines.py")


@pytest.fixture(autouse=True)
def _compiling_here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are compiled in this process, which imports the compiler once, also where a budget runs."""
    if request.path.name not in APART:
        monkeypatch.setattr(compiler, "time_left", lambda: math.inf)
        monkeypatch.setattr(compile_apart, "begin", lambda *_: None)


@pytest.fixture
def one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check's reference is its shortest run of NUTS: for tests whose subject is not how good it is."""
    from ppl_vae.diagnostics.verdict import reference

    monkeypatch.setattr(reference, "ROUNDS", reference.ROUNDS[:1])


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages hold their figures undrawn: for tests whose subject is not how they look."""
    from ppl_vae.report.page import Picture

    monkeypatch.setattr(Picture, "_bytes", lambda self, kind: b"<svg/>")


@pytest.fixture
def from_the_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gaussian fits try the guide and the mode alone: for tests whose subject is not where they start."""
    from ppl_vae.inference.fitting.gaussians import starts as gaussian_starts

    monkeypatch.setitem(gaussian_starts._TRIED, "best", ("guide", "mode"))


@pytest.fixture
def one_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search for the best guides is one short round: for tests whose subject is not what it finds."""
    module = importlib.import_module("ppl_vae.diagnostics.latents.gaps")
    search = module.optimise

    def short(*given: Any, **options: Any) -> Any:
        return search(*given, **{**options, "num_steps": 20, "max_rounds": 1})

    monkeypatch.setattr(module, "optimise", short)


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
    """A short PPCA fit on iris, as `ppl-vae fit ppca iris --steps 60` makes it."""
    from ppl_vae.runs.fit_job import fit_run
    from ppl_vae.runs.run import settings_for

    folder = tmp_path_factory.mktemp("runs") / "ppca"
    fit_run(settings_for("ppca", "iris", {"steps": 60}, {}), folder, progress=False)
    return folder
