"""What a VAE of several layers of latents shows: units that layers use, and what they keep of images."""

from collections.abc import Callable, Mapping

from torch import Tensor

from ppl_vae.guides.layered import posterior_moments
from ppl_vae.program.shown import ViewContext
from ppl_vae.views import ImageGrid, TableView, View

__all__ = ["NUM_IMAGES", "active_units", "layer_images"]

NUM_IMAGES = 8
# Rows and draws behind the numbers of active units.
NUM_ROWS, NUM_DRAWS = 500, 100
# Burda et al. (2016), section 5.2.
ACTIVE = 0.01


def active_units(sizes: Mapping[str, int], context: ViewContext) -> View:
    """By layer, in how many dimensions E[z | x] varies over x (Burda et al. 2016, section 5.2).

    Args:
        sizes: dimensions of each layer's latents, by site.
        context: the pair and its data.
    """
    x = context.data[0][:NUM_ROWS]
    moments = posterior_moments(context.pair.guide, x, num_draws=NUM_DRAWS)
    active = []
    for site in sizes:
        mean, variance = moments[site]
        # The variance of means of draws is that of the means and a share of the draws' own.
        active.append(int((mean.var(0, unbiased=False) - variance.mean(0) / NUM_DRAWS > ACTIVE).sum()))
    return TableView(
        title="Active units",
        caption=f"Dimensions whose posterior mean varies by more than {ACTIVE} (a variance) over "
        f"{len(x)} {context.part} rows, whatever the layer above says of them (Burda et al. 2016).",
        names=tuple(sizes),
        columns={"dimensions": tuple(sizes.values()), "active": active},
        row_label="layer",
    )


def layer_images(
    sites: tuple[str, ...],
    decode: Callable[[Tensor, int], Tensor],
    samples: Mapping[str, Tensor],
    context: ViewContext,
    shape: tuple[int, ...],
) -> View:
    """Images that come back from each layer alone, and samples.

    Args:
        sites: of the layers, from the data upwards.
        decode: means of x from latents of a layer, which is counted from 1.
        samples: of the model, by their label.
        context: the pair and its data.
        shape: of an image.
    """
    x = context.data[0][:NUM_IMAGES]
    moments = posterior_moments(context.pair.guide, x)
    rows = {f"{context.part} data": x}
    for layer, site in enumerate(sites, 1):
        rows[f"from the mean of {site} (decoder's mean)"] = decode(moments[site][0].to(x), layer)
    rows |= samples
    caption = (
        "What is left of an image that comes back from a layer alone, those below it drawn from the "
        "model: from z1 it should be the image, from a higher layer one like it; where that looks like "
        "any sample, the layer carries nothing."
    )
    return ImageGrid(caption=caption, rows=rows, image_shape=shape)
