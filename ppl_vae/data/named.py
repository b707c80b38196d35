"""The named data sets, and `load`, which takes a name or a path."""

import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np

from ppl_vae.base.errors import InputError
from ppl_vae.data import bundled
from ppl_vae.data.dataset import Columns, Dataset
from ppl_vae.data.games import Games, games_between
from ppl_vae.data.images import read_cifar10, read_fashion_mnist, read_mnist, read_svhn
from ppl_vae.data.kept_images import KEPT
from ppl_vae.data.readers import SUFFIXES, listed_suffixes, read_dataset, read_file
from ppl_vae.data.rows import Rows

__all__ = ["DatasetInfo", "load", "load_dataset", "names"]


@dataclass(frozen=True)
class DatasetInfo:
    """What there is to know about a named data set before it is loaded.

    Attributes:
        name: what `load` takes.
        kind: "rows" of features or "games".
        shape: in words.
        source: where the package has it from.
        reference: who collected it, and its licence where one is stated.
    """

    name: str
    kind: Literal["rows", "games"]
    shape: str
    source: str
    reference: str


def load(
    source: str, *, data_dir: Path | None = None, download: bool = True, games: bool = False
) -> Rows | Games:
    """Load a named data set, or read a file.

    Args:
        source: one of `names()`, or the path of a .npy, .npz, .csv, .nc or .parquet file.
        data_dir: where data sets of images are kept, torchvision's laid out as torchvision does; by default
            the folder ppl_vae in $XDG_CACHE_HOME or ~/.cache.
        download: whether a torchvision data set may be downloaded when it is not there.
        games: whether a table must hold games, so that it is told which columns it lacks.

    Raises:
        InputError: no such name or file, contents that cannot be used (see `ppl_vae.data.readers`), or a
            download that is not possible.
    """
    if source in _NAMED:
        return _NAMED[source][1](data_dir, download)
    return read_file(_path(source), games=games)


def load_dataset(
    source: str,
    *,
    data_dir: Path | None = None,
    download: bool = True,
    games: bool = False,
    columns: Columns | None = None,
) -> Dataset:
    """Load a named data set, or read a file, as a `Dataset` of variables of their own types.

    Args:
        source, data_dir, download, games: as of `load`.
        columns: of a table of games, which column is what (`ppl_vae.data.game_tables.read_games`).

    Raises:
        InputError: as `load`; but text makes a category and an empty cell a missing value.
    """
    if source in _NAMED:
        info, read = _NAMED[source]
        return replace(read(data_dir, download).dataset, source=info.source)
    return read_dataset(_path(source), games=games, columns=columns)


def _path(source: str) -> Path:
    """The path of a data file.

    Raises:
        InputError: for what is neither a file nor looks like one.
    """
    path = Path(source).expanduser()
    if path.exists() or path.suffix.lower() in SUFFIXES:
        return path
    raise InputError(
        f"There is no data set and no file '{source}': the data sets are {', '.join(_NAMED)}, and the path "
        f"of a file must end in {listed_suffixes()}."
    )


def names() -> dict[str, DatasetInfo]:
    """The named data sets, described; nothing is loaded."""
    return {name: info for name, (info, _) in _NAMED.items()}


def _digits() -> Rows:
    table = bundled.read("digits")
    return Rows(
        name="digits",
        values=(table.values / 16).astype(np.float32),
        feature_names=table.feature_names,
        kind="grey",
        image_shape=(8, 8),
        labels=table.labels,
        history=("scaled from 0..16 to [0, 1]",),
    )


def _real(name: str) -> Rows:
    table = bundled.read(name)
    return Rows(
        name=name, values=table.values, feature_names=table.feature_names, kind="real", labels=table.labels
    )


def _al_east_1987() -> Games:
    table = files("ppl_vae.data").joinpath("al_east_1987.csv").read_text(encoding="utf-8")
    pairs: list[tuple[str, str]] = []
    for row in csv.DictReader(table.splitlines()):
        pairs += [(row["winner"], row["loser"])] * int(row["games"])
    winners, losers = zip(*pairs, strict=True)
    return games_between("al-east-1987", winners, losers)


