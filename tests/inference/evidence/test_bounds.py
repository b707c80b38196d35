from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.guides import LinearNormal
from ppl_vae.inference import bounds, exact
from ppl_vae.models import PPCA
from ppl_vae.program.pair import Pair


def _bound(pair: Pair, x: Tensor, particles: int, total: int = 1000, **options: Any) -> Any:
    return bounds.iwae(
        pair, x, num_particles=particles, num_repeats=total // particles, progress=False, **options
    )


def test_bounds_rise_with_the_number_of_particles_to_the_exact_value(
    conjugate: Any, x: Tensor, oracles: ModuleType
) -> None:
    """ELBO ≤ IWAE(5) ≤ IWAE(50) ≤ log p(x), on the same draws."""
    pair = Pair(conjugate.model, conjugate.guide)
    found = {k: _bound(pair, x, k, total=4000) for k in (1, 5, 50)}
    truth = conjugate.log_evidence(x)
    assert found[1].kind == "lower bound"
    np.testing.assert_allclose(found[5].elbo, found[1].log_evidence, rtol=1e-12)
    for low, high in ((1, 5), (5, 50)):
        error = np.hypot(found[low].mean_std_error, found[high].mean_std_error)
        assert found[high].mean - found[low].mean > 5 * error
    scores = (found[50].log_evidence - truth) / found[50].std_error
    assert scores.max() < oracles.z_limit(len(scores))
    assert found[5].mean < truth.mean() - 5 * found[5].mean_std_error


def test_one_particle_has_the_elbo_of_the_closed_form(conjugate: Any, x: Tensor, oracles: ModuleType) -> None:
    """KL of N(0.3 x, 1) from the posterior N(0.8 x, 0.2), by formula."""
    found = _bound(Pair(conjugate.model, conjugate.guide), x, 1, total=4000)
    moved = (0.5 * x.numpy()) ** 2
    kl = 0.5 * (1 / 0.2 + moved / 0.2 - 1 + np.log(0.2))
    scores = (found.log_evidence - (conjugate.log_evidence(x) - kl)) / found.std_error
    assert np.abs(scores).max() < oracles.z_limit(len(scores))


def test_the_expectation_is_right_for_two_particles(oracles: ModuleType) -> None:
    """L_2 of a one-dimensional posterior by Gauss–Hermite quadrature over both draws."""
    torch.manual_seed(0)
    x = torch.randn(6, 3, dtype=torch.float64)
    model = PPCA(3, 1)
    guide = LinearNormal(3, 1, dtype=torch.float64)
    pair = Pair(model, guide)
    with torch.no_grad():
        q = guide.encode(x)
        loc, scale = q.mean[:, 0], q.variance[:, 0].sqrt()
        nodes, weights = np.polynomial.hermite_e.hermegauss(60)
        z = loc[:, None] + scale[:, None] * torch.as_tensor(nodes)
        normal = torch.distributions.Normal
        mean = z[..., None] * model.loadings[:, 0] + model.mean
        log_w = normal(mean, model.noise_scale).log_prob(x[:, None]).sum(-1) + normal(0, 1).log_prob(z)
        log_w = log_w - normal(loc[:, None], scale[:, None]).log_prob(z)
        both = torch.logaddexp(log_w[:, :, None], log_w[:, None, :]) - np.log(2)
        chance = torch.as_tensor(np.outer(weights, weights) / (2 * np.pi))
        expected = (both * chance).sum((1, 2)).numpy()
    found = _bound(pair, x, 2, total=20_000)
    scores = (found.log_evidence - expected) / found.std_error
    assert np.abs(scores).max() < oracles.z_limit(6)
    assert (expected < exact.log_evidence(model, x).log_evidence).all()


def test_compiled_bounds_are_the_same_and_chunks_keep_their_order(
    conjugate: Any, x: Tensor, oracles: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(conjugate.model, conjugate.guide)
    eager, compiled = (_bound(pair, x, 5, compile=choice) for choice in (False, True))
    np.testing.assert_allclose(compiled.log_evidence, eager.log_evidence, rtol=1e-9)
    monkeypatch.setattr(bounds, "CHUNK", 7000)
    index = torch.tensor([30, 2, 5, 39, 11, 7, 8, 9, 0, 1])
    some = _bound(pair, x, 5, index=index)
    assert some.units.tolist() == index.tolist()
    scores = (some.log_evidence - eager.log_evidence[index]) / np.hypot(
        some.std_error, eager.std_error[index]
    )
    assert np.abs(scores).max() < oracles.z_limit(len(scores))


def test_bad_counts_are_refused(conjugate: Any, x: Tensor) -> None:
    for name in ("num_particles", "num_repeats"):
        with pytest.raises(InputError, match=f"{name} is 0"):
            bounds.iwae(Pair(conjugate.model, conjugate.guide), x, **{name: 0})
