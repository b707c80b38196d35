"""Compiling within a deadline: in a process that can be ended, and only where it is worth its time."""

import math
import os
import sys
import time

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from ppl_vae.base.clock import OutOfTime, deadline
from ppl_vae.engine import compile_apart, compiler, gradients, proven
from ppl_vae.engine.compile_apart import TooSlow, ahead
from ppl_vae.engine.compiler import begin_compiling, compile_graph
from ppl_vae.engine.graph import Untraceable, trace
from ppl_vae.inference import nuts
from ppl_vae.program.pair import Pair

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")

SLEEPS = "import time; time.sleep(60)"
# As a C++ compiler's driver does.
HAS_CHILDREN = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPS}"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PPL_VAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(compile_apart, "crowding", lambda: 1.0)
    monkeypatch.setitem(proven.known, proven._key(compiler.find_compiler()), 0)
    return tmp_path / "cache"


def _graph():
    x = torch.linspace(0, 1, 5, dtype=torch.float64)
    return trace(lambda x: ((x * 2.0).exp().sum(),), x), x


def _instead(tmp_path, monkeypatch, code):
    script = tmp_path / "child.py"
    script.write_text(code)
    monkeypatch.setattr(compile_apart, "SCRIPT", script)


def _running(folder):
    """Processes that were started on anything in a folder."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8") as file:
                state, _, group = file.read().rpartition(")")[2].split()[:3]
            with open(f"/proc/{name}/cmdline", encoding="utf-8") as file:
                if state != "Z" and str(folder) in file.read():
                    found.append(int(group))
        except OSError:
            continue
    return found


def _group_is_gone(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def _is_eventually(true):
    end = time.monotonic() + 10
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return true()


def test_a_graph_that_is_compiled_apart_gives_the_same_numbers(empty_cache):
    x, constant = torch.linspace(0, 1, 5, dtype=torch.float64), torch.arange(5.0)
    whole = trace(
        lambda x: ((x - torch.zeros(5, dtype=x.dtype) + constant).clamp(max=math.inf).exp().sum(),), x
    )
    with deadline(600.0):
        found = compile_graph(whole, x)
    assert not found.from_cache
    assert os.listdir(empty_cache) == [found.library.name]
    torch.testing.assert_close(found(x)[0], (x + constant).exp().sum(), rtol=1e-14, atol=0)


@LINUX
@pytest.mark.parametrize("code", [SLEEPS, HAS_CHILDREN, STUBBORN], ids=["sleeps", "children", "stubborn"])
def test_compiling_is_given_up_with_everything_that_it_began(tmp_path, monkeypatch, empty_cache, code):
    _instead(tmp_path, monkeypatch, code)
    monkeypatch.setattr(compile_apart, "EXPECTED", ((sys.maxsize, 0.1),))
    graph, x = _graph()
    groups = []
    monkeypatch.setattr(compile_apart.time, "sleep", lambda _: groups.extend(_running(tmp_path)))
    with deadline(12.0), pytest.raises(TooSlow, match="had not ended in its share"):
        compile_graph(graph, x)
    monkeypatch.undo()
    assert groups
    assert all(_is_eventually(lambda group=group: _group_is_gone(group)) for group in set(groups))
    assert os.listdir(empty_cache) == []


@pytest.mark.parametrize(
    ("size", "seconds", "crowds", "begun"),
    [(100, 46.0, 1.0, True), (100, 44.0, 1.0, False), (100, 46.0, 2.0, False), (5000, 60.0, 1.0, False)],
    ids=["worth it", "too little time", "a busy machine", "a long graph"],
)
def test_compiling_begins_where_its_time_can_be_earned_back(
    tmp_path, monkeypatch, empty_cache, size, seconds, crowds, begun
):
    _instead(tmp_path, monkeypatch, "raise SystemExit(1)")
    monkeypatch.setattr(compile_apart, "crowding", lambda: crowds)
    graph, x = _graph()
    (empty_cache).mkdir()
    with deadline(seconds), pytest.raises(Untraceable) as error:
        compile_apart.build_in_time(graph.module, [x], empty_cache / "a.so", size)
    assert isinstance(error.value, TooSlow) != begun
    assert ("ended early" in str(error.value)) == begun


@pytest.mark.parametrize("loads", [(0.5, 1.0), (2.0, 1.0), (3.9, 2.0), (30.0, 16.0)])
def test_a_busy_machine_is_seen_in_powers_of_two(monkeypatch, loads):
    monkeypatch.undo()
    monkeypatch.setattr(compile_apart.os, "getloadavg", lambda: (loads[0], 0.0, 0.0))
    monkeypatch.setattr(compile_apart.os, "cpu_count", lambda: 2)
    assert compile_apart.crowding() in (loads[1], max(1.0, loads[1] / 2))


@LINUX
@pytest.mark.parametrize("ending", ["nothing", "InputError", "OutOfTime"])
def test_what_was_begun_ahead_ends_with_its_block(tmp_path, monkeypatch, empty_cache, ending):
    _instead(tmp_path, monkeypatch, SLEEPS)
    graph, x = _graph()
    raised = {"nothing": None, "InputError": ValueError(), "OutOfTime": OutOfTime()}[ending]
    try:
        with ahead(600.0):
            begin_compiling(graph, x)
            begin_compiling(graph, x)
            # A process that was just begun still bears its parent's name.
            assert _is_eventually(lambda: len(_running(tmp_path)) == 1)
            if raised:
                raise raised
    except (ValueError, OutOfTime):
        pass
    assert _is_eventually(lambda: not _running(tmp_path))
    assert os.listdir(empty_cache) == []


@pytest.mark.parametrize("seconds", [0.0, 10.0, 40.0])
def test_nothing_is_begun_ahead_that_is_not_worth_it(tmp_path, monkeypatch, seconds):
    monkeypatch.setattr(compile_apart, "_Build", lambda *_: pytest.fail("begun"))
    graph, x = _graph()
    with ahead(seconds):
        begin_compiling(graph, x)
    begin_compiling(graph, x)  # outside of it


def _normal(x):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def _of_rows(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def _long(x):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    for value in x:
        mu = mu * 0.9 + 0.1 * value
    pyro.sample("x", dist.Normal(mu, 1.0), obs=x[0])


@pytest.mark.parametrize("long", [10, 10**6], ids=["one by one", "side by side"])
@pytest.mark.parametrize("model", [_normal, _of_rows, _long])
def test_nuts_runs_the_graph_uncompiled_where_there_is_no_time(monkeypatch, model, long):
    def too_slow(*_):
        raise TooSlow("there is no time")

    monkeypatch.setattr(gradients, "compile_graph", too_slow)
    monkeypatch.setattr(gradients, "LONG", long)
    x = torch.tensor([0.5, 1.0, -0.2])
    found = nuts.sample(model, x, num_draws=10, warmup=10, chains=2, compile=True, progress=False)
    assert found.stats.attrs["late"] == 1
    traced = nuts.sample(model, x, num_draws=10, warmup=10, chains=2, progress=False)
    assert traced.stats.attrs["late"] == 0
    for name in found.draws:
        assert (found.draws[name] == traced.draws[name]).all()


def test_what_a_check_begins_ahead_is_what_nuts_asks_for(monkeypatch):
    asked = []
    monkeypatch.setattr(
        compiler.compile_apart, "begin", lambda module, inputs, path, size: asked.append(path.name)
    )

    def build(module, inputs, path, size):
        asked.append(path.name)
        raise TooSlow("seen enough")

    monkeypatch.setattr(compiler.compile_apart, "build_in_time", build)
    x = torch.tensor([0.5, 1.0, -0.2])
    pair = Pair(_normal, AutoNormal(_normal))
    pair.initialise(x)
    nuts.begin_compiling(pair, x)
    with deadline(600.0):
        nuts.sample(pair, x, num_draws=10, warmup=10, chains=2, compile=True, progress=False)
    assert len(asked) == 2
    assert asked[0] == asked[1]
