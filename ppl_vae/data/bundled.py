"""The tables that scikit-learn brings, read without importing it: that alone takes as long as torch does.

The files' places and formats are scikit-learn's own affair: where one is not as expected, its loader is
asked.
"""

import gzip
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np

__all__ = ["LabelledTable", "read"]

_MEASURED = (
    "radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity", "concave points",
    "symmetry", "fractal dimension",
)  # fmt: skip

# File, rows, and names of the columns before the label, as scikit-learn's loaders name them.
_FILES: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "iris": (
        "iris.csv", 150, ("sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"),
    ),
    "wine": (
        "wine_data.csv", 178,
        ("alcohol", "malic_acid", "ash", "alcalinity_of_ash", "magnesium", "total_phenols", "flavanoids",
         "nonflavanoid_phenols", "proanthocyanins", "color_intensity", "hue", "od280/od315_of_diluted_wines",
         "proline"),
    ),
    "breast-cancer": (
        "breast_cancer.csv", 569,
        (*(f"mean {name}" for name in _MEASURED), *(f"{name} error" for name in _MEASURED),
         *(f"worst {name}" for name in _MEASURED)),
    ),
    "digits": (
        "digits.csv.gz", 1797, tuple(f"pixel_{row}_{column}" for row, column in product(range(8), range(8))),
    ),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class LabelledTable:
    """Features, float64 of shape (rows, features), their names, and labels, int64 of shape (rows,)."""

    values: np.ndarray
    feature_names: tuple[str, ...]
    labels: np.ndarray


def read(name: str) -> LabelledTable:
    """One of scikit-learn's tables: "iris", "wine", "breast-cancer" or "digits"."""
    return _from_file(name) or _from_loader(name)


def _from_file(name: str) -> LabelledTable | None:
    """The table from scikit-learn's own file; None where there is no such file or it holds something else."""
    file, rows, names = _FILES[name]
    found = find_spec("sklearn")
    for folder in (found.submodule_search_locations or ()) if found else ():
        path = Path(folder) / "datasets" / "data" / file
        try:
            with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
                cells = [line.split(",") for line in lines if line.strip()][-rows:]
            content = np.array(cells, dtype=np.float64)
        except (OSError, ValueError):
            continue
        if content.shape == (rows, len(names) + 1) and np.isfinite(content).all():
            return LabelledTable(content[:, :-1], names, content[:, -1].astype(np.int64))
    return None


def _from_loader(name: str) -> LabelledTable:
    from sklearn import datasets

    loaders = {
        "iris": datasets.load_iris,
        "wine": datasets.load_wine,
        "breast-cancer": datasets.load_breast_cancer,
        "digits": datasets.load_digits,
    }
    bunch = loaders[name]()
    names = tuple(str(feature) for feature in bunch.feature_names)
    return LabelledTable(bunch.data.astype(np.float64), names, bunch.target.astype(np.int64))
