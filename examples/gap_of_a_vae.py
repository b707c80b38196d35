"""Why is the ELBO below log p(x)? A VAE on digits: what its guide's family costs, and what its encoder costs.

What to look for: log p(x) comes from annealed importance sampling, and the same annealing on data simulated
from the model is caught between two bounds, so that its own error is known. The gap then has two parts: the
approximation gap, which no encoder of that family could close, and the amortisation gap, which a better
encoder would. A full covariance and a flow, fitted to every digit by itself, show what a richer family is
worth. Cremer, Li and Duvenaud, "Inference Suboptimality in Variational Autoencoders" (2018).
"""

import argparse

import torch

from ppl_vae import VAE, Pair, agreement, annealing, bounds, gaps, importance, sandwich, svi
from ppl_vae.data import binarise, load, split


def main(quick: bool = False) -> None:
    rows = load("digits")
    parts = split(rows, (0.9, 0.0, 0.1), seed=0)
    rows = binarise(rows, "static", seed=0)
    (train,), (test,) = (rows.take(parts[part]).tensors(torch.float32) for part in ("train", "test"))
    torch.manual_seed(0)
    model = VAE.from_data(rows.take(parts["train"]), latent_dim=6)
    pair = Pair(model, model.encoder_guide())
    fit = svi.fit(pair, train, num_steps=400 if quick else 3000, batch_size=128, lr=2e-3, kl_warmup=200)
    print(f"ELBO of the training digits {fit.final.mean:.3f} nats a digit after {fit.steps} steps\n")

    chosen = torch.arange(10 if quick else 100)
    temperatures = 100 if quick else 1000
    samples, steps = (500, 100) if quick else (2000, 400)
    annealed = annealing.log_evidence(pair, test, index=chosen, num_temperatures=temperatures)
    found = {
        "ais": annealed,
        "is": importance.log_evidence(pair, test, index=chosen, num_samples=samples),
        "iwae": bounds.iwae(pair, test, index=chosen, num_particles=50),
    }
    judged = agreement(found)
    print(judged.table[["kind", "mean", "std_error", "ess", "alarms"]].round(4).to_string(na_rep=""))
    print(f"to be believed: {judged.best}", *judged.flags, sep="\n  ")
    bracket = sandwich(*annealing.bidirectional(pair, test, index=chosen, num_temperatures=temperatures))
    print(f"\n{bracket.sentence}\n")

    taken = gaps(pair, test, index=chosen, evidence=annealed, num_samples=samples, num_steps=steps)
    print(taken.table.set_index("name")[["mean", "std_error"]].round(4).to_string())
    share = taken.amortisation.mean / taken.total.mean
    print(
        f"\nThe ELBO of these digits is {taken.total.mean:.3f} nats too low, {share:.0%} of it because of "
        f"the encoder ({len(chosen)} digits)"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer steps and digits, for a first look")
    main(parser.parse_args().quick)
