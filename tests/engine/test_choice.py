"""Which engine runs: what each kind of work chose before one function chose for all of them."""

from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest

from ppl_vae.base.errors import InputError
from ppl_vae.engine.choice import engine_for
from ppl_vae.engine.gradients import engine_of_chains
from ppl_vae.inference.evidence.annealing import AnnealingOptions
from ppl_vae.inference.evidence.annealing import _engine as engine_of_annealing
from ppl_vae.inference.evidence.weights import engine_of_weights
from ppl_vae.inference.fitting.steps import engine_of_fit

# Around every threshold that there is, and far from all.
SIZES = sorted(
    {0, 1, 10, 10**12} | {t + d for t in (100, 1000, 2000, 30_000, 300_000, 2**29, 2**31) for d in (-1, 0, 1)}
)


def _chosen(words: Any, size: int, traced: float, compiled: float) -> str:
    if words in ("on", True):
        return "compiled"
    if words in ("off", False):
        return "pyro"
    return "pyro" if size < traced else "traced" if size < compiled else "compiled"


def _problem(num_units: int, event_size: int) -> Any:
    return SimpleNamespace(num_units=num_units, layout=SimpleNamespace(event_size=event_size))


@pytest.mark.parametrize("word", ["auto", "on", "off", True, False])
def test_each_kind_of_work_is_decided_as_before(word: Any) -> None:
    for size in SIZES:
        assert engine_of_fit(word, size) == _chosen(word, size, 100, 30_000)
        # One that may stop by itself counts for a tenth, and for a hundred steps if it has them.
        tenth = max(size // 10, min(size, 100))
        assert engine_of_fit(word, size, True) == _chosen(word, tenth, 100, 30_000)
        assert engine_of_chains(word, size) == _chosen(word, size, 0, 2000)
    for samples, units, numbers in product((2, 1000, 2**16), (1, 2**14, 60_000), (1, 2, 784)):
        problem = _problem(units, numbers)
        # No weights are traced only.
        size = samples * units * numbers
        assert engine_of_weights(word, problem, samples) == _chosen(word, size, 2**31, 2**31)
        options = AnnealingOptions(num_temperatures=2**9, num_chains=samples)
        size *= 2 * 2**9
        assert engine_of_annealing(word, options, problem) == _chosen(word, size, 0, 2**29)


def test_a_word_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="it is 'auto', 'on' or 'off'"):
        engine_for("always", 1, compiled=1)  # type: ignore[arg-type]
