"""Methods of learning and inference, one a file, all on the primitive of `terms`.

Each takes any Pyro model or model/guide pair, not only the suite's.
"""

from ppl_vae.inference.evidence import annealing, bounds, bridge, importance
from ppl_vae.inference.evidence.elbo import ELBO, elbo
from ppl_vae.inference.fitting import natural, restarts, svi
from ppl_vae.inference.samplers import exact, guide, laplace, nuts

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
