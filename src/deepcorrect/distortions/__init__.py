"""Image distortions on tensors: a registry of kinds, and a grid of levels for each.

Every distortion takes float images in [0, 1], N x C x H x W, on any device, before
normalisation, with one level for all or one per image, and an explicit source of randomness.
`Distort` is a transform for data pipelines, and `corrupt` takes NumPy arrays.

The room can be used as a library of its own: it needs PyTorch, NumPy and OpenCV alone.
The names are listed in `__init__.pyi`, and those that read loaders are imported when they are
first used, as loaders are a matter of `deepcorrect.data`.
"""

from deepcorrect.distortions import (  # noqa: F401  (each registers its kinds)
    _blur,
    _camera,
    _digital,
    _noise,
    _spatter,
    _weather,
)
from deepcorrect.runtime.lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
