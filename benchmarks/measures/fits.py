"""Whole fits of the skills in fresh processes, compilation included."""

import statistics
import tempfile
from collections.abc import Mapping

from benchmarks.harness import Measured, fresh

# Where compiled programs are kept, by this package and by PyTorch's compiler.
CACHES = ("PPL_VAE_CACHE", "TORCHINDUCTOR_CACHE_DIR")


def warm_2000(repeats: int) -> Measured:
    return _warm(2_000, repeats)


def warm_20000(repeats: int) -> Measured:
    return _warm(20_000, repeats)


def first_2000(repeats: int) -> Measured:
    return _first(2_000, repeats)


def first_20000(repeats: int) -> Measured:
    return _first(20_000, repeats)


def _warm(num_steps: int, repeats: int) -> Measured:
    """One unrecorded fit of ours fills the cache on disk."""
    with tempfile.TemporaryDirectory() as folder:
        env = dict.fromkeys(CACHES, folder)
        filling = _fit("fit-compiled", num_steps, env)
        pairs = [
            (_fit("fit-compiled", num_steps, env), _fit("fit-pyro", num_steps, {})) for _ in range(repeats)
        ]
    return Measured(*map(list, zip(*pairs, strict=True)), note=f"filling the cache took {filling:.1f} s")


def _first(num_steps: int, repeats: int) -> Measured:
    """Every fit of ours finds an empty cache folder."""
    pairs = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            ours = _fit("fit-auto", num_steps, dict.fromkeys(CACHES, folder))
        pairs.append((ours, _fit("fit-pyro", num_steps, {})))
    note = f"{statistics.median(pair[0] for pair in pairs):.1f} s for the first run ever"
    return Measured(*map(list, zip(*pairs, strict=True)), note=note)


def _fit(job: str, num_steps: int, env: Mapping[str, str]) -> float:
    return fresh(job, str(num_steps), env=env)["seconds"]
