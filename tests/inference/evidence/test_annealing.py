"""Annealed evidence and its bounds against exact evidence, and the weights against their expectations."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from scipy import integrate, stats
from sklearn import datasets
from torch import Tensor

from ppl_vae.answers.evidence import Evidence
from ppl_vae.base.errors import InputError
from ppl_vae.guides import LinearNormal, Prior
from ppl_vae.inference import annealing, exact, importance
from ppl_vae.inference.evidence import partial
from ppl_vae.models import PPCA, TrueSkill
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem
from ppl_vae.program.simulate import simulate

D = torch.float64
ZERO = torch.zeros((), dtype=D)


def _estimate(pair: Pair, *data: Any, **options: Any) -> Evidence:
    return annealing.log_evidence(pair, *data, progress=False, **options)


def _both(pair: Pair, *data: Any, **options: Any) -> tuple[Evidence, Evidence]:
    return annealing.bidirectional(pair, *data, progress=False, **options)


# A conjugate model whose weights have finite variance in both directions ---------------------------------


def _model(x: Tensor) -> None:
    with pyro.plate("data", len(x)) as i:
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=D), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), 2.0), obs=x[i])


def _guide(x: Tensor) -> None:
    """Too narrow and moved: z | x has mean x/6 and covariance I − 1/6."""
    with pyro.plate("data", len(x)) as i:
        loc = torch.stack([0.4 * x[i], -0.2 * x[i]], dim=-1)
        pyro.sample("z", dist.Normal(loc, torch.tensor([0.75, 0.9], dtype=D)).to_event(1))


def _log_evidence(x: Tensor) -> np.ndarray:
    return stats.norm(0, np.sqrt(6.0)).logpdf(x.numpy())


def _runs(start: str, num_units: int, num_chains: int, temperatures: int, seed: int) -> Any:
    """Log weights forwards and backwards, (chains, units), and the truth of simulated data."""
    pair, x = Pair(_model, _guide), torch.zeros(num_units, dtype=D)
    settings = annealing.AnnealingOptions(start, temperatures, num_chains)  # type: ignore[arg-type]
    with torch.no_grad():
        latents, data = simulate(Problem.of(pair, x), seed)
        job = annealing._Job(Problem.of(pair, *data), settings, "auto", seed)
        forward, _, backward, _ = job.both(0, latents, lambda n, text: None)
    return forward.numpy(), backward.numpy(), _log_evidence(data[0])


@pytest.mark.parametrize(("start", "temperatures"), [("guide", 6), ("prior", 3), ("prior", 8)])
def test_weights_are_unbiased_in_both_directions(start: str, temperatures: int, oracles: ModuleType) -> None:
    """E[w] = p(x) and E[w′] = 1/p(x) however few the temperatures; units are independent of each other."""
    forward, backward, truth = _runs(start, 3000, 30, temperatures, seed=1)
    for ratio in (np.exp(forward - truth), np.exp(backward + truth)):
        by_unit = ratio.mean(0)
        error = by_unit.std(ddof=1) / np.sqrt(len(by_unit))
        assert abs(by_unit.mean() - 1) < oracles.z_limit(6) * error
        # Precise enough to see a transition of the wrong density.
        assert error < 0.02


@pytest.mark.parametrize("start", ["guide", "prior"])
def test_few_temperatures_bound_the_truth_from_both_sides(start: str, oracles: ModuleType) -> None:
    """In the mean over units, and closer the more temperatures there are, where chains are few."""
    pair, widths = Pair(_model, _guide), []
    # Many data show that two temperatures fall short on both sides, by a tenth of what single data vary.
    for temperatures, num_units in ((2, 4000), (10, 500), (100, 500)):
        x = torch.zeros(num_units, dtype=D)
        _, data = simulate(Problem.of(pair, x), 3)
        truth = _log_evidence(data[0])
        lower, upper = _both(pair, x, start=start, num_temperatures=temperatures, num_chains=2, seed=3)
        assert (lower.kind, upper.kind) == ("lower bound", "upper bound")
        for bound, sign in ((lower, 1), (upper, -1)):
            np.testing.assert_allclose(bound.bias, -0.5 * sign * bound.std_error**2, rtol=1e-12)
            excess = sign * (bound.log_evidence - truth)
            limit = oracles.z_limit(12) * excess.std(ddof=1) / np.sqrt(num_units)
            assert excess.mean() < limit
            if temperatures == 2:
                assert excess.mean() < -limit
        widths.append(float(np.mean(upper.log_evidence - lower.log_evidence)))
    # Where chains keep up with the path, the width falls as 1/T.
    assert widths[0] > 2 * widths[1] > 8 * widths[2]


def test_the_weighed_chains_are_new_and_have_their_own_random_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The plan must know nothing of the chains that are weighed."""
    starts, plans = [], []
    draw, anneal, pilot = annealing.TemperedPath.draw, annealing._anneal, annealing.pilot

    def spy_on_draw(path: Any) -> Tensor:
        starts.append(draw(path))
        return starts[-1]

    def spy_on_pilot(*args: Any, generator: torch.Generator, **options: Any) -> Any:
        # One stream would make the first momenta the numbers of the starting draws.
        assert generator.initial_seed() != torch.initial_seed()
        plans.append(pilot(*args, generator=generator, **options))
        return plans[-1]

    def spy_on_anneal(path: Any, plan: Any, state: Any, *args: Any, **options: Any) -> Any:
        assert plan is plans[-1]
        before = [part.clone() for part in (plan.step_size, plan.factors)]
        betas = plan.betas.copy()
        if not options.get("backwards"):
            assert torch.equal(state.position, starts[-1])
        found = anneal(path, plan, state, *args, **options)
        assert all(torch.equal(a, b) for a, b in zip(before, (plan.step_size, plan.factors), strict=True))
        np.testing.assert_array_equal(plan.betas, betas)
        return found

    monkeypatch.setattr(annealing.TemperedPath, "draw", spy_on_draw)
    monkeypatch.setattr(annealing, "pilot", spy_on_pilot)
    monkeypatch.setattr(annealing, "_anneal", spy_on_anneal)
    _both(Pair(_model, _guide), torch.zeros(4, dtype=D), num_temperatures=20, num_chains=3)
    # Of each run: an example for the shapes, the pilot's, and the weighed ones.
    _estimate(Pair(_model, _guide), torch.zeros(4, dtype=D), num_temperatures=20, num_chains=3)
    assert len(starts) == 6
    for first in (1, 4):
        assert not (starts[first] == starts[first + 1]).any()


