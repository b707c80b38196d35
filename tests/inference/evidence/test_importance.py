from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import special, stats
from sklearn import datasets
from torch import Tensor

from ppl_vae.answers.evidence import Evidence
from ppl_vae.base.errors import InputError
from ppl_vae.guides import LinearNormal, Prior
from ppl_vae.inference import exact, importance
from ppl_vae.inference.evidence import partial
from ppl_vae.inference.evidence import weights as weights_module
from ppl_vae.inference.evidence.running import Running, summarise
from ppl_vae.inference.evidence.unit_noise import UnitNoise
from ppl_vae.models import PPCA
from ppl_vae.program.layout import Layout
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem
from ppl_vae.program.terms import layout, terms


def _mean_field(name: str, oracles: ModuleType) -> tuple[Pair, Tensor]:
    """PPCA at a rotated ML solution with the best mean-field linear guide, both in closed form."""
    x = getattr(datasets, f"load_{name}")().data
    x = torch.as_tensor((x - x.mean(0)) / x.std(0))
    model = PPCA(x.shape[1], 2).set_maximum_likelihood(x, oracles.rotation(30.0))
    guide = LinearNormal(x.shape[1], 2, covariance="diagonal", dtype=torch.float64)
    with torch.no_grad():
        noise = model.noise_scale**2
        m = model.loadings.T @ model.loadings + noise * torch.eye(2, dtype=torch.float64)
        slope = torch.linalg.solve(m, model.loadings.T)
        guide.loc.weight.copy_(slope)
        guide.loc.bias.copy_(-slope @ model.mean)
        guide.raw_spread.copy_((noise / m.diagonal() - guide.floor).expm1().log())
    return Pair(model, guide), x


def _estimate(pair: Pair, *data: Any, **options: Any) -> Evidence:
    return importance.log_evidence(pair, *data, progress=False, **options)


@pytest.mark.parametrize("name", ["iris", "wine"])
def test_evidence_of_ppca_with_the_mean_field_guide_is_exact_within_its_error(
    name: str, oracles: ModuleType
) -> None:
    pair, x = _mean_field(name, oracles)
    truth = exact.log_evidence(pair.model, x)
    found = _estimate(pair, x, num_samples=1000)
    assert found.mean_std_error <= 0.01
    assert found.mean_std_error > 0
    assert abs(found.mean - truth.mean) < oracles.z_limit(2) * found.mean_std_error
    assert pair.model.mean_field_gap() > 0.03
    assert found.elbo.mean() < truth.mean - 0.5 * pair.model.mean_field_gap()
    scores = (found.log_evidence - truth.log_evidence) / found.std_error
    assert np.abs(scores).max() < 2 * oracles.z_limit(len(scores))


@pytest.mark.parametrize("defensive", [0.0, 0.2])
def test_errors_are_calibrated_over_repetitions(defensive: float, oracles: ModuleType) -> None:
    """Forty repetitions: z-scores of the total have mean 0 and variance 1."""
    pair, x = _mean_field("iris", oracles)
    x = x[:40]
    truth = exact.log_evidence(pair.model, x).total
    runs = [_estimate(pair, x, num_samples=1000, defensive=defensive, seed=seed) for seed in range(40)]
    scores = np.array([(run.total - run.total_bias - truth) / run.total_std_error for run in runs])
    assert abs(scores.mean()) * np.sqrt(40) < oracles.z_limit(2)
    low, high = oracles.spread_limits(39, 2)
    assert low < scores.var(ddof=1) < high


