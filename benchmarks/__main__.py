"""Side-by-side speed against peers in one process. Run as ``python -m benchmarks``.

Both sides are first checked to compute the same quantity; then they are timed in turn, and the medians
and their ratio are printed. Ratios travel between machines better than seconds do.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from rich.console import Console
from rich.table import Table
from sklearn.decomposition import PCA

from ppl_vae import PPCA, VAE, Pair, TrueSkill, data, exact, importance, svi

REPEATS = 5


def seconds(job: Callable[[], object]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def in_turn(
    ours: Callable[[], object], peer: Callable[[], object], repeats: int = REPEATS
) -> tuple[list[float], list[float]]:
    """Time both sides alternately, after one warm-up each."""
    ours(), peer()
    pairs = [(seconds(ours), seconds(peer)) for _ in range(repeats)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def svi_steps(model, guide_of, x, batch_size, lr, steps: int) -> tuple[list[float], list[float]]:
    """A fit of so many steps against stock Pyro's ``SVI.step``; the same model, guide and batches' size."""
    pair = Pair(model, guide_of())
    pyro.clear_param_store()
    stock_guide = guide_of()
    stock = SVI(model, stock_guide, pyro.optim.Adam({"lr": lr}), Trace_ELBO())

    def peer() -> None:
        for _ in range(steps):
            index = torch.randperm(len(x))[:batch_size] if batch_size else slice(None)
            stock.step(x[index])

    def ours() -> None:
        svi.fit(pair, x, num_steps=steps, batch_size=batch_size, lr=lr)

    return in_turn(ours, peer, 3)


def main() -> None:
    table = Table(title="Speed (medians; ratio is ours over the peer's)", title_justify="left")
    for column in ("work", "ours", "peer", "ratio", "spread of ratios"):
        table.add_column(column)

    def row(name: str, ours: list[float], peer: list[float], per: int = 1) -> None:
        ratios = [a / b for a, b in zip(ours, peer, strict=True)]
        table.add_row(
            name,
            f"{statistics.median(ours) / per * 1e3:.3f} ms",
            f"{statistics.median(peer) / per * 1e3:.3f} ms",
            f"{statistics.median(ours) / statistics.median(peer):.2f}",
            f"{min(ratios):.2f} to {max(ratios):.2f}",
        )

    (x,) = data.standardise(data.load("wine")).tensors(torch.float64)
    model = PPCA(13, 2)
    times = svi_steps(model, lambda: PPCA.guides["linear"](model, x), x, None, 0.01, 100)
    row("SVI step, PPCA on wine, against stock Pyro SVI", *times, per=100)
    (games,) = data.load("al-east-1987").tensors()
    skills = TrueSkill(7, link="logistic")
    times = svi_steps(skills, lambda: TrueSkill.guides["mean-field"](skills, games), games, None, 0.01, 100)
    row("SVI step, skills, 273 games, against stock Pyro SVI", *times, per=100)
    digits = data.binarise(data.load("digits"), "static", 0)
    (images,) = digits.tensors(torch.float32)
    vae = VAE.from_data(digits)
    times = svi_steps(vae, vae.encoder_guide, images, 128, 1e-3, 100)
    row("SVI step, VAE on digits, batch 128, against stock Pyro SVI", *times, per=100)

    matrix = x.numpy()
    peer_model = PCA(2, svd_solver="covariance_eigh").fit(matrix)
    ours_model = PPCA(13, 2).set_maximum_likelihood(x)
    noise = ours_model.noise_scale.item() ** 2 * len(x) / (len(x) - 1)
    assert np.isclose(noise, peer_model.noise_variance_), "both sides must compute the same noise variance"
    times = in_turn(lambda: ours_model.set_maximum_likelihood(x), lambda: peer_model.fit(matrix), 20)
    row("PPCA in closed form, wine, against scikit-learn PCA", *times)

    pair = Pair(PPCA(13, 2).set_maximum_likelihood(x), PPCA.guides["linear"](model, x))
    truth = exact.log_evidence(pair.model, x)
    found = importance.log_evidence(pair, x, num_samples=1000)
    plain = plain_log_evidence(pair, x[:5], 1000)
    error = 6 * float(found.std_error[:5].max()) + 0.05
    assert np.all(np.abs(plain - found.log_evidence[:5]) < error), "both sides must estimate the same number"
    assert abs(found.total - truth.total) < 6 * found.total_std_error + 0.5
    few = x[:20]
    times = in_turn(
        lambda: importance.log_evidence(pair, few, num_samples=1000),
        lambda: plain_log_evidence(pair, few, 1000),
        3,
    )
    row("log p(x), 1,000 samples a row, against Pyro one row at a time", *times, per=20)

    imports = [
        [
            seconds(lambda code=code: subprocess.run([sys.executable, "-c", code], check=True))
            for _ in range(REPEATS)
        ]
        for code in ("import ppl_vae; ppl_vae.Pair, ppl_vae.svi, ppl_vae.PPCA", "import pyro")
    ]
    row("import ppl_vae (models and inference), against import pyro", *imports)
    Console().print(table)


def plain_log_evidence(pair: Pair, x: torch.Tensor, num_samples: int) -> np.ndarray:
    """The plain Pyro way: one row at a time, a vectorised plate of samples."""
    from pyro import poutine

    found = []
    with torch.no_grad(), pair.scope():
        for row in x:
            with pyro.plate("samples", num_samples, dim=-2):
                guide_trace = poutine.trace(pair.guide).get_trace(row[None])
            with pyro.plate("samples", num_samples, dim=-2):
                model_trace = poutine.trace(poutine.replay(pair.model, guide_trace)).get_trace(row[None])
            model_trace.compute_log_prob(), guide_trace.compute_log_prob()
            log_p = sum(site["log_prob"] for site in model_trace.nodes.values() if "log_prob" in site)
            log_q = sum(site["log_prob"] for site in guide_trace.nodes.values() if "log_prob" in site)
            found.append(((log_p - log_q).logsumexp(0) - np.log(num_samples)).item())
    return np.asarray(found)


if __name__ == "__main__":
    main()
