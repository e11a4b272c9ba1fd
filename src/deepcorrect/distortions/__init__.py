"""Image distortions on tensors: a registry of kinds, and a grid of levels for each.

Every distortion takes float images in [0, 1], N x C x H x W, on any device, before
normalisation, with one level for all or one per image, and an explicit source of randomness.
"""

from deepcorrect.distortions import (  # noqa: F401  (each registers its kinds)
    _blur,
    _camera,
    _digital,
    _noise,
    _spatter,
    _weather,
)
from deepcorrect.distortions._batches import (
    CLEAN,
    Cell,
    DistortedBatch,
    DistortedCache,
    NumberedBatch,
    cells_of,
    distorted_batches,
    level_rows,
    numbered_batches,
)
from deepcorrect.distortions._distortion import (
    Distortion,
    LevelledDistortion,
    distort_some,
    parse_all,
    ungrouped,
)
from deepcorrect.distortions._registry import GROUPS, KINDS, SMALL_INPUT, Kind, Parameters, kind_of

__all__ = [
    "CLEAN",
    "GROUPS",
    "KINDS",
    "SMALL_INPUT",
    "Cell",
    "DistortedBatch",
    "DistortedCache",
    "Distortion",
    "Kind",
    "LevelledDistortion",
    "NumberedBatch",
    "Parameters",
    "cells_of",
    "distort_some",
    "distorted_batches",
    "kind_of",
    "level_rows",
    "numbered_batches",
    "parse_all",
    "ungrouped",
]
