"""The suite's models, one family a file. What `__init__.pyi` names is on the command line."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
# All of them, and no name of a model.
__all__.remove("SUITE")
