"""The methods of `ppl_vae.inference`, for readers of the checkout; only that package is installed."""

from ppl_vae.inference import *  # noqa: F403
from ppl_vae.inference import __all__ as __all__
