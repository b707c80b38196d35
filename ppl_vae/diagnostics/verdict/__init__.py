"""Every check of a fit within a budget, the rule over them, and the next step."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
