"""MNIST, Fashion-MNIST, SVHN and CIFAR-10, by torchvision: read where they are, downloaded when they are not.

torchvision takes any file of the right name for the data, so a download is unpacked beside its place and
moved there when it is whole.
"""

import gzip
import http.client
import io
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppl_vae.base.errors import InputError
from ppl_vae.data.rows import Floats, Integers, Rows

__all__ = ["default_data_dir", "image_rows", "read_cifar10", "read_fashion_mnist", "read_mnist", "read_svhn"]

_STALLED_AFTER = 30.0  # seconds without a byte

# What a truncated or foreign file makes torchvision and SciPy raise.
_DAMAGED = (AssertionError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


def default_data_dir() -> Path:
    """The folder ppl_vae in $XDG_CACHE_HOME, or in ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "ppl_vae"


def read_mnist(data_dir: Path | None, download: bool) -> Rows:
    """MNIST: 70,000 grey images of 28 x 28, the first 60,000 for training.

    Reads `data_dir`/MNIST/raw, as gzip archives or unpacked, which is where torchvision puts them.

    Raises:
        InputError: it is not there and cannot be downloaded, or what is there is damaged.
    """
    return _read_idx("mnist", "MNIST", _place(data_dir), download)


def read_fashion_mnist(data_dir: Path | None, download: bool) -> Rows:
    """Fashion-MNIST: as MNIST, in `data_dir`/FashionMNIST/raw."""
    return _read_idx("fashion-mnist", "FashionMNIST", _place(data_dir), download)


def read_svhn(data_dir: Path | None, download: bool) -> Rows:
    """SVHN, cropped digits: 99,289 colour images of 32 x 32 x 3, the first 73,257 for training.

    Reads `data_dir`/train_32x32.mat and test_32x32.mat, which is where torchvision puts them.

    Raises:
        InputError: it is not there and cannot be downloaded, or what is there is damaged.
    """
    root = _place(data_dir)
    datasets = _torchvision()
    parts = []
    for part in ("train", "test"):
        _, filename, md5 = datasets.SVHN.split_list[part]
        if not datasets.utils.check_integrity(root / filename, md5):
            _fetch("svhn", root, root, download, partial(datasets.SVHN, split=part, download=True))
        with _reading("svhn", root):
            loaded = datasets.SVHN(root, part)
        # torchvision puts channels first; images are drawn and folded with channels last.
        parts.append((loaded.data.transpose(0, 2, 3, 1), loaded.labels))
    return _trained_and_tested("svhn", (32, 32, 3), parts)


def read_cifar10(data_dir: Path | None, download: bool) -> Rows:
    """CIFAR-10: 60,000 colour images of 32 x 32 x 3, the first 50,000 for training.

    Reads `data_dir`/cifar-10-batches-py, which is where torchvision puts it; the sum of each file is checked
    before it is opened.

    Raises:
        InputError: it is not there and cannot be downloaded, or what is there is damaged.
    """
    root = _place(data_dir)
    datasets = _torchvision()
    known = datasets.CIFAR10
    place = root / known.base_folder
    meta = (known.meta["filename"], known.meta["md5"])
    if not all(
        datasets.utils.check_integrity(place / filename, md5)
        for filename, md5 in (*known.train_list, *known.test_list, meta)
    ):
        _fetch("cifar10", root, place, download, partial(known, download=True))
    with _reading("cifar10", place):
        loaded = [known(root, train=train) for train in (True, False)]
    return _trained_and_tested("cifar10", (32, 32, 3), [(part.data, part.targets) for part in loaded])


def _read_idx(name: str, folder: str, root: Path, download: bool) -> Rows:
    """One of the data sets in MNIST's own format."""
    dataset = getattr(_torchvision(), folder)
    raw = root / folder / "raw"
    plain = [archive.removesuffix(".gz") for archive, _ in dataset.resources]
    with tempfile.TemporaryDirectory() as scratch:
        at = root
        if not all((raw / file).is_file() for file in plain):
            if not _archives_whole(dataset, raw):
                _fetch(name, root, raw, download, partial(dataset, download=True))
            if not all((raw / file).is_file() for file in plain):
                at = Path(scratch)
                with _reading(name, raw):
                    _unpack(dataset, raw, at / folder / "raw")
        with _reading(name, raw):
            loaded = [dataset(at, train=train) for train in (True, False)]
            parts = [(part.data.numpy(), part.targets.numpy()) for part in loaded]
            if any(len(images) != len(labels) for images, labels in parts):
                raise ValueError("images without labels")
    return _trained_and_tested(name, (28, 28), parts)


def _trained_and_tested(
    name: str, shape: tuple[int, ...], parts: list[tuple[NDArray[np.uint8], Any]]
) -> Rows:
    """Rows of the training and the test part, one after the other."""
    images = [part for part, _ in parts]
    labels = np.concatenate([labels for _, labels in parts])
    ends = np.cumsum([len(part) for part in images])
    splits = {"train": np.arange(ends[0]), "test": np.arange(ends[0], ends[1])}
    return image_rows(name, shape, images, labels, splits)


def image_rows(
    name: str,
    shape: tuple[int, ...],
    parts: Sequence[NDArray[np.uint8]],
    labels: NDArray[Any] | None,
    splits: Mapping[str, Integers] | None = None,
) -> Rows:
    """Images of bytes as rows of greys, pixel / 255.

    Args:
        name: of the data set.
        shape: of an image, (height, width) or (height, width, channels).
        parts: arrays of shape (images, *shape), which come one after the other.
        labels: whole numbers, one an image, or None.
        splits: the official parts as positions of images.
    """
    values: Floats = np.empty((sum(map(len, parts)), int(np.prod(shape))), dtype=np.float32)
    start = 0
    for images in parts:
        # Into its place, so that no second copy of a large set is held.
        block = values[start : start + len(images)].reshape(len(images), *shape)
        np.divide(images, np.float32(255), out=block)
        start += len(images)
    places = ("_".join(map(str, place)) for place in np.ndindex(*shape))
    return Rows(
        name=name,
        values=values,
        feature_names=tuple(f"pixel_{place}" for place in places),
        kind="grey",
        image_shape=shape,
        labels=None if labels is None else labels.astype(np.int64),
        splits=splits or {},
        history=("scaled from 0..255 to [0, 1]",),
    )


def _archives_whole(dataset: Any, raw: Path) -> bool:
    from torchvision.datasets.utils import check_integrity

    return all(check_integrity(raw / archive, md5) for archive, md5 in dataset.resources)


def _unpack(dataset: Any, raw: Path, target: Path) -> None:
    """The archives' contents elsewhere: the folder that they lie in may be read-only."""
    target.mkdir(parents=True)
    for archive, _ in dataset.resources:
        with gzip.open(raw / archive) as packed, open(target / archive.removesuffix(".gz"), "wb") as out:
            shutil.copyfileobj(packed, out)


def _fetch(name: str, root: Path, place: Path, download: bool, get: Callable[[str], object]) -> None:
    """Download by `get(folder)` into a folder beside, and move the files to `place` when all are there."""
    if not download:
        raise InputError(
            f"The data set {name} is not in {place}, and downloading is off; name its folder with --data-dir."
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".incoming-") as incoming:
            with _patience(), nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
                get(incoming)
            for file in [path for path in Path(incoming).rglob("*") if path.is_file()]:
                target = root / file.relative_to(incoming)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, target)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"The data set {name} is not in {place} and cannot be downloaded there; put its files there, or "
            f"name the folder that holds them with --data-dir ({reason})."
        ) from None


@contextmanager
def _patience() -> Iterator[None]:
    """torchvision waits for ever on a server that does not answer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_STALLED_AFTER)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _reading(name: str, place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"The data set {name} in {place} cannot be read: {error.strerror or error}."
        ) from None
    except _DAMAGED:
        raise InputError(
            f"The data set {name} in {place} is damaged: delete its files there, and it is downloaded again."
        ) from None


def _place(data_dir: Path | None) -> Path:
    return default_data_dir() if data_dir is None else Path(data_dir).expanduser()


def _torchvision() -> Any:
    """torchvision.datasets; it fails to import beside another build of torch than its own."""
    try:
        import torchvision.datasets
    except (ImportError, RuntimeError) as error:
        raise InputError(
            f"torchvision cannot be imported ({error}): install torch and torchvision together, from one "
            "index."
        ) from None
    return torchvision.datasets
