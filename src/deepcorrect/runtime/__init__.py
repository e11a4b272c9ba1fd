"""What every room stands on: errors, files, progress, devices, threads, seeds, optional libraries."""

from deepcorrect.runtime import _files as files
from deepcorrect.runtime._connectivity import unreachable
from deepcorrect.runtime._devices import (
    Precision,
    autocast,
    device_for,
    device_of,
    inference,
    placed,
)
from deepcorrect.runtime._environment import environment
from deepcorrect.runtime._errors import (
    DeepCorrectError,
    InputError,
    MissingExtraError,
    first_problem,
    unknown,
)
from deepcorrect.runtime._optional_imports import optional, try_torchvision
from deepcorrect.runtime._progress import Advance, console, is_main_process, progress
from deepcorrect.runtime._seeding import generator_for, seed_of, seeds_for
from deepcorrect.runtime._threads import PerThread, side_by_side

__all__ = [
    "Advance",
    "DeepCorrectError",
    "InputError",
    "MissingExtraError",
    "PerThread",
    "Precision",
    "autocast",
    "console",
    "device_for",
    "device_of",
    "environment",
    "files",
    "first_problem",
    "generator_for",
    "inference",
    "is_main_process",
    "optional",
    "placed",
    "progress",
    "seed_of",
    "seeds_for",
    "side_by_side",
    "try_torchvision",
    "unknown",
    "unreachable",
]
