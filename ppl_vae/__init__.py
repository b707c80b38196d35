"""Fit a latent-variable model by variational inference, and know how wrong the answer is."""

import sys
from importlib.metadata import version

import lazy_loader

from ppl_vae.moved import Moved

__version__ = version("ppl-vae")

# Names load when they are first used (PEP 562), so that `ppl-vae --help` answers without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]

if not any(isinstance(finder, Moved) for finder in sys.meta_path):
    sys.meta_path.append(Moved())
