"""Arguments of a user's own model from files: by name or in order, in types that the model takes."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from ppl_vae import InputError, Pair, guide, svi
from ppl_vae.data import as_dataset
from ppl_vae.data.precision import merged_columns
from ppl_vae.data.user_data import read_arguments
from ppl_vae.program.user_program import load_program

PROGRAM = """
import torch, pyro, pyro.distributions as dist

def model(sigma, y, scale=1.0):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    pyro.sample("y", dist.Normal(mu, sigma).to_event(1), obs=y)

def one(x):
    return pyro.sample("z", dist.Normal(0.0, 1.0))
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "my.py").write_text(PROGRAM)
    return tmp_path


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
        ("sigma,y\n1,2\n3,high\n", "row 3, column 'y': 'high'"),
        ("sigma,y\n1,2\n3,\n", "row 3, column 'y': the cell is empty"),
        ("", "is empty"),
        ("sigma,y\n1,2\n3\n", "row 3, column 'y': the cell is empty"),
        ("sigma,y\n1,2,3\n", "row 2 has 3 cells where 2"),
        ("sigma,y,y\n1,2,3\n", "the column 'y' twice"),
        ("a\n1\n", "takes 3 arguments .sigma, y, scale. and --data gave 1 .*d.csv has a"),
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
    with pytest.raises(InputError, match="holds Python objects"):
        read_arguments([f"{folder}/p.npy"], model)


def table(folder, text):
    (folder / "d.csv").write_text(text)
    return [f"{folder}/d.csv"]


@pytest.mark.parametrize(
    "text",
    [
        "name,sigma,y\nAnn,15,28\nBo,10,8\n",
        ",y,when,sigma\n0,28,2020-01-01,15\n1,8,,10\n",
        "y,y2,y2,sigma\n28,a,b,15\n8,c,d,10\n",
        ' sigma , y,note\n15,28,"a, [b]"\n10,8,NaN\n',
    ],
)
def test_columns_that_no_argument_names_are_left_alone(folder, text):
    model = load_program(f"{folder}/my.py:model")
    sigma, y = read_arguments(table(folder, text), model)
    assert sigma.tolist() == [15.0, 10.0]
    assert y.tolist() == [28.0, 8.0]


def test_a_table_without_a_header_keeps_its_first_row(folder):
    one = load_program(f"{folder}/my.py:one")
    assert read_arguments(table(folder, "1,2\n3,4\n"), one)[0].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda *, x, y: None, "x, y as keywords only"),
        (lambda: None, "takes no arguments and --data gave 1"),
        (lambda x, y, z: None, "takes 3 arguments .x, y, z. .*gave 1 .*has a, b"),
    ],
)
def test_models_of_other_arguments_are_refused(folder, model, message):
    with pytest.raises(InputError, match=message):
        read_arguments(table(folder, "a,b\n1,2\n"), model)


def indexed(group, y):
    with pyro.plate("g", 3):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(a[..., group], 1.0), obs=y)


def embedded(group, y):
    a = pyro.sample("a", dist.Normal(torch.zeros(3, 1), 1.0).to_event(2))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(torch.nn.functional.embedding(group, a)[..., 0], 1.0), obs=y)


def coded(group, y):
    a = pyro.sample("a", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("n", len(y)) as i:
        design = torch.nn.functional.one_hot(group[i], 3).to(y.dtype)
        pyro.sample("y", dist.Normal(design @ a, 1.0), obs=y[i])


def flat_prior(group, y):
    a = pyro.sample("a", dist.ImproperUniform(dist.constraints.real, (), (3,)))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(a[..., group], 1.0), obs=y)


@pytest.mark.parametrize("model", [indexed, embedded, coded, flat_prior])
def test_whole_columns_used_as_an_index_arrive_as_integers(folder, model):
    group, y = read_arguments(table(folder, "group,y\n0,1\n2,3\n1,-4\n"), model)
    assert group.dtype == torch.int64
    assert group.tolist() == [0, 2, 1]
    # Whole measurements are reals that happen to be whole.
    assert y.dtype == torch.get_default_dtype()


def test_an_index_out_of_range_is_the_failure_that_is_told(folder):
    group, y = read_arguments(table(folder, "group,y\n1,1\n2,3\n3,-4\n"), indexed)
    with pytest.raises(IndexError, match="out of bounds"):
        indexed(group, y)


def coin(x):
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    with pyro.plate("n", len(x)):
        pyro.sample("x", dist.Bernoulli(p), obs=x)


