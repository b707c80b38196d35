"""The models of the suite, as its face names them."""

from ppl_vae import models
from ppl_vae.models.base import SuiteModel

__all__ = ["SUITE"]

SUITE: tuple[type[SuiteModel], ...] = tuple(getattr(models, name) for name in models.__all__)
