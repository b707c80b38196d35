"""The plane of posterior means, which every guide that reads a datum's posterior off the datum can show."""

import numpy as np
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from ppl_vae.base.seeds import seeded
from ppl_vae.data.rows import labels_of
from ppl_vae.program.shown import ViewContext
from ppl_vae.views import Scatter

__all__ = ["means_view", "posterior_mean"]

# Draws behind a mean that has no formula.
DRAWS = 256
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@torch.no_grad()
def posterior_mean(posterior: TorchDistribution) -> Tensor:
    """E_q[z], shape (rows, q): by formula where there is one, else the average of 256 draws of one seed."""
    try:
        return posterior.mean
    except NotImplementedError:
        with seeded(0):
            return posterior.sample(torch.Size([DRAWS])).mean(0)


def means_view(posterior: TorchDistribution, context: ViewContext, site: str = "z") -> Scatter:
    """Posterior means in the two latent components that vary most, by class where there are classes.

    Args:
        posterior: q(z | x) of the rows to show, of event shape (components,).
        context: which rows these are.
        site: name of the latents, where there are others.
    """
    points = posterior_mean(posterior).detach().cpu().numpy()
    most = np.argsort(-points.var(0), kind="stable")[:2]
    plane = points[:, most] if len(most) > 1 else np.column_stack([points[:, 0], np.zeros(len(points))])
    labels = None if context.dataset is None else labels_of(context.dataset)
    groups = (
        {"": plane} if labels is None else {str(each): plane[labels == each] for each in np.unique(labels)}
    )
    names = [f"E[{site}{str(place + 1).translate(SUBSCRIPTS)} | x]" for place in most]
    which = "latent dimensions" if site == "z" else f"dimensions of {site}"
    return Scatter(
        caption=f"Posterior means of the {context.part} rows in the two {which} that vary most: "
        "rows that are alike should lie together.",
        groups=groups,
        x_label=names[0],
        y_label=names[1] if len(names) > 1 else "",
        legend="class",
    )
