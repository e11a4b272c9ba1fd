"""Image distortions on tensors: a registry of kinds, and a grid of levels for each.

Every distortion takes float images in [0, 1], N x C x H x W, on any device, before
normalisation, with one level for all or one a image, and an explicit source of randomness.
"""

from deepcorrect.distortions import (  # noqa: F401  (each registers its kinds)
    _blur,
    _camera,
    _digital,
    _noise,
    _spatter,
    _weather,
)
from deepcorrect.distortions._distortion import (
    Distortion,
    LevelledDistortion,
    distort_some,
    parse_all,
    ungrouped,
)
from deepcorrect.distortions._filters import constant
from deepcorrect.distortions._registry import GROUPS, KINDS, SMALL_INPUT, Kind, Parameters, kind_of

__all__ = [
    "GROUPS",
    "KINDS",
    "SMALL_INPUT",
    "Distortion",
    "Kind",
    "LevelledDistortion",
    "Parameters",
    "constant",
    "distort_some",
    "kind_of",
    "parse_all",
    "ungrouped",
]