def logits(x):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("n", len(x)) as i:
        pyro.sample("x", dist.Bernoulli(logits=z), obs=x[i])


def noisy(x):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("n", len(x)):
        pyro.sample("x", dist.Normal(z, x.exp()), obs=x.log1p())


@pytest.mark.parametrize("model", [coin, logits, noisy])
@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.uint8])
def test_booleans_and_integers_under_a_distribution_of_reals_work(folder, model, dtype):
    np.save(folder / "x.npy", np.array([1, 0, 1], dtype=dtype))
    (x,) = read_arguments([f"{folder}/x.npy"], model)
    assert x.tolist() == [1, 0, 1]
    assert torch.isfinite(pyro.poutine.trace(model).get_trace(x).log_prob_sum())


@pytest.mark.parametrize("words", ["True\nFalse\nTrue", "true\nfalse\ntrue", "TRUE\nFALSE\nTRUE"])
def test_booleans_in_a_table_are_zeros_and_ones(folder, words):
    (x,) = read_arguments(table(folder, f"x\n{words}\n"), coin)
    assert x.tolist() == [1, 0, 1]
    assert x.is_floating_point()


def test_looking_at_a_model_leaves_nothing_behind(folder):
    norm = torch.nn.BatchNorm1d(1)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = norm

        def forward(self, x):
            pyro.param("w", torch.tensor(1.0))
            pyro.sample("x", dist.Normal(self.norm(x[:, None]), 1.0).to_event(2), obs=x[:, None])

    state = torch.get_rng_state()
    read_arguments(table(folder, "x\n1\n2\n"), Model())
    assert torch.equal(torch.get_rng_state(), state)
    assert norm.running_mean.item() == 0
    assert norm.training
    assert not list(pyro.get_param_store())


def line(time, y):
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(b * (time - time.min()), 1.0), obs=y)


def test_a_posterior_over_unix_times_is_the_exact_one(folder):
    start, noise = 1_700_000_000, [0.4, -0.9, 0.1, 0.8, -0.4, 0.0]
    lines = "".join(f"{start + i},{2.0 * i + e}\n" for i, e in enumerate(noise))
    data = read_arguments(table(folder, "time,y\n" + lines), line)
    pair = Pair(line, AutoNormal(line))
    svi.fit(pair, *data, num_steps=300, lr=0.1, num_particles=8, progress=False)
    precision = 1.0 + sum(i**2 for i in range(6))
    mean = sum(i * (2.0 * i + e) for i, e in enumerate(noise)) / precision
    drawn = guide.draws(pair, *data, num_draws=2000, seed=0).draws["b"].to_numpy()
    assert drawn.mean() == pytest.approx(mean, abs=0.3 / precision**0.5)
    assert drawn.std() == pytest.approx(precision**-0.5, rel=0.2)


def narrow(time, y):
    w = pyro.param("w", torch.ones(1))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(time[:, None] @ w, 1.0), obs=y)


TIMES = {
    "seconds since 1970": [1_700_000_000, 1_700_000_001, 1_700_000_003],
    "halves of such seconds": [1.7e9, 1.7e9 + 0.5, 1.7e9 + 1],
    "days as numbers": [20_240_101, 20_240_102, 20_240_103],
    "a large level": [1e6 + 0.01, 1e6 + 0.02, 1e6 + 0.03],
    "long identifiers": [9_007_199_254_740_991, 9_007_199_254_740_990, 1],
}


@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES)
def test_values_that_float32_cannot_hold_apart_stay_float64(folder, times):
    rows = "".join(f"{time!r},{place}.5\n" for place, time in enumerate(times))
    time, y = read_arguments(table(folder, "time,y\n" + rows), line)
    assert time.tolist() == times
    assert y.dtype == torch.float32
    np.savez(folder / "d.npz", time=np.array(times, dtype=float), y=np.ones(3))
    time, _ = read_arguments([f"{folder}/d.npz"], line)
    assert time.tolist() == times
    with pytest.raises(InputError, match="column time: float32 cannot hold these values apart"):
        read_arguments(table(folder, "time,y\n" + rows), narrow)


@pytest.mark.parametrize(
    "values",
    [
        [0.1, 0.2, 0.3],
        [28, 8, -3],
        [0.1 + 0.2, 0.3, 0.7],
        [1e30, 1, 2],
        [5e8, 5e8],
        [0, 1, 255],
        [2e3, 2.001e3],
    ],
)
def test_ordinary_columns_are_float32(values):
    assert not len(merged_columns(np.array(values, dtype=float)[:, None]))


