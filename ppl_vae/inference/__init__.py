"""Methods of learning and inference, one a file, all on the primitive of `terms`.

Each takes any Pyro model or model/guide pair, not only the suite's.
"""

from ppl_vae.inference import (
    annealing,
    bounds,
    bridge,
    exact,
    guide,
    importance,
    laplace,
    natural,
    nuts,
    restarts,
    svi,
)
from ppl_vae.inference.elbo import ELBO, elbo

__all__ = [
    "ELBO",
    "annealing",
    "bounds",
    "bridge",
    "elbo",
    "exact",
    "guide",
    "importance",
    "laplace",
    "natural",
    "nuts",
    "restarts",
    "svi",
]
