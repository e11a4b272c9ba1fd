"""Opens the images that a DATA spec names, and decodes them into batches in [0, 1]."""

from deepcorrect.data._class_order import ClassOrder
from deepcorrect.data._columns import Column, IntegerColumn, NumberedNames, StringColumn
from deepcorrect.data._decoding import (
    BAD_IMAGE,
    convert_channels,
    image_extensions,
    open_image,
    why_unreadable,
)
from deepcorrect.data._digits import BUILT_IN
from deepcorrect.data._hold_out import (
    can_hold_out,
    hold_out,
    random_part,
    smaller_batches,
)
from deepcorrect.data._image_folder import images_in, open_files, open_folder
from deepcorrect.data._image_set import UNLABELLED, ImageSet, check_labels, with_reason
from deepcorrect.data._listing_digest import images_digest
from deepcorrect.data._loader import (
    Batches,
    Loader,
    check_repeatable,
    count_of,
    every_nth,
    loader,
    no_images,
)
from deepcorrect.data._named import NamedBatch, named_batches
from deepcorrect.data._no_folder import no_folder
from deepcorrect.data._preprocessing import (
    Interpolation,
    Preprocessing,
    resize_and_crop,
    to_tensor,
    to_uint8,
)
from deepcorrect.data._range import SWITCH, check_range, checks_wanted
from deepcorrect.data._reading import check_loader, read_batches
from deepcorrect.data._registry import SPECS, STORED, open_dataset
from deepcorrect.data._streaming import ImageStream
from deepcorrect.data._targets import Target, target_for

__all__ = [
    "BAD_IMAGE",
    "BUILT_IN",
    "SPECS",
    "STORED",
    "SWITCH",
    "UNLABELLED",
    "Batches",
    "ClassOrder",
    "Column",
    "ImageSet",
    "ImageStream",
    "IntegerColumn",
    "Interpolation",
    "Loader",
    "NamedBatch",
    "NumberedNames",
    "Preprocessing",
    "StringColumn",
    "Target",
    "can_hold_out",
    "check_labels",
    "check_loader",
    "check_range",
    "check_repeatable",
    "checks_wanted",
    "convert_channels",
    "count_of",
    "every_nth",
    "hold_out",
    "image_extensions",
    "images_digest",
    "images_in",
    "loader",
    "named_batches",
    "no_folder",
    "no_images",
    "open_dataset",
    "open_files",
    "open_folder",
    "open_image",
    "random_part",
    "read_batches",
    "resize_and_crop",
    "smaller_batches",
    "target_for",
    "to_tensor",
    "to_uint8",
    "why_unreadable",
    "with_reason",
]
