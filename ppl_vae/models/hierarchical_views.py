"""What a VAE of several layers of latents shows: units that layers use, and what they keep of images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppl_vae.guides.layered import posterior_moments
from ppl_vae.program.shown import ViewContext
from ppl_vae.views import ImageGrid, TableView, View

if TYPE_CHECKING:
    from ppl_vae.models.hierarchical_vae import HierarchicalVAE

__all__ = ["active_units", "layer_images"]

NUM_IMAGES = 8
# Rows and draws behind the numbers of active units.
NUM_ROWS, NUM_DRAWS = 500, 100
# Burda et al. (2016), section 5.2.
ACTIVE = 0.01


def active_units(model: HierarchicalVAE, context: ViewContext) -> View:
    """By layer, in how many dimensions E[z | x] varies over x (Burda et al. 2016, section 5.2)."""
    x = context.data[0][:NUM_ROWS]
    moments = posterior_moments(context.pair.guide, x, num_draws=NUM_DRAWS)
    active = []
    for site in model.sites:
        mean, variance = moments[site]
        # The variance of means of draws is that of the means and a share of the draws' own.
        active.append(int((mean.var(0, unbiased=False) - variance.mean(0) / NUM_DRAWS > ACTIVE).sum()))
    return TableView(
        title="Active units",
        caption=f"Dimensions whose posterior mean varies by more than {ACTIVE} (a variance) over "
        f"{len(x)} {context.part} rows, whatever the layer above says of them (Burda et al. 2016).",
        names=model.sites,
        columns={"dimensions": model.latent_dims, "active": active},
        row_label="layer",
    )


def layer_images(model: HierarchicalVAE, context: ViewContext, shape: tuple[int, ...]) -> View:
    """Images that come back from each layer alone, and samples."""
    x = context.data[0][:NUM_IMAGES]
    moments = posterior_moments(context.pair.guide, x)
    rows = {f"{context.part} data": x}
    for layer, site in enumerate(model.sites, 1):
        rows[f"from the mean of {site} (decoder's mean)"] = model.decode(moments[site][0].to(x), layer)
    rows["sample from the prior (decoder's mean)"] = model.sample(NUM_IMAGES)
    rows["sample from the prior (draw)"] = model.sample(NUM_IMAGES, draw=True)
    caption = (
        "What is left of an image that comes back from a layer alone, those below it drawn from the "
        "model: from z1 it should be the image, from a higher layer one like it; where that looks like "
        "any sample, the layer carries nothing."
    )
    return ImageGrid(caption=caption, rows=rows, image_shape=shape)