# Against exact evidence ----------------------------------------------------------------------------------


def _mean_field(oracles: ModuleType) -> tuple[Pair, Tensor]:
    """PPCA of iris at a rotated ML solution, with a mean-field guide that misses the correlations."""
    x = datasets.load_iris().data
    x = torch.as_tensor((x - x.mean(0)) / x.std(0))
    model = PPCA(4, 2).set_maximum_likelihood(x, oracles.rotation(30.0))
    guide = LinearNormal(4, 2, covariance="diagonal", dtype=D)
    with torch.no_grad():
        noise = model.noise_scale**2
        m = model.loadings.T @ model.loadings + noise * torch.eye(2, dtype=D)
        slope = torch.linalg.solve(m, model.loadings.T)
        guide.loc.weight.copy_(slope)
        guide.loc.bias.copy_(-slope @ model.mean)
        guide.raw_spread.copy_((noise / m.diagonal() - guide.floor).expm1().log())
    return Pair(model, guide), x


@pytest.mark.parametrize("start", ["guide", "prior"])
def test_evidence_of_ppca_is_exact_within_calibrated_errors(start: str, oracles: ModuleType) -> None:
    pair, x = _mean_field(oracles)
    truth = exact.log_evidence(pair.model, x).log_evidence
    errors = []
    for temperatures in (10, 60):
        found = _estimate(pair, x, start=start, num_temperatures=temperatures, num_chains=64)
        errors.append(found.mean_std_error)
    scores = (found.log_evidence - found.bias - truth) / found.std_error
    assert abs(scores.mean()) * np.sqrt(150) < oracles.z_limit(4)
    low, high = oracles.spread_limits(149, 2)
    assert low < scores.var(ddof=1) < high
    assert errors[1] < 0.6 * errors[0]
    assert (found.method, found.unit, found.kind) == ("ais", "datum", "estimate")
    assert found.curve[-1, 0] == 64
    assert found.curve[-1, 1] == pytest.approx(found.mean, rel=1e-12)
    assert found.curve[-1, 2] == pytest.approx(found.mean_std_error, rel=1e-9)


