"""MNIST and its kin through torchvision: read where present, and never half-downloaded."""

import gzip
import os
import socket
import struct
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from torchvision import datasets

from ppl_vae.base.errors import InputError
from ppl_vae.data import Rows, load

SHARED = Path(os.environ.get("PPL_VAE_SHARED", Path(__file__).resolve().parents[3] / "shared"))
RNG = np.random.default_rng(0)
TRAIN = RNG.integers(0, 256, (5, 28, 28), dtype=np.uint8)
TEST = RNG.integers(0, 256, (3, 28, 28), dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    return (
        struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    )


FILES = {
    "train-images-idx3-ubyte": idx(TRAIN),
    "train-labels-idx1-ubyte": idx(np.arange(5)),
    "t10k-images-idx3-ubyte": idx(TEST),
    "t10k-labels-idx1-ubyte": idx(np.arange(3)),
}


def write(root: Path, folder: str = "MNIST") -> Path:
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    for name, content in FILES.items():
        (raw / name).write_bytes(content)
    return raw


def files_in(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A test that forgot to replace the download fails rather than reach out."""

    def refuse(*args, **kwargs):
        raise URLError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.fixture
def server(monkeypatch):
    """torchvision's download, as if from a server that sends what `send` writes."""

    def serve(send):
        monkeypatch.setattr(datasets.MNIST, "download", lambda self: send(Path(self.raw_folder)))

    return serve


@pytest.mark.skipif(not (SHARED / "data/MNIST").is_dir(), reason="MNIST is not here")
def test_mnist_has_its_published_shapes_and_split():
    before = files_in(SHARED / "data/MNIST")
    rows = load("mnist", data_dir=SHARED / "data", download=False)
    assert files_in(SHARED / "data/MNIST") == before
    assert isinstance(rows, Rows)
    assert rows.values.shape == (70_000, 784)
    assert rows.values.dtype == np.float32
    assert (rows.values.min(), rows.values.max()) == (0, 1)
    assert rows.image_shape == (28, 28)
    assert rows.kind == "grey"
    assert np.array_equal(rows.splits["train"], np.arange(60_000))
    assert np.array_equal(rows.splits["test"], np.arange(60_000, 70_000))
    assert rows.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert rows.labels[60_000:60_005].tolist() == [7, 2, 1, 0, 4]
    # The mean pixel of the training images, 0.1307 in every tutorial.
    assert abs(rows.values[:60_000].mean(dtype=np.float64) - 0.1307) < 5e-5


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_pixels_labels_and_splits_come_through(tmp_path, name, folder):
    write(tmp_path, folder)
    rows = load(name, data_dir=tmp_path, download=False)
    pixels = np.concatenate([TRAIN, TEST]).reshape(8, 784)
    assert np.array_equal(rows.values, pixels.astype(np.float32) / np.float32(255))
    assert rows.labels.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert rows.splits["train"].tolist() == [0, 1, 2, 3, 4]
    assert rows.splits["test"].tolist() == [5, 6, 7]
    assert rows.feature_names[29] == "pixel_1_1"
    assert rows.name == name


def test_archives_are_read_in_a_folder_that_stays_as_it_is(tmp_path, monkeypatch):
    from torchvision.datasets.utils import calculate_md5

    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    resources = []
    for name, content in FILES.items():
        (raw / f"{name}.gz").write_bytes(gzip.compress(content))
        resources.append((f"{name}.gz", calculate_md5(raw / f"{name}.gz")))
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    before = files_in(tmp_path)
    assert load("mnist", data_dir=tmp_path, download=False).num_rows == 8
    assert files_in(tmp_path) == before
    # An archive that is not what it should be is no data.
    (raw / resources[0][0]).write_bytes(gzip.compress(FILES["t10k-images-idx3-ubyte"]))
    with pytest.raises(InputError, match="not in"):
        load("mnist", data_dir=tmp_path, download=False)


def test_svhn_is_folded_with_channels_last(tmp_path, monkeypatch):
    from scipy.io import savemat
    from torchvision.datasets.utils import calculate_md5

    pixels = {"train": RNG.integers(0, 256, (32, 32, 3, 4)), "test": RNG.integers(0, 256, (32, 32, 3, 2))}
    splits = {}
    for part, images in pixels.items():
        path = tmp_path / f"{part}_32x32.mat"
        savemat(path, {"X": images.astype(np.uint8), "y": np.arange(10, 10 - images.shape[-1], -1)[:, None]})
        splits[part] = ("", path.name, calculate_md5(path))
    monkeypatch.setattr(datasets.SVHN, "split_list", splits)
    rows = load("svhn", data_dir=tmp_path, download=False)
    assert rows.values.shape == (6, 3072)
    assert rows.image_shape == (32, 32, 3)
    first = rows.values[4].reshape(32, 32, 3)
    assert np.array_equal(first, pixels["test"][..., 0].astype(np.float32) / np.float32(255))
    assert rows.labels.tolist() == [0, 9, 8, 7, 0, 9]
    assert rows.splits["test"].tolist() == [4, 5]


def test_cifar10_is_read_where_its_sums_are_right(tmp_path, monkeypatch):
    import pickle

    from torchvision.datasets.utils import calculate_md5

    place = tmp_path / datasets.CIFAR10.base_folder
    place.mkdir()
    pixels = {
        part: RNG.integers(0, 256, (size, 3, 32, 32), dtype=np.uint8) for part, size in (("a", 3), ("b", 2))
    }
    contents = {
        part: {"data": images.reshape(len(images), -1), "labels": list(range(len(images)))}
        for part, images in pixels.items()
    }
    for part, content in (contents | {"meta": {"label_names": ["cat", "dog"]}}).items():
        (place / part).write_bytes(pickle.dumps(content))
    sums = {part: calculate_md5(place / part) for part in ("a", "b", "meta")}
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["a", sums["a"]]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["b", sums["b"]]])
    monkeypatch.setattr(
        datasets.CIFAR10, "meta", {"filename": "meta", "key": "label_names", "md5": sums["meta"]}
    )
    rows = load("cifar10", data_dir=tmp_path, download=False)
    assert rows.image_shape == (32, 32, 3)
    whole = np.concatenate([pixels["a"], pixels["b"]]).transpose(0, 2, 3, 1)
    assert np.array_equal(rows.values.reshape(5, 32, 32, 3), whole.astype(np.float32) / np.float32(255))
    assert rows.labels.tolist() == [0, 1, 2, 0, 1]
    assert rows.splits["test"].tolist() == [3, 4]
    # A file with another sum is not opened: what it holds would be run.
    (place / "a").write_bytes(b"cos\nsystem\n")
    with pytest.raises(InputError, match="not in"):
        load("cifar10", data_dir=tmp_path, download=False)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "svhn", "cifar10"])
