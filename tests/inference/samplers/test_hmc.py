"""The oracles: Gaussians, gamma variables in log space, and skills, whose mean is exactly N(0, 1/n)."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from arviz_stats.base import array_stats
from scipy import stats
from scipy.special import digamma, polygamma
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.inference.samplers import hmc

# That of ``oracles.py``.
LEVEL = 5e-6


def _gaussian(mean: Tensor, covariance: Tensor) -> hmc.LogDensity:
    precision = torch.linalg.inv(covariance)

    def log_density(x: Tensor) -> tuple[Tensor, Tensor]:
        gradient = (mean - x) @ precision
        return 0.5 * ((x - mean) * gradient).sum(1), gradient

    return log_density


def _normal(dim: int, scale: float = 1.0) -> hmc.LogDensity:
    return _gaussian(torch.zeros(dim).double(), torch.eye(dim).double() * scale**2)


def _log_gamma(shape: Tensor) -> hmc.LogDensity:
    """x = ln y for y ~ Gamma(shape, 1): mean ψ(shape), variance ψ′(shape); a heavy and a light tail."""
    return lambda x: ((shape * x - x.exp()).sum(1), shape - x.exp())


def _start(chains: int, dim: int, scale: float = 2.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * (2 * torch.rand(chains, dim, generator=generator, dtype=torch.float64) - 1)


def _sample(log_density: hmc.LogDensity, start: Tensor, **options: int) -> hmc.Chains:
    settings = {"num_draws": 200, "warmup": 150, "seed": 0} | options
    return hmc.run(hmc.leapfrog_of(log_density), log_density, start, **settings)


def _scores(values: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How many standard errors the means (over chains and draws) are from the truth.

    The chains share nothing but the frozen tuning, so the spread of their means gives the error,
    whatever the autocorrelation; it is a t statistic.
    """
    means = values.mean(1)
    return (means.mean(0) - truth) / (means.std(0, ddof=1) / math.sqrt(len(means)))