@pytest.mark.parametrize("chunk", [7, 64, 10_000])
def test_running_sums_over_chunks_are_the_formulas_over_all_weights(
    chunk: int, conjugate: Any, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Layout, "particles_per_chunk", lambda self, units, budget=0: chunk)
    pair = Pair(conjugate.model, conjugate.guide)
    Problem.of(pair, x)  # whose own runs are not looked at
    kept = []
    honest = Problem.terms

    def spy(*args: Any, **options: Any) -> Any:
        kept.append(honest(*args, **options))
        return kept[-1]

    monkeypatch.setattr(Problem, "terms", spy)
    found = _estimate(pair, x, num_samples=300)
    assert len(kept) == -(-300 // chunk)
    # Chunks have one size; what the last one has too many is dropped.
    log_w = torch.cat([one.log_weights for one in kept])[:300].numpy()
    assert log_w.shape == (300, 40)
    weights = np.exp(log_w - log_w.max(0))
    log_mean = special.logsumexp(log_w, axis=0) - np.log(300)
    error = weights.std(0, ddof=1) / (weights.mean(0) * np.sqrt(300))
    np.testing.assert_allclose(found.log_evidence, log_mean, rtol=1e-10)
    np.testing.assert_allclose(found.std_error, error, rtol=1e-6)
    np.testing.assert_allclose(found.bias, -0.5 * error**2, rtol=1e-6)
    np.testing.assert_allclose(found.ess, weights.sum(0) ** 2 / (weights**2).sum(0), rtol=1e-8)
    np.testing.assert_allclose(found.elbo, log_w.mean(0), rtol=1e-10)


def test_units_are_weighed_one_by_one_and_not_as_a_sum(conjugate: Any, x: Tensor) -> None:
    """Summed over 40 data before they are averaged, these weights would leave an ESS near one."""
    pair = Pair(conjugate.model, conjugate.guide)
    found = _estimate(pair, x, num_samples=1000)
    assert (found.unit, found.num_units) == ("datum", 40)
    assert np.median(found.ess) > 300
    shape = layout(pair, x)
    summed = terms(pair, x, layout=shape, num_particles=1000).log_weights.sum(1).detach().numpy()
    weights = np.exp(summed - summed.max())
    assert weights.sum() ** 2 / (weights**2).sum() < 0.05 * np.median(found.ess)


def test_the_prior_is_a_proposal(conjugate: Any, x: Tensor, oracles: ModuleType) -> None:
    found = _estimate(Pair(conjugate.model, Prior(conjugate.model)), x, num_samples=4000)
    assert found.proposal == "prior"
    scores = (found.log_evidence - conjugate.log_evidence(x)) / found.std_error
    assert np.abs(scores).max() < oracles.z_limit(len(scores))


def _narrow(conjugate: Any, x: Tensor) -> Pair:
    """A guide with a quarter of the posterior's spread: the variance of its weights is infinite."""
    pair = Pair(conjugate.model, conjugate.guide).initialise(x)
    raw = torch.tensor(np.log(0.1), dtype=x.dtype)
    pair.load_state_dict({"slope": torch.tensor(0.8, dtype=x.dtype), "scale": raw})
    return pair


def test_a_defensive_mixture_bounds_the_weights_of_a_narrow_guide(
    conjugate: Any, x: Tensor, oracles: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = _narrow(conjugate, x)
    draws, kept = [], []
    honest, terms = weights_module.LogWeights.__call__, Problem.terms

    def spy_on_terms(*args: Any, **options: Any) -> Any:
        found = terms(*args, **options)
        if options.get("latents") is None:
            draws.append(found.draws["z"])
        return found

    def spy(self: Any, index: Tensor | None = None, **given: Any) -> Tensor:
        found = honest(self, index, **given)
        kept.append((found, draws[-1]))
        return found

    alone = _estimate(pair, x, num_samples=2000)
    monkeypatch.setattr(Problem, "terms", spy_on_terms)
    monkeypatch.setattr(weights_module.LogWeights, "__call__", spy)
    mixed = _estimate(pair, x, num_samples=2000, defensive=0.3)
    assert mixed.proposal == "0.7 guide + 0.3 prior"
    assert np.median(alone.pareto_k) > 0.7
    assert np.median(mixed.pareto_k) < 0.5
    assert alone.alarming.mean() > 0.5
    assert mixed.alarming.mean() < 0.2
    scores = (mixed.log_evidence - conjugate.log_evidence(x)) / mixed.std_error
    assert np.abs(scores).max() < oracles.z_limit(len(scores))

    drawn = [len(z) for _, z in kept]
    assert sum(drawn) == 2000
    for log_w, z in kept:
        # p(x, z) / [0.7 q(z) + 0.3 p(z)], which is at most p(x | z) / 0.3.
        q = stats.norm(0.8 * x.numpy(), 0.1).pdf(z)
        prior, likelihood = stats.norm(0, 1).pdf(z), stats.norm(z, 0.5).pdf(x)
        np.testing.assert_allclose(log_w, np.log(prior * likelihood / (0.7 * q + 0.3 * prior)), rtol=1e-6)
        assert (log_w.numpy() <= np.log(likelihood / 0.3) + 1e-9).all()


def test_an_exact_guide_has_no_error_and_no_tail(conjugate: Any, x: Tensor) -> None:
    pair = Pair(conjugate.model, conjugate.guide).initialise(x)
    raw = torch.tensor(np.log(np.sqrt(0.2)), dtype=x.dtype)
    pair.load_state_dict({"slope": torch.tensor(0.8, dtype=x.dtype), "scale": raw})
    found = _estimate(pair, x, num_samples=500)
    np.testing.assert_allclose(found.log_evidence, conjugate.log_evidence(x), rtol=1e-10)
    assert found.std_error.max() < 1e-6
    assert (found.pareto_k == -1).all()
    np.testing.assert_allclose(found.ess, 500, rtol=1e-9)
    assert not found.alarming.any()


def test_some_units_can_be_asked_for(conjugate: Any, x: Tensor, oracles: ModuleType) -> None:
    index = torch.tensor([33, 4, 10])
    found = _estimate(Pair(conjugate.model, conjugate.guide), x, num_samples=2000, index=index)
    assert found.num_units == 3
    scores = (found.log_evidence - conjugate.log_evidence(x)[index]) / found.std_error
    assert np.abs(scores).max() < oracles.z_limit(3)


def test_bad_arguments_are_refused(conjugate: Any, x: Tensor) -> None:
    pair = Pair(conjugate.model, conjugate.guide)
    with pytest.raises(InputError, match="num_samples is 1"):
        _estimate(pair, x, num_samples=1)
    for value in (-0.1, 1.0):
        with pytest.raises(InputError, match=f"defensive is {value}"):
            _estimate(pair, x, defensive=value)


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_the_course_of_an_estimate_is_that_of_its_first_samples(
    block: int, conjugate: Any, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Layout, "particles_per_chunk", lambda self, units, budget=0: block)
    kept = []
    honest = weights_module.LogWeights.__call__

    def spy(self: Any, index: Tensor | None = None, **given: Any) -> Tensor:
        kept.append(honest(self, index, **given))
        return kept[-1]

    monkeypatch.setattr(weights_module.LogWeights, "__call__", spy)
    found = _estimate(Pair(conjugate.model, conjugate.guide), x, num_samples=70)
    log_w = torch.cat(kept)[:70].numpy()
    assert found.curve[:, 0].tolist() == [2, 4, 8, 16, 32, 64]
    for size, value, error in found.curve:
        first = log_w[: int(size)]
        log_mean = special.logsumexp(first, axis=0) - np.log(size)
        relative = np.exp(first - log_mean).std(0, ddof=1) / np.sqrt(size)
        assert value == pytest.approx(log_mean.mean(), rel=1e-10)
        assert error == pytest.approx(np.sqrt((relative**2).sum()) / 40, rel=1e-6)


def test_samples_are_added_until_the_tolerance_is_met(conjugate: Any, x: Tensor, oracles: ModuleType) -> None:
    pair = Pair(conjugate.model, conjugate.guide)
    few = _estimate(pair, x, num_samples=50)
    found = _estimate(pair, x, num_samples=50, tolerance=0.004)
    assert few.mean_std_error > 0.004 >= found.mean_std_error
    assert found.notes == ()
    # No more than the square-root law asks for, and some.
    assert found.num_samples < 3 * 50 * (few.mean_std_error / 0.004) ** 2
    truth = conjugate.log_evidence(x).mean()
    assert abs(found.mean - found.total_bias / 40 - truth) < oracles.z_limit() * found.mean_std_error
    # The course begins with the first round's samples and ends with the last's.
    np.testing.assert_allclose(found.curve[: len(few.curve)], few.curve)
    assert found.curve[-1, 0] == 2 ** int(np.log2(found.num_samples))
    assert np.abs(found.curve[-1, 1] - found.mean) < 5 * found.curve[-1, 2]


@pytest.mark.parametrize("defensive", [0.0, 0.2])
def test_rounds_of_samples_are_one_sample(
    defensive: float, conjugate: Any, x: Tensor, oracles: ModuleType
) -> None:
    """Errors of the sum of all rounds are the spread of repetitions."""
    pair = Pair(conjugate.model, conjugate.guide)
    runs = [
        _estimate(pair, x, num_samples=20, tolerance=0.012, defensive=defensive, seed=seed)
        for seed in range(30)
    ]
    assert min(run.num_samples for run in runs) > 40
    truth = conjugate.log_evidence(x).mean()
    scores = [(run.mean - run.total_bias / 40 - truth) / run.mean_std_error for run in runs]
    low, high = oracles.spread_limits(29, 2)
    assert low < np.var(scores, ddof=1) < high
    assert abs(np.mean(scores)) * np.sqrt(30) < oracles.z_limit(4)


def test_a_tolerance_that_cannot_be_reached_is_given_up_in_a_sentence(conjugate: Any, x: Tensor) -> None:
    pair = Pair(conjugate.model, conjugate.guide)
    found = _estimate(pair, x, num_samples=50, tolerance=1e-6)
    assert found.num_samples == 50
    assert "cannot be brought to 1e-06" in found.notes[0]
    doubtful = _estimate(_narrow(conjugate, x), x, num_samples=2000, tolerance=1.0)
    assert "cannot be trusted" in doubtful.notes[0]


def test_an_interrupted_estimate_goes_on_to_the_same_numbers(
    conjugate: Any, x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial, "_PERIOD", -1.0)
    monkeypatch.setattr(importance, "CHUNK", 7000)  # seven units at once
    pair = Pair(conjugate.model, conjugate.guide)
    path = tmp_path / "evidence.partial"
    options = {"num_samples": 1000, "defensive": 0.2, "checkpoint": path}
    whole = _estimate(pair, x, **options)
    assert not path.exists()
    calls = []
    honest = weights_module.LogWeights.__call__

    def interrupted(self: Any, index: Tensor | None = None, **given: Any) -> Tensor:
        calls.append(index)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return honest(self, index, **given)

    monkeypatch.setattr(weights_module.LogWeights, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _estimate(pair, x, **options)
    assert path.exists()
    before = len(calls)
    resumed = _estimate(pair, x, resume=True, **options)
    assert len(calls) - before < 12  # six chunks of two strata, some of them kept
    for name in ("log_evidence", "std_error", "ess", "pareto_k", "elbo", "smoothed"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))
    assert not path.exists()


def test_parts_of_another_estimate_are_refused(
    conjugate: Any, x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial, "_PERIOD", -1.0)
    monkeypatch.setattr(partial.Partial, "finish", lambda self: None)
    pair = Pair(conjugate.model, conjugate.guide)
    path = tmp_path / "evidence.partial"
    _estimate(pair, x, num_samples=100, checkpoint=path)
    _estimate(pair, x, num_samples=100, checkpoint=path, resume=True)
    for other, options in ((x, {"num_samples": 200}), (x + 1, {"num_samples": 100})):
        with pytest.raises(InputError, match="with other options"):
            _estimate(pair, other, checkpoint=path, resume=True, **options)
    path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="is damaged"):
        _estimate(pair, x, num_samples=100, checkpoint=path, resume=True)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (torch.zeros(0, dtype=torch.long), "at least one"),
        (torch.tensor([-1, 2]), "from -1 to 2"),
        (torch.tensor([3, 40]), "units 0 to 39"),
        (torch.tensor([5, 5]), "twice"),
        (torch.tensor([0.5]), "integers"),
        (torch.tensor([True, False]), "integers"),
    ],
)
def test_units_that_do_not_exist_are_refused(index: Tensor, words: str, conjugate: Any, x: Tensor) -> None:
    with pytest.raises(InputError, match=words):
        _estimate(Pair(conjugate.model, conjugate.guide), x, index=index)


