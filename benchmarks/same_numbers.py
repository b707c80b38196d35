"""Whether two checkouts compute the same: ``python -m benchmarks.same_numbers OLD NEW``.

Four short fits from the command line of either checkout with one Python, then log p(x) of each run and 200
draws of its guide. No digits are kept: another processor rounds otherwise, so that both are run here. Where
only files and names have moved, bytes must be equal; where arithmetic was merged, the relative difference
must stay below ``--tolerance``.
"""

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

CASES = (("ppca", "iris"), ("bayesian-ppca", "wine"), ("trueskill", "al-east-1987"), ("vae", "digits"))
STEPS, SAMPLES, DRAWS = 150, 200, 200
NUMBERS = ("elbo", "reconstruction", "kl")

# Runs in either checkout, whatever its way to open a run is called.
DRAW = """
import sys, numpy, ppl_vae
from pathlib import Path
try:
    run = ppl_vae.load(sys.argv[1])
except AttributeError:
    from ppl_vae.run import Run
    run = Run.open(Path(sys.argv[1]))
posterior = ppl_vae.guide.draws(run.pair, *run.tensors("train"), num_draws=int(sys.argv[2]), seed=0)
numpy.savez(sys.argv[3], **{name: posterior.draws[name].to_numpy() for name in posterior.draws})
"""


def command(checkout: Path, folder: Path, *arguments: str) -> str:
    """What this Python prints that imports the package from a checkout."""
    env = {**os.environ, "PYTHONPATH": str(checkout), "PPL_VAE_CACHE": str(folder / "cache")}
    done = subprocess.run([sys.executable, *arguments], cwd=checkout, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{checkout}: {' '.join(arguments[:6])} … failed\n{done.stderr[-2000:]}")
    return done.stdout


def numbers(checkout: Path, model: str, data: str, folder: Path) -> dict[str, Any]:
    """Everything that is compared, by name: arrays, numbers and a hash."""
    run = folder / model
    shell = ("-m", "ppl_vae")
    length = ("--no-stop", "--steps", str(STEPS), "--seed", "0")
    fit = json.loads(
        command(checkout, folder, *shell, "fit", model, data, "--out", str(run), *length, "--quiet", "--json")
    )
    evidence = json.loads(
        command(
            checkout, folder, *shell, "evidence", str(run), "--samples", str(SAMPLES), "--quiet", "--json"
        )
    )
    command(checkout, folder, "-c", DRAW, str(run), str(DRAWS), str(folder / "draws.npz"))
    parameters = run / "parameters.safetensors"
    with np.load(folder / "draws.npz") as draws:
        drawn = {f"draws of {name}": draws[name] for name in draws.files}
    return {
        "hash": hashlib.sha256(parameters.read_bytes()).hexdigest(),
        **{name: np.asarray(values) for name, values in load_file(parameters).items()},
        **{name: np.asarray(fit[name]) for name in NUMBERS},
        **{f"evidence {name}": np.asarray(evidence[name]) for name in evidence if _is_result(name, evidence)},
        **drawn,
    }


def _is_result(name: str, evidence: dict[str, Any]) -> bool:
    return isinstance(evidence[name], float) and "seconds" not in name


def difference(old: np.ndarray, new: np.ndarray) -> float:
    """The largest difference, relative to the largest value; ∞ where shapes or what is finite differ."""
    old, new = old.astype(np.float64), new.astype(np.float64)
    if old.shape != new.shape or not np.array_equal(np.isfinite(old), np.isfinite(new)):
        return math.inf
    finite = np.isfinite(old)
    if not finite.any():
        return 0.0
    apart = float(np.abs(old - new)[finite].max())
    return apart / max(float(np.abs(old[finite]).max()), 1e-300) if apart else 0.0


def main() -> None:
    """Print a line for each case; exit with 1 where something differs by more than the tolerance."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.same_numbers", description=__doc__)
    parser.add_argument("old", type=Path, help="a checkout")
    parser.add_argument("new", type=Path, help="another one")
    parser.add_argument("--tolerance", type=float, default=0.0, help="relative; 0 asks for equal bytes")
    given = parser.parse_args()
    failed = False
    for model, data in CASES:
        with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
            old = numbers(given.old.resolve(), model, data, Path(first))
            new = numbers(given.new.resolve(), model, data, Path(second))
        same_bytes = old.pop("hash") == new.pop("hash")
        apart = {name: difference(old[name], new[name]) for name in old if name in new}
        missing = sorted(old.keys() ^ new.keys())
        worst = max(apart, key=lambda name: apart[name])
        bad = bool(missing) or apart[worst] > given.tolerance or (not given.tolerance and not same_bytes)
        failed = failed or bad
        print(
            f"{model + ' on ' + data:<30} parameters {'equal' if same_bytes else 'differ'} in bytes; largest "
            f"relative difference {apart[worst]:.1e} ({worst})"
            + (f"; only in one: {', '.join(missing)}" if missing else "")
            + ("  <- too large" if bad else "")
        )
    sys.exit(failed)


if __name__ == "__main__":
    main()