@pytest.mark.parametrize(("scale", "shift"), [(0.5, 0.0), (1.0, 3.0)])
def test_a_poor_guide_alarms_importance_sampling_but_not_annealing(
    scale: float, shift: float, oracles: ModuleType
) -> None:
    pair, x = _mean_field(oracles)
    truth = exact.log_evidence(pair.model, x)
    with torch.no_grad():
        spread = pair.guide.encode(x[:1]).variance[0]
        pair.guide.loc.bias.add_(shift * spread.sqrt())
        pair.guide.raw_spread.copy_((scale**2 * spread - pair.guide.floor).expm1().log())
    alone = importance.log_evidence(pair, x, num_samples=1000, progress=False)
    assert alone.alarming.mean() > 0.5
    found = _estimate(pair, x, num_temperatures=150, num_chains=64)
    assert not found.alarming.any()
    off = found.mean - found.total_bias / 150 - truth.mean
    assert abs(off) < oracles.z_limit(2) * found.mean_std_error
    assert found.mean_std_error < 0.01


@pytest.mark.parametrize("start", ["guide", "prior"])
def test_evidence_of_two_players_is_that_of_quadrature(start: str, oracles: ModuleType) -> None:
    games = [(0, 1)] * 5 + [(1, 0)] * 2
    truth = oracles.skills(games, 2, oracles.logistic, 0.0, 1.0).log_evidence
    model = TrueSkill(2, link="logistic")
    pair = Pair(model, AutoNormal(model, init_loc_fn=model.at_prior_mean, init_scale=0.4))
    found = _estimate(pair, *oracles.won(games), start=start, num_temperatures=50, num_chains=500)
    assert (found.unit, found.num_units) == ("dataset", 1)
    assert abs(found.log_evidence[0] - truth) < oracles.z_limit(2) * found.std_error[0]
    assert found.std_error[0] < 0.04


def _schools(effects: Tensor, errors: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(ZERO, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0 * torch.ones((), dtype=D)))
    with pyro.plate("school", len(effects)) as i:
        pyro.sample("effect", dist.Normal(mu, (tau**2 + errors[i] ** 2).sqrt()), obs=effects[i])


@pytest.mark.parametrize("start", ["guide", "prior"])
def test_evidence_of_eight_schools_is_that_of_quadrature(start: str, oracles: ModuleType) -> None:
    """Given τ all is Gaussian; τ = 5 tan u makes its prior uniform."""
    effects, errors = oracles.SCHOOL_EFFECTS, oracles.SCHOOL_ERRORS

    def density(u: float) -> float:
        covariance = np.diag((5 * np.tan(u)) ** 2 + errors**2) + 25.0
        return float(stats.multivariate_normal(np.zeros(8), covariance).pdf(effects)) * 1e14

    value, _ = integrate.quad(density, 0, np.pi / 2, epsrel=1e-10)
    truth = np.log(value * 2 / np.pi) - np.log(1e14)
    pair = Pair(_schools, AutoMultivariateNormal(_schools, init_scale=1.0))
    data = (torch.as_tensor(effects), torch.as_tensor(errors))
    found = _estimate(pair, *data, start=start, num_temperatures=80, num_chains=400)
    assert abs(found.log_evidence[0] - truth) < oracles.z_limit(2) * found.std_error[0]
    assert found.std_error[0] < 0.05


