"""Training with the IWAE bound against the ELBO: one architecture, one budget, one test likelihood.

Run as ``python -m benchmarks.iwae_against_vae [digits] [mnist] [--minutes 20]``. Both objectives take five
draws a datum and as many steps as the ELBO's fit into the budget; the test negative log-likelihood is by
importance sampling with 5,000 samples an image. Lines are printed beside published ones and added to
``benchmarks/iwae_against_vae.md``.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.reference import folder, reference
from ppl_vae import VAE, Pair, data, importance, svi
from ppl_vae.base.seeds import seeded

RESULTS = Path(__file__).with_name("iwae_against_vae.md")
PARTICLES = 5
HEADER = """# IWAE against VAE

Published test negative log-likelihoods, MNIST, one stochastic layer 784-200-200-50, dynamic binarisation, 3,280
epochs with batch 20 (Burda, Grosse and Salakhutdinov 2016): VAE 86.76 (k = 1), 86.47 (k = 5), 86.35 (k = 50); IWAE
85.54 (k = 5), 84.78 (k = 50).

`python -m benchmarks.iwae_against_vae` prints and adds the lines below. One stochastic layer, Bernoulli likelihood,
tanh, dynamic binarisation, Adam with a cosine learning rate; k = 5 draws a datum and the same number of steps for
both objectives. Test NLL in nats, by importance sampling with 5,000 samples an image from the guide, test images
binarised once.

The published training length on a GPU has not been run. The recipe, of which only short runs on a CPU were made:

    ppl-vae fit vae mnist --hidden 200,200 --latent-dim 50 --activation tanh --binarize dynamic --split 1,0,0 \\
        --batch-size 20 --epochs 3280 --lr 0.001 --objective iwae --particles 50 --device cuda --out runs/iwae-50
    ppl-vae evidence runs/iwae-50 --samples 5000

| data | objective | steps | epochs | batch | learning rate | training, s | threads | test NLL | test ELBO |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""  # noqa: E501


@dataclass(frozen=True)
class Problem:
    """A data set with its architecture and its recipe."""

    name: str
    hidden: tuple[int, ...]
    latent_dim: int
    batch_size: int
    lr: float
    minutes: float


PROBLEMS = {
    "digits": Problem("digits", (100, 100), 10, 50, 1e-3, 1.0),
    "mnist": Problem("mnist", (200, 200), 50, 100, 1e-3, 20.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", nargs="*", default=["digits", "mnist"])
    parser.add_argument("--minutes", type=float, help="of training an objective")
    parser.add_argument("--objective", choices=("elbo", "iwae"), help="one of the two alone")
    parser.add_argument("--steps", type=int, help="instead of as many as fit")
    parser.add_argument("--keep", type=Path, help="folder of checkpoints, from which a killed study goes on")
    chosen = parser.parse_args()
    if not RESULTS.exists():
        RESULTS.write_text(HEADER, encoding="utf-8")
    for name in chosen.data:
        problem = PROBLEMS[name]
        images = load_images(problem)
        if images is None:
            print(f"{name} is not in {folder()} (set PPL_VAE_SHARED): skipped")
            continue
        steps = chosen.steps or steps_within(problem, images[0], chosen.minutes or problem.minutes)
        for objective in [chosen.objective] if chosen.objective else ["elbo", "iwae"]:
            print(line := run(problem, images, objective, steps, chosen.keep), flush=True)
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
    if (published := reference("vae_nll")) is not None:
        lines = published["mnist_dynamic_1_layer"]
        for name in ("VAE", "IWAE"):
            print(f"published, MNIST, 3,280 epochs: {name} k = 5: {lines[name]['k=5'][0]}")


def load_images(problem: Problem) -> tuple[np.ndarray, torch.Tensor] | None:
    """Grey training images, and test images binarised once."""
    place = folder() / "data" if problem.name == "mnist" else None
    if place is not None and not (place / "MNIST").exists():
        return None
    rows = data.load(problem.name, data_dir=place)
    parts = data.split(rows, (0.8, 0.0, 0.2), 0)
    (test,) = data.binarise(rows.take(parts["test"]), "static", 0).tensors(torch.float32)
    return rows.take(parts["train"]).values.astype(np.float32), test


def steps_within(problem: Problem, train: np.ndarray, minutes: float) -> int:
    """How many steps of the ELBO fit into the budget, by timing the engine that will run them."""
    pair, first, refresh = make(problem, train)
    start = time.perf_counter()
    found = svi.fit(pair, first, num_steps=400, batch_size=problem.batch_size, num_particles=PARTICLES,
                    lr=problem.lr, refresh=refresh, compile=True, progress=False)  # fmt: skip
    each = (time.perf_counter() - start - found.compile_seconds) / 400
    return round(60 * minutes / each / 1000) * 1000


def make(problem: Problem, train: np.ndarray) -> tuple:
    """An untrained pair whose output bias gives the training mean, an epoch's data, and how to draw more."""

    def draw(epoch: int) -> tuple[torch.Tensor]:
        return (torch.from_numpy(data.dynamic_binarise(train, 0, epoch)),)

    with seeded(0):
        model = VAE(train.shape[1], problem.latent_dim, hidden=problem.hidden, activation="tanh")
        with torch.no_grad():
            model.decoder[-1].bias.copy_(model.likelihood.start(torch.from_numpy(train)))
        pair = Pair(model, model.encoder_guide())
    return pair, draw(0)[0], draw


def run(
    problem: Problem,
    images: tuple[np.ndarray, torch.Tensor],
    objective: str,
    steps: int,
    keep: Path | None = None,
) -> str:
    """Fit and test one objective; a line of the table."""
    train, test = images
    checkpoint = None if keep is None else keep / f"{problem.name}-{objective}"
    pair, first, refresh = make(problem, train)
    found = svi.fit(pair, first, num_steps=steps, batch_size=problem.batch_size, num_particles=PARTICLES,
                    lr=problem.lr, refresh=refresh, objective=objective,
                    # Without a warm-up the latents of a small model may be switched off for good.
                    kl_warmup=steps // 10, compile=True, checkpoint=checkpoint, checkpoint_every=2000,
                    resume=checkpoint is not None and checkpoint.exists())  # fmt: skip
    tested = importance.log_evidence(pair, test, num_samples=5000)
    epochs = steps * problem.batch_size / len(train)
    return (
        f"| {problem.name} | {objective}, k = {PARTICLES} | {steps} | {epochs:.0f} | {problem.batch_size} | "
        f"{problem.lr:g} to {problem.lr / 100:g} | {found.seconds:.0f} | {torch.get_num_threads()} | "
        f"{-tested.mean:.3f} ± {tested.mean_std_error:.3f} | {tested.elbo.mean():.3f} |"
    )


if __name__ == "__main__":
    main()
