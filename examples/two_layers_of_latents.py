"""Two layers of latents for handwritten digits: what each layer carries, under two kinds of guide.

What to look for: both guides fit the same architecture for the same number of steps. The one reads z1 off the
image and z2 off z1; the ladder comes down from z2, and merges the model's own p(z1 | z2) with what the image
says. Their log p(x) by importance sampling can be compared, row by row; their latents cannot, since each fit
has its own. A layer whose KL is near zero is not used, and the digits decoded from it alone show that: any
digit may come back from an unused z2.
"""

import argparse

import torch

from ppl_vae import HierarchicalVAE, Pair, importance, svi
from ppl_vae.data import binarise, load, split
from ppl_vae.diagnostics import collapse

SHADES = " .:-=+*#%@"


def main(quick: bool = False) -> None:
    rows = binarise(load("digits"), "static", seed=0)
    parts = split(rows, (0.9, 0.0, 0.1), seed=0)
    (x,), (x_test,) = (rows.take(parts[name]).tensors(torch.float32) for name in ("train", "test"))
    x_test = x_test[:40] if quick else x_test
    steps = 60 if quick else 3000

    values = {}
    for name in ("bottom-up", "ladder"):
        torch.manual_seed(0)
        model = HierarchicalVAE.from_data(rows.take(parts["train"]), latent_dims=(10, 4), hidden=(100,),
                                          between=(50,))  # fmt: skip
        pair = Pair(model, HierarchicalVAE.guides[name](model, x))
        svi.fit(pair, x, num_steps=steps, batch_size=128, lr=2e-3, kl_warmup=steps // 5)
        found = importance.log_evidence(pair, x_test, num_samples=100 if quick else 1000)
        values[name] = torch.as_tensor(found.log_evidence)
        print(f"\n{name}: log p(x) {found.mean:.2f} ± {found.mean_std_error:.3f} nats a digit")
        print(collapse(pair, x_test, num_draws=20 if quick else 200).sentence())

    difference = values["ladder"] - values["bottom-up"]
    error = difference.std() / len(difference) ** 0.5
    print(f"\nLadder less bottom-up: {difference.mean():+.2f} ± {error:.2f} nats a digit, paired")
    show(pair, x_test[:6], rows.image_shape)


@torch.no_grad()
def show(pair: Pair, x: torch.Tensor, shape: tuple[int, ...]) -> None:
    """Digits, and what comes back from one draw of each layer of the last fit."""
    z1 = pair.guide(x)  # the ladder ends at the lowest layer
    z2 = pair.guide.believed(x)[-1].mean
    pictures = {"digits": x, "from z1": pair.model.decode(z1), "from z2": pair.model.decode(z2, layer=2)}
    for name, images in pictures.items():
        levels = (images.reshape(-1, *shape) * (len(SHADES) - 1)).round().long().transpose(0, 1)
        lines = ["  ".join("".join(2 * SHADES[v] for v in row) for row in line) for line in levels]
        print(f"\n{name}", *lines, sep="\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer steps, for a first look")
    main(**vars(parser.parse_args()))
