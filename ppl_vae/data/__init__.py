"""Data: one type for all of it, named data sets, file readers, and what is done to rows before a fit."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
