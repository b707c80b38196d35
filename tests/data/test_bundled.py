"""scikit-learn's tables, read from its files and by its loaders."""

from pathlib import Path

import numpy as np
import pytest
from sklearn import datasets

from ppl_vae.data import bundled

LOADERS = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "breast-cancer": datasets.load_breast_cancer,
    "digits": datasets.load_digits,
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_table_is_what_scikit_learn_loads(name: str) -> None:
    expected, found = LOADERS[name](), bundled.read(name)
    np.testing.assert_array_equal(found.values, expected.data)
    np.testing.assert_array_equal(found.labels, expected.target)
    assert found.feature_names == tuple(map(str, expected.feature_names))


@pytest.mark.parametrize("content", [None, "1,2\n", "not,a,table\nx,y,z\n", "\n"])
def test_a_file_that_is_not_as_expected_is_left_to_the_loader(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content is not None:
        (tmp_path / "datasets" / "data").mkdir(parents=True)
        (tmp_path / "datasets" / "data" / "iris.csv").write_text(content)

    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(bundled, "find_spec", lambda name: Spec)
    assert bundled._from_file("iris") is None
    np.testing.assert_array_equal(bundled.read("iris").values, datasets.load_iris().data)
