"""A model that takes more than rows: sequences, a group and a mask are columns of a file, from fit to run."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule

from ppl_vae import guide
from ppl_vae.base.errors import InputError
from ppl_vae.data import Dataset
from ppl_vae.data.inputs import Group, Input, Mask, Sequence
from ppl_vae.models import PPCA
from ppl_vae.runs import registry
from ppl_vae.runs.fit_job import fit_run
from ppl_vae.runs.run import Run, settings_for


@dataclass(frozen=True)
class NoOptions:
    """None."""


class GroupMeans(PyroModule):
    """m_k ~ N(0, 1), y_nt | m ~ N(m of n's group, 1): conjugate, and independent over groups."""

    name = "group-means"
    data_type = Dataset
    inputs: Mapping[str, Input] = {"group": Group(), "y": Sequence(), "y_observed": Mask()}
    Options = NoOptions
    unit = "data set"
    oracle = "the conjugate posterior"
    defaults = type(PPCA.defaults)(num_steps=300, lr=0.1, num_particles=8)
    guides = {"normal": lambda model, *data: AutoNormal(model)}  # noqa: RUF012

    def __init__(self, num_groups: int) -> None:
        super().__init__("group-means")
        self.num_groups = num_groups

    @classmethod
    def from_data(cls, data: Dataset, options: NoOptions | None = None) -> "GroupMeans":
        return cls(len(data["group"].levels))

    def check_data(self, *data: torch.Tensor) -> None:
        pass

    def forward(self, y, group, there):
        with pyro.plate("groups", self.num_groups):
            mean = pyro.sample("mean", dist.Normal(torch.zeros((), dtype=y.dtype), 1.0))
        with pyro.plate("units", len(y)) as i:
            each = dist.Normal(mean[..., group[i], None], torch.ones_like(y[i])).mask(there[i])
            pyro.sample("y", each.to_event(1), obs=y[i].nan_to_num())


TABLE = "site,y1,y2\nb,1.5,2.5\na,0.5,\nb,,3\na,-1,0.25\n"


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "SUITE", (*registry.SUITE, GroupMeans))

    def asked(text, **given):
        (tmp_path / "t.csv").write_text(text)
        return settings_for("group-means", str(tmp_path / "t.csv"), given, {})

    return asked


def test_columns_of_a_file_reach_the_program_and_the_posterior_is_the_exact_one(settings, tmp_path):
    fit_run(settings(TABLE, columns={"group": "site"}, steps=300, stop=False), tmp_path / "run")
    run = Run.open(tmp_path / "run")
    y, group, there = run.tensors("train")
    assert run.source["group"].levels == ("a", "b")
    assert group.tolist() == [1, 0, 1, 0]
    assert there.tolist() == [[True, True], [True, False], [False, True], [True, True]]
    held = {0: [0.5, -1.0, 0.25], 1: [1.5, 2.5, 3.0]}
    precision = np.array([1 + len(values) for values in held.values()])
    exact = np.array([sum(values) for values in held.values()]) / precision
    drawn = guide.draws(run.pair, y, group, there, num_draws=4000, seed=0).draws["mean"].to_numpy()
    drawn = drawn.reshape(-1, 2)
    # Five standard errors of 4,000 draws, and what Adam with eight particles leaves.
    assert np.abs(drawn.mean(0) - exact).max() < 5 * 0.5 / np.sqrt(4000) + 0.05
    assert np.abs(drawn.std(0) * np.sqrt(precision) - 1).max() < 0.1


def test_a_column_that_the_model_needs_is_named(settings):
    with pytest.raises(
        InputError, match=r"t\.csv has no column 'group', which the model takes: it has site, y1, y2"
    ):
        Run.make(settings(TABLE))
