"""Methods of learning and inference, for any Pyro model or pair: `fitting`, `samplers` and `evidence`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
