from types import ModuleType

import numpy as np
import pytest
import torch
from arviz_stats.base import array_stats
from scipy import special
from torch import Tensor

from ppl_vae.answers import pareto
from ppl_vae.answers.pareto import pareto_k, smoothed_tail, smoothed_weights, tail_length

NUM_SAMPLES, NUM_UNITS = 4000, 60


def _log_weights(k: float, seed: int = 0) -> Tensor:
    """Log weights whose tail is exactly Pareto of index k: w = U^(−k)."""
    u = np.random.default_rng(seed).random((NUM_SAMPLES, NUM_UNITS))
    return torch.as_tensor(-k * np.log(u))


def _largest(log_w: Tensor, size: int | None = None) -> Tensor:
    return log_w.topk((tail_length(len(log_w)) if size is None else size) + 1, dim=0).values


# ArviZ rounds the length of the tail down, and the method's authors up.
ARVIZ_TAIL = int(3 * np.sqrt(NUM_SAMPLES))


@pytest.mark.parametrize("k", [0.2, 0.5, 0.7, 1.0, 1.5])
def test_k_hat_finds_a_known_tail_index(k: float, oracles: ModuleType) -> None:
    found = pareto_k(_largest(_log_weights(k))).numpy()
    size = tail_length(NUM_SAMPLES)
    # Shrunk towards one half as if by ten more observations; unshrunk it estimates k.
    estimate = (found * (size + 10) - 5) / size
    error = estimate.std(ddof=1) / np.sqrt(NUM_UNITS)
    # The estimator's own bias is of order 1/M; its spread is near (1 + k)/√M.
    assert abs(estimate.mean() - k) < oracles.z_limit() * error + 3 / size
    assert estimate.std(ddof=1) == pytest.approx((1 + k) / np.sqrt(size), rel=0.5)


@pytest.mark.parametrize("k", [0.2, 0.7, 1.2])
def test_k_hat_is_that_of_arviz_on_negated_weights(k: float) -> None:
    """ArviZ's routine takes negated log weights; the other sign gives a good-looking answer."""
    log_w = _log_weights(k)[:, :5]
    found = pareto_k(_largest(log_w, ARVIZ_TAIL)).numpy()
    theirs, wrong = (
        np.array([array_stats.psislw(sign * log_w[:, unit].numpy())[1] for unit in range(5)])
        for sign in (-1, 1)
    )
    np.testing.assert_allclose(found, theirs, rtol=1e-9)
    assert (wrong < found - 0.3).all()


def test_scale_of_the_weights_does_not_matter() -> None:
    log_w = _log_weights(0.6)
    for shift in (-900.0, 900.0):
        np.testing.assert_allclose(pareto_k(_largest(log_w + shift)), pareto_k(_largest(log_w)), atol=1e-6)


def test_order_does_not_matter() -> None:
    largest = _largest(_log_weights(0.6))
    assert torch.equal(pareto_k(largest), pareto_k(largest[torch.randperm(len(largest))]))


def test_constant_weights_have_no_tail() -> None:
    constant = torch.full((50, 2), -123.4, dtype=torch.float64)
    rounding = constant + 1e-13 * torch.randn(50, 2, dtype=torch.float64)
    single = (constant + 1e-5 * torch.randn(50, 2, dtype=torch.float64)).float().double()
    assert len(single.unique()) > 2
    for weights in (constant, rounding, single, single.float()):
        assert pareto_k(weights).tolist() == [-1.0, -1.0]
    # In float64 so small a spread is one.
    assert (pareto_k(constant + 1e-5 * torch.randn(50, 2, dtype=torch.float64)) > -1).all()
    mixed = torch.cat([constant[:, :1], _log_weights(0.5)[:50, :1]], dim=1)
    found = pareto_k(mixed)
    assert found[0] == -1
    assert found[1] > 0


def test_bounded_weights_have_a_negative_or_small_index() -> None:
    u = np.random.default_rng(0).random((NUM_SAMPLES, 20))
    assert pareto_k(_largest(torch.as_tensor(np.log(1 + u)))).max() < 0.0


def test_a_tail_too_short_to_judge_is_infinite() -> None:
    assert pareto_k(torch.randn(4, 3)).tolist() == [np.inf] * 3


def test_the_tail_is_a_fifth_of_few_and_three_roots_of_many() -> None:
    assert (tail_length(100), tail_length(10_000)) == (20, 300)


@pytest.mark.parametrize("k", [0.2, 0.7, 1.2])
def test_smoothed_weights_are_those_of_arviz(k: float) -> None:
    log_w = _log_weights(k)[:, :5]
    size = ARVIZ_TAIL
    shape, raw, smooth = smoothed_tail(_largest(log_w, size))
    assert torch.equal(shape, pareto_k(_largest(log_w, size)))
    for unit in range(5):
        ordered = log_w[:, unit].sort().values.numpy()
        np.testing.assert_allclose(raw[unit], special.logsumexp(ordered[-size:]), rtol=1e-12)
        # ArviZ returns normalised weights: relative to those it leaves alone.
        theirs, _ = array_stats.psislw(-ordered)
        rest = special.logsumexp(ordered[:-size]) - special.logsumexp(theirs[:-size])
        np.testing.assert_allclose(smooth[unit], special.logsumexp(theirs[-size:]) + rest, rtol=1e-9)


def test_weights_that_cannot_be_smoothed_stay_as_they_are() -> None:
    for log_w in (torch.full((50, 2), -3.0, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)):
        _, raw, smooth = smoothed_tail(log_w)
        assert torch.equal(raw, smooth)


def test_units_are_fitted_a_few_at_a_time_to_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = _largest(_log_weights(0.6))
    whole = smoothed_tail(largest)
    monkeypatch.setattr(pareto, "_TABLE", 7 * len(largest) * 50)
    for a, b in zip(smoothed_tail(largest), whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=0)


def _by_arviz(log_weights: np.ndarray) -> np.ndarray:
    """Normalised weights of one unit by ArviZ, as they are where it fits nothing."""
    weights = np.exp(log_weights - log_weights.max())
    if (weights > 0).sum() >= 25:
        try:
            with np.errstate(all="ignore"):
                found = np.exp(array_stats.psislw(-np.maximum(log_weights, log_weights.max() - 700.0))[0])
            weights = found if np.isfinite(found).all() else weights
        except ValueError:  # a tail of equal weights
            pass
    return weights / weights.sum()


def _columns() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(3)
    normal = generator.standard_normal(4000)
    return {
        "light": 0.3 * normal,
        "heavy": 3.0 * normal,
        "huge": 200.0 * normal,
        "tiny": -5000.0 + normal,
        "of two values": np.log(generator.choice([0.2, 0.7], 4000)),
        "of equal largest": np.minimum(normal, 0.5),
        "few above the rest": np.where(np.arange(4000) % 40 == 7, np.abs(normal), 0.0),
        "all equal": np.full(4000, -3.0),
        "mostly none": np.where(np.arange(4000) < 20, normal, -np.inf),
        "half of them none": np.where(np.arange(4000) < 2000, normal, -np.inf),
    }


@pytest.mark.parametrize("size", [20, 60, 4000])
def test_whole_columns_of_weights_are_smoothed_as_by_arviz(size: int) -> None:
    """Also where nothing can be fitted, and whatever the units beside it are."""
    columns = {name: values[:size] for name, values in _columns().items()}
    found = smoothed_weights(torch.as_tensor(np.stack(list(columns.values()), axis=1))).numpy()
    for number, (name, values) in enumerate(columns.items()):
        np.testing.assert_allclose(found[:, number], _by_arviz(values), rtol=1e-9, err_msg=name)
