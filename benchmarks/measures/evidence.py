"""log p(x) by importance sampling with a 784-200-200-50 decoder, 5,000 samples an image."""

import numpy as np

from benchmarks import harness, ours, problems
from benchmarks.harness import Measured, fresh
from benchmarks.peers import by_hand, stock_pyro

SAMPLES = 5_000
IMAGES = 90


def against_products(repeats: int) -> Measured:
    pair, x = problems.decoder(IMAGES)
    products = by_hand.DecoderProducts(pair.model.decoder, SAMPLES)
    products.check()
    peer = 50
    return harness.in_turn(
        ours.seconds_per_image(pair, x, SAMPLES),
        lambda: harness.seconds(lambda: products.run(peer)) / peer,
        repeats,
    )


def against_pyro(repeats: int) -> Measured:
    pair, x = problems.decoder(IMAGES)
    few = x[:4]
    found = ours.log_evidence(pair, few, SAMPLES)
    plain = stock_pyro.log_evidence(pair, few, SAMPLES)
    # Mean log weights: the weights themselves have tails too heavy for their own standard errors. Both
    # sides are noisy, with the same error.
    _, elbo, error = plain.T
    assert np.all(np.abs(elbo - found.elbo) < 6 * 2**0.5 * error), "mean log weights differ"
    return harness.in_turn(
        ours.seconds_per_image(pair, x, SAMPLES),
        lambda: harness.seconds(lambda: stock_pyro.log_evidence(pair, few, SAMPLES)) / len(few),
        repeats,
    )


def memory(repeats: int) -> Measured:
    """Ten times the samples against the samples, each in a process of its own."""
    runs = [[fresh("peak-memory", str(times * SAMPLES)) for times in (10, 1)] for _ in range(repeats)]
    more, less = ([run["peak"] for run in side] for side in zip(*runs, strict=True))
    before = runs[0][0]["before"]
    return Measured(more, less, "MiB", note=f"of which {before:.0f} MiB before the first sample")
