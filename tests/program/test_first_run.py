"""The first run of a pair: on all entries of its plates, or on a few where programs are made whole."""

from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_vae.guides.amortised import AmortisedNormal
from ppl_vae.program.pair import Pair


class _Model(PyroModule):  # type: ignore[misc]
    """q = 1, and a note of how many rows each run decodes."""

    made_whole: ClassVar[Any] = True

    def __init__(self) -> None:
        super().__init__("model")
        self.decoder = nn.Linear(1, 2)
        self.rows: list[int] = []

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            self.rows.append(len(x[i]))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x[i])


@pytest.mark.parametrize(("whole", "rows"), [(True, 64), (False, 1000), ("yes", 1000)])
def test_only_programs_that_are_made_whole_are_first_run_on_a_few_rows(
    whole: Any, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Model, "made_whole", whole)
    model = _Model()
    pair = Pair(model, AmortisedNormal(nn.Linear(2, 2), 1)).initialise(torch.zeros(1000, 2))
    assert model.rows == [rows]
    assert set(pair.parameters()) == {
        "model.decoder$$$weight", "model.decoder$$$bias", "guide.network$$$weight", "guide.network$$$bias"
    }  # fmt: skip
    assert model.decoder in pair.known.called["model"]
    assert Pair(_Model(), pair.guide).initialise(torch.zeros(5, 2)).known.initialised
