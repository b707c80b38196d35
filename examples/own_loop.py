"""A loop of your own around the steps of SVI: early stopping, and a learning rate that falls on a plateau.

What to look for: where the held-out ELBO has not risen, the loop goes back to the best state that it has seen
and takes shorter steps from there. The steps have random numbers of their own, so that the estimates between
them change nothing. In the end the ELBO lies just below log p(x), which PPCA knows exactly.
"""

import argparse

import torch

from ppl_vae import PPCA, Pair, exact, svi
from ppl_vae.inference import elbo


def main(quick: bool = False) -> None:
    torch.manual_seed(0)
    x = torch.randn(400, 3, dtype=torch.float64) @ torch.randn(3, 8, dtype=torch.float64)
    x, held_out = (x + 0.5 * torch.randn_like(x)).split([300, 100])
    model = PPCA(8, 3)
    pair = Pair(model, PPCA.guides["linear"](model, x))

    lr, best, best_state = 0.1, -float("inf"), {}
    state = svi.init(pair, x, num_steps=20_000, batch_size=50, rate=lambda step: lr)
    while lr > (0.02 if quick else 0.001):
        svi.step(state, 100)
        reached = elbo(pair, held_out, num_particles=100).mean
        if reached > best + 0.01:
            best, best_state = reached, state.tensors()
        else:
            state.load(best_state)
            lr *= 0.5
            print(f"learning rate {lr:.4f} from step {state.step}, held-out ELBO {best:.2f} nats a datum")

    truth = exact.log_evidence(model, held_out).mean
    print(f"{state.step} steps, held-out ELBO {best:.2f}, log p(x) {truth:.2f} nats a datum")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer steps, for a first look")
    main(**vars(parser.parse_args()))
