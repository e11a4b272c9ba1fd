"""A digest of the images of a loader, by which stored work knows whether they are the same."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset

from deepcorrect.data._image_set import ImageSet
from deepcorrect.data._streaming import ImageStream

LOOKED_AT = 16
"""The images, evenly spread over a set, whose contents are part of its digest."""
LISTINGS = ("samples", "targets", "labels", "tensors")
"""Where data sets of torch and torchvision list their images."""


def images_digest(source: Any) -> str:
    """The SHA-256 of what tells one set of images from another, found without reading all of them.

    It covers an image set's names and labels and the contents of 16 of its images; of a stream, the
    first image; of a list of batches, all values of the first; of another data set, the names and
    labels that it lists as torchvision's do.

    Args:
        source: An image set or a loader.

    Example:
        >>> import torch
        >>> from deepcorrect.data import images_digest
        >>> black, white = ([(torch.full((2, 3, 8, 8), x), torch.arange(2))] for x in (0.0, 1.0))
        >>> images_digest(black) == images_digest(white)
        False
    """
    digest = hashlib.sha256()
    _add(digest, source)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, source: Any) -> None:
    data = source if isinstance(source, Dataset) else getattr(source, "dataset", source)
    if isinstance(data, Subset):
        digest.update(np.asarray(data.indices, np.int64).tobytes())
        _add(digest, data.dataset)
    elif isinstance(data, ImageStream):
        first = next(data.read(), None)
        digest.update(f"{data.name} {data.count} {first and first._replace(content='')}".encode())
        content = first.loaded() if first is not None else ""
        if isinstance(content, bytes):
            digest.update(content)
    elif isinstance(data, ImageSet):
        _add_set(digest, data)
    elif isinstance(data, list | tuple):
        digest.update(f"{len(data)}".encode())
        _add_values(digest, data[:1])
    else:  # a user's own, of which nothing is read, as it may draw random numbers
        for name in LISTINGS:
            _add_values(digest, getattr(data, name, None))


def _add_set(digest: hashlib._Hash, images: ImageSet) -> None:
    count = len(images)
    digest.update(f"{images.name} {count} {images.classes}\n".encode())
    digest.update(np.ascontiguousarray(images.labels.array, np.int64).tobytes())
    for name in images.names:
        digest.update(f"{name}\n".encode())
    for row in np.unique(np.linspace(0, count - 1, min(count, LOOKED_AT)).astype(int)).tolist():
        digest.update(images.decoded(row, _contents) or b"unreadable")


def _contents(image: Image.Image) -> bytes:
    return f"{image.mode} {image.size}".encode() + image.tobytes()


def _add_values(digest: hashlib._Hash, value: Any) -> None:
    """The values of a batch: tensors, arrays and containers of them."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = value.float().numpy() if value.is_floating_point() else value.numpy()
    if isinstance(value, np.ndarray):
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, dict):
        _add_values(digest, list(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            _add_values(digest, each)
    elif value is not None:
        digest.update(f"{value}\n".encode())