@pytest.mark.parametrize("download", [False, True])
def test_what_is_neither_there_nor_downloadable_is_said(tmp_path, name, download):
    with pytest.raises(InputError) as error:
        load(name, data_dir=tmp_path / "d", download=download)
    message = str(error.value)
    assert all(word in message for word in (name, str(tmp_path / "d"), "--data-dir"))
    assert ("downloading is off" in message) == (not download)
    assert "\n" not in message
    assert files_in(tmp_path) == set()
    assert socket.getdefaulttimeout() is None


def test_the_default_folder_is_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    write(tmp_path / "ppl_vae")
    assert load("mnist", download=False).num_rows == 8
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write(tmp_path / "home/.cache/ppl_vae")
    assert load("mnist", download=False).num_rows == 8


def test_a_download_ends_in_its_place_and_happens_once(tmp_path, server):
    calls = []

    def send(raw: Path) -> None:
        calls.append(raw)
        write(raw.parents[1])

    server(send)
    assert load("mnist", data_dir=tmp_path).num_rows == 8
    assert files_in(tmp_path) == {f"MNIST/raw/{name}" for name in FILES}
    assert load("mnist", data_dir=tmp_path).num_rows == 8
    assert len(calls) == 1
    assert tmp_path not in (calls[0], *calls[0].parents[:2])


@pytest.mark.parametrize("failure", [RuntimeError("corrupted"), OSError(28, "No space left on device")])
def test_a_broken_download_leaves_nothing(tmp_path, server, failure):
    def send(raw: Path) -> None:
        write(raw.parents[1])
        raise failure

    server(send)
    with pytest.raises(InputError, match=r"corrupted|No space left"):
        load("mnist", data_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"", b"garbage that is no image", None])
def test_damaged_files_are_said_to_be_so(tmp_path, name, content):
    raw = write(tmp_path)
    (raw / name).write_bytes(FILES[name][:-1] if content is None else content)
    with pytest.raises(InputError, match="damaged") as error:
        load("mnist", data_dir=tmp_path, download=False)
    assert str(raw) in str(error.value)


def test_as_many_labels_as_images(tmp_path):
    raw = write(tmp_path)
    (raw / "t10k-labels-idx1-ubyte").write_bytes(idx(np.arange(4)))
    with pytest.raises(InputError, match="damaged"):
        load("mnist", data_dir=tmp_path, download=False)
