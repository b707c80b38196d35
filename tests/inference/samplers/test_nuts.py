from types import ModuleType
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from arviz_stats.base import array_stats
from torch import Tensor

from benchmarks.sd_error import sd_error
from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.errors import InputError
from ppl_vae.inference import nuts
from ppl_vae.inference.samplers.metric import Metric
from ppl_vae.program.pair import Pair


def _check(values: np.ndarray, mean: float, sd: float | None, limit: float) -> None:
    assert abs(values.mean() - mean) < limit * array_stats.mcse(values, method="mean")
    if sd is not None:
        assert abs(values.std(ddof=1) - sd) < limit * sd_error(values)


def test_conjugate_normal_has_its_exact_mean_and_sd(oracles: ModuleType) -> None:
    """θ ~ N(1, 2²), y_n ~ N(θ, 3²): precision 1/4 + N/9."""
    y = np.random.default_rng(0).normal(4, 3, 20)

    def model(y: Tensor) -> None:
        theta = pyro.sample("theta", dist.Normal(torch.ones(()), 2.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(theta, 3.0), obs=y)

    drawn = nuts.sample(model, torch.as_tensor(y), num_draws=300, warmup=150, chains=2, progress=False)
    precision = 1 / 4 + 20 / 9
    assert drawn.draws["theta"].dims == ("chain", "draw")
    assert drawn.draws["theta"].dtype == np.float64
    values = drawn.draws["theta"].to_numpy()
    _check(values, (1 / 4 + y.sum() / 9) / precision, precision**-0.5, oracles.z_limit(2))
    assert drawn.summary()["r_hat"].max() < 1.05
    # Started apart and driven by their own noise, chains are not copies.
    assert not np.array_equal(values[0], values[1])
    accepted = drawn.stats["acceptance_rate"]
    assert ((accepted >= 0) & (accepted <= 1)).all()
    assert (accepted.mean("draw") > 0.6).all()
    assert (drawn.stats["step_size"] > 0).all()


def _eight_schools(y: Tensor, errors: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=y.dtype), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(torch.tensor(5.0, dtype=y.dtype)))
    with pyro.plate("school", len(y)):
        eta = pyro.sample("eta", dist.Normal(torch.zeros((), dtype=y.dtype), 1.0))
        pyro.sample("y", dist.Normal(mu + tau * eta, errors), obs=y)


def _schools(oracles: ModuleType, **options: Any) -> Posterior:
    y, errors = (torch.as_tensor(v) for v in (oracles.SCHOOL_EFFECTS, oracles.SCHOOL_ERRORS))
    return nuts.sample(
        _eight_schools, y, errors, coords={"school": list("ABCDEFGH")}, progress=False, **options
    )


def test_non_centred_eight_schools_has_the_means_of_quadrature(oracles: ModuleType) -> None:
    drawn = _schools(oracles, num_draws=350, warmup=200, chains=2, max_tree_depth=6, seed=1)
    truth = oracles.eight_schools()
    draws = {name: drawn.draws[name].to_numpy() for name in ("mu", "tau", "eta")}
    theta = draws["mu"][..., None] + draws["tau"][..., None] * draws["eta"]
    limit = oracles.z_limit(10)
    _check(draws["mu"], truth["mu"], None, limit)
    _check(draws["tau"], truth["tau"], None, limit)
    for school in range(8):
        _check(theta[..., school], truth["theta"][school], None, limit)
    assert (draws["tau"] > 0).all()
    assert drawn.stats["diverging"].mean() < 0.05


def test_draws_have_the_programs_plates_and_the_coordinates_given(oracles: ModuleType) -> None:
    drawn = _schools(oracles, num_draws=5, warmup=3, chains=3, max_tree_depth=3)
    assert drawn.draws["eta"].dims == ("chain", "draw", "school")
    assert list(drawn.draws.coords["school"].to_numpy()) == list("ABCDEFGH")
    assert dict(drawn.draws.sizes) == {"chain": 3, "draw": 5, "school": 8}
    assert drawn.stats["diverging"].dtype == bool


def _walled(y: Tensor) -> None:
    """Flat between walls on which the log density falls by 10⁶ a unit: trajectories end in one of them."""
    z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=y.dtype), 5.0))
    pyro.factor("walls", -1e6 * torch.relu(z.abs() - 1.0))
    pyro.sample("y", dist.Normal(0.0 * z, 1.0), obs=y)


def _smooth(y: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=y.dtype), 1.0))
    pyro.sample("y", dist.Normal(z, 1.0), obs=y)


@pytest.mark.parametrize("sampler", ["nutpie", "pyro"])
def test_divergences_are_reported_where_no_step_size_avoids_them(sampler: str) -> None:
    """Between walls most trajectories run into one; those of a normal conserve their energy."""
    y = torch.zeros((), dtype=torch.float64)
    options: dict[str, Any] = {
        "num_draws": 60, "warmup": 60, "chains": 2, "max_tree_depth": 5, "sampler": sampler, "compile": False,
    }  # fmt: skip
    walled, smooth = (nuts.sample(model, y, progress=False, **options) for model in (_walled, _smooth))
    assert walled.stats["diverging"].sum() > 6
    assert smooth.stats["diverging"].sum() == 0
    assert (np.abs(walled.draws["z"]) < 1.001).all()


def test_a_pairs_own_parameters_are_used_and_kept(conjugate: Any, x: Tensor, oracles: ModuleType) -> None:
    """The prior's mean is a parameter of the pair, with another value in the global store."""

    def model(x: Tensor) -> None:
        centre = pyro.param("centre", lambda: torch.tensor(0.0))
        theta = pyro.sample("theta", dist.Normal(centre, 0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(theta, 100.0), obs=x)

    pyro.param("centre", torch.tensor(7.0))
    pair = Pair(model, lambda x: None)
    pyro.get_param_store()["centre"] = torch.tensor(-7.0)
    drawn = nuts.sample(pair, x, num_draws=200, warmup=100, chains=2, progress=False)
    # The likelihood is all but flat.
    assert drawn.draws["theta"].mean().item() == pytest.approx(7.0, abs=0.1)
    assert pyro.param("centre").item() == -7.0
    assert pair.parameters(train="both").get("centre", torch.tensor(7.0)).dtype == torch.float32


def test_minibatched_and_absurd_requests_are_refused(conjugate: Any, x: Tensor) -> None:
    for options, words in (
        ({"num_draws": 0}, "num_draws is 0"),
        ({"warmup": 0}, "warmup is 0"),
        ({"chains": 0}, "chains is 0"),
        ({"chains": -1}, "chains is -1"),
    ):
        with pytest.raises(InputError, match=words):
            nuts.sample(conjugate.model, x, progress=False, **options)


def test_a_window_far_from_the_mode_leaves_no_correlations() -> None:
    """Gradients a googol apart make scales of next to nothing, in which draws on a line are all the same."""
    metric = Metric(2, dense=True)
    for step in np.linspace(1.0, 2.0, 10):
        metric.learn(np.array([step, 2 * step]), np.array([1e50, -1e50]) * step**9)
    assert metric.update()
    alone = Metric(2, dense=False)
    for step in np.linspace(1.0, 2.0, 10):
        alone.learn(np.array([step, 2 * step]), np.array([1e50, -1e50]) * step**9)
    alone.update()
    assert metric.velocity(np.ones(2)).tolist() == alone.velocity(np.ones(2)).tolist()
