"""What every room stands on: errors, files, progress, devices, threads, seeds, libraries.

The names stand in `__init__.pyi`; each is imported when it is first used, as some need PyTorch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
