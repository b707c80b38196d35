"""Posteriors that cannot be normalised, as far as that can be seen.

A density that is the same all along a line, wherever the line begins, has no integral: under flat priors data
on a + b say nothing of a − b. Then every score (the gradient of log p) is orthogonal to the line, so that
scores at more points than there are latents have a singular value of zero. A prior that is only very wide
has a small one; the density far out along the line tells the two apart. Nor has a density an integral that
does not fall on the way out from a whole neighbourhood of points, as where covariates separate successes from
failures.

A Gaussian guide need not show it: independent normals hold every latent where the others are.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.base.wording import in_words
from ppl_vae.engine.batches import Batches
from ppl_vae.engine.density import Density
from ppl_vae.inference.fitting.gaussians.gaussian import Gaussian

__all__ = ["FAR", "Improper", "refuse_flat", "refuse_receding"]

# No posterior lies so far out in unconstrained space, or is so wide.
FAR = 1e10
# Singular values of scores, over the largest, among which a zero is looked for.
SMALL = 1e-6
# Points from which lines begin, and the distances on them, in units of the guide's scales.
POINTS, LENGTHS = 8, 10.0 ** torch.arange(0, 11, dtype=torch.float64)
# Lines are followed so far at least, where a value beyond overflows; there a density may change by so much of
# its size for its rounding, and further on by so many nats, for that of the line.
NEAR, ROUNDING, CHANGE = 100.0, 1e-6, 1.0
# Weights in a combination, over the largest, of the latents that it is said to be of.
PART = 1e-3
# A latent that moved by less, in scales of the start, over what the farthest did, has settled and stays.
SETTLED = 0.03
# Latents, of more than which scores take too much memory.
MOST_LATENTS = 500


class Improper(InputError):
    """A posterior that cannot be normalised."""

    @classmethod
    def along(cls, density: Density, direction: Tensor) -> Improper:
        """Of a density that does not fall in a direction, in units in which latents are alike."""
        names = _moving(density, direction)
        how, whom = ("moves away", "it a proper prior")
        if len(names) > 1:
            how, whom = ("move away together", "them proper priors")
        return cls(
            f"the posterior cannot be normalised: its density does not fall as {in_words(names)} {how} "
            f"without end; give {whom}"
        )


def refuse_flat(batches: Batches, at: Gaussian, seed: int) -> None:
    """Refuse a density that is the same all along a line. More than 500 latents are not looked at.

    Args:
        batches: the density.
        at: a Gaussian at whose draws it is finite.
        seed: of the draws.

    Raises:
        Improper: naming the latents that the line combines.
    """
    if at.family.dim > MOST_LATENTS:
        return
    noise = torch.empty(at.family.dim + POINTS, at.family.noise_dim, dtype=torch.float64)
    positions = at.draws(noise.normal_(generator=torch.Generator().manual_seed(seed)))
    scaled, sd = batches(positions)[1] * at.variances().sqrt(), at.variances().sqrt()
    if not bool(scaled.isfinite().all()):
        return
    _, sizes, directions = torch.linalg.svd(scaled, full_matrices=False)
    unit = directions[-1] / directions[-1].abs().max()
    if float(sizes[-1]) > SMALL * float(sizes[0]):
        return
    if _never_falls(batches, positions[:POINTS], unit * sd) and _never_falls(
        batches, positions[:POINTS], -unit * sd
    ):
        raise Improper.along(batches.density, unit)


def refuse_receding(batches: Batches, start: Gaussian, end: Gaussian, seed: int) -> None:
    """Refuse a density that does not fall in the direction in which a Gaussian has gone.

    Args:
        batches: the density.
        start, end: where a climb began and where it was left.
        seed: of draws of the latter.

    Raises:
        Improper: naming the latents that move.
    """
    noise = torch.empty(POINTS, end.family.noise_dim, dtype=torch.float64)
    positions = end.draws(noise.normal_(generator=torch.Generator().manual_seed(seed)))
    gone = (end.loc - start.loc) / start.variances().sqrt()
    step = (end.loc - start.loc) * (gone.abs() >= SETTLED * gone.abs().max())
    length = (step / end.variances().sqrt()).abs().max()
    if float(length) > 0 and _never_falls(batches, positions, step / length):
        raise Improper.along(batches.density, step)


def _never_falls(batches: Batches, points: Tensor, step: Tensor) -> bool:
    """Whether a density falls nowhere on the way out from any of some points (n, dim)."""
    here = batches(points)[0]
    out = points.unsqueeze(1) + LENGTHS.unsqueeze(1) * step
    there = batches(out.reshape(-1, points.shape[1]))[0].reshape(len(points), -1)
    known = there.isfinite().cummin(1).values
    falls = torch.where(known, here.unsqueeze(1) - there, 0)
    near = LENGTHS <= NEAR
    little = falls[:, near] <= ROUNDING * here.abs().clamp_min(1).unsqueeze(1)
    return bool(known[:, near].all() and little.all() and (falls <= CHANGE).all())


def _moving(density: Density, direction: Tensor) -> list[str]:
    """The latents that a direction moves, such as "a" or "b[2]"."""
    labels = []
    for name in density.names:
        places = list(np.ndindex(*density.shapes[name]))
        labels += [f"{name}[{','.join(map(str, place))}]" if place else name for place in places]
    size = direction.abs().nan_to_num(nan=torch.inf)
    return [label for label, one in zip(labels, size >= PART * size.max(), strict=True) if one]
