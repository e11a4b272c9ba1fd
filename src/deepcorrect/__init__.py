"""DeepCorrect keeps a trained classifier's accuracy on distorted images, its weights untouched.

Implements T. Borkar and L. Karam, "DeepCorrect: Correcting DNN Models against Image Distortions",
IEEE Transactions on Image Processing 28(12), 2019.

The public names stand in `__init__.pyi`. Each is imported from its room when it is first used, so
that `import deepcorrect` and `deepcorrect --help` do not wait for PyTorch.
"""

from importlib.metadata import PackageNotFoundError, version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

try:
    __version__ = version("deepcorrect-torch")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0+unknown"
