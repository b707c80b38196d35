"""The samplers against exact answers and each other, and what they refuse."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from arviz_stats.base import array_stats
from torch import Tensor
from torch.distributions import constraints

from benchmarks.sd_error import sd_error
from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.errors import InputError
from ppl_vae.engine.density import density
from ppl_vae.guides import Prior
from ppl_vae.inference import nuts
from ppl_vae.inference.samplers import nutpie_nuts
from ppl_vae.models import TrueSkill
from ppl_vae.program.pair import Pair

DOUBLE = {"dtype": torch.float64}
SAMPLERS = ("nutpie", "pyro", "hmc")
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS)


def _sample(model: Any, *data: Any, **options: Any) -> Posterior:
    return nuts.sample(model, *data, progress=False, **options)


# The same posterior ----------------------------------------------------------------------------------

GAMES = [(0, 1), (0, 1), (0, 2), (1, 2), (2, 1), (0, 2), (1, 0), (0, 1)]
SETTINGS: dict[str, dict[str, Any]] = {
    "nutpie": {"num_draws": 250, "warmup": 250, "chains": 4},
    "nutpie low-rank": {"mass": "low-rank", "num_draws": 250, "warmup": 250, "chains": 4},
    "batched on Pyro's gradient": {"compile": False, "num_draws": 150, "warmup": 100, "chains": 2},
    "batched dense": {"mass": "low-rank", "num_draws": 150, "warmup": 150, "chains": 4},
    "pyro": {"sampler": "pyro", "num_draws": 150, "warmup": 100, "chains": 2},
    "pyro dense": {"sampler": "pyro", "mass": "dense", "num_draws": 150, "warmup": 100, "chains": 2},
    "hmc": {"sampler": "hmc", "num_draws": 30, "warmup": 80, "chains": 64},
}


def _score(values: np.ndarray, mean: float, sd: float) -> list[float]:
    """How many of its own Monte Carlo errors each moment is from the truth."""
    return [
        (values.mean() - mean) / array_stats.mcse(values, method="mean"),
        (values.std(ddof=1) - sd) / sd_error(values),
    ]


@pytest.mark.parametrize("name", SETTINGS)
def test_every_sampler_draws_the_exact_posterior_of_skills(name: str, oracles: ModuleType) -> None:
    """Means and standard deviations by quadrature: what agrees with them agrees with each other."""
    truth = oracles.skills(GAMES, 3, oracles.logistic, 0.0, 1.0)
    drawn = _sample(TrueSkill(3, link="logistic"), *oracles.won(GAMES), seed=1, **SETTINGS[name])
    values = drawn.draws["skill"].to_numpy()
    assert values.shape == (SETTINGS[name]["chains"], SETTINGS[name]["num_draws"], 3)
    scores = np.array([_score(values[..., k], truth.mean[k], truth.sd[k]) for k in range(3)])
    assert np.abs(scores).max() < oracles.z_limit(scores.size * len(SETTINGS))
    assert drawn.summary()["r_hat"].max() < 1.1
    assert drawn.stats.attrs["sampler"] == (
        "batched" if "batched" in name else SETTINGS[name].get("sampler", "nutpie")
    )
    assert drawn.method == ("hmc" if name == "hmc" else "nuts")
    assert 0.6 < drawn.stats["acceptance_rate"].mean() < 0.99
    assert (drawn.stats["step_size"] > 0).all()


def _many_supports(y: Tensor) -> None:
    scale = pyro.sample("scale", dist.HalfCauchy(torch.ones((), dtype=y.dtype)))
    shares = pyro.sample("shares", dist.Dirichlet(2 * torch.ones(3, dtype=y.dtype)))
    pyro.sample("factor", dist.LKJCholesky(3, torch.tensor(2.0, dtype=y.dtype)))
    low = torch.tensor([-1.0, 0.0], dtype=y.dtype)
    pyro.sample("interval", dist.Uniform(low, low + 2).to_event(1))
    with pyro.plate("columns", 4):
        pyro.sample("chance", dist.Beta(torch.tensor(2.0, dtype=y.dtype), 3.0))
        with pyro.plate("rows", 5):
            pyro.sample("level", dist.LogNormal(torch.zeros((), dtype=y.dtype), 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(shares[0], scale), obs=y)


@every_sampler
def test_constrained_latents_come_back_inside_their_supports(sampler: str) -> None:
    y = torch.linspace(-1, 1, 6, **DOUBLE)
    chains = 8 if sampler == "hmc" else 2
    # From 20 on Pyro learns a mass matrix too, and is left with two steps for the step size.
    warmup = 18 if sampler == "pyro" else 25
    drawn = _sample(
        _many_supports, y, sampler=sampler, num_draws=6, warmup=warmup, chains=chains, max_tree_depth=5
    )
    low = torch.tensor([-1.0, 0.0], **DOUBLE)
    expected = {
        "scale": ((), constraints.positive),
        "shares": ((3,), constraints.simplex),
        "factor": ((3, 3), constraints.corr_cholesky),
        "interval": ((2,), constraints.interval(low, low + 2)),
        "chance": ((4,), constraints.unit_interval),
        "level": ((5, 4), constraints.positive),
    }
    assert set(drawn.draws.data_vars) == set(expected)
    for name, (shape, support) in expected.items():
        values = torch.as_tensor(drawn.draws[name].to_numpy())
        assert values.shape == (chains, 6, *shape), name
        assert values.dtype == torch.float64
        assert support.check(values).all(), name
        assert len(values.flatten(0, 1).unique(dim=0)) > chains, name
    assert drawn.draws["level"].dims == ("chain", "draw", "rows", "columns")


def test_a_support_that_depends_on_another_latent_moves_with_it() -> None:
    """b ~ U(0, a): wherever a chain goes, b lies between 0 and a, and all of that can be reached."""

    def model(y: Tensor) -> None:
        a = pyro.sample("a", dist.Exponential(torch.ones((), dtype=y.dtype)))
        b = pyro.sample("b", dist.Uniform(torch.zeros_like(a), a))
        pyro.sample("y", dist.Normal(b, 1.0), obs=y)

    y = torch.zeros((), **DOUBLE)
    with pyro.validation_enabled(False):
        target = density(Pair(model, Prior(model)).initialise(y), y)
        positions = torch.tensor([[a, b] for a in (-2.0, 0.0, 2.0) for b in (-9.0, 0.0, 9.0)], **DOUBLE)
        values = target.constrain(positions)
        share = (values["b"] / values["a"]).reshape(3, 3)
        torch.testing.assert_close(share, torch.sigmoid(positions[:, 1]).reshape(3, 3))
        # ln p(a, b, y) + ln |d(a, b)/d(u, v)| with a = exp u and b = a σ(v).
        for position, a, b in zip(positions, values["a"], values["b"], strict=True):
            expected = -a - a.log() + dist.Normal(b, 1.0).log_prob(y)
            expected = expected + a.log() + (b * (1 - b / a)).log()
            torch.testing.assert_close(target.value(position), expected, rtol=1e-9, atol=1e-9)


# Repeating -------------------------------------------------------------------------------------------


@every_sampler
def test_a_seed_gives_the_same_chains_and_another_gives_others(sampler: str, oracles: ModuleType) -> None:
    games = oracles.won(GAMES)
    first, second, other = (
        _sample(TrueSkill(3, link="logistic"), *games, sampler=sampler, num_draws=6, warmup=20, chains=4,
                max_tree_depth=4, seed=seed)
        for seed in (5, 5, 6)
    )  # fmt: skip
    assert first.draws.equals(second.draws)
    assert not first.draws.equals(other.draws)
    values = first.draws["skill"].to_numpy()
    assert all(not np.array_equal(values[0], values[k]) for k in range(1, 4))


# Models that not every sampler takes -------------------------------------------------------------------


def _mixture(x: Tensor) -> None:
    centre = pyro.sample("centre", dist.Normal(torch.zeros((), dtype=x.dtype), 3.0))
    with pyro.plate("data", len(x)):
        k = pyro.sample(
            "k", dist.Bernoulli(torch.tensor(0.3, dtype=x.dtype)), infer={"enumerate": "parallel"}
        )
        pyro.sample("x", dist.Normal(centre + 4 * k, 1.0), obs=x)


@every_sampler
def test_enumerated_latents_are_summed_out_by_every_sampler(sampler: str, oracles: ModuleType) -> None:
    x = torch.tensor([-0.5, 0.1, 0.3, 0.8, 4.2, 3.9, 0.2], **DOUBLE)
    drawn = _sample(_mixture, x, sampler=sampler, num_draws=100, warmup=80, chains=2)
    assert drawn.stats.attrs["sampler"] == ("batched" if sampler == "nutpie" else sampler)
    assert list(drawn.draws.data_vars) == ["centre"]
    grid = np.linspace(-10, 10, 4001)
    parts = 0.7 * np.exp(-0.5 * (x.numpy()[:, None] - grid) ** 2)
    parts = parts + 0.3 * np.exp(-0.5 * (x.numpy()[:, None] - grid - 4) ** 2)
    weight = np.exp(np.log(parts).sum(0) - grid**2 / 18)
    weight /= weight.sum()
    mean = weight @ grid
    sd = np.sqrt(weight @ (grid - mean) ** 2)
    assert np.abs(_score(drawn.draws["centre"].to_numpy(), mean, sd)).max() < oracles.z_limit(6)


def test_latents_that_are_not_marked_are_pyros_to_enumerate() -> None:
    """It stands in with its own defaults: sixty-four chains are for one graph."""

    def model(x: Tensor) -> None:
        centre = pyro.sample("centre", dist.Normal(torch.zeros((), dtype=x.dtype), 3.0))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(torch.tensor(0.3, dtype=x.dtype)))
            pyro.sample("x", dist.Normal(centre + 4 * k, 1.0), obs=x)

    with pytest.warns(RuntimeWarning, match="site k is discrete"):
        drawn = _sample(model, torch.tensor([0.1, 3.9], **DOUBLE), sampler="hmc", num_draws=4, warmup=2)
    assert drawn.draws.sizes["chain"] == 4


@every_sampler
@pytest.mark.parametrize("options", [{"subsample_size": 3}, {"subsample": torch.tensor([4, 0, 2])}], ids=str)
def test_a_subsampled_plate_is_refused(sampler: str, options: dict[str, Any]) -> None:
    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
        with pyro.plate("data", len(x), **options) as i:
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[i])

    with pytest.raises(InputError, match="subsample") as caught:
        _sample(model, torch.zeros(10, **DOUBLE), sampler=sampler, num_draws=4, warmup=20, chains=2)
    assert "\n" not in str(caught.value)


def _normal(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
    pyro.sample("x", dist.Normal(z.sum(), 1.0), obs=x)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampler": "gibbs"}, "sampler='gibbs' is not known; it is 'nutpie' or 'pyro' or 'hmc'"),
        ({"mass": "dense"}, "mass='dense' is not known to nutpie; it is diagonal or low-rank"),
        ({"mass": "low-rank", "sampler": "pyro"}, "not known to pyro; it is diagonal or dense"),
        ({"mass": "dense", "sampler": "hmc"}, "not known to hmc; it is diagonal"),
        ({"compile": "always"}, "it is 'auto', 'on' or 'off'"),
        ({"dtype": torch.float32}, "nutpie samples in float64, not torch.float32"),
        ({"target_accept": 1.0}, "target_accept is 1.0"),
        ({"max_tree_depth": 0}, "max_tree_depth is 0"),
        ({"num_draws": 3}, "num_draws is 3; it must be at least 4"),
        ({"sampler": "hmc", "warmup": 10}, "warmup is 10; it must be at least 20"),
    ],
)
def test_requests_that_no_sampler_answers_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        _sample(_normal, torch.zeros((), **DOUBLE), **({"num_draws": 4, "warmup": 4, "chains": 2} | options))


@pytest.mark.parametrize("sampler", ["pyro", "hmc"])
def test_the_other_samplers_take_float32(sampler: str) -> None:
    drawn = _sample(_normal, torch.zeros((), **DOUBLE), sampler=sampler, num_draws=4, warmup=20, chains=4,
                    dtype=torch.float32)  # fmt: skip
    assert drawn.draws["z"].dtype == np.float32


# What goes wrong while sampling -------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["nutpie", "hmc"])
def test_a_density_that_is_finite_nowhere_is_refused(sampler: str) -> None:
    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
        pyro.sample("x", dist.Normal(z - z + torch.nan, 1.0), obs=x)

    with pytest.raises(InputError) as caught:
        _sample(model, torch.zeros((), **DOUBLE), sampler=sampler, num_draws=4, warmup=20, chains=2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("after", [1, 3])
def test_ctrl_c_ends_the_threads_of_compiled_chains(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    def interrupt(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == after:
            raise KeyboardInterrupt
        real(seconds)

    real, x = time.sleep, torch.zeros((), **DOUBLE)
    before = _threads()
    with monkeypatch.context() as patch:
        patch.setattr(nutpie_nuts, "time", SimpleNamespace(sleep=interrupt))
        with pytest.raises(KeyboardInterrupt):
            _sample(_normal, x, num_draws=200_000, warmup=900, chains=3, compile=True)
    assert len(pauses) == after
    _wait_for(lambda: _threads() <= before)
    drawn = _sample(_normal, x, num_draws=4, warmup=10, chains=2, compile=True)
    assert drawn.draws["z"].shape == (2, 4, 2)


def _threads() -> int:
    """Of this process, those included that Python does not know."""
    folder = Path("/proc/self/task")
    return len(list(folder.iterdir())) if folder.exists() else threading.active_count()


def _wait_for(condition: Callable[[], bool]) -> None:
    """A pool's idle workers end a moment after the pool."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("sampler", ["nutpie", "hmc", "pyro"])
def test_ctrl_c_inside_a_program_ends_the_chains(sampler: str) -> None:
    calls = [0]

    def model(x: Tensor) -> None:
        calls[0] += 1
        if calls[0] == 60:
            raise KeyboardInterrupt
        _normal(x)

    with pytest.raises(KeyboardInterrupt):
        _sample(model, torch.zeros((), **DOUBLE), sampler=sampler, num_draws=200, warmup=200, chains=2,
                compile=False)  # fmt: skip
    assert calls[0] == 60


def test_an_error_of_the_program_ends_the_chains_and_is_told() -> None:
    calls = [0]

    def model(x: Tensor) -> None:
        calls[0] += 1
        if calls[0] > 60:
            raise ValueError("the program's own sentence")
        _normal(x)

    with pytest.raises((InputError, ValueError), match="the program's own sentence"):
        _sample(model, torch.zeros((), **DOUBLE), num_draws=200, warmup=200, chains=2, compile=False)
