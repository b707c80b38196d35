"""The stopping rule's ELBOs: the graph in parts against the programs at once."""

from typing import Any

import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal

from ppl_vae import PPCA, VAE, BayesianPPCA, Pair, TrueSkill
from ppl_vae.inference.fitting import fixed_data
from ppl_vae.inference.fitting.fixed_data import FixedData
from ppl_vae.inference.fitting.iwae import IWAE
from ppl_vae.program.problem import Problem
from ppl_vae.program.terms import layout


def _case(name: str) -> tuple[Pair, tuple[Any, ...]]:
    torch.manual_seed(1)
    if name == "games":
        model = TrueSkill(4)
        data = (torch.ones(20).double(), torch.randint(0, 2, (20, 2)) + torch.tensor([0, 2]))
        return Pair(model, AutoMultivariateNormal(model)), data
    models = {
        "ppca": PPCA(5, 2),
        "bayesian": BayesianPPCA(5, 2),
        "vae": VAE(5, latent_dim=2, hidden=(4,), likelihood="gaussian"),
    }
    x = torch.randn(30, 5, dtype=torch.float32 if name == "vae" else torch.float64)
    guide = next(iter(models[name].guides.values()))(models[name], x)
    return Pair(models[name], guide), (x,)


@pytest.mark.parametrize("weighted", [None, IWAE(3)], ids=["elbo", "iwae"])
@pytest.mark.parametrize("name", ["ppca", "vae", "bayesian", "games"])
def test_the_graph_in_parts_gives_the_programs_numbers(
    name: str, weighted: IWAE | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, data = _case(name)
    pair.initialise(*data, seed=0)
    shape = layout(pair, *data)
    # Parts that do not divide the number of particles, of some of the units.
    monkeypatch.setattr(fixed_data, "CACHED", 7 * shape.event_size * min(shape.num_units, 11))
    sizes = {"most_units": 11, "most_particles": 40}
    stock = FixedData(Problem.of(pair, *data), 3, weighted, **sizes)
    traced = FixedData(Problem.of(pair, *data), 3, weighted, traced=True, **sizes)
    for _ in range(2):
        expected, found = stock.log_weights(), traced.log_weights()
        assert traced._parts is not None
        assert traced._parts.size == 7 < traced.particles
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
        with torch.no_grad():
            for leaf in pair.parameters().values():
                leaf += 0.1 * torch.randn_like(leaf)


def test_programs_that_cannot_be_traced_are_run() -> None:
    pair, data = _case("ppca")
    forward = pair.model.forward

    def branching(x: torch.Tensor) -> None:
        if float(x.sum()) != 0.0:
            forward(x)

    pair.model.forward = branching
    pair.initialise(*data, seed=0)
    stock, traced = (FixedData(Problem.of(pair, *data), 3, None, traced=on) for on in (False, True))
    torch.testing.assert_close(traced.log_weights(), stock.log_weights(), rtol=0, atol=0)
    assert traced._parts is None