def test_a_likelihood_of_bounded_support_gives_numbers(oracles: ModuleType) -> None:
    """x ~ U(z − ½, z + ½): most of the prior's draws have no density at all."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(ZERO, 1.0))
            pyro.sample("x", dist.Uniform(z - 0.5, z + 0.5, validate_args=False), obs=x[i])

    x = torch.tensor([0.0, 0.5, 1.0, 2.0], dtype=D)
    truth = np.log(stats.norm.cdf(x + 0.5) - stats.norm.cdf(x - 0.5))
    found = _estimate(Pair(model, Prior(model)), x, start="prior", num_temperatures=10, num_chains=1000)
    scores = (found.log_evidence - found.bias - truth) / found.std_error
    assert np.abs(scores).max() < oracles.z_limit(4)
    assert np.isfinite(found.ess).all()


# Bounds on simulated data --------------------------------------------------------------------------------


def test_bounds_enclose_the_exact_evidence_of_ppca(oracles: ModuleType) -> None:
    pair, x = _mean_field(oracles)
    _, data = simulate(Problem.of(pair, x), 5)
    truth = exact.log_evidence(pair.model, *data).mean
    lower, upper = _both(pair, x, num_temperatures=150, num_chains=16, seed=5)
    limit = oracles.z_limit(2)
    assert lower.mean < truth + limit * lower.mean_std_error
    assert upper.mean > truth - limit * upper.mean_std_error
    assert abs(upper.mean - lower.mean) < 0.02
    lower, upper = _both(pair, x, start="prior", num_temperatures=5, num_chains=4, seed=5)
    assert lower.mean + 0.05 < truth < upper.mean - 0.05


def test_bounds_enclose_the_evidence_of_simulated_games(oracles: ModuleType) -> None:
    model = TrueSkill(2, link="logistic")
    pair = Pair(model, AutoNormal(model, init_loc_fn=model.at_prior_mean, init_scale=0.6))
    games = oracles.won([[0, 1]] * 6)
    excess = []
    for seed in range(8):
        _, data = simulate(Problem.of(pair, *games), seed)
        pairs = [(0, 1) if first else (1, 0) for first in data[0].tolist()]
        truth = oracles.skills(pairs, 2, oracles.logistic, 0.0, 1.0).log_evidence
        lower, upper = _both(pair, *games, num_temperatures=20, num_chains=20, seed=seed)
        excess.append([lower.log_evidence[0] - truth, upper.log_evidence[0] - truth])
    low, high = np.transpose(excess)
    limit = oracles.t_limit(7, 2) / np.sqrt(8)
    assert low.mean() < limit * low.std(ddof=1)
    assert high.mean() > -limit * high.std(ddof=1)
    gap = high - low
    assert abs(gap.mean()) < 0.1 + limit * gap.std(ddof=1)


# Engines, chunks, seeds ------------------------------------------------------------------------------------


def test_engines_agree_and_seeds_reproduce(conjugate: Any, x: Tensor, oracles: ModuleType) -> None:
    pair = Pair(conjugate.model, conjugate.guide)
    options: dict[str, Any] = {"num_temperatures": 12, "num_chains": 8}
    with oracles.nothing_global_changes():
        eager, traced, compiled = (
            _estimate(pair, x, compile=choice, **options) for choice in (False, "auto", True)
        )
        again = _estimate(pair, x, **options)
        other = _estimate(pair, x, seed=1, **options)
        lower, upper = _both(pair, x, **options)
        eager_bounds = _both(pair, x, compile=False, **options)
    # Rounding, enlarged along trajectories.
    for found in (traced, compiled):
        np.testing.assert_allclose(found.log_evidence, eager.log_evidence, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(found.acceptance, eager.acceptance, rtol=1e-6)
    for found, expected in zip((lower, upper), eager_bounds, strict=True):
        np.testing.assert_allclose(found.log_evidence, expected.log_evidence, rtol=1e-8, atol=1e-8)
    np.testing.assert_array_equal(again.log_evidence, traced.log_evidence)
    assert (other.log_evidence != again.log_evidence).all()


@pytest.mark.parametrize("direction", ["forward", "both"])
def test_chunks_keep_units_in_order(
    direction: str, conjugate: Any, x: Tensor, oracles: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of seven units, the last of which is shorter."""
    pair = Pair(conjugate.model, conjugate.guide)
    monkeypatch.setattr(annealing, "CHUNK", 7 * 200)
    options: dict[str, Any] = {"num_temperatures": 100, "num_chains": 200}
    index = torch.tensor([30, 2, 5, 39, 11, 7, 8, 9, 0, 1])
    for chosen in (None, index):
        units = np.arange(40) if chosen is None else index.numpy()
        if direction == "forward":
            found = [_estimate(pair, x, index=chosen, **options)]
            data = x
        else:
            data = simulate(Problem.of(pair, x), 0)[1][0]
            found = list(_both(pair, x, index=chosen, **options))
        truth = conjugate.log_evidence(data)[units]
        scores = (found[0].log_evidence - found[0].bias - truth) / found[0].std_error
        assert np.abs(scores).max() < oracles.z_limit(200)
        for one in found:
            assert one.units.tolist() == units.tolist()
            assert one.std_error.max() < 0.1
            # A unit's reverse chains share their start, so that their error is larger than their spread.
            error, moved = one.log_evidence - truth, one.log_evidence - np.roll(truth, 1)
            assert (error**2).sum() < 0.05 * (moved**2).sum()


