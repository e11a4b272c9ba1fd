"""What every other room builds on: errors, files, progress, devices, threads, seeds, libraries.

The names are listed in `__init__.pyi`. Each is imported when it is first used, because some of
them need PyTorch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
