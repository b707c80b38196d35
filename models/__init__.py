"""The models of `ppl_vae.models`, for readers of the checkout; only that package is installed."""

from ppl_vae.models import *  # noqa: F403
from ppl_vae.models import __all__ as __all__
