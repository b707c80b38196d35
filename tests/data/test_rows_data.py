"""Rows: named sets, files and bad files."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from ppl_vae.base.errors import InputError
from ppl_vae.data import Rows, load, names

SHARED = Path(os.environ.get("PPL_VAE_SHARED", Path(__file__).resolve().parents[3] / "shared"))


def rows_of(source: str | Path) -> Rows:
    rows = load(str(source))
    assert isinstance(rows, Rows)
    return rows


@pytest.mark.parametrize(
    ("name", "shape", "classes", "kind"),
    [
        ("digits", (1797, 64), 10, "grey"),
        ("iris", (150, 4), 3, "real"),
        ("wine", (178, 13), 3, "real"),
        ("breast-cancer", (569, 30), 2, "real"),
    ],
)
def test_scikit_learn_sets_have_their_published_shapes(name, shape, classes, kind):
    rows = rows_of(name)
    assert (rows.num_rows, rows.num_features) == rows.values.shape == shape
    assert rows.name == name
    assert rows.kind == kind
    assert len(set(rows.feature_names)) == shape[1]
    assert set(rows.labels) == set(range(classes))
    assert not rows.splits


def test_digits_are_images_in_the_unit_interval():
    rows = rows_of("digits")
    assert rows.image_shape == (8, 8)
    assert rows.values.dtype == np.float32
    assert (rows.values.min(), rows.values.max()) == (0, 1)
    # Sixteen grey levels, exactly representable.
    assert np.array_equal(rows.values * 16, np.round(rows.values * 16))


def test_iris_is_raw():
    rows = rows_of("iris")
    assert rows.values.dtype == np.float64
    assert rows.values[0].tolist() == [5.1, 3.5, 1.4, 0.2]
    assert rows.history == ()


def test_names_describe_every_set():
    infos = names()
    assert list(infos) == [
        "digits", "iris", "wine", "breast-cancer", "al-east-1987", "mnist", "fashion-mnist", "svhn",
        "cifar10", "sign-digits", "frey-faces", "olivetti", "omniglot",
    ]  # fmt: skip
    for name, info in infos.items():
        assert info.name == name
        assert info.kind == ("games" if name == "al-east-1987" else "rows")
        assert info.shape
        assert info.source
        assert info.reference


def test_described_shapes_are_the_loaded_ones():
    for name in ("digits", "iris", "wine", "breast-cancer"):
        rows = rows_of(name)
        assert names()[name].shape.startswith(f"{rows.num_rows} x {rows.num_features}")


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(InputError) as error:
        load("irsi")
    assert "'irsi'" in str(error.value)
    assert all(name in str(error.value) for name in names())
    assert all(ending in str(error.value) for ending in (".npy", ".npz", ".csv"))


def test_tensors_have_the_asked_dtype():
    rows = rows_of("iris")
    for dtype in (torch.float32, torch.float64):
        (x,) = rows.tensors(dtype)
        assert x.dtype == dtype
        assert x.shape == (150, 4)
        assert torch.equal(x, torch.tensor(rows.values).to(dtype))


def test_tensors_of_reversed_or_read_only_values():
    values = np.arange(6.0).reshape(3, 2)
    values.flags.writeable = False
    rows = Rows("r", values[::-1], ("a", "b"), "real")
    assert rows.tensors(torch.float64)[0].tolist() == [[4, 5], [2, 3], [0, 1]]


def test_take_keeps_what_belongs_to_a_row_and_drops_the_splits():
    rows = Rows(
        "r",
        np.arange(6.0).reshape(3, 2),
        ("a", "b"),
        "real",
        labels=np.array([7, 8, 9]),
        splits={"train": np.array([0, 1]), "test": np.array([2])},
        history=("h",),
    )
    taken = rows.take(np.array([2, 0]))
    assert taken.values.tolist() == [[4, 5], [0, 1]]
    assert taken.labels.tolist() == [9, 7]
    assert dict(taken.splits) == {}
    assert taken.history == ("h",)
    assert rows.num_rows == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"values": np.zeros(3)},
        {"feature_names": ("a",)},
        {"image_shape": (3, 3)},
        {"labels": np.array([1])},
    ],
)
def test_shapes_that_disagree_are_no_rows(wrong):
    right = {"name": "r", "values": np.zeros((2, 2)), "feature_names": ("a", "b"), "kind": "real"}
    Rows(**right)
    with pytest.raises(ValueError, match=r"."):
        Rows(**{**right, **wrong})


# NumPy files


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int8", "uint8", "int64", ">i4", "bool"])
def test_npy_of_any_real_type(tmp_path, dtype):
    values = np.array([[0, 1], [1, 1], [1, 0]]).astype(dtype)
    np.save(tmp_path / "a.npy", values)
    rows = rows_of(tmp_path / "a.npy")
    assert rows.values.dtype == np.float64
    assert rows.values.tolist() == [[0, 1], [1, 1], [1, 0]]
    assert rows.feature_names == ("x1", "x2")
    assert rows.name == "a.npy"


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([[0, 1], [1, 1]], "binary"),
        ([[0, 0.5], [1, 1]], "grey"),
        ([[0, 2], [1, 1]], "real"),
        ([[0, -0.1], [1, 1]], "real"),
    ],
)
def test_kind_is_judged_from_the_values(tmp_path, values, kind):
    np.save(tmp_path / "a.npy", np.array(values))
    assert rows_of(tmp_path / "a.npy").kind == kind


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save(tmp_path / "a.npy", np.eye(2))
    assert rows_of("~/a.npy").num_rows == 2


@pytest.mark.parametrize("name", ["x", "X", "data", "Y"])
def test_npz_by_name(tmp_path, name):
    np.savez(tmp_path / "a.npz", other=np.zeros((9, 9)), labels=np.array([4, 5]), **{name: np.eye(2)})
    rows = rows_of(tmp_path / "a.npz")
    assert rows.values.tolist() == [[1, 0], [0, 1]]
    assert rows.labels.tolist() == [4, 5]


def test_npz_by_being_the_only_matrix(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", features=2 * np.eye(3), y=np.array([0, 1, 2], dtype=np.uint8))
    rows = rows_of(tmp_path / "a.npz")
    assert rows.values[1].tolist() == [0, 2, 0]
    assert rows.labels.dtype == np.int64


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": np.eye(2), "b": np.eye(2)}, ["a (2, 2)", "b (2, 2)"]),
        ({"a": np.zeros(3)}, ["a (3,)"]),
        ({}, ["nothing"]),
        ({"x": np.eye(2), "y": np.arange(3)}, ["3 values of 'y'", "2 rows"]),
        ({"x": np.eye(2), "labels": np.array([0.5, 1.5])}, ["'labels'", "whole"]),
        ({"x": np.array([[{}]], dtype=object)}, ["objects"]),
        ({"x": np.zeros((2, 2, 2))}, ["(2, 2, 2)", "two dimensions"]),
    ],
)
def test_bad_npz(tmp_path, arrays, words):
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    refused(path, words)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(3), ["(3,)", "two dimensions"]),
        (np.float64(1), ["()"]),
        (np.zeros((2, 2, 2)), ["(2, 2, 2)"]),
        (np.zeros((0, 3)), ["no rows"]),
        (np.zeros((3, 0)), ["(3, 0)"]),
        (np.array([[1, None]], dtype=object), ["objects"]),
        (np.array([[1 + 2j]]), ["complex128"]),
        (np.array([["a"]]), ["<U1"]),
        (np.array([[1, 2], [3, np.nan]]), ["row 2", "column 2", "nan"]),
        (np.array([[1, 2], [-np.inf, 3]]), ["row 2", "column 1", "-inf"]),
    ],
)
def test_bad_npy(tmp_path, array, words):
    path = tmp_path / "bad.npy"
    np.save(path, array, allow_pickle=True)
    refused(path, words)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"\x93NUMPY\x01\x00", b"\x80\x04K\x01.", b"PK\x03\x04\x00"]
)
def test_garbled_numpy_files(tmp_path, suffix, content):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    refused(path, ["damaged"])


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_truncated_and_flipped_numpy_files_never_end_in_a_traceback(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    (np.save if suffix == ".npy" else np.savez_compressed)(path, np.arange(200.0).reshape(20, 10))
    whole = path.read_bytes()
    for cut in range(0, len(whole) - 1, 37):
        path.write_bytes(whole[:cut])
        refused(path, [str(path)])
    for place in range(0, len(whole), 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            load(str(path))
        except InputError:
            continue


def test_an_npy_is_not_taken_for_an_npz_nor_the_reverse(tmp_path):
    np.save(tmp_path / "a.npy", np.eye(2))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    refused(tmp_path / "a.npz", [".npz"])
    np.savez(tmp_path / "b.npz", x=np.eye(2))
    (tmp_path / "b.npz").rename(tmp_path / "b.npy")
    refused(tmp_path / "b.npy", [".npy"])


def test_a_missing_file_a_folder_and_another_ending(tmp_path):
    refused(tmp_path / "none.csv", ["no file", "none.csv"])
    (tmp_path / "folder.csv").mkdir()
    refused(tmp_path / "folder.csv", ["folder"])
    refused(tmp_path, ["folder"])
    (tmp_path / "a.txt").write_text("1,2\n")
    refused(tmp_path / "a.txt", ["a.txt", ".npy, .npz, .csv, .nc or .parquet"])
    refused(tmp_path / "none.txt", ["none.txt", ".npy, .npz, .csv, .nc or .parquet"])


# CSV


def test_csv_with_a_header(tmp_path):
    rows = csv_rows(tmp_path, "height, width\n1.5,2\n-3e2,0.1\n")
    assert rows.feature_names == ("height", "width")
    assert rows.values.tolist() == [[1.5, 2], [-300, 0.1]]
    assert rows.kind == "real"


def test_csv_without_a_header(tmp_path):
    rows = csv_rows(tmp_path, "1,0\n0,1\n")
    assert rows.feature_names == ("x1", "x2")
    assert rows.values.tolist() == [[1, 0], [0, 1]]
    assert rows.kind == "binary"


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffa,b\n1,2\n3,4\n",
        "a,b\r\n1,2\r\n3,4\r\n",
        "a,b\n1,2\n3,4",
        "a,b\n1,2\n3,4\n\n\n",
        "a,b\r\n1,2\r\n3,4\r\n\r\n  \r\n",
        "\na,b\n\n1,2\n\n3,4\n",
        '"a","b"\n"1","2"\n"3","4"\n',
        'a, "b"\n1, "2"\n 3 , 4 \n',
    ],
)
def test_csv_dialects_read_alike(tmp_path, text):
    rows = csv_rows(tmp_path, text)
    assert rows.feature_names == ("a", "b")
    assert rows.values.tolist() == [[1, 2], [3, 4]]


def test_csv_of_one_row_and_of_one_column(tmp_path):
    assert csv_rows(tmp_path, "1,2,3").values.shape == (1, 3)
    assert csv_rows(tmp_path, "a\n1\n2\n").values.shape == (2, 1)


def test_csv_numbers_are_read_exactly(tmp_path):
    values = np.random.default_rng(0).standard_normal((50, 4)) * 10.0 ** np.arange(-150, 50, 50)
    rows = csv_rows(tmp_path, "\n".join(",".join(map(repr, row)) for row in values.tolist()))
    assert np.array_equal(rows.values, values)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty"]),
        ("\n \n", ["empty"]),
        ("a,b\n", ["no rows"]),
        ("a,b\n1,2\n3,\n", ["row 3", "'b'", "empty"]),
        ("a,b\n\n1,2\n,4\n", ["row 4", "'a'", "empty"]),
        ("1,2\n3, \n", ["row 2", "'x2'", "empty"]),
        ("a,b\n1,two\n", ["row 2", "'b'", "'two' is not a number"]),
        ("a,b\n1,1_000\n", ["'1_000' is not a number"]),
        ("a,b\n1,True\n", ["'True' is not a number"]),
        ("a;b\n1;2\n", ["'1;2'", "commas"]),
        ("a,b\n1,nan\n", ["row 2", "'b'", "nan is not finite"]),
        ("a,b\n1,2\n-inf,2\n", ["row 3", "'a'", "-inf is not finite"]),
        ("a,b\n1,1e999\n", ["1e999 is not finite"]),
        ("a,b\n1,2\n3\n", ["row 3", "1 cells where 2"]),
        ("a,b\n1,2,3\n", ["row 2", "3 cells where 2"]),
        ("a,b\n1\n1,2\n", ["row 2", "1 cells where 2"]),
        ("1,2\n1,2,3\n", ["row 2", "3 cells where 2"]),
        (",a\n0,1\n", ["row 1", "column 1", "empty"]),
        ("a,b,a\n1,2,3\n", ["row 1", "'a' twice"]),
        ("1,two\n3,4\n", ["row 1", "'two' is not a number"]),
        ('a,b\n"1\n",2\n3,x\n', ["row 4", "'x'"]),
        ('a,b\n1,"2"3\n', ["row 2"]),
        ('a,"b\n1,2\n', ["row 1"]),
    ],
)
def test_bad_csv(tmp_path, text, words):
    path = tmp_path / "bad.csv"
    path.write_bytes(text.encode())
    refused(path, [*words, "bad.csv"])


@pytest.mark.parametrize("content", [b"\xff\xfea\x00,\x00", b"a,b\n1,\xe9\n", b"\x89PNG\r\n\x1a\n\x00\x00"])
def test_no_text(tmp_path, content):
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    refused(path, ["UTF-8"])


@pytest.mark.skipif(not (SHARED / "data/oil_flow").is_dir(), reason="the oil flow data are not here")
def test_oil_flow_is_read_with_its_labels():
    rows = rows_of(SHARED / "data/oil_flow/oil_1000x12.npz")
    assert rows.values.shape == (1000, 12)
    assert set(rows.labels) == {1, 2, 3}
    assert rows.kind == "real"


def csv_rows(folder: Path, text: str) -> Rows:
    path = folder / "a.csv"
    path.write_bytes(text.encode())
    return rows_of(path)


def refused(path: Path, words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        load(str(path))
    message = str(error.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert message.endswith(".")
