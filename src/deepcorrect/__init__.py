"""DeepCorrect keeps a trained classifier's accuracy on distorted images, its weights untouched.

Implements T. Borkar and L. Karam, "DeepCorrect: Correcting DNN Models against Image Distortions",
IEEE Transactions on Image Processing 28(12), 2019.

The public names stand in `__init__.pyi`. Each is imported from its room when it is first used, so
that `import deepcorrect` and `deepcorrect --help` do not wait for PyTorch.
"""

from typing import Any

from deepcorrect.runtime.lazy import attach_stub

_public_name, __dir__, __all__ = attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    return _version() if name == "__version__" else _public_name(name)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415  (slow to import)

    try:
        return version("deepcorrect-torch")
    except PackageNotFoundError:  # a source tree that was not installed
        return "0+unknown"
