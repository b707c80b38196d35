"""The one type for data: schema, units taken, and conversions there and back."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from ppl_vae.base.errors import InputError
from ppl_vae.data import Dataset, Games, Rows, Variable, as_dataset, load, load_dataset

DATES = np.array(["2024-01-01", "2024-02-29", "NaT", "2024-03-01"], dtype="datetime64[ns]")


def every_kind() -> Dataset:
    """Four units of every kind of variable, one of them ragged."""
    labels = {"feature": ("height", "width")}
    return Dataset(
        "every",
        {
            "x": Variable(np.arange(8.0).reshape(4, 2), "real", labels=labels),
            "small": Variable(np.array([0.5, 0.25, np.nan, 1.0], dtype=np.float32), "grey"),
            "coin": Variable(np.array([True, False, True, True]), "binary"),
            "visits": Variable(np.array([3, 0, 2, 9], dtype=np.uint16), "count"),
            "species": Variable(np.array([1, 0, -1, 1]), "category", levels=("b", "a é")),
            "id": Variable(np.array([2**53 + 1, 2**62, 0, 7]), "index"),
            "picture": Variable(np.arange(24, dtype=np.uint8).reshape(4, 2, 3), "image"),
            "small_observed": Variable(np.array([True, True, False, True]), "mask"),
            "when": Variable(DATES, "time"),
            "path": Variable(np.arange(10.0).reshape(5, 2), "real", offsets=np.array([0, 2, 2, 3, 5])),
        },
        source="a test",
        history=("made", 'quoted "words"'),
        warnings=("one",),
    )


def same(one: Dataset, other: Dataset) -> None:
    assert list(one) == list(other)
    about = ("name", "source", "history", "warnings", "unit")
    assert [getattr(one, field) for field in about] == [getattr(other, field) for field in about]
    for name in one:
        mine, its = one[name], other[name]
        np.testing.assert_array_equal(mine.values, its.values)
        assert mine.values.dtype == its.values.dtype, name
        fields = ("kind", "dims", "levels", "image_shape")
        assert [getattr(mine, field) for field in fields] == [getattr(its, field) for field in fields], name
        assert dict(mine.labels) == dict(its.labels)
        np.testing.assert_array_equal(mine.offsets, its.offsets)


def test_xarray_and_back_is_the_same():
    data = every_kind()
    there = data.to_xarray()
    assert all(isinstance(value, str) for value in there.attrs.values())
    assert there.sizes["row"] == 4
    same(Dataset.from_xarray(there), data)


def test_netcdf_and_back_is_the_same(tmp_path):
    data = every_kind()
    data.to_netcdf(tmp_path / "d.nc")
    same(Dataset.from_netcdf(tmp_path / "d.nc"), data)
    same(as_dataset(tmp_path / "d.nc"), data)


def test_pandas_and_back_keeps_types_kinds_and_history():
    data = every_kind().select([name for name in every_kind() if name not in ("x", "picture", "path")])
    table = data.to_pandas()
    assert table["species"].astype(object).tolist()[:2] == ["a é", "b"]
    same(Dataset.from_pandas(table), data)


def test_a_matrix_is_a_column_a_feature_in_pandas():
    table = every_kind().select(["x"]).to_pandas()
    assert list(table) == ["height", "width"]
    assert table["width"].tolist() == [1, 3, 5, 7]
    for name in ("picture", "path"):
        with pytest.raises(InputError, match=f"'{name}' is no column and no matrix"):
            every_kind().select([name]).to_pandas()


def test_units_are_taken_from_every_variable_and_offsets_are_rebuilt():
    data = every_kind()
    taken = data.take(np.array([3, 1, 0]))
    assert taken["visits"].values.tolist() == [9, 0, 3]
    assert taken["path"].offsets.tolist() == [0, 2, 2, 4]
    assert taken["path"].values.tolist() == [[6, 7], [8, 9], [0, 1], [2, 3]]
    assert taken.history == data.history
    for units in (np.array([False, True, False, True]), slice(1, 4, 2), np.array([1, -1])):
        same(data.take(units), data.take(np.array([1, 3])))
    assert len(data.take(np.array([], dtype=int))) == 0


def test_ragged_units_are_those_of_a_loop():
    generator = np.random.default_rng(0)
    lengths = generator.integers(0, 5, 40)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    variable = Variable(generator.random((offsets[-1], 3)), "real", offsets=offsets)
    units = generator.integers(0, 40, 60)
    taken = variable.take(units)
    for place, unit in enumerate(units):
        mine = taken.values[taken.offsets[place] : taken.offsets[place + 1]]
        assert np.array_equal(mine, variable.values[offsets[unit] : offsets[unit + 1]])


def test_parts_are_a_variable():
    split = Variable(np.array([0, 2, 0, -1]), "category", levels=("train", "validation", "test"))
    data = every_kind().having(split=split)
    assert data.part("train")["visits"].values.tolist() == [3, 2]
    assert data.part("test")["visits"].values.tolist() == [0]
    with pytest.raises(InputError, match=r"no part 'validation'; it has train, test\."):
        data.part("validation")
    with pytest.raises(InputError, match="it has no parts"):
        every_kind().part("train")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Variable(np.zeros(2), "category"), "category cannot have values of type float64"),
        (lambda: Variable(np.zeros(2), "colour"), "no kind of variable 'colour'"),
        (lambda: Variable(np.array(["a"]), "real"), "type <U1"),
        (lambda: Variable(np.array([0, 2]), "category", levels=("a", "b")), "positions outside"),
        (lambda: Variable(np.zeros((2, 3)), "real", labels={"feature": ("a",)}), "1 labels of 'feature'"),
        (lambda: Variable(np.zeros((2, 3)), "real", image_shape=(2, 2)), "do not fold"),
        (lambda: Variable(np.zeros(3), "real", offsets=np.array([0, 2])), "Offsets must rise from 0"),
        (lambda: Dataset("d", {"a": Variable(np.zeros(2), "real"), "b": Variable(np.zeros(3), "real")}),
         "d has 2 units of 'a' and 3 of 'b'"),
        (lambda: Dataset("d", {}), "no variables"),
        (lambda: every_kind()["nothing"], "no variable 'nothing': it has x, small"),
    ],
)  # fmt: skip
def test_what_is_no_data_set_is_refused_in_a_sentence(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_a_repr_says_what_it_is():
    assert repr(every_kind()).startswith("Dataset('every', 4 rows; x: real (2), small: grey, coin: binary")
    assert "species: category of 2" in repr(every_kind())
    assert "2 more" in repr(every_kind())


# What is accepted


@pytest.mark.parametrize(
    "index",
    [[5, 5, 7], ["a", "b", "a"], pd.date_range("2024", periods=3), pd.MultiIndex.from_tuples([(1, 2)] * 3)],
)
def test_tables_of_any_index_are_read_by_their_rows(index):
    table = pd.DataFrame(
        {"a": [1.5, 2, 3], 7: ["x", None, "y"], ("b", 1): pd.array([1, None, 3], dtype="Int64")}
    )
    table.index = index
    data = as_dataset(table)
    assert list(data) == ["a", "7", "7_observed", "b_1", "b_1_observed"]
    assert data["a"].values.tolist() == [1.5, 2, 3]
    assert data["7"].names().tolist() == ["x", None, "y"]
    assert data["7_observed"].values.tolist() == [True, False, True]
    np.testing.assert_array_equal(data["b_1"].values, [1, np.nan, 3])


@pytest.mark.parametrize(
    ("column", "dtype", "kind"),
    [
        ([2**53 + 1, 2**60], np.int64, "count"),
        (pd.array([2**53 + 1, 2**60], dtype="Int64"), np.int64, "count"),
        ([-1, 5], np.int64, "real"),
        ([True, False], np.bool_, "binary"),
        (pd.array([True, False], dtype="boolean"), np.bool_, "binary"),
        (np.array([1.5, 2], dtype=np.float32), np.float32, "real"),
        ([0.25, 1.0], np.float64, "grey"),
        (["b", "a"], np.int64, "category"),
        (pd.Categorical(["b", "a"], categories=["z", "b", "a"]), np.int64, "category"),
        (pd.to_datetime(["2024-01-01", "2024-01-02"]), None, "time"),
        (pd.to_datetime(["2024-01-01", "2024-01-02"]).tz_localize("Europe/Paris"), None, "time"),
    ],
)  # fmt: skip
def test_columns_of_a_table_keep_their_types(column, dtype, kind):
    found = as_dataset(pd.DataFrame({"c": column}))["c"]
    assert found.kind == kind
    assert dtype is None or found.values.dtype == dtype
    if kind == "count":
        assert found.values.tolist() == [2**53 + 1, 2**60]


def test_whole_numbers_that_a_missing_one_would_round_are_refused():
    with pytest.raises(InputError, match=r"column 'id': whole numbers beyond 2\^53 with missing ones"):
        as_dataset(pd.DataFrame({"id": pd.array([2**60 + 1, None], dtype="Int64")}))


def test_arrays_tensors_mappings_and_lists_are_data_sets():
    values = np.arange(6.0).reshape(3, 2)
    for data in (values, torch.tensor(values), torch.tensor(values, requires_grad=True), values.tolist()):
        assert as_dataset(data)["x"].values.tolist() == values.tolist()
    data = as_dataset({"y": torch.tensor([1, 2]), "name": ["a", "b"], "z": pd.Series([0.5, 1], index=[4, 5])})
    assert [data[name].kind for name in data] == ["count", "category", "grey"]
    records = np.array([(1, 0.5), (2, 0.25)], dtype=[("n", "i8"), ("p", "f4")])
    assert as_dataset(records)["p"].values.dtype == np.float32
    array = xr.DataArray(
        values, dims=("case", "item"), coords={"item": ["a", "b"], "kind": ("case", ["u", "v", "u"])}
    )
    data = as_dataset(array)
    assert data["x"].labels == {"item": ("a", "b")}
    assert data["kind"].levels == ("u", "v")
    for same_data in (data, Rows("r", values, ("a", "b"), "real"), load("al-east-1987")):
        assert isinstance(as_dataset(same_data), Dataset)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (3, "of type int"),
        (np.float64(1), "of type float64|single value"),
        (np.array([1j]), "complex128"),
        ([[1], [1, 2]], "lists of different lengths"),
        (np.array([object()]), "Python objects"),
        ({"a": [1, 2], "b": [1]}, "2 units of 'a' and 1 of 'b'"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "the column 'a' twice"),
        (pd.DataFrame({"a": []}), "0 rows"),
        (xr.Dataset({"a": ("n", [1, 2]), "b": ("m", [1])}), "'b' lacks the dimension 'n'"),
        ("no-such", "no data set and no file"),
    ],
)
def test_what_cannot_be_data_is_refused_in_a_sentence(data, words):
    with pytest.raises(InputError, match=words) as error:
        as_dataset(data)
    assert "\n" not in str(error.value)


def test_memory_maps_stay_maps_and_are_shared(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((50, 6), dtype=np.float32))
    held = np.load(tmp_path / "a.npy", mmap_mode="c")
    data = as_dataset(held)
    assert isinstance(data["x"].values, np.memmap)
    assert isinstance(data.take(slice(10, 20))["x"].values, np.memmap)
    assert np.shares_memory(data["x"].values, held)
    x = torch.from_numpy(data["x"].values)
    assert x.data_ptr() == held.ctypes.data


def test_large_array_files_stay_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("ppl_vae.data.readers._LARGE", 100)
    np.save(tmp_path / "a.npy", np.eye(20, dtype=np.float32))
    assert isinstance(as_dataset(str(tmp_path / "a.npy"))["x"].values, np.memmap)


# Views


@pytest.mark.parametrize("name", ["digits", "iris"])
def test_rows_are_a_view_of_their_data_set(name):
    rows = load(name)
    data = load_dataset(name)
    assert data.source == "scikit-learn"
    again = Rows.of(data)
    assert again.values.dtype == rows.values.dtype
    assert np.array_equal(again.values, rows.values)
    assert np.array_equal(again.labels, rows.labels)
    about = ("name", "feature_names", "kind", "image_shape", "history")
    assert [getattr(again, field) for field in about] == [getattr(rows, field) for field in about]
    assert np.shares_memory(Rows.of(rows.dataset).values, rows.values)


def test_rows_keep_labels_that_are_no_positions_and_official_splits():
    splits = {"train": np.array([0, 2]), "test": np.array([1])}
    rows = Rows("r", np.eye(3), ("a", "b", "c"), "binary", labels=np.array([7, 3, 7]), splits=splits)
    assert rows.dataset["label"].levels == ("3", "7")
    again = Rows.of(rows.dataset)
    assert again.labels.tolist() == [7, 3, 7]
    assert {name: part.tolist() for name, part in again.splits.items()} == {"train": [0, 2], "test": [1]}


def test_games_are_a_view_of_their_data_set():
    games = load("al-east-1987")
    again = Games.of(games.dataset)
    assert again.players == games.players
    assert torch.equal(again.duels()[1], games.duels()[1])
    assert games.dataset.unit == "game"
    table = pd.DataFrame({"Winner": ["Ann", "Bo "], "Loser": ["Bo", "Cy"], "note": ["x", "y"]}, index=[3, 3])
    assert Games.of(as_dataset(table)).players == ("Ann", "Bo", "Cy")


# Files


def test_a_table_of_any_columns_is_read_with_their_types(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        "id,species,width,seen,when\n9007199254740993,a,1.5,True,2024-01-01\n7,b,,False,2024-01-02\n"
    )
    data = as_dataset(path)
    assert {name: data[name].kind for name in data} == {
        "id": "count", "species": "category", "width": "real", "width_observed": "mask", "seen": "binary",
        "when": "category",
    }  # fmt: skip
    assert data["id"].values.tolist() == [2**53 + 1, 7]
    assert data["width"].fault == f"{path}, row 3, column 'width': the cell is empty."


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,a\n1,2\n", "'a' twice"),
        ("a,b\n1\n", "row 2 has 1 cells"),
        ("", "empty"),
        ("a,b\n1,2,3\n", "row 2 has 3"),
    ],
)
def test_tables_at_fault_are_refused_with_their_place(tmp_path, text, words):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        as_dataset(str(tmp_path / "t.csv"))


def test_archives_hold_variables_by_name_and_ragged_ones(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.eye(3), label=np.array(["u", "v", "u"]), steps=np.arange(5.0),
             steps_offsets=np.array([0, 2, 2, 5]), true_weights=np.ones(9))  # fmt: skip
    data = as_dataset(path)
    assert list(data) == ["x", "label", "steps"]
    assert data["steps"].offsets.tolist() == [0, 2, 2, 5]
    assert data.warnings == ("arrays that have no value for each of the 3 of x are left out: true_weights",)


def test_parquet_is_a_table(tmp_path):
    pytest.importorskip("pyarrow")
    table = pd.DataFrame({"a": [1, 2], "s": ["u", "v"]})
    table.to_parquet(tmp_path / "t.parquet")
    data = as_dataset(tmp_path / "t.parquet")
    assert data["a"].values.dtype == np.int64
    assert data["s"].levels == ("u", "v")
    assert load(str(tmp_path / "t.parquet")).feature_names == ("a",)


def test_parquet_without_pyarrow_is_said(tmp_path, monkeypatch):
    def no_engine(path):
        raise ImportError("no parquet engine")

    monkeypatch.setattr(pd, "read_parquet", no_engine)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"without pyarrow: pip install 'ppl-vae\[parquet\]'"):
        as_dataset(tmp_path / "t.parquet")


@pytest.mark.parametrize("name", ["t.nc", "t.parquet"])
def test_files_that_hold_something_else_are_damaged(tmp_path, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(InputError, match="damaged or no"):
        load(str(tmp_path / name))
