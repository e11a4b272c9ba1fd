"""From a DATA spec to its set of images."""

from __future__ import annotations

from pathlib import Path

from deepcorrect.classifier import Preprocessing
from deepcorrect.data._digits import BUILT_IN, open_digits
from deepcorrect.data._folder import open_folder
from deepcorrect.data._image_set import ImageSet
from deepcorrect.data._parquet import open_parquet
from deepcorrect.errors import InputError, unknown

STORED = ("cifar_c", "imagenet_c")  # sets of distorted copies, see corrupted_sets.py


def open_data(spec: str, preprocessing: Preprocessing) -> ImageSet:
    """Opens the set a DATA spec names.

    Args:
        spec: `parquet:GLOB` (the Hugging Face image schema), `folder:DIR` (one sub-folder a class,
            or images alone), or a built-in name.
        preprocessing: the network's.

    Raises:
        InputError: the spec is not accepted, or there is no image.
    """
    kind, _, rest = spec.partition(":")
    if kind == "folder" and rest:
        return open_folder(Path(rest).expanduser(), preprocessing)
    if kind == "parquet" and rest:
        return open_parquet(str(Path(rest).expanduser()), preprocessing)
    if spec in BUILT_IN:
        return open_digits(rest, preprocessing)
    if kind in STORED and rest:
        raise InputError(
            f"{spec} holds an image once for each distortion and level, and only 'deepcorrect "
            "evaluate --data' reads all of it: give folder:DIR/KIND/LEVEL for one level of "
            "ImageNet-C's layout"
        )
    raise unknown("data", spec, ["parquet:GLOB", "folder:DIR", *BUILT_IN])