def test_a_defensive_mixture_needs_two_of_each_kind(conjugate: Any, x: Tensor) -> None:
    pair = Pair(conjugate.model, conjugate.guide)
    with pytest.raises(InputError, match="2 of each kind"):
        _estimate(pair, x, num_samples=3, defensive=0.1)
    assert np.isfinite(_estimate(pair, x, num_samples=4, defensive=0.1).std_error).all()


def test_sums_of_chunks_stand_in_the_order_of_the_units(
    conjugate: Any, x: Tensor, oracles: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk's numbers depend on its own seed alone: with one unit a chunk, that of a unit alone."""
    monkeypatch.setattr(importance, "CHUNK", 500)
    pair = Pair(conjugate.model, conjugate.guide)
    index = torch.tensor([12, 3, 39])
    found = _estimate(pair, x, num_samples=500, index=index, defensive=0.1)
    assert (
        _estimate(pair, x, num_samples=500, index=index[:1], defensive=0.1).log_evidence[0]
        == (found.log_evidence[0])
    )
    scores = (found.log_evidence - conjugate.log_evidence(x)[index]) / found.std_error
    assert np.abs(scores).max() < oracles.z_limit(3)


def test_one_weight_that_is_all_that_counts_is_smoothed_to_a_finite_value() -> None:
    """Simple Monte Carlo far from the posterior: the smoothed sum must not cancel to nothing."""
    log_w = torch.cat([torch.linspace(-900, -400, 999, dtype=torch.float64), torch.zeros(1)])[:, None]
    columns, _ = summarise([Running.empty(1).plus(log_w)])
    assert np.isfinite(columns["smoothed"]).all()
    assert columns["smoothed"][0] <= columns["log_evidence"][0] + 1e-9


# Noise that belongs to a unit's draw ----------------------------------------------------------------


def _uniform_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)) as i:
        base = dist.Uniform(torch.zeros_like(x[i]) - 1, 1.0)
        z = dist.TransformedDistribution(base, dist.transforms.AffineTransform(0.5 * x[i], 3.0))
        pyro.sample("z", z)


