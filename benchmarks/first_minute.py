"""Processor seconds of a first fit: ``python -m benchmarks.first_minute``.

``ppl-vae fit ppca wine`` in fresh processes, with an empty and with a filled cache, beside what any traced
Pyro program costs: importing PyTorch and Pyro and tracing one operation with ``make_fx``. Ratios travel
between machines better than seconds do.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile

FLOOR = """
import torch, pyro
from torch.fx.experimental.proxy_tensor import make_fx
make_fx(lambda x: (2 * x,))(torch.ones(3))
"""
REPEATS = 3


def processor_seconds(*arguments: str, cache: str) -> float:
    """User and system time of one fresh process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    env = {**os.environ, "PPL_VAE_CACHE": cache}
    subprocess.run([sys.executable, *arguments], env=env, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the medians."""
    found: dict[str, list[float]] = {"imports and make_fx": [], "first": [], "warm": []}
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as folder:
            found["imports and make_fx"].append(processor_seconds("-c", FLOOR, cache=folder))
            for name in ("first", "warm"):
                fit = ("-m", "ppl_vae", "fit", "ppca", "wine", "--out", f"{folder}/run", "--overwrite")
                found[name].append(processor_seconds(*fit, cache=f"{folder}/cache"))
    floor = statistics.median(found["imports and make_fx"])
    for name, times in found.items():
        median = statistics.median(times)
        print(f"{name:>20}: {median:5.1f} CPU s, {median / floor:.2f} of the imports")


if __name__ == "__main__":
    main()
