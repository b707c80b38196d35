"""A user's own programs and data, as they are named on the command line."""

import pytest

from ppl_vae import InputError
from ppl_vae.inference.fitting.started import load_guide
from ppl_vae.program.user_program import blamed, is_program, load_program

PROGRAM = """
import torch, pyro, pyro.distributions as dist
import neighbour
from pyro.infer.autoguide import AutoNormal

def model(sigma, y, scale=1.0):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    pyro.sample("y", dist.Normal(mu, sigma).to_event(1), obs=y)

def one(x):
    return pyro.sample("z", dist.Normal(0.0, 1.0))

guide = AutoNormal(model)
number = 3
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "my.py").write_text(PROGRAM)
    (tmp_path / "neighbour.py").write_text("")
    return tmp_path


def test_programs_of_one_file_share_it(folder):
    # A second run of the file would make another model than the one that the guide is of.
    model, again = load_program(f"{folder}/my.py:model"), load_program(f"{folder}/my.py:model")
    assert again is model
    assert load_guide(f"{folder}/my.py:guide", model) is load_program(f"{folder}/my.py:guide")
    assert is_program("my.py:model")
    assert not is_program("vae")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere.py:model", "no file"),
        ("my.py:absent", "no 'absent'; it has model, one"),
        ("my.py:number", "is a int"),
    ],
)
def test_wrong_names_are_refused(folder, monkeypatch, text, message):
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match=message):
        load_program(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [("x = 1\ny = x / 0\n", "line 2: ZeroDivisionError"), ("def f(:\n", "line 1: SyntaxError")],
)
def test_file_that_does_not_run_says_where(tmp_path, text, message):
    (tmp_path / "broken.py").write_text(text)
    with pytest.raises(InputError, match=message):
        load_program(f"{tmp_path}/broken.py:f")


@pytest.mark.parametrize("text", ["import sys\nsys.exit(3)\n", "x = 1\nraise SystemExit\n", "\nexit()\n"])
def test_file_that_ends_python_says_where(tmp_path, text):
    (tmp_path / "ends.py").write_text(text)
    with pytest.raises(InputError, match="line 2: it ends Python itself"):
        load_program(f"{tmp_path}/ends.py:model")


RAISING = """
def helper(x):
    {body}

def model(x):
    return helper(x)
"""


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise KeyError('oops')", "raises.py, line 3: KeyError: 'oops'"),
        ("raise OSError('no room')", "raises.py, line 3: OSError: no room"),
        ("raise SystemExit(4)", "raises.py, line 3: it ends Python itself (SystemExit: 4)"),
        ("return x + [1]", "raises.py, line 3: TypeError: "),
        ("raise ValueError('a\\nb')", "raises.py, line 3: ValueError: a"),
    ],
)
def test_a_programs_exception_is_told_in_a_line(tmp_path, monkeypatch, body, said):
    (tmp_path / "raises.py").write_text(RAISING.format(body=body))
    monkeypatch.chdir(tmp_path)
    model = load_program("raises.py:model")
    with pytest.raises(BaseException, match=r".") as caught:
        model(1)
    assert blamed(caught.value).startswith(said)
    assert "\n" not in blamed(caught.value)
    wrapped = RuntimeError("a worker failed")
    wrapped.__cause__ = caught.value
    assert blamed(wrapped).startswith(said)


def test_exceptions_of_others_are_nobodys(folder):
    load_program(f"{folder}/my.py:model")
    with pytest.raises(ZeroDivisionError) as caught:
        _ = 1 / 0
    assert blamed(caught.value) is None
