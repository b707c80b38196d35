"""Draws from a posterior: from the guide, exact, by Laplace, by Pathfinder, by NUTS and by many chains."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
