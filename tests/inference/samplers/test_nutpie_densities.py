"""What nutpie samples from: the same draws through its closed door and through its open one."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from torch import Tensor

from ppl_vae.inference import nuts
from ppl_vae.inference.samplers import nutpie_densities
from ppl_vae.inference.samplers.nutpie_densities import import_nutpie, mass_matrix

SETTINGS = {"num_draws": 60, "warmup": 60, "chains": 3, "seed": 4, "progress": False, "compile": True}
Y = torch.tensor([0.3, -1.2, 2.2, 0.8], dtype=torch.float64)


def _model(y: Tensor) -> None:
    """With an edge, beyond which the density is not finite: the sampler has to be taken back there."""
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 2.0))
    sd = pyro.sample("sd", dist.HalfNormal(y.new_ones(())))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu, sd), obs=y)
    pyro.factor("edge", torch.where(mu < 1.0, 0.0, -torch.inf))


@pytest.fixture(scope="module")
def private() -> xr.Dataset:
    """Draws through the class that takes addresses, which this version of nutpie must have."""
    return nuts.sample(_model, Y, **SETTINGS).draws


def _another_version(patch: pytest.MonkeyPatch) -> str:
    patch.setattr(import_nutpie(), "__version__", "0.99.1")
    return "nutpie 0.99.1 was not tried with C functions"


def _no_class(patch: pytest.MonkeyPatch) -> str:
    from nutpie import compile_pymc

    patch.delattr(compile_pymc, "CompiledPyMCModel")
    return "has no CompiledPyMCModel"


def _one_more_field(patch: pytest.MonkeyPatch) -> str:
    from nutpie import compile_pymc

    @dataclass(frozen=True)
    class Changed(compile_pymc.CompiledPyMCModel):
        another: int = dataclasses.field(kw_only=True)

    patch.setattr(compile_pymc, "CompiledPyMCModel", Changed)
    return "changed the fields another of its models"


def _one_field_less(patch: pytest.MonkeyPatch) -> str:
    from nutpie import compile_pymc

    kept = [
        (field.name, Any, dataclasses.field(default=None))
        for field in dataclasses.fields(compile_pymc.CompiledPyMCModel)
        if field.name != "user_data"
    ]
    patch.setattr(compile_pymc, "CompiledPyMCModel", dataclasses.make_dataclass("CompiledPyMCModel", kept))
    return "changed the fields user_data of its models"


@pytest.mark.parametrize("change", [_another_version, _no_class, _one_more_field, _one_field_less])
def test_where_the_private_class_is_not_known_the_draws_are_the_same(
    change: Any, private: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = change(monkeypatch)
    with pytest.warns(RuntimeWarning, match=re.escape(reason)) as said:
        found = nuts.sample(_model, Y, **SETTINGS).draws
    assert len(said) == 1
    assert "calls its compiled gradient through Python" in str(said[0].message)
    assert found["mu"].max() < 1.0
    for name, draws in private.items():
        np.testing.assert_array_equal(found[name], draws)
    # Once in a process.
    nuts.sample(_model, Y, **{**SETTINGS, "num_draws": 4, "warmup": 4})


@pytest.mark.parametrize("low_rank", [False, True])
def test_the_mass_matrix_is_chosen_without_a_deprecated_word(low_rank: bool) -> None:
    """Warnings are errors here; the answer is the keyword of the version that is installed."""
    found = mass_matrix(low_rank)
    sampled = nuts.sample(
        _model, Y, **{**SETTINGS, "num_draws": 4, "warmup": 4}, mass="low-rank" if low_rank else "diagonal"
    )
    assert len(found) == 1
    assert np.isfinite(sampled.draws["mu"]).all()


def test_the_module_names_the_releases_that_were_tried() -> None:
    """A release that is not among them still samples, more slowly: this says that it waits to be tried."""
    assert import_nutpie().__version__.startswith(nutpie_densities.TRIED)