_Read = Callable[[Path | None, bool], Rows | Games]


def _here(read: Callable[[], Rows | Games]) -> _Read:
    """A data set that came with a package, for which there is nothing to look up or download."""
    return lambda data_dir, download: read()


_UCI = "UCI Machine Learning Repository, CC BY 4.0"

_ALL: tuple[tuple[DatasetInfo, _Read], ...] = (
    (
        DatasetInfo(
            "digits",
            "rows",
            "1797 x 64 (8 x 8 grey images)",
            "scikit-learn",
            f"Alpaydin and Kaynak 1998; {_UCI}",
        ),
        _here(_digits),
    ),
    (
        DatasetInfo("iris", "rows", "150 x 4", "scikit-learn", f"Fisher 1936; {_UCI}"),
        _here(partial(_real, "iris")),
    ),
    (
        DatasetInfo("wine", "rows", "178 x 13", "scikit-learn", f"Forina et al.; {_UCI}"),
        _here(partial(_real, "wine")),
    ),
    (
        DatasetInfo(
            "breast-cancer",
            "rows",
            "569 x 30",
            "scikit-learn",
            f"Street, Wolberg and Mangasarian 1993; {_UCI}",
        ),
        _here(partial(_real, "breast-cancer")),
    ),
    (
        DatasetInfo(
            "al-east-1987",
            "games",
            "273 games, 7 teams",
            "in this package",
            "American League East, 1987 season; Agresti, Categorical Data Analysis",
        ),
        _here(_al_east_1987),
    ),
    (
        DatasetInfo(
            "mnist",
            "rows",
            "70000 x 784 (28 x 28 grey images)",
            "torchvision",
            "LeCun, Cortes and Burges 1998",
        ),
        read_mnist,
    ),
    (
        DatasetInfo(
            "fashion-mnist",
            "rows",
            "70000 x 784 (28 x 28 grey images)",
            "torchvision",
            "Xiao, Rasul and Vollgraf 2017; MIT",
        ),
        read_fashion_mnist,
    ),
    (
        DatasetInfo(
            "svhn",
            "rows",
            "99289 x 3072 (32 x 32 x 3 colour images)",
            "torchvision",
            "Netzer et al. 2011; for non-commercial use",
        ),
        read_svhn,
    ),
    (
        DatasetInfo(
            "cifar10",
            "rows",
            "60000 x 3072 (32 x 32 x 3 colour images)",
            "torchvision",
            "Krizhevsky 2009",
        ),
        read_cifar10,
    ),
    (
        DatasetInfo(
            "sign-digits",
            "rows",
            "2062 x 3072 (32 x 32 x 3 colour images)",
            "sign_digits/sign_digits_32.npz in --data-dir",
            "Sign Language Digits of ardamavi, photographs reduced to 32 x 32; Apache-2.0",
        ),
        KEPT["sign-digits"],
    ),
    (
        DatasetInfo(
            "frey-faces",
            "rows",
            "1965 x 560 (28 x 20 grey images)",
            "frey_faces/freyfaces.npy in --data-dir",
            "Roweis and Frey, frames of a video of one face",
        ),
        KEPT["frey-faces"],
    ),
    (
        DatasetInfo(
            "olivetti",
            "rows",
            "400 x 4096 (64 x 64 grey images)",
            "olivetti/olivetti.npz in --data-dir",
            "AT&T Laboratories Cambridge; Samaria and Harter 1994",
        ),
        KEPT["olivetti"],
    ),
    (
        DatasetInfo(
            "omniglot",
            "rows",
            "4840 x 784 (28 x 28 grey images)",
            "omniglot/omniglot_small{1,2}_28.npz in --data-dir",
            "Lake, Salakhutdinov and Tenenbaum 2015, the two small background sets; MIT",
        ),
        KEPT["omniglot"],
    ),
)

_NAMED: dict[str, tuple[DatasetInfo, _Read]] = {entry[0].name: entry for entry in _ALL}
