"""The stopping rule against closed forms: when it stops, what it expects, what it keeps."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from arviz_stats.base import array_stats
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.infer.autoguide.initialization import init_to_value
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.inference import restarts as restarting
from ppl_vae.inference import svi
from ppl_vae.inference.fitting import rule as ruling
from ppl_vae.inference.fitting.stopping import (
    Gain,
    Stopping,
    TailCheck,
    doubling_ratio,
    effective_sample_size,
    expected_gain,
    split_r_hat,
)
from ppl_vae.inference.fitting.tail import Tail, boundaries
from ppl_vae.models import VAE
from ppl_vae.program.pair import Pair


def _autoregressive(rho: float, draws: int, quantities: int = 20) -> np.ndarray:
    """Stationary AR(1) series in four parts, shape (quantities, 4, draws)."""
    noise = np.random.default_rng(0).normal(size=(quantities, 4 * draws))
    values = np.empty_like(noise)
    values[:, 0] = noise[:, 0]
    for at in range(1, 4 * draws):
        values[:, at] = rho * values[:, at - 1] + math.sqrt(1 - rho**2) * noise[:, at]
    return values.reshape(quantities, 4, draws)


# R-hat and effective sample size -------------------------------------------------------------------


@pytest.mark.parametrize("rho", [-0.3, 0.0, 0.5, 0.9])
def test_r_hat_and_ess_are_arvizs(rho: float) -> None:
    parts = _autoregressive(rho, 400)
    # ArviZ splits each chain in two: four halves of two chains.
    joined = parts.reshape(len(parts), 2, 800)
    expected = [array_stats.rhat(values, method="split") for values in joined]
    np.testing.assert_allclose(split_r_hat(parts), expected, rtol=1e-6)
    expected = [array_stats.ess(values, method="mean") for values in joined]
    # ArviZ lets antithetic series count for more than their draws, and ends the sum slightly otherwise.
    np.testing.assert_allclose(effective_sample_size(parts), np.minimum(expected, 1600), rtol=0.1)


def test_r_hat_is_near_one_for_a_stationary_series_and_large_for_a_drifting_one() -> None:
    stationary = _autoregressive(0.9, 1000)
    assert (split_r_hat(stationary) < 1.05).all()
    # Over a window of unit length four parts of a line have within-variance 1/192 and means 1/4 apart.
    line = np.linspace(0, 1, 4000).reshape(1, 4, 1000)
    assert split_r_hat(line)[0] == pytest.approx(math.sqrt(1 + (5 / 48) / (1 / 192)), rel=1e-2)
    # A drift of three sd over the window, under the noise.
    drifting = stationary + 3 * line
    assert (split_r_hat(drifting) > 1.1).all()
    np.testing.assert_allclose(split_r_hat(np.ones((1, 4, 10))), math.sqrt(9 / 10))


# The expected gain -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("curve", "ratio"),
    [(lambda t: -1 / t, 0.5), (lambda t: -1 / math.sqrt(t), 0.5**0.5), (math.log, 1.0), (float, 2.0)],
)
def test_expected_gain_of_known_curves(curve: Callable[[float], float], ratio: float) -> None:
    """Gains of doublings are geometric for powers of t and logarithms; 3.32 doublings are ten times."""
    rise = Gain(curve(400.0) - curve(200.0), 0.0)
    earlier = Gain(curve(200.0) - curve(100.0), 0.0)
    assert doubling_ratio(rise, earlier) == pytest.approx(ratio)
    found = expected_gain(rise, ratio)
    # The last third of a doubling counts in proportion.
    assert found.value == pytest.approx(curve(4000.0) - curve(400.0), rel=0.1)


def test_noise_has_no_ratio_and_falls_are_no_gains() -> None:
    assert doubling_ratio(Gain(1.0, 0.6), Gain(0.1, 0.01)) == 1.0
    assert doubling_ratio(Gain(1.0, 0.1), None) == 1.0
    assert expected_gain(Gain(-1.0, 0.1), 1.0).value == 0.0
    assert expected_gain(Gain(-1.0, 0.1), 1.0).error == pytest.approx(0.1 * math.log2(10))


def test_segments_end_so_that_the_last_two_are_half_of_all() -> None:
    found = [end for end, _ in zip(boundaries(), range(12), strict=False)]
    assert found == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert all(found[at - 2] * 2 == found[at] for at in range(3, 12))


def test_the_tail_averages_its_last_two_segments() -> None:
    tail, seen = Tail(), []
    for step in range(1, 31):
        value = torch.randn(3, dtype=torch.float64)
        seen.append(value)
        tail.current.add([value], value[:2])
        if step in (10, 15):
            tail.turn(step)
    torch.testing.assert_close(tail.average()[0], torch.stack(seen[10:]).mean(0))
    assert tail.chains().shape == (2, 4, 2)
    again = Tail.from_tensors(tail.tensors())
    assert again.r_hat() == tail.r_hat()
    torch.testing.assert_close(again.average(), tail.average(), rtol=0, atol=0)


# Gaussian targets ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Regression:
    """z ~ N(0, 4 I), y | z ~ N(A z, I): the posterior is N(mean, precision⁻¹)."""

    design: Tensor
    y: Tensor

    def model(self, y: Tensor) -> None:
        prior = dist.Normal(torch.zeros(self.design.shape[1], dtype=y.dtype), 2.0).to_event(1)
        z = pyro.sample("z", prior)
        pyro.sample("y", dist.Normal((self.design @ z[..., None])[..., 0], 1.0).to_event(1), obs=y)

    @property
    def precision(self) -> Tensor:
        return self.design.T @ self.design + torch.eye(self.design.shape[1], dtype=self.y.dtype) / 4

    def pair(self, kind: str) -> Pair:
        guide = AutoNormal(self.model) if kind == "mean-field" else AutoMultivariateNormal(self.model)
        return Pair(self.model, guide)

    def gap(self, pair: Pair, kind: str) -> float:
        """How far the pair's ELBO lies below its family's best, exactly: two divergences of Gaussians."""
        guide = pair.guide
        with torch.no_grad(), pair.scope():
            if kind == "mean-field":
                mean, covariance = guide.locs.z, torch.diag(guide.scales.z**2)
                best = torch.diag(1 / self.precision.diagonal())
            else:
                factor = guide.scale[:, None] * guide.scale_tril
                mean, covariance = guide.loc, factor @ factor.T
                best = torch.linalg.inv(self.precision)
        exact = torch.linalg.solve(self.precision, self.design.T @ self.y)
        off = mean - exact
        spread = ((self.precision @ covariance).trace() - torch.logdet(covariance)).item()
        least = ((self.precision @ best).trace() - torch.logdet(best)).item()
        return 0.5 * (spread - least + (off @ self.precision @ off).item())


@pytest.fixture(scope="module")
def regression() -> Regression:
    generator = torch.Generator().manual_seed(0)
    mix = torch.tensor([[1, 0.8, 0], [0, 0.6, 0.3], [0, 0, 0.5]], dtype=torch.float64)
    design = torch.randn(12, 3, generator=generator, dtype=torch.float64) @ mix
    noise = torch.randn(12, generator=generator, dtype=torch.float64)
    return Regression(design, design @ torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64) + noise)


# One draw a step is noisy: eight arrive in fewer steps, and the test is over sooner.
OPTIONS: dict[str, Any] = {"num_particles": 8, "stop": True, "progress": False}


@pytest.mark.parametrize(
    ("kind", "lr", "seed"),
    [("mean-field", 1.0, 0), ("mean-field", 0.05, 1), ("full-rank", 0.05, 2), ("full-rank", 0.3, 3)],
)
def test_it_stops_within_the_tolerance_of_the_optimum(
    regression: Regression, kind: str, lr: float, seed: int
) -> None:
    pair = regression.pair(kind)
    fit = svi.fit(pair, regression.y, lr=lr, num_steps=10_000, seed=seed, **OPTIONS)
    found = fit.stopping
    assert found is not None
    assert fit.converged, fit.reason
    assert fit.steps == len(fit.elbo) == found.step < 10_000
    gap = regression.gap(pair, kind)
    assert gap <= 0.05
    # What is expected to be gained covers what there is to be gained, three errors allowed for.
    assert gap <= found.expected_gain + 3 * found.expected_gain_error
    assert found.expected_gain + found.expected_gain_error <= 0.05
    assert found.mcse <= ruling.MCSE_LIMIT
    assert found.checks[-1].action == "stop"
    assert "ten times as many are expected to gain" in fit.reason


@pytest.mark.parametrize("lr", [1e-3, 1e-5, 1e-8])
def test_a_learning_rate_too_small_is_not_taken_for_convergence(regression: Regression, lr: float) -> None:
    pair = regression.pair("mean-field")
    fit = svi.fit(pair, regression.y, lr=lr, num_steps=1600, **OPTIONS)
    assert regression.gap(pair, "mean-field") > 0.5
    assert not fit.converged
    assert "R-hat" in fit.reason
    assert fit.stopping is not None
    assert fit.stopping.checks[-1].r_hat > 1.1


def test_the_rule_for_fixed_steps_takes_the_end_of_its_cosine_for_convergence(regression: Regression) -> None:
    """Why there is another rule: the last quarter of a cosine gains little, whatever is missing."""
    pair = regression.pair("mean-field")
    old = svi.fit(pair, regression.y, lr=0.001, num_steps=300, tolerance=0.5, progress=False)
    assert regression.gap(pair, "mean-field") > 5
    assert old.converged is None
    assert "over the last quarter of the steps" in old.reason
    again = regression.pair("mean-field")
    new = svi.fit(again, regression.y, lr=0.001, num_steps=600, stop=True, tolerance=0.5, progress=False)
    assert not new.converged


def test_a_cap_too_low_is_said_and_the_schedule_does_not_depend_on_it(regression: Regression) -> None:
    short, long = regression.pair("full-rank"), regression.pair("full-rank")
    capped = svi.fit(short, regression.y, lr=0.05, num_steps=700, **OPTIONS)
    free = svi.fit(long, regression.y, lr=0.05, num_steps=1500, **OPTIONS)
    assert not capped.converged
    assert "the 700 steps ran out" in capped.reason
    assert free.steps > 700
    np.testing.assert_array_equal(capped.elbo[:630], free.elbo[:630])
    few = svi.fit(regression.pair("full-rank"), regression.y, num_steps=50, stop=True, progress=False)
    assert not few.converged
    assert "too few to judge" in few.reason
    assert few.stopping is not None
    assert math.isnan(few.stopping.expected_gain)


# Engines, resuming, saving ---------------------------------------------------------------------------


def test_the_graph_and_stock_pyro_stop_alike(regression: Regression) -> None:
    """So does the compiled graph: see ``test_compiled.py``, which has one."""
    options: dict[str, Any] = {"lr": 0.3, "num_steps": 1200, **OPTIONS}
    traced, other = regression.pair("mean-field"), regression.pair("mean-field")
    a = svi.fit(traced, regression.y, **options)
    b = svi.fit(other, regression.y, **options, compile=False)
    assert (a.engine, b.engine) == ("traced", "pyro")
    assert a.stopping is not None
    assert b.stopping is not None
    assert [c.action for c in a.stopping.checks] == [c.action for c in b.stopping.checks]
    assert "lower" in [c.action for c in a.stopping.checks]
    np.testing.assert_allclose(a.elbo, b.elbo, rtol=1e-5)


class _Killed(Exception):
    pass


def _resumable(
    regression: Regression, folder: Path, kill: int = -1, resume: bool = False
) -> tuple[Pair, svi.Fit]:
    """A fit that keeps checkpoints, killed at a step if that is not negative."""

    def refresh(epoch: int) -> tuple[Tensor]:
        if epoch == kill:
            raise _Killed
        return (regression.y,)

    pair = regression.pair("mean-field")
    fit = svi.fit(pair, regression.y, lr=0.1, num_steps=8000, num_particles=4, stop=True,
                  checkpoint=folder, checkpoint_every=60, refresh=refresh, resume=resume,
                  progress=False)  # fmt: skip
    return pair, fit


@pytest.fixture(scope="module")
def unbroken(regression: Regression, tmp_path_factory: pytest.TempPathFactory) -> tuple[Pair, svi.Fit]:
    return _resumable(regression, tmp_path_factory.mktemp("unbroken"))


@pytest.mark.parametrize("place", ["before the first check", "between two checks", "at a lower rate"])
def test_a_killed_fit_resumes_to_the_same_bytes(
    place: str, regression: Regression, unbroken: tuple[Pair, svi.Fit], tmp_path: Path
) -> None:
    """The steps at which the unbroken fit looked, and lowered its rate, say where that is."""
    whole, expected = unbroken
    assert expected.stopping is not None
    first, second, *_ = (check.step for check in expected.stopping.checks)
    lowered = [check.step for check in expected.stopping.checks if check.action == "lower"]
    assert lowered
    kill = {"before the first check": first - 40, "between two checks": (first + second) // 2}
    with pytest.raises(_Killed):
        _resumable(regression, tmp_path, kill.get(place, lowered[0] + 100))
    resumed, found = _resumable(regression, tmp_path, resume=True)
    a, b = whole.state_dict(), resumed.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    np.testing.assert_array_equal(found.elbo, expected.elbo)
    assert found.stopping == expected.stopping
    finished, again = _resumable(regression, tmp_path, resume=True)
    assert again.stopping == expected.stopping
    assert all(torch.equal(a[name], value) for name, value in finished.state_dict().items())


def test_a_checkpoint_of_another_kind_of_fit_is_refused(regression: Regression, tmp_path: Path) -> None:
    svi.fit(regression.pair("mean-field"), regression.y, num_steps=10, checkpoint=tmp_path, progress=False)
    with pytest.raises(InputError, match="resume it with stop=False"):
        svi.fit(regression.pair("mean-field"), regression.y, num_steps=20, checkpoint=tmp_path, resume=True,
                stop=True, progress=False)  # fmt: skip


def test_average_and_stop_exclude_each_other(regression: Regression) -> None:
    with pytest.raises(InputError, match="average belongs to a fixed number of steps"):
        svi.fit(regression.pair("mean-field"), regression.y, average=0.5, stop=True, progress=False)


def test_a_decision_survives_json() -> None:
    check = TailCheck(300, 0, 0.05, 1.3, -10.0, 0.1, 0.02, math.inf, "go on")
    whole = Stopping((check,), 400, False, "why", 0.02, 0.01, math.nan, 12.0, 0.05, "training data")
    text = json.dumps(whole.to_json(), allow_nan=False)
    again = Stopping.from_json(json.loads(text))
    assert again.to_json() == whole.to_json()
    assert again.checks[0].r_hat == 1.3
    assert math.isnan(again.mcse)
    with pytest.raises(InputError, match="not the contents of a Stopping"):
        Stopping.from_json({"step": 3})


# Networks and held-out data --------------------------------------------------------------------------


def _bits(rows: int, seed: int) -> Tensor:
    """Binary rows of three prototypes, a tenth of the bits flipped."""
    generator = torch.Generator().manual_seed(seed)
    prototypes = torch.rand(3, 20, generator=torch.Generator().manual_seed(9)) < 0.5
    kind = torch.randint(3, (rows,), generator=generator)
    flipped = torch.rand(rows, 20, generator=generator) < 0.1
    return (prototypes[kind] ^ flipped).float()


def test_a_network_that_learns_by_heart_is_judged_by_data_that_it_has_not_seen() -> None:
    train, held_out = _bits(60, 0), _bits(200, 1)

    def fit(stop: bool, steps: int) -> svi.Fit:
        torch.manual_seed(0)
        model = VAE(20, 2, hidden=(64,))
        return svi.fit(Pair(model, model.encoder_guide()), train, lr=5e-3, num_steps=steps, stop=stop,
                       held_out=(held_out,), kl_warmup=20, check_every=200, progress=False)  # fmt: skip

    stopped, longer = fit(True, 4000), fit(False, 2000)
    assert stopped.converged, stopped.reason
    assert stopped.steps < 2000
    assert stopped.stopping is not None
    assert stopped.stopping.judged_on == "held-out data"
    assert "held-out" in stopped.reason
    # Its own last check is of the averaged parameters; more steps gain on the rows learnt by heart alone.
    assert stopped.held_out[-1, 1] > longer.held_out[-1, 1] + 0.05
    assert longer.final.mean > stopped.final.mean + 0.3


# Restarts ----------------------------------------------------------------------------------------------


def test_restarts_of_a_gaussian_agree_and_the_sentence_says_so(regression: Regression) -> None:
    found = restarting.restarts(
        lambda seed: regression.pair("full-rank"),
        regression.y,
        num_restarts=2,
        lr=0.1,
        num_particles=8,
        progress=False,
    )
    assert found.agree, found.sentence
    assert found.behind[found.best] == 0
    assert (found.behind >= 0).all()
    assert found.mean_difference < 0.25
    assert 1 <= found.sd_ratio < 1.25
    assert found.worst.startswith("z[")
    assert "2 fits from different starts agree" in found.sentence
    assert len(found.pairs) == len(found.fits) == 2


def _two_modes(y: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=y.dtype), 3.0))
    pyro.sample("y", dist.Normal(z**2, 0.5), obs=y)


def test_restarts_that_end_in_two_modes_disagree() -> None:
    """z² = 4: the modes ±2 are equally good, and a normal guide finds one of them."""
    y = torch.tensor(4.0, dtype=torch.float64)
    signs = iter([1.0, -1.0])

    def make(seed: int) -> Pair:
        start = next(signs)

        def guide(y: Tensor) -> None:
            mean = pyro.param("mean", lambda: torch.tensor(start, dtype=torch.float64))
            positive = dist.constraints.positive
            scale = pyro.param("scale", lambda: torch.tensor(0.5, dtype=torch.float64), constraint=positive)
            pyro.sample("z", dist.Normal(mean, scale))

        return Pair(_two_modes, guide)

    found = restarting.restarts(make, y, num_restarts=2, lr=0.05, num_particles=8, progress=False)
    assert not found.agree
    assert found.mean_difference > 10
    assert "do not agree" in found.sentence
    assert (found.behind - 2 * found.behind_error <= 0.05).all()


def test_restarts_of_gaussian_guides_start_at_the_mode_that_is_in_their_reach() -> None:
    """log p(z, y) = −z²/18 − 2 (4 − z²)²: modes at z² = 4 − 1/72, of curvature 1/9 + 24 z² − 32."""
    y, signs = torch.tensor(4.0, dtype=torch.float64), iter([1.0, -1.0])

    def make(seed: int) -> Pair:
        start = init_to_value(values={"z": torch.tensor(next(signs), dtype=torch.float64)})
        return Pair(_two_modes, AutoNormal(_two_modes, init_loc_fn=start))

    found = restarting.restarts(make, y, num_restarts=2, num_steps=1, stop=False, lr=1e-6, progress=False)
    mode = (4 - 1 / 72) ** 0.5
    for pair, sign in zip(found.pairs, (1, -1), strict=True):
        assert pair.guide.locs.z.item() == pytest.approx(sign * mode, abs=0.25 * (24 * mode**2 - 32) ** -0.5)
    assert not found.agree


def test_one_restart_is_none(regression: Regression) -> None:
    with pytest.raises(InputError, match="at least 2"):
        restarting.restarts(lambda seed: regression.pair("full-rank"), regression.y, num_restarts=1)
