"""Resolving a DATA spec to a set of images, and decoding them into batches in [0, 1]."""

from deepcorrect.data._columns import Column, Numbered, Numbers, Texts
from deepcorrect.data._digits import BUILT_IN
from deepcorrect.data._image_folder import images_in, open_files, open_folder
from deepcorrect.data._image_set import UNLABELLED, ImageSet, check_labels
from deepcorrect.data._loader import Batches, Loader, count_of, loader, no_images
from deepcorrect.data._named import NamedBatch, named_batches
from deepcorrect.data._preprocessing import (
    Interpolation,
    Preprocessing,
    fitted,
    in_channels,
    pixels_of,
    to_tensor,
)
from deepcorrect.data._registry import SPECS, STORED, open_dataset
from deepcorrect.data._streaming import ImageStream

__all__ = [
    "BUILT_IN",
    "SPECS",
    "STORED",
    "UNLABELLED",
    "Batches",
    "Column",
    "ImageSet",
    "ImageStream",
    "Interpolation",
    "Loader",
    "NamedBatch",
    "Numbered",
    "Numbers",
    "Preprocessing",
    "Texts",
    "check_labels",
    "count_of",
    "fitted",
    "images_in",
    "in_channels",
    "loader",
    "named_batches",
    "no_images",
    "open_dataset",
    "open_files",
    "open_folder",
    "pixels_of",
    "to_tensor",
]
