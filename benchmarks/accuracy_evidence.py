"""How right log p(x) is: every estimator against exact values, published ones, and each other."""

import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.accuracy_row import Row
from benchmarks.reference import folder, reference
from ppl_vae import PPCA, VAE, Evidence, Pair, TrueSkill, data, exact, importance, nuts, svi
from ppl_vae.base.seeds import seeded
from ppl_vae.diagnostics import gaps, sandwich
from ppl_vae.guides import LinearNormal, Prior
from ppl_vae.inference import annealing, bounds, bridge
from ppl_vae.program.problem import Problem

__all__ = ["STUDIES"]


def ppca(name: str) -> tuple[Pair, torch.Tensor]:
    """PPCA at a maximum of the likelihood with the best mean-field linear guide, both in closed form.

    Every two neighbouring components are rotated by 30°, so that mean-field loses something and weights
    keep a finite variance.
    """
    rows = data.load(name)
    if name == "digits":
        x, q = torch.from_numpy(rows.values).double() * 16, 10
    else:
        (x,), q = data.standardise(rows).tensors(torch.float64), 2
    c, s = math.cos(math.pi / 6), math.sin(math.pi / 6)
    rotation = torch.block_diag(*[torch.tensor([[c, -s], [s, c]], dtype=torch.float64)] * (q // 2))
    model = PPCA(x.shape[1], q).set_maximum_likelihood(x, rotation)
    guide = LinearNormal(x.shape[1], q, covariance="diagonal", dtype=torch.float64)
    with torch.no_grad():
        noise = model.noise_scale**2
        m = model.loadings.T @ model.loadings + noise * torch.eye(q, dtype=torch.float64)
        slope = torch.linalg.solve(m, model.loadings.T)
        guide.loc.weight.copy_(slope)
        guide.loc.bias.copy_(-slope @ model.mean)
        guide.raw_spread.copy_((noise / m.diagonal() - guide.floor).expm1().log())
    return Pair(model, guide), x


def vae_on_digits() -> tuple[Pair, torch.Tensor]:
    """A VAE fitted to binarised digits, and 180 images that it has not seen."""
    rows = data.load("digits")
    parts = data.split(rows, (0.9, 0.0, 0.1), 0)
    rows = data.binarise(rows, "static", 0)
    (train,), (test,) = (rows.take(parts[part]).tensors(torch.float32) for part in ("train", "test"))
    with seeded(0):
        model = VAE.from_data(rows.take(parts["train"]), latent_dim=6)
        pair = Pair(model, model.encoder_guide())
    svi.fit(pair, train, num_steps=3000, batch_size=128, lr=2e-3, kl_warmup=300)
    return pair, test


def score(found: Evidence, truth: float) -> float:
    """z of the row mean, the estimated bias of the log taken off."""
    return (found.mean - found.total_bias / found.num_units - truth) / found.mean_std_error


def ppca_estimates() -> Iterator[Row]:
    """Importance sampling, annealing from the prior, and simple Monte Carlo against exact evidence."""
    for name in ("iris", "wine", "digits"):
        pair, x = ppca(name)
        truth = exact.log_evidence(pair.model, x).mean
        weighed = importance.log_evidence(pair, x, num_samples=5000)
        annealed = annealing.log_evidence(pair, x, start="prior")
        for label, found in (("IS, mean-field guide", weighed), ("AIS, prior, 1,000 x 16", annealed)):
            z, raw = score(found, truth), (found.mean - truth) / found.mean_std_error
            yield Row(
                f"PPCA {name}, {label}",
                f"{found.mean:.5f} ± {found.mean_std_error:.5f} (exact {truth:.5f}, z = {z:+.2f}, bias left "
                f"in {raw:+.2f}; {found.seconds:.0f} s)",
                "|z| ≤ 3, se ≤ 0.01",
                abs(z) <= 3 and found.mean_std_error <= 0.01,
            )
        simple = importance.log_evidence(Pair(pair.model, Prior(pair.model)), x, num_samples=5000)
        yield Row(
            f"PPCA {name}, simple Monte Carlo",
            f"{simple.mean:.3f} ± {simple.mean_std_error:.3f}, {simple.mean - truth:+.3f} from exact; "
            f"{simple.alarming.sum()} of {len(x)} rows alarm",
            "fails on digits, and says so",
            name != "digits" or (simple.mean < truth - 1 and bool(simple.alarming.all())),
        )


def order_of_bounds() -> Iterator[Row]:
    """ELBO ≤ IWAE(5) ≤ IWAE(50) ≤ log p(x), paired on the same draws."""
    pair, x = ppca("iris")
    fitted, test = vae_on_digits()
    truth = exact.log_evidence(pair.model, x)
    annealed = annealing.log_evidence(fitted, test)
    for name, pair_, x_, top in (("PPCA iris", pair, x, truth), ("VAE digits", fitted, test, annealed)):
        values = [
            bounds.iwae(pair_, x_, num_particles=k, num_repeats=5000 // k, progress=False) for k in (1, 5, 50)
        ]
        for (low, high), label in zip(
            (values[:2], values[1:], (values[2], top)),
            ("ELBO to 5", "5 to 50", "50 to log p(x)"),
            strict=True,
        ):
            rise = high.log_evidence - low.log_evidence
            noise = math.hypot(low.mean_std_error, high.mean_std_error)
            # Common draws make differences of bounds far more precise than that; the spread over rows says.
            error = min(noise, float(rise.std(ddof=1)) / math.sqrt(len(rise)))
            yield Row(
                f"{name}, {label}", f"{rise.mean():+.5f} ± {error:.5f}", "≥ −3 se", rise.mean() >= -3 * error
            )


def gap_parts() -> Iterator[Row]:
    """The gap of PPCA's mean-field guide in closed form, and that of an encoder with nothing to lose."""
    for name in ("iris", "wine"):
        pair, x = ppca(name)
        found = gaps(pair, x, progress=False)
        formula = pair.model.mean_field_gap()
        for part, value, truth in (
            ("approximation", found.approximation, formula),
            ("amortisation", found.amortisation, 0.0),
        ):
            # The search for the best guides stops within 1e-4 nats of them.
            error = math.hypot(value.mean_std_error, 1e-4 / 3)
            yield Row(
                f"PPCA {name}, {part} gap",
                f"{value.mean:.5f} ± {value.mean_std_error:.5f} (formula {truth:.5f})",
                "within 3 se",
                abs(value.mean - truth) <= 3 * error,
            )
    pair, test = vae_on_digits()
    annealed = annealing.log_evidence(pair, test, index=torch.arange(100), progress=False)
    found = gaps(pair, test, index=torch.arange(100), evidence=annealed, progress=False)
    best = {name: f"{gap.mean:.3f}" for name, gap in found.best.items()}
    yield Row(
        "VAE digits, 100 images",
        f"gap {found.total.mean:.3f} ± {found.total.mean_std_error:.3f} = approximation "
        f"{found.approximation.mean:.3f} + amortisation {found.amortisation.mean:.3f}; full covariance "
        f"{best['full']}, flow {best['flow']}; {found.seconds:.0f} s",
        "shown",
        True,
    )


def sandwiches() -> Iterator[Row]:
    """Bounds from both sides on simulated data, 1,000 temperatures and 16 chains."""
    for name in ("iris", "wine", "digits"):
        pair, x = ppca(name)
        index = torch.arange(100)
        for start, width in (("guide", 0.05), ("prior", 0.25 if name == "digits" else 0.05)):
            lower, upper = annealing.bidirectional(pair, x, start=start, index=index, progress=False)
            # The simulated data are those of `bidirectional`, drawn again from the same seed.
            truth = _exact_of_simulated(pair, x)[index.numpy()].mean()
            below = (lower.mean - truth) / lower.mean_std_error
            above = (upper.mean - truth) / upper.mean_std_error
            found = sandwich(lower, upper)
            yield Row(
                f"sandwich, PPCA {name}, from the {start}",
                f"upper − lower {found.width:+.4f} ± {found.std_error:.4f}; lower {below:+.2f} se, upper "
                f"{above:+.2f} se from exact; {upper.seconds:.0f} s",
                f"≤ {width}; lower ≤ +3, upper ≥ −3",
                found.width <= width and below <= 3 and above >= -3,
            )
    pair, test = vae_on_digits()
    lower, upper = annealing.bidirectional(pair, test, index=torch.arange(100), progress=False)
    found = sandwich(lower, upper)
    yield Row(
        "sandwich, VAE digits, from the guide",
        f"upper − lower {found.width:+.4f} ± {found.std_error:.4f}; {upper.seconds:.0f} s",
        "≤ 0.05",
        found.width <= 0.05,
    )


def _exact_of_simulated(pair: Pair, x: torch.Tensor) -> np.ndarray:
    from ppl_vae.program.simulate import simulate

    _, (simulated,) = simulate(Problem.of(pair, x), 0)
    return exact.log_evidence(pair.model, simulated).log_evidence


def skills() -> Iterator[Row]:
    """Importance sampling, annealing and the bridge on skill models of known evidence."""
    published = reference("skill")
    if published is None:
        yield Row("skill models", f"reference absent from {folder()}", "skipped", True)
        return
    cases = []
    for wins, losses, value, *_ in published["two_player"]["rows"]:
        games = [[0, 1]] * wins + [[1, 0]] * losses
        cases.append((f"two players {wins}:{losses}", TrueSkill(2, link="logistic"), games, value))
    games = [[0, 1], [0, 3], [0, 4], [1, 2], [3, 1], [4, 2]]
    model = TrueSkill(5, skill_mean=6.0, skill_sd=3.0, performance_sd=1.0)
    cases.append(("Infer.NET", model, games, published["infer_net"]["exact"]["log_evidence"]))
    for link in ("logit", "probit"):
        sd = math.sqrt(8)
        model = (
            TrueSkill(4, link="logistic", skill_mean=0.0, skill_sd=sd)
            if link == "logit"
            else TrueSkill(4, skill_mean=0.0, skill_sd=sd, performance_sd=1 / math.sqrt(2))
        )
        value = published["choix"][link]["exact"]["log_evidence"]
        cases.append((f"choix {link}", model, [[3, 2], [2, 1], [1, 0]], value))
    for name, model, pairs, value in cases:
        games = torch.ones(len(pairs)).double(), torch.tensor(pairs)
        pair = Pair(model, TrueSkill.guides["full-rank"](model, *games))
        svi.fit(pair, *games, num_steps=1500, lr=0.05 * model.skill_sd, num_particles=16, progress=False)
        posterior = nuts.sample(pair, *games, num_draws=1000, progress=False)
        found = {
            "IS": importance.log_evidence(pair, *games, num_samples=20_000, defensive=0.05),
            "AIS": annealing.log_evidence(pair, *games, num_chains=64),
            "bridge": bridge.log_evidence(pair, posterior, *games),
        }
        # Published values are rounded to four or more digits.
        zs = {
            method: (e.total - e.total_bias - value) / math.hypot(e.total_std_error, 5e-5)
            for method, e in found.items()
        }
        yield Row(
            f"{name}, log evidence {value}",
            ", ".join(f"{m} {found[m].total:.5f} ± {found[m].total_std_error:.5f} (z = {z:+.2f})"
                      for m, z in zs.items()),
            "|z| ≤ 3",
            all(abs(z) <= 3 for z in zs.values()),
        )  # fmt: skip


def poor_guide() -> Iterator[Row]:
    """A guide of half the scale, three standard deviations off."""
    for name in ("iris", "wine"):
        pair, x = ppca(name)
        guide = pair.guide
        with torch.no_grad():
            variance = torch.nn.functional.softplus(guide.raw_spread) + guide.floor
            guide.loc.bias.add_(3 * variance.sqrt())
            guide.raw_spread.copy_((variance / 4 - guide.floor).expm1().log())
        truth = exact.log_evidence(pair.model, x).mean
        weighed = importance.log_evidence(pair, x, num_samples=5000)
        annealed = annealing.log_evidence(pair, x)
        z = score(annealed, truth)
        yield Row(
            f"poor guide, PPCA {name}",
            f"IS {weighed.mean - truth:+.3f} from exact, {weighed.alarming.mean():.0%} of rows alarm; AIS "
            f"{annealed.mean - truth:+.5f} ± {annealed.mean_std_error:.5f} (z = {z:+.2f})",
            "IS flagged; AIS |z| ≤ 3",
            bool(weighed.alarming.any()) and abs(z) <= 3,
        )


def calibration() -> Iterator[Row]:
    """200 repetitions on PPCA: z-scores of every row, bias included."""
    methods: dict[str, Callable[[Pair, torch.Tensor, int], Evidence]] = {
        "IS": lambda pair, x, seed: importance.log_evidence(pair, x, num_samples=10_000, seed=seed),
        "defensive": lambda pair, x, seed: importance.log_evidence(
            pair, x, num_samples=2000, defensive=0.2, seed=seed
        ),
        "AIS": lambda pair, x, seed: annealing.log_evidence(
            pair, x, start="prior", num_temperatures=100, num_chains=64, seed=seed, progress=False
        ),
    }
    for name in ("iris", "wine"):
        pair, x = ppca(name)
        x = x[:50]
        truth = exact.log_evidence(pair.model, x).log_evidence
        for method, estimate in methods.items():
            runs = [estimate(pair, x, seed) for seed in range(200)]
            z = np.array([(run.log_evidence - run.bias - truth) / run.std_error for run in runs])
            worst = np.abs(z.mean(0)).max(), np.abs(z.std(0, ddof=1) - 1).max()
            yield Row(
                f"calibration, PPCA {name}, {method}",
                f"mean {z.mean():+.3f}, sd {z.std(ddof=1):.3f} (of single rows at worst ±{worst[0]:.2f}, "
                f"1 ± {worst[1]:.2f})",
                "0 ± 0.2, 1 ± 0.2",
                abs(z.mean()) <= 0.2 and abs(z.std(ddof=1) - 1) <= 0.2,
            )


def mnist() -> Iterator[Row]:
    """All 10,000 test images with 5,000 samples each by the command line; annealing of 100 of them."""
    root = folder() / "data"
    if not (root / "MNIST").exists():
        yield Row("MNIST", f"data absent from {root}", "skipped", True)
        return
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        _command("fit", "vae", "mnist", "--data-dir", root, "--hidden", "200,200", "--latent-dim", 50,
                 "--activation", "tanh", "--steps", 6000, "--batch-size", 100, "--out", run)  # fmt: skip
        start = time.perf_counter()
        found = _command("evidence", run, "--samples", 5000, "--split", "test")
        minutes = (time.perf_counter() - start) / 60
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024**2
        yield Row(
            "MNIST test set, 784-200-200-50, 5,000 samples",
            f"{found['log_evidence_mean']:.3f} ± {found['std_error_mean']:.4f} nats in {minutes:.1f} min, "
            f"peak {peak:.2f} GiB (the fit included), {torch.get_num_threads()} threads",
            "≤ 15 min, ≤ 2 GB",
            minutes <= 15 and peak * 1024**3 <= 2e9,
        )
        both = _command("evidence", run, "--method", "is,ais", "--samples", 5000, "--rows", "0:100")
        weighed, annealed = (both["methods"][name] for name in ("is", "ais"))
        error = math.hypot(weighed["std_error_mean"], annealed["std_error_mean"])
        rise = annealed["log_evidence_mean"] - weighed["log_evidence_mean"]
        yield Row(
            "the same decoder, AIS on 100 images",
            f"AIS {annealed['log_evidence_mean']:.4f} ± {annealed['std_error_mean']:.4f}, IS "
            f"{weighed['log_evidence_mean']:.4f} ± {weighed['std_error_mean']:.4f}: {rise:+.4f}, "
            f"{annealed['seconds']:.0f} s",
            "≥ −2 se",
            rise >= -2 * error,
        )


def _command(*arguments: object) -> dict:
    run = subprocess.run(
        [sys.executable, "-m", "ppl_vae", *map(str, arguments), "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(json.loads(run.stdout))


STUDIES: dict[str, Callable[[], Iterator[Row]]] = {
    "log-p": ppca_estimates,
    "bounds": order_of_bounds,
    "gap-parts": gap_parts,
    "sandwich": sandwiches,
    "skill-evidence": skills,
    "poor-guide": poor_guide,
    "calibration": calibration,
    "mnist-evidence": mnist,
}
