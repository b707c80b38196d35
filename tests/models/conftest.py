"""Real data and fits that the model tests share."""

from collections.abc import Callable

import numpy as np
import pytest
from sklearn import datasets

LOADERS = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "breast_cancer": datasets.load_breast_cancer,
    "digits": datasets.load_digits,
}


@pytest.fixture(scope="session")
def features() -> Callable[..., np.ndarray]:
    """A scikit-learn data set's features, centred and divided by the 1/N standard deviation if asked."""

    def load(name: str, *, standardised: bool = True) -> np.ndarray:
        x = LOADERS[name]().data.astype(float)
        return (x - x.mean(0)) / x.std(0) if standardised else x

    return load
