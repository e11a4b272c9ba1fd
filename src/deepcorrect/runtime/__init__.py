"""What every other room builds on: errors, files, progress, devices, threads, seeds, libraries.

The names are listed in `__init__.pyi`. Each is imported when it is first used, because some of
them need PyTorch.
"""

from deepcorrect.runtime.lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
