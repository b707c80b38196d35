"""Networks, each a map of (*lead, in) to (*lead, out), since plates of particles put dimensions in front."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
