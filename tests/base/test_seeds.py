"""Seeds: whole numbers that generators take, or refused by every way in."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from ppl_vae import Pair, annealing, importance, nuts, svi
from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import check_seed, derived
from ppl_vae.data import load, split
from ppl_vae.inference import guide


def model(x: torch.Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)) as i:
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x[i])


X = torch.tensor([0.5, 1.5, -0.3])
WAYS: dict[str, Callable[[Pair, Any], object]] = {
    "svi": lambda pair, seed: svi.fit(pair, X, num_steps=2, seed=seed, progress=False),
    "nuts": lambda pair, seed: nuts.sample(pair, X, num_draws=4, warmup=4, seed=seed, progress=False),
    "hmc": lambda pair, seed: nuts.sample(
        pair, X, sampler="hmc", num_draws=4, warmup=4, chains=2, seed=seed, progress=False
    ),
    "is": lambda pair, seed: importance.log_evidence(pair, X, num_samples=4, seed=seed, progress=False),
    "ais": lambda pair, seed: annealing.log_evidence(
        pair, X, num_temperatures=2, num_chains=2, seed=seed, progress=False
    ),
    "guide": lambda pair, seed: guide.draws(pair, X, num_draws=4, seed=seed),
    "split": lambda pair, seed: split(load("iris"), (0.8, 0.1, 0.1), seed=seed),
}


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, None], ids=str)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_what_is_no_seed_is_refused(way: Callable[[Pair, Any], object], seed: Any) -> None:
    pair = Pair(model, AutoNormal(model))
    with pytest.raises(InputError, match=r"the seed is .*; it must be a whole number"):
        way(pair, seed)


def test_every_whole_number_that_generators_take_is_a_seed() -> None:
    assert [check_seed(seed) for seed in (0, 2**63 - 1, np.int64(3), torch.tensor(4), True)] == [
        0, 2**63 - 1, 3, 4, 1
    ]  # fmt: skip
    # What is derived is a seed again.
    for seed in (0, 2**63 - 1):
        assert check_seed(derived(derived(seed, 1), 2)) >= 0
