"""Images that lie as arrays of bytes in the folder of data sets: nothing is downloaded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ppl_vae.base.errors import InputError
from ppl_vae.data.images import default_data_dir, image_rows
from ppl_vae.data.rows import Rows

__all__ = ["KEPT", "KeptImages"]

Labels = NDArray[np.int64] | None


@dataclass(frozen=True)
class KeptImages:
    """A data set of images in files of its own.

    Attributes:
        name: of the data set.
        files: below the folder of data sets: .npz archives with x, labels and perhaps class_names, or a .npy
            array of images. A class that an earlier file has as well is left out of a later one: random
            splits would have its images in training and test.
        image_shape: (height, width) or (height, width, channels).
    """

    name: str
    files: tuple[str, ...]
    image_shape: tuple[int, ...]

    def __call__(self, data_dir: Path | None, download: bool) -> Rows:
        """Read it.

        Raises:
            InputError: where a file is not there, or holds something else.
        """
        root = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
        if missing := [file for file in self.files if not (root / file).is_file()]:
            raise InputError(
                f"The data set {self.name} is not in {root} and is not downloaded: put {missing[0]} there, "
                "or name the folder that holds it with --data-dir."
            )
        parts: list[NDArray[np.uint8]] = []
        labels: list[NDArray[np.int64]] = []
        names: dict[str, int] = {}
        for file in self.files:
            with _reading(self.name, root / file), (root / file).open("rb") as opened:
                images, own = _read(opened, self.image_shape, names)
            parts.append(images)
            labels += [] if own is None else [own]
        return image_rows(self.name, self.image_shape, parts, np.concatenate(labels) if labels else None)


@contextmanager
def _reading(name: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"The data set {name} in {path} cannot be read: {error.strerror or error}."
        ) from None
    except (BadZipFile, EOFError, IndexError, KeyError, ValueError) as error:
        raise InputError(f"The data set {name} in {path} is damaged: {error}.") from None


def _read(file: BinaryIO, shape: tuple[int, ...], names: dict[str, int]) -> tuple[NDArray[np.uint8], Labels]:
    """Images, and labels where there are any; classes that have names are numbered across files by them."""
    found = np.load(file, allow_pickle=False)
    if isinstance(found, np.ndarray):
        return _folded(found, shape), None
    with found:
        images, labels = _folded(found["x"], shape), found["labels"].astype(np.int64)
        classes = found["class_names"].tolist() if "class_names" in found else None
    if labels.shape != (len(images),):
        raise ValueError(f"{len(images)} images and labels of shape {labels.shape}")
    if classes is None:
        return images, labels
    known = set(names)
    numbers = [names.setdefault(each, len(names)) for each in classes]
    new = np.array([each not in known for each in classes])[labels]
    return images[new], np.array(numbers, dtype=np.int64)[labels][new]


def _folded(images: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Bytes of shape (images, *shape)."""
    if images.dtype != np.uint8 or images.size != len(images) * np.prod(shape):
        raise ValueError(f"it must hold bytes of shape (images, {', '.join(map(str, shape))})")
    return images.reshape(len(images), *shape)


KEPT: dict[str, Callable[[Path | None, bool], Rows]] = {
    kept.name: kept
    for kept in (
        KeptImages("sign-digits", ("sign_digits/sign_digits_32.npz",), (32, 32, 3)),
        KeptImages("frey-faces", ("frey_faces/freyfaces.npy",), (28, 20)),
        KeptImages("olivetti", ("olivetti/olivetti.npz",), (64, 64)),
        KeptImages(
            "omniglot", ("omniglot/omniglot_small1_28.npz", "omniglot/omniglot_small2_28.npz"), (28, 28)
        ),
    )
}