def _exponential_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)) as i:
        base = dist.Exponential(torch.ones_like(x[i]))
        pyro.sample("z", dist.TransformedDistribution(base, dist.transforms.AffineTransform(x[i] - 3, 1.0)))


@pytest.mark.parametrize("guide", ["normal", "uniform", "exponential"])
@pytest.mark.parametrize("compile", [False, True])
def test_numbers_do_not_depend_on_how_units_and_draws_are_cut(
    guide: str, compile: bool, conjugate: Any, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = {"normal": conjugate.guide, "uniform": _uniform_guide, "exponential": _exponential_guide}
    pair = Pair(conjugate.model, programs[guide])
    settings: Any = {"num_samples": 300, "seed": 4, "progress": False}
    whole = importance.log_evidence(pair, x, **settings)
    index = torch.tensor([31, 4, 17])
    part = importance.log_evidence(pair, x, index=index, **settings)
    for module in ("importance", "weights"):
        monkeypatch.setattr(f"ppl_vae.inference.evidence.{module}.CHUNK", 2**9)
    cut = importance.log_evidence(pair, x, compile=compile, **settings)
    # Sums of 300 weights in another order, in float64.
    np.testing.assert_allclose(part.log_evidence, whole.log_evidence[index], rtol=1e-9)
    np.testing.assert_allclose(cut.log_evidence, whole.log_evidence, rtol=1e-9)
    np.testing.assert_allclose(cut.elbo, whole.elbo, rtol=1e-9)


def test_the_numbers_of_unit_noise_are_those_of_their_distributions(conjugate: Any, x: Tensor) -> None:
    """Kolmogorov and Smirnov's test over draws, units and operations, and no correlation between them."""
    shape = layout(Pair(conjugate.model, conjugate.guide), x)
    with UnitNoise(shape, 7, 0, 500, None):
        first = torch.empty(500, 40).normal_(2.0, 3.0)
        second = torch.rand(500, 40, 2)
        third = torch.empty(500, 40).exponential_(0.5)
    columns = {
        "normal": stats.norm(2, 3).cdf(first.numpy()),
        "uniform": second[..., 1].numpy(),
        "exponential": stats.expon(scale=2).cdf(third.numpy()),
    }
    for values in columns.values():
        assert stats.kstest(values.ravel(), "uniform").pvalue > 1e-5
        # Neighbouring draws, and neighbouring units: standard errors are 1/√20,000.
        for other in (values[1:] - 0.5) * (values[:-1] - 0.5), (values[:, 1:] - 0.5) * (values[:, :-1] - 0.5):
            assert abs(12 * other.mean()) < 5 / 19_500**0.5
    table = np.stack([values.ravel() for values in columns.values()])
    assert np.abs(np.corrcoef(table) - np.eye(3)).max() < 5 / 20_000**0.5
