"""Distorted copies of a set, stored on disk: writing and reading the published layouts."""

from deepcorrect.distortions.stored._layouts import Array
from deepcorrect.distortions.stored._read import SPECS, CorruptedSet, Open, accepts, open_corrupted
from deepcorrect.distortions.stored._write import Format, Written, write_distorted

__all__ = [
    "SPECS",
    "Array",
    "CorruptedSet",
    "Format",
    "Open",
    "Written",
    "accepts",
    "open_corrupted",
    "write_distorted",
]
