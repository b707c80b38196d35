"""How time grows with the data, PPCA's closed form, and importing."""

import statistics
import subprocess
import sys

import numpy as np
import torch
from sklearn.decomposition import PCA

from benchmarks import harness, ours, problems
from benchmarks.harness import Measured
from ppl_vae import PPCA

# Games, with the steps of a short and of a long fit: an epoch is one step on all games.
SIZES = {1_000: (1_000, 41_000), 10_000: (200, 8_200), 100_000: (20, 820), 1_000_000: (5, 65)}


def growth(repeats: int) -> Measured:
    """The exponent b of time = a · gamesᵇ, by least squares over the logarithms; ten games a player."""
    timers = [ours.seconds_per_step(problems.skills(n // 10, n), *SIZES[n]) for n in SIZES]
    times = np.asarray([[timer() for timer in timers] for _ in range(repeats)])
    exponents = [float(np.polyfit(np.log(list(SIZES)), np.log(row), 1)[0]) for row in times]
    each = ", ".join(f"{1e3 * t:.3g} ms" for t in np.median(times, axis=0))
    last = np.log10(statistics.median(times[:, -1] / times[:, -2]))
    return Measured(exponents, [], "", f"an epoch takes {each}; exponent of the last decade {last:.2f}")


def closed_form_wine(repeats: int) -> Measured:
    return _closed_form(problems.wine(), 2, repeats, calls=200)


def closed_form_wide(repeats: int) -> Measured:
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(10_000, 50, generator=generator, dtype=torch.float64)
    loadings = torch.randn(50, 784, generator=generator, dtype=torch.float64)
    noise = torch.randn(10_000, 784, generator=generator, dtype=torch.float64)
    return _closed_form(latent @ loadings + noise, 50, repeats, calls=2)


def _closed_form(x: torch.Tensor, latent_dim: int, repeats: int, calls: int) -> Measured:
    """scikit-learn divides by N − 1 where maximum likelihood divides by N."""
    model, peer, matrix = PPCA(x.shape[1], latent_dim), PCA(latent_dim), x.numpy()
    fit = ours.closed_form(model, x)
    fit(), peer.fit(matrix)
    covariance = (model.loadings @ model.loadings.T).detach().numpy()
    covariance = covariance + model.noise_scale.item() ** 2 * np.eye(x.shape[1])
    scale = len(x) / (len(x) - 1)
    np.testing.assert_allclose(covariance * scale, peer.get_covariance(), rtol=1e-6, atol=1e-8)

    def each(function) -> float:
        return harness.seconds(lambda: [function() for _ in range(calls)]) / calls

    return harness.in_turn(lambda: each(fit), lambda: each(lambda: peer.fit(matrix)), repeats)


def imports(repeats: int) -> Measured:
    """Names load when they are first used, so ours uses those that a fit and a check of it need."""
    mine = "import ppl_vae; ppl_vae.Pair, ppl_vae.PPCA, ppl_vae.svi, ppl_vae.nuts, ppl_vae.importance"
    return harness.in_turn(lambda: _start(mine), lambda: _start("import pyro"), repeats)


def _start(code: str) -> float:
    return harness.seconds(lambda: subprocess.run([sys.executable, "-c", code], check=True))
