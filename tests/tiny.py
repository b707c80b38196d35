"""Models of the suite on a handful of data, with every one of their guides."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ppl_vae import models
from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.errors import InputError
from ppl_vae.data import Dataset, Games, Rows, as_dataset
from ppl_vae.data import inputs as inputs_
from ppl_vae.data.games import games_between
from ppl_vae.data.matching import resolve
from ppl_vae.inference import nuts
from ppl_vae.program.pair import Pair
from ppl_vae.program.terms import layout

NUM_ROWS, NUM_FEATURES, NUM_UNITS = 16, 6, 8
FAMILIES = {cls.__name__: cls for cls in models.SUITE}
PAIRS = [(name, guide_name) for name, family in FAMILIES.items() for guide_name in family.guides]
# Options under which a handful of data suffice.
TINY: Mapping[str, Mapping[str, Any]] = {
    "BayesianMixture": {"num_components": 2},
    "GaussianMixture": {"covariance": "spherical", "num_starts": 0},
    "Skills": {"draws": True, "drift": "1"},
}
every_model = pytest.mark.parametrize("name", FAMILIES)
every_pair = pytest.mark.parametrize(("name", "guide_name"), PAIRS)


@dataclass
class Tiny:
    """A model of the family on a handful of data."""

    model: Any
    data: tuple[Tensor, ...]
    guide_name: str

    @property
    def pair(self) -> Pair:
        return Pair(self.model, self.model.guides[self.guide_name](self.model, *self.data))


def draws_nothing(tiny: Tiny) -> bool:
    """Whether all latents are summed out, so that there is nothing to draw, and no noise in any answer."""
    return not layout(tiny.pair, *tiny.data).latents


def make(name: str, guide_name: str | None = None, seed: int = 0) -> Tiny:
    family = FAMILIES[name]
    torch.manual_seed(seed)
    dtype = getattr(torch, family.defaults.dtype)
    options = _narrow(family.Options(**TINY.get(name, {})))
    for binary in (False, True):
        data = _data(family, binary=binary)
        try:
            model = family.from_data(data, options)
            break
        except InputError:
            if binary:
                raise
    dataset = data if isinstance(data, Dataset) else data.dataset
    tensors = dataset.arguments(family.inputs, dtype)
    return Tiny(model, tensors, guide_name or next(iter(family.guides)))


def _data(family: Any, *, binary: bool) -> Any:
    """A handful of units, as the family looks at them; binary where it takes nothing else."""
    if family.data_type is Dataset:
        return _dataset(family.inputs, binary=binary)
    return _games() if family.data_type is Games else _rows(binary=binary)


def _narrow(options: Any) -> Any:
    """Options with networks of a few units: widths are whole numbers in tuples."""
    widths = {
        each.name: tuple(min(width, NUM_UNITS) for width in value)
        for each in fields(options)
        if isinstance(value := getattr(options, each.name), tuple) and all(isinstance(w, int) for w in value)
    }
    return replace(options, **widths)


def _dataset(inputs: Mapping[str, inputs_.Input], *, binary: bool) -> Dataset:
    """A handful of units for whatever a model declares."""
    generator = np.random.default_rng(0)
    shapes = {inputs_.Features: (NUM_FEATURES,), inputs_.Sequence: (5,), inputs_.Points: (4, 2)}
    columns: dict[str, Any] = {}
    for name, kind in inputs.items():
        if isinstance(kind, inputs_.Category | inputs_.Group | inputs_.Index):
            columns[name] = np.arange(NUM_ROWS) % 3
        elif isinstance(kind, inputs_.Count):
            columns[name] = generator.poisson(3.0, NUM_ROWS)
        else:
            columns[name] = generator.normal(size=(NUM_ROWS, *shapes.get(type(kind), ())))
            if binary:
                columns[name] = (columns[name] > 0).astype(float)
    return resolve(as_dataset(columns), inputs)


def _rows(*, binary: bool) -> Rows:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(NUM_ROWS, 2)) @ generator.normal(size=(2, NUM_FEATURES))
    values = values + generator.normal(size=values.shape)
    values = (values > 0).astype(float) if binary else values
    names = tuple(f"f{k}" for k in range(NUM_FEATURES))
    return Rows("tiny", values, names, "binary" if binary else "real")


def _games() -> Games:
    pairs = ("Ann Bob", "Ann Cyd", "Bob Cyd", "Cyd Ann", "Ann Dee", "Dee Bob", "Cyd Dee")
    winners, losers = zip(*map(str.split, pairs), strict=True)
    return replace(games_between("tiny", winners, losers), time=np.arange(7.0) // 2)


def short_chains(tiny: Tiny, seed: int = 0) -> Posterior:
    return nuts.sample(tiny.model, *tiny.data, num_draws=6, warmup=4, chains=2, max_tree_depth=3,
                       seed=seed, progress=False)  # fmt: skip