# Wrong use -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [annealing.log_evidence, annealing.bidirectional])
def test_wrong_use_is_refused_in_a_sentence(function: Callable[..., Any], conjugate: Any, x: Tensor) -> None:
    pair = Pair(conjugate.model, conjugate.guide)
    for options, words in (
        ({"num_temperatures": 1}, "num_temperatures is 1"),
        ({"num_chains": 1}, "num_chains is 1"),
        ({"target_accept": 1.0}, "target_accept is 1.0"),
        ({"target_accept": 0.0}, "target_accept is 0.0"),
        ({"start": "posterior"}, "start='posterior'"),
        ({"compile": "yes"}, "compile='yes'"),
    ):
        with pytest.raises(InputError, match=words):
            function(pair, x, progress=False, **options)


def test_a_guide_with_hidden_randomness_starts_from_the_prior_only(
    conjugate: Any, x: Tensor, oracles: ModuleType
) -> None:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            hidden = pyro.sample("hidden", dist.Normal(ZERO, 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(0.5 * x[i] + 0.1 * hidden, 0.5))

    pair = Pair(conjugate.model, guide)
    options: dict[str, Any] = {"num_temperatures": 20, "num_chains": 50}
    with pytest.raises(InputError, match="start from the prior"):
        _estimate(pair, x, **options)
    found = _estimate(pair, x, start="prior", **options)
    assert found.proposal == "prior, 20 temperatures"
    off = found.mean - found.total_bias / 40 - conjugate.log_evidence(x).mean()
    assert abs(off) < oracles.z_limit() * found.mean_std_error


def test_an_interrupted_run_goes_on_to_the_same_numbers(
    conjugate: Any, x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial, "_PERIOD", -1.0)
    monkeypatch.setattr(annealing, "CHUNK", 16 * 15)  # fifteen units at once
    pair = Pair(conjugate.model, conjugate.guide)
    path = tmp_path / "ais.partial"
    options = {"num_temperatures": 30, "checkpoint": path, "progress": False}
    whole = annealing.log_evidence(pair, x, **options)
    assert not path.exists()
    plans = []
    honest = annealing.pilot

    def interrupted(*args: Any, **more: Any) -> Any:
        plans.append(args)
        if len(plans) == 2:
            raise KeyboardInterrupt
        return honest(*args, **more)

    monkeypatch.setattr(annealing, "pilot", interrupted)
    with pytest.raises(KeyboardInterrupt):
        annealing.log_evidence(pair, x, **options)
    assert path.exists()
    resumed = annealing.log_evidence(pair, x, resume=True, **options)
    assert len(plans) == 4  # of three chunks the first is kept
    for name in ("log_evidence", "std_error", "ess", "acceptance"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))
    assert not path.exists()


def test_chains_are_added_until_the_tolerance_is_met(conjugate: Any, x: Tensor, oracles: ModuleType) -> None:
    pair = Pair(conjugate.model, conjugate.guide)
    options = {"num_temperatures": 20, "num_chains": 8, "progress": False}
    few = annealing.log_evidence(pair, x, **options)
    found = annealing.log_evidence(pair, x, tolerance=0.4 * few.mean_std_error, **options)
    assert found.mean_std_error <= 0.4 * few.mean_std_error
    assert found.num_samples > 4 * few.num_samples
    assert found.notes == ()
    truth = conjugate.log_evidence(x).mean()
    assert abs(found.mean - found.total_bias / 40 - truth) < oracles.z_limit() * found.mean_std_error
    given_up = annealing.log_evidence(pair, x, tolerance=1e-6, **options)
    assert "chains a unit would be needed" in given_up.notes[0]
    assert given_up.num_samples == 8


def test_a_guide_in_float32_of_a_model_in_float64(oracles: ModuleType) -> None:
    """The chains walk in the wider precision; they had ended in a RuntimeError of PyTorch's."""
    x = torch.linspace(-2, 2, 5, dtype=D)

    def narrow(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            loc = (torch.stack([x[i], x[i]], dim=-1) / 6).float()
            pyro.sample("z", dist.Normal(loc, torch.tensor(0.9)).to_event(1))

    found = _estimate(
        Pair(_model, narrow), x, num_temperatures=30, num_chains=16
    )  # fmt: skip
    off = (found.log_evidence - _log_evidence(x)) / found.std_error
    assert np.abs(off).max() < oracles.z_limit(len(x))
