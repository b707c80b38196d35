"""Images kept as arrays: tiny files of the same layout, and the real ones where the shared folder is."""

from pathlib import Path

import numpy as np
import pytest

from ppl_vae.base.errors import InputError
from ppl_vae.data import load
from ppl_vae.data.kept_images import KEPT
from ppl_vae.data.named import load_dataset, names

RNG = np.random.default_rng(0)


def _bytes(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def _write(path: Path, **arrays: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, arrays["x"])
    else:
        np.savez(path, **arrays)


@pytest.mark.parametrize("name", ["sign-digits", "olivetti"])
def test_pixels_and_labels_come_through(tmp_path: Path, name: str) -> None:
    kept = KEPT[name]
    x, labels = _bytes(4, *kept.image_shape), np.array([3, 0, 3, 1], dtype=np.uint8)
    _write(tmp_path / kept.files[0], x=x, labels=labels)
    rows = load(name, data_dir=tmp_path)
    assert np.array_equal(rows.values, x.reshape(4, -1).astype(np.float32) / np.float32(255))
    assert (rows.kind, rows.image_shape, rows.values.dtype) == ("grey", kept.image_shape, np.float32)
    assert rows.labels.tolist() == [3, 0, 3, 1]
    assert rows.history == ("scaled from 0..255 to [0, 1]",)
    assert "label" in load_dataset(name, data_dir=tmp_path)


def test_frey_faces_are_rows_of_28_by_20_without_labels(tmp_path: Path) -> None:
    x = _bytes(3, 560)
    _write(tmp_path / "frey_faces/freyfaces.npy", x=x)
    rows = load("frey-faces", data_dir=tmp_path)
    assert rows.image_shape == (28, 20)
    assert rows.labels is None
    assert np.array_equal(rows.values, x.astype(np.float32) / np.float32(255))


def test_a_class_that_both_files_of_omniglot_have_is_taken_once(tmp_path: Path) -> None:
    first, second = _bytes(4, 28, 28), _bytes(4, 28, 28)
    _write(
        tmp_path / KEPT["omniglot"].files[0],
        x=first, labels=np.array([0, 0, 1, 1]), class_names=np.array(["Greek/1", "Latin/1"]),
    )  # fmt: skip
    _write(
        tmp_path / KEPT["omniglot"].files[1],
        x=second, labels=np.array([0, 1, 2, 1]), class_names=np.array(["Latin/1", "Tagalog/1", "Greek/2"]),
    )  # fmt: skip
    rows = load("omniglot", data_dir=tmp_path)
    kept = np.concatenate([first, second[1:]]).reshape(7, -1)
    assert np.array_equal(rows.values, kept.astype(np.float32) / np.float32(255))
    assert rows.labels.tolist() == [0, 0, 1, 1, 2, 3, 2]


@pytest.mark.parametrize("name", KEPT)
def test_what_is_not_there_or_damaged_is_said(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as error:
        load(name, data_dir=tmp_path)
    assert all(word in str(error.value) for word in (name, str(tmp_path), "--data-dir", KEPT[name].files[0]))
    assert "\n" not in str(error.value)
    for file in KEPT[name].files:
        _write(tmp_path / file, x=_bytes(3, 7), labels=np.zeros(3, dtype=np.uint8))
    with pytest.raises(InputError, match="is damaged: it must hold bytes of shape"):
        load(name, data_dir=tmp_path)
    (tmp_path / KEPT[name].files[0]).write_bytes(b"PK\x03\x04 but no archive")
    with pytest.raises(InputError, match="is damaged"):
        load(name, data_dir=tmp_path)


def test_labels_that_are_not_one_an_image_are_refused(tmp_path: Path) -> None:
    _write(tmp_path / KEPT["olivetti"].files[0], x=_bytes(2, 64, 64), labels=np.zeros(3, dtype=np.uint8))
    with pytest.raises(InputError, match=r"2 images and labels of shape \(3,\)"):
        load("olivetti", data_dir=tmp_path)


@pytest.mark.parametrize("name", KEPT)
def test_the_real_files_have_the_shapes_that_are_listed(name: str, shared) -> None:
    for file in KEPT[name].files:
        shared(f"data/{file}")
    rows = load(name, data_dir=shared("data"))
    assert names()[name].shape.startswith(f"{rows.num_rows} x {rows.num_features} ")
    assert rows.values.min() >= 0
    assert rows.values.max() <= 1
    if name == "omniglot":
        assert np.bincount(rows.labels).tolist() == [20] * 242
        assert len(np.unique(rows.values, axis=0)) == rows.num_rows
    if name == "olivetti":
        assert np.bincount(rows.labels).tolist() == [10] * 40
    if name == "sign-digits":
        assert np.unique(rows.labels).tolist() == list(range(10))