def _check_moments(draws: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> None:
    scores = np.concatenate(
        [np.atleast_1d(_scores(draws, mean)), np.atleast_1d(_scores((draws - mean) ** 2, variance))]
    )
    assert np.abs(scores).max() < stats.t.isf(LEVEL / (2 * scores.size), len(draws) - 1)


def test_leapfrog_reverses_and_its_energy_error_falls_with_the_square_of_the_step() -> None:
    log_density = _log_gamma(torch.tensor([1.0, 3.0, 10.0], dtype=torch.float64))
    leapfrog, mass = hmc.leapfrog_of(log_density), torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    start = hmc.start_at(log_density, _start(50, 3, 1.0))
    first = torch.randn(50, 3, generator=generator, dtype=torch.float64) / mass.sqrt()

    def energy(value: Tensor, momentum: Tensor) -> Tensor:
        return value - 0.5 * (momentum**2 * mass).sum(1)

    errors = []
    for steps in (20, 40):
        size = torch.tensor(1.0 / steps, dtype=torch.float64)
        position, momentum, gradient = start.position, first, start.gradient
        for _ in range(steps):
            position, momentum, value, gradient = leapfrog(position, momentum, gradient, size, mass)
        errors.append((energy(value, momentum) - energy(start.log_density, first)).abs())
        momentum = -momentum
        for _ in range(steps):
            position, momentum, value, gradient = leapfrog(position, momentum, gradient, size, mass)
        torch.testing.assert_close(position, start.position)
        torch.testing.assert_close(momentum, -first)
    assert float((errors[0] / errors[1]).median()) == pytest.approx(4.0, rel=0.05)


@pytest.mark.parametrize("per_chain", [False, True])
@pytest.mark.parametrize("num_leapfrogs", [1, 4])
def test_transition_leaves_exact_draws_exact(per_chain: bool, num_leapfrogs: int) -> None:
    """One transition of 40,000 exact draws, with rejections aplenty: still exact."""
    shape = np.array([0.5, 1.0, 3.0, 20.0])
    chains = 40_000
    exact = torch.as_tensor(np.log(np.random.default_rng(0).gamma(shape, size=(chains, 4))))
    log_density = _log_gamma(torch.as_tensor(shape))
    size = torch.tensor(0.9, dtype=torch.float64)
    if per_chain:
        size = torch.linspace(0.1, 1.2, chains, dtype=torch.float64).unsqueeze(1)
    step = hmc.transition(
        hmc.leapfrog_of(log_density),
        hmc.start_at(log_density, exact),
        step_size=size,
        num_leapfrogs=num_leapfrogs,
        inverse_mass=torch.as_tensor(polygamma(1, shape)),
        generator=torch.Generator().manual_seed(2),
    )
    assert 0.1 < step.acceptance.mean() < 0.9
    # Acceptances are Bernoulli with the probabilities reported.
    surprise = (step.accepted.double() - step.acceptance).sum()
    assert abs(surprise) < stats.norm.isf(LEVEL / 2) * (step.acceptance * (1 - step.acceptance)).sum().sqrt()
    # Rejected chains stay, and carry their own log density and gradient; so do accepted ones.
    stayed = (step.state.position == exact).all(1)
    assert torch.equal(stayed, ~step.accepted)
    value, gradient = log_density(step.state.position)
    torch.testing.assert_close(step.state.log_density, value)
    torch.testing.assert_close(step.state.gradient, gradient)
    after = np.exp(step.state.position.numpy())
    for column, a in enumerate(shape):
        assert stats.kstest(after[:, column], stats.gamma(a).cdf).pvalue > LEVEL / (4 * len(shape))
    moments = (step.state.position.numpy().mean(0) - digamma(shape)) / np.sqrt(polygamma(1, shape) / chains)
    assert np.abs(moments).max() < stats.norm.isf(LEVEL / (2 * 4 * len(shape)))


def test_transition_keeps_a_tempered_density_as_well() -> None:
    """Annealing passes the tempered density's own leapfrog: p(x)^0.25 of a standard normal is N(0, 2²)."""
    tempered = _normal(3, 2.0)
    exact = 2 * torch.randn(40_000, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    plain = _normal(3)

    def log_density(x: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = plain(x)
        return 0.25 * value, 0.25 * gradient

    torch.testing.assert_close(log_density(exact), tempered(exact))
    step = hmc.transition(
        hmc.leapfrog_of(log_density),
        hmc.start_at(log_density, exact),
        step_size=torch.tensor(2.0, dtype=torch.float64),
        num_leapfrogs=3,
        inverse_mass=torch.ones(3, dtype=torch.float64),
        generator=torch.Generator().manual_seed(4),
    )
    for column in step.state.position.T:
        assert stats.kstest(column.numpy() / 2, "norm").pvalue > LEVEL / 3


@pytest.mark.parametrize(("dim", "scale"), [(1, 1.0), (2, 1.0), (10, 1e-4), (10, 1e4), (200, 1.0)])
def test_standard_normals_of_any_dimension_and_scale(dim: int, scale: float) -> None:
    drawn = _sample(_normal(dim, scale), _start(64, dim))
    assert drawn.draws.shape == (64, 200, dim)
    assert drawn.acceptance_rate.shape == drawn.diverging.shape == (64, 200)
    assert float(drawn.acceptance_rate.mean()) == pytest.approx(0.8, abs=0.05)
    assert not drawn.diverging.any()
    _check_moments(drawn.draws.numpy(), np.zeros(dim), np.full(dim, scale**2))
    # No direction is wider than another once standardised, so trajectories stay short.
    assert 0.8 < drawn.principal_sd < 1.2
    assert drawn.num_leapfrogs.double().mean() < 5


def test_noise_of_few_chains_in_many_dimensions_is_not_taken_for_a_wide_direction() -> None:
    """16 chains in 400 dimensions always spread more along some direction, by chance."""
    drawn = _sample(_normal(400), _start(16, 400), num_draws=1, warmup=100)
    assert 0.8 < drawn.principal_sd < 1.2


def test_an_ill_conditioned_gaussian_along_the_axes_is_met_by_the_metric() -> None:
    """Standard deviations from 0.01 to 1; the starts are up to 200 of them out."""
    sd = torch.logspace(-2, 0, 30, dtype=torch.float64)
    drawn = _sample(_gaussian(torch.zeros(30).double(), torch.diag(sd**2)), _start(64, 30))
    _check_moments(drawn.draws.numpy(), np.zeros(30), (sd**2).numpy())
    assert (drawn.inverse_mass.sqrt() / sd).log().abs().max() < 0.2
    assert drawn.num_leapfrogs.double().mean() < 5


def test_an_ill_conditioned_gaussian_off_the_axes_is_met_by_long_trajectories() -> None:
    """Condition number 10⁴, rotated: no diagonal metric helps."""
    generator = torch.Generator().manual_seed(5)
    basis = torch.linalg.qr(torch.randn(20, 20, generator=generator, dtype=torch.float64))[0]
    sd = torch.logspace(-2, 0, 20, dtype=torch.float64)
    mean = torch.linspace(-5, 5, 20, dtype=torch.float64)
    drawn = _sample(_gaussian(mean, basis @ torch.diag(sd**2) @ basis.T), _start(64, 20))
    rotated = drawn.draws.numpy() @ basis.numpy()
    _check_moments(rotated, mean.numpy() @ basis.numpy(), (sd**2).numpy())
    assert drawn.num_leapfrogs.double().mean() > 20


def test_a_correlated_gaussian_has_its_covariance() -> None:
    covariance = torch.tensor([[1.0, 0.95, 0.0], [0.95, 1.0, 0.0], [0.0, 0.0, 4.0]], dtype=torch.float64)
    mean = torch.tensor([3.0, -2.0, 0.5], dtype=torch.float64)
    drawn = _sample(_gaussian(mean, covariance), _start(64, 3), num_draws=400)
    centred = drawn.draws.numpy() - mean.numpy()
    products = np.einsum("cni,cnj->cnij", centred, centred).reshape(64, 400, 9)
    scores = _scores(products, covariance.numpy().ravel())
    assert np.abs(scores).max() < stats.t.isf(LEVEL / 18, 63)
    # The widest direction of the correlation matrix, whatever the marginal scales.
    expected = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64) / math.sqrt(2)
    assert abs(drawn.principal_direction @ expected) > 0.98
    assert drawn.principal_sd == pytest.approx(math.sqrt(1.95), rel=0.1)


@pytest.mark.parametrize("scale", [2.0, 20.0])
def test_gamma_variables_in_log_space_have_their_moments(scale: float) -> None:
    """From starts at which the gradient is up to e²⁰ as well."""
    shape = np.geomspace(0.7, 50, 12)
    drawn = _sample(_log_gamma(torch.as_tensor(shape)), _start(64, 12, scale), num_draws=400)
    _check_moments(drawn.draws.numpy(), digamma(shape), polygamma(1, shape))


def _skills(players: int = 107, games: int = 1801) -> hmc.LogDensity:
    """Skills N(0, 1), random games with logistic likelihood; only differences meet the data."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=players)
    one = rng.integers(0, players, games)
    other = (one + rng.integers(1, players, games)) % players
    wins = rng.random(games) < 1 / (1 + np.exp(truth[other] - truth[one]))
    winner = torch.as_tensor(np.where(wins, one, other))
    loser = torch.as_tensor(np.where(wins, other, one))

    def log_density(x: Tensor) -> tuple[Tensor, Tensor]:
        skill = x.T.contiguous()
        margin = skill[winner] - skill[loser]
        value = torch.nn.functional.logsigmoid(margin).sum(0) - 0.5 * (x * x).sum(1)
        pull = torch.sigmoid(-margin)
        gradient = torch.zeros_like(skill).index_add_(0, winner, pull).index_add_(0, loser, -pull)
        return value, gradient.T - x

    return log_density


def test_the_common_mean_of_all_skills_is_seen() -> None:
    """Exactly N(0, 1/107), and in standardised coordinates by far the widest direction."""
    drawn = _sample(_skills(), _start(64, 107), num_draws=150, warmup=100)
    mean = drawn.draws.mean(2).numpy()
    _check_moments(mean, np.zeros(()), np.array(1 / 107))
    assert abs(drawn.principal_direction.sum()) / math.sqrt(107) > 0.97
    # Its effective sample size is no small part of the draws, and neither is a single skill's.
    assert array_stats.ess(mean, method="bulk") > 0.2 * mean.size
    assert array_stats.ess(drawn.draws[..., 0].numpy(), method="bulk") > 0.5 * mean.size
    assert array_stats.rhat_nested(mean, np.arange(64) // 2) < 1.02
    assert drawn.num_leapfrogs.double().mean() < 9


def test_far_starts_are_forgotten() -> None:
    drawn = _sample(_normal(10), _start(64, 10, 1e4))
    _check_moments(drawn.draws.numpy(), np.zeros(10), np.ones(10))


def test_a_single_chain_and_single_precision_work() -> None:
    drawn = _sample(_normal(3), _start(1, 3), num_draws=2000, warmup=500)
    values = drawn.draws[..., 0].numpy()
    assert abs(values.mean()) < stats.norm.isf(LEVEL / 2) * array_stats.mcse(values, method="mean")
    assert (drawn.draws.var((0, 1)) - 1).abs().max() < 0.2
    shape = torch.tensor([1.0, 5.0])
    single = _sample(_log_gamma(shape), _start(16, 2).float())
    assert single.draws.dtype == single.inverse_mass.dtype == torch.float32
    _check_moments(single.draws.double().numpy(), digamma(shape.numpy()), polygamma(1, shape.numpy()))


def test_same_seed_same_numbers_and_global_generators_stay() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    runs = [_sample(_normal(3), _start(8, 3), num_draws=20, warmup=30, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(runs[0].draws, runs[1].draws)
    assert runs[0].step_size == runs[1].step_size
    assert not torch.equal(runs[0].draws, runs[2].draws)


def _poisoned(log_density: hmc.LogDensity, chain: int, poison: float, where: str) -> hmc.LogDensity:
    """A density that turns bad for one chain after its first evaluation."""
    calls = 0

    def bad(x: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        value, gradient = log_density(x)
        if calls > 1:
            (value if where == "value" else gradient)[chain] = poison
        return value, gradient

    return bad


@pytest.mark.parametrize("where", ["value", "gradient"])
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_chain_whose_density_is_not_finite_is_rejected_alone(poison: float, where: str) -> None:
    def step(log_density: hmc.LogDensity) -> tuple[hmc.ChainState, hmc.Transition]:
        state = hmc.start_at(log_density, _start(6, 4))
        return state, hmc.transition(
            hmc.leapfrog_of(log_density),
            state,
            step_size=torch.tensor(0.3, dtype=torch.float64),
            num_leapfrogs=3,
            inverse_mass=torch.ones(4, dtype=torch.float64),
            generator=torch.Generator().manual_seed(0),
        )

    _, clean = step(_normal(4))
    state, bad = step(_poisoned(_normal(4), 2, poison, where))
    others = torch.arange(6) != 2
    for one, other in zip(clean.state[:3], bad.state[:3], strict=True):
        assert torch.equal(one[others], other[others])
    assert torch.equal(bad.state.position[2], state.position[2])
    assert bad.acceptance[2] == 0
    assert bad.diverging.tolist() == [False, False, True, False, False, False]
    assert not clean.diverging.any()


def test_a_stuck_chain_does_not_spoil_the_tuning_of_the_others() -> None:
    drawn = _sample(_poisoned(_normal(4), 5, math.nan, "value"), _start(32, 4, 100.0))
    others = torch.arange(32) != 5
    assert drawn.diverging[5].all()
    assert not drawn.diverging[others].any()
    assert (drawn.inverse_mass.log().abs() < 0.5).all()
    _check_moments(drawn.draws[others].numpy(), np.zeros(4), np.ones(4))


def test_trajectories_are_jittered_and_bounded() -> None:
    drawn = _sample(_normal(2), _start(16, 2), num_draws=64, max_leapfrogs=3, warmup=40)
    assert drawn.num_leapfrogs.shape == (64,)
    assert drawn.num_leapfrogs.max() <= 3
    counts = np.array([hmc.jittered(200.0, draw, 1000) for draw in range(64)])
    assert counts.mean() == pytest.approx(200, rel=0.02)
    assert np.abs(np.diff(np.sort(counts))).max() < 8
    assert counts.max() / counts.min() > 2.5


def test_progress_is_told_after_every_transition() -> None:
    told: list[int] = []
    log_density = _normal(2)
    hmc.run(hmc.leapfrog_of(log_density), log_density, _start(4, 2), num_draws=7, warmup=20, seed=0,
            advance=lambda n, text: told.append(n))  # fmt: skip
    assert told == [1] * 27


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_draws": 0}, "num_draws is 0"),
        ({"warmup": 19}, "warmup is 19; it must be at least 20"),
        ({"max_leapfrogs": 0}, "max_leapfrogs is 0"),
        ({"target_accept": 1.0}, "target_accept is 1.0"),
    ],
)
def test_absurd_requests_are_refused(options: dict[str, int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        _sample(_normal(2), _start(4, 2), **options)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (lambda: torch.zeros(3).double(), r"of shape \(3,\)"),
        (lambda: torch.zeros(3, 2).long(), "torch.int64"),
        (lambda: torch.tensor([[0.0], [math.nan], [math.inf]]).double(), r"chains \[1, 2\]"),
    ],
)
def test_impossible_starts_are_refused(start: Callable[[], Tensor], words: str) -> None:
    with pytest.raises(InputError, match=words):
        _sample(_normal(1), start())
