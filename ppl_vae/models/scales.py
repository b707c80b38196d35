"""Whether features are near the scale that models start at."""

import numpy as np

from ppl_vae.data.rows import Rows
from ppl_vae.models.likelihoods.base import TAKES
from ppl_vae.models.likelihoods.options import LikelihoodOptions

__all__ = ["far_from_likelihood", "far_from_one"]

# Sizes of the features between which a Gaussian likelihood and a network find their own scale.
SCALES = (0.1, 10.0)


def far_from_one(rows: Rows, *, around_mean: bool) -> str | None:
    """A sentence that names the largest feature where it is far from scale 1, else None.

    Args:
        rows: the training rows.
        around_mean: whether the size of a feature is its standard deviation, else its root mean square.
    """
    values = rows.values.astype(np.float64)
    sizes = np.nanstd(values, axis=0) if around_mean else np.sqrt(np.nanmean(values**2, axis=0))
    place = int(sizes.argmax())
    if SCALES[0] <= sizes[place] <= SCALES[1]:
        return None
    measure = "standard deviation" if around_mean else "root mean square"
    return (
        f"the features are far from scale 1 (the largest {measure} is {sizes[place]:.3g}, of "
        f"{rows.feature_names[place]}): standardise them (--standardize)"
    )


def far_from_likelihood(rows: Rows, options: LikelihoodOptions) -> str | None:
    """`far_from_one` of the rows of a model whose networks are fed the values themselves.

    Not for likelihoods of greys, categories or counts, which have a scale of their own.

    Args:
        rows: the training rows.
        options: the model's.
    """
    if "real" not in TAKES.get(options.likelihood, ()) or options.start_scale is not None:
        return None
    hint = far_from_one(rows, around_mean=False)
    return hint and f"{hint}, or give the likelihood its scale (--set start_scale=SD)"
