"""Where two threads begin to pay: ``python -m benchmarks.threads``.

Steps of networks of several sizes (forward, backward, Adam) on one and on two threads, in turn, on the
machine as it is and beside two busy loops. `ppl_vae.base.threads.SMALL_WORK` is set by this table.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

BATCH = 128


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """Run so many processes that do nothing but count."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def seconds_a_step(network: nn.Module, x: Tensor, threads: int, limit: float) -> float:
    """The mean over as many steps as fit the time."""
    torch.set_num_threads(threads)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < limit:
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()
        steps += 1
    return (time.perf_counter() - start) / steps


def main() -> None:
    """Print milliseconds a step."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.threads", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of one measurement")
    given = parser.parse_args()
    names = ("multiplications", "busy loops", "1 thread", "2 threads", "2 over 1")
    print("".join(f"{name:>16}" for name in names) + "   (ms a step)")
    for power in range(20, 31, 2):
        width = int((2**power / BATCH / 2) ** 0.5)
        network = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))
        x = torch.randn(BATCH, width)
        for loops in (0, 2):
            found: dict[int, list[float]] = {1: [], 2: []}
            with busy(loops):
                for _ in range(given.repeats):
                    for threads, times in found.items():
                        times.append(seconds_a_step(network, x, threads, given.seconds))
            one, two = (1e3 * statistics.median(times) for times in found.values())
            print(f"{f'2^{power}':>16}{loops:16}{one:16.2f}{two:16.2f}{two / one:16.2f}", flush=True)


if __name__ == "__main__":
    main()
