"""From a DATA spec to its set of images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from deepcorrect.data._caltech import CALTECH_101, CALTECH_256, open_caltech
from deepcorrect.data._digits import BUILT_IN, open_digits
from deepcorrect.data._hub import open_hub
from deepcorrect.data._image_folder import open_folder
from deepcorrect.data._image_set import ImageSet
from deepcorrect.data._imagenet import open_imagenet
from deepcorrect.data._parquet import open_parquet
from deepcorrect.data._preprocessing import Preprocessing
from deepcorrect.data._sun import open_sun
from deepcorrect.data._webdataset import open_webdataset
from deepcorrect.runtime import InputError, unknown

STORED = ("cifar_c", "imagenet_c")  # sets of distorted copies, see corrupted_sets.py

Open = Callable[[str, Preprocessing], ImageSet]
KINDS: dict[str, Open] = {
    "folder": lambda rest, fit: open_folder(Path(rest).expanduser(), fit),
    "parquet": lambda rest, fit: open_parquet(str(Path(rest).expanduser()), fit),
    "hf": open_hub,
    "webdataset": open_webdataset,
    "imagenet": open_imagenet,
    "caltech101": partial(open_caltech, CALTECH_101),
    "caltech256": partial(open_caltech, CALTECH_256),
    "sun397": open_sun,
}
SPECS = {
    "folder:DIR": "one sub-folder a class, or images alone",
    "parquet:GLOB": "Parquet in the Hugging Face image schema",
    "hf:REPO[:SPLIT][:stream]": "a data set of the Hugging Face Hub, or of 'datasets' in a folder",
    "webdataset:SHARDS": "tar files of images with labels, by *, {000..146} or address; streamed",
    "imagenet:DIR:train|val": "ILSVRC2012 as it unpacks, val with its development kit",
    "caltech101:DIR[:train|test[:N]]": "Caltech-101; of a class 30 train, up to 50 test; split N",
    "caltech256:DIR[:train|test[:N]]": "Caltech-256; of a class 60 train, up to 50 test; split N",
    "sun397:DIR[:train|test[:N]]": "SUN-397; its partition N, 1 to 10",
}
"""What a DATA spec can be, and what that is."""


def open_dataset(spec: str, preprocessing: Preprocessing) -> ImageSet:
    """Opens the set a DATA spec names.

    Args:
        spec: one of `SPECS`, or a built-in name.
        preprocessing: the network's.

    Returns:
        The set; an `ImageStream` where it is read from its beginning to its end alone.

    Raises:
        InputError: the spec is not accepted, or there is no image.
    """
    kind, _, rest = spec.partition(":")
    if kind in KINDS and rest:
        return KINDS[kind](rest, preprocessing)
    if spec in BUILT_IN:
        return open_digits(rest, preprocessing)
    if kind in STORED and rest:
        raise InputError(
            f"{spec} holds an image once for each distortion and level, and only 'deepcorrect "
            "evaluate --data' reads all of it: give folder:DIR/KIND/LEVEL for one level of "
            "ImageNet-C's layout"
        )
    raise unknown("data", spec, [*SPECS, *BUILT_IN])
