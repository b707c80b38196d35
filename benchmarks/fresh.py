"""Jobs that need a process of their own: ``python -m benchmarks.fresh JOB ARGUMENT…``.

Whole fits are timed from the call to its end: imports and data are there already, everything that the
fit itself loads or compiles counts.
"""

import json
import resource
import sys
import time
from functools import partial

from benchmarks.harness import MARK


def fit_ours(num_steps: int, compile: str | bool) -> dict[str, float]:
    from benchmarks import ours, problems

    problem = problems.skills()
    start = time.perf_counter()
    found = ours.fit(problem, num_steps, compile=compile)
    return {"seconds": time.perf_counter() - start, "compile_seconds": found.compile_seconds}


def fit_pyro(num_steps: int) -> dict[str, float]:
    from benchmarks import problems
    from benchmarks.peers import stock_pyro

    problem = problems.skills()
    start = time.perf_counter()
    stock_pyro.Steps(problem).run(num_steps)
    return {"seconds": time.perf_counter() - start}


def peak_memory(num_samples: int) -> dict[str, float]:
    """Peak resident memory, in MiB, of log p(x) of ten images; what was there before is `before`."""
    from benchmarks import ours, problems

    pair, x = problems.decoder(10)
    before = _peak()
    ours.log_evidence(pair, x, num_samples)
    return {"peak": _peak(), "before": before}


def _peak() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


JOBS = {
    "fit-auto": partial(fit_ours, compile="auto"),
    "fit-compiled": partial(fit_ours, compile=True),
    "fit-pyro": fit_pyro,
    "peak-memory": peak_memory,
}

if __name__ == "__main__":
    print(MARK + json.dumps(JOBS[sys.argv[1]](int(sys.argv[2]))))
