"""A user's own programs and data, as they are named on the command line."""

import numpy as np
import pytest
import torch

from ppl_vae import InputError
from ppl_vae.user_program import is_program, load_guide, load_program, read_arguments

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
    assert type(load_guide(f"{folder}/my.py:guide", model)).__name__ == "AutoNormal"
    assert is_program("my.py:model")
    assert not is_program("vae")


def test_families_of_autoguides_have_names(folder):
    model = load_program(f"{folder}/my.py:model")
    assert type(load_guide("full-rank", model)).__name__ == "AutoMultivariateNormal"
    with pytest.raises(InputError, match="mean-field, full-rank, low-rank"):
        load_guide("flow", model)


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


def test_columns_are_arguments_by_name(folder):
    model = load_program(f"{folder}/my.py:model")
    (folder / "d.csv").write_text("school,y,sigma\n1,28,15\n2,8,10\n")
    sigma, y = read_arguments([f"{folder}/d.csv"], model)
    assert sigma.tolist() == [15.0, 10.0]
    assert y.tolist() == [28.0, 8.0]
    assert y.dtype == torch.get_default_dtype()


def test_files_are_arguments_in_order(folder):
    model = load_program(f"{folder}/my.py:model")
    np.save(folder / "a.npy", np.array([1.0, 2.0]))
    np.save(folder / "b.npy", np.array([1, 2]))
    first, second = read_arguments([f"{folder}/a.npy", f"{folder}/b.npy"], model)
    assert first.dtype == torch.get_default_dtype()
    assert second.dtype == torch.long


def test_table_of_other_columns_is_one_matrix(folder):
    one = load_program(f"{folder}/my.py:one")
    (folder / "d.csv").write_text("a,b\n1,2\n3,4\n5,6\n")
    (x,) = read_arguments([f"{folder}/d.csv"], one)
    assert x.shape == (3, 2)
    (folder / "d.csv").write_text("a\n1\n3\n")
    assert read_arguments([f"{folder}/d.csv"], one)[0].shape == (2,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sigma,y\n1,2\n3,high\n", "row 2, column y: 'high'"),
        ("sigma,y\n1,2\n3,\n", "row 2, column y: 'nan'"),
        ("", "no table"),
        ("a\n1\n", "takes 3 arguments .sigma, y, scale. and --data gave 1"),
    ],
)
def test_bad_tables_are_refused(folder, content, message):
    model = load_program(f"{folder}/my.py:model")
    (folder / "d.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_arguments([f"{folder}/d.csv"], model)


def test_pickles_are_not_loaded(folder):
    model = load_program(f"{folder}/my.py:one")
    np.save(folder / "p.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read"):
        read_arguments([f"{folder}/p.npy"], model)