def test_dense_reals_are_float32():
    # Among this many doubles some do become equal.
    values = np.random.default_rng(0).random((300_000, 1))
    assert len(np.unique(values.astype(np.float32))) < len(values)
    assert not len(merged_columns(values))
    assert len(merged_columns(values + 1e5))


def nan_masked(x):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("n", len(x)) as i:
        pyro.sample("x", dist.NanMaskedNormal(mu, 1.0), obs=x[i])


def masked_by_hand(x, y):
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("n", len(y)) as i, pyro.poutine.mask(mask=~y[i].isnan()):
        pyro.sample("y", dist.Normal(b * x[i], 1.0), obs=y[i].nan_to_num())


def several(x):
    mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("n", len(x)) as i:
        pyro.sample("x", dist.NanMaskedNormal(mu, torch.ones(2)).to_event(1), obs=x[i])


@pytest.mark.parametrize(
    ("model", "text", "missing"),
    [
        (nan_masked, "x\n1\n\n3\n", None),
        (nan_masked, "name,x\nAnn,1\nBo,\nCy,3\n", [1]),
        (masked_by_hand, "x,y\n1,2\n2,\n3,NaN\n", [1, 2]),
        (several, "a,b\n1,\n2,3\nNA,4\n", [0, 2]),
    ],
)
def test_empty_cells_are_nan_where_the_model_masks_them(folder, model, text, missing):
    values = read_arguments(table(folder, text), model)[-1]
    rows = values.reshape(len(values), -1).isnan().any(1)
    assert rows.nonzero().flatten().tolist() == (missing or [])
    assert values.dtype == torch.get_default_dtype()


@pytest.mark.parametrize(
    ("model", "text", "where"),
    [
        (lambda x: pyro.sample("x", dist.Normal(pyro.sample("m", dist.Normal(0.0, 1.0)), 1.0).expand([len(x)])
                               .to_event(1), obs=x), "x,n\n1,a\n,b\n", "row 3, column .x.: the cell is"),
        # The covariate is missing, which no mask of y makes good.
        (masked_by_hand, "x,y\n1,2\n,3\n", "row 3, column 'x': the cell is empty"),
        (several, "a,b\n1,x\n2,3\n", "row 2, column 'b': 'x'"),
        (nan_masked, "x,n\n1,a\noops,b\n", "row 3, column 'x': 'oops'"),
        (several, "a,b\n1,2\n3\n", "row 3 has 1 cells where 2"),
    ],
)  # fmt: skip
def test_empty_cells_that_nobody_masks_are_refused_with_their_place(folder, model, text, where):
    with pytest.raises(InputError, match=where):
        read_arguments(table(folder, text), model)


def test_missing_values_do_not_hide_that_float32_merges_times(folder):
    times = [1.7e9 + step for step in range(40)]
    text = "x\n" + "\n".join(f"{t:.0f}" if n != 5 else "NaN" for n, t in enumerate(times))
    (values,) = read_arguments(table(folder, text), nan_masked)
    assert values.dtype == torch.float64
    assert int(values.isnan().sum()) == 1


@pytest.mark.parametrize(
    ("text", "line"),
    [("x,n\n1,a\nb,c\n", 3), ("x,n\n\n1,a\n\nb,c\n", 5), ('x,n\n1,"a\nb"\nb,c\n', 4), ("1,2\nb,3\n", 2)],
)
def test_a_cell_is_named_by_its_line_in_the_file(folder, text, line):
    """As games and rows are: the same cell has one number, whatever reads the file."""
    model = load_program(f"{folder}/my.py:one")
    if "n" in text:
        model = nan_masked
    with pytest.raises(InputError, match=f"row {line}, column 'x1?': 'b'"):
        read_arguments(table(folder, text), model)


@pytest.mark.parametrize("suffix", [".nc", ".parquet"])
def test_netcdf_and_parquet_are_arrays_by_name(folder, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    held = as_dataset({"group": [0, 2, 1], "y": [1.0, 3.0, -4.0], "name": ["a", "b", "c"]})
    path = folder / f"d{suffix}"
    held.to_netcdf(path) if suffix == ".nc" else held.to_pandas().to_parquet(path)
    group, y = read_arguments([str(path)], indexed)
    assert (group.dtype, group.tolist()) == (torch.int64, [0, 2, 1])
    assert (y.dtype, y.tolist()) == (torch.get_default_dtype(), [1, 3, -4])
