"""Reading a user's loader: batches as people's loaders yield them, in the one form used here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from deepcorrect.data._image_set import UNLABELLED
from deepcorrect.data._range import check_range
from deepcorrect.runtime import InputError, note_once

IMAGE_KEYS = ("image", "images", "pixel_values", "img", "inputs", "input", "x", "jpg", "png")
LABEL_KEYS = ("label", "labels", "target", "targets", "y", "cls", "class", "fine_label")
BYTE = 255
WANTED = "batches are (images N x C x H x W, labels N)"


class Batch(NamedTuple):
    """A batch in the one form that is used here.

    Attributes:
        images: N x C x H x W, float32 or 16-bit floats.
        labels: (N,), int64; -1 for an image without a label.
    """

    images: Tensor
    labels: Tensor


def check_loader(loader: Any) -> None:
    """Refuses what is no loader: a data set, a function, a DATA spec.

    Raises:
        InputError: It yields no batches.

    Example:
        >>> from deepcorrect.data import check_loader
        >>> check_loader([])
        >>> check_loader("digits:test")
        Traceback (most recent call last):
            ...
        deepcorrect.runtime._errors.InputError: the loader is a str, ...
    """
    given = f"the loader is a {type(loader).__name__}"
    if isinstance(loader, str):
        spec = f"dc.loader(dc.open_dataset({loader!r}, model.preprocessing))"
        raise InputError(f"{given}, where a loader is needed: give {spec}")
    if isinstance(loader, Dataset) and not isinstance(loader, IterableDataset):
        raise InputError(
            f"{given}, a data set that yields one image at a time: give dc.loader(data) or "
            "torch.utils.data.DataLoader(data, batch_size=64)"
        )
    if not isinstance(loader, Iterable) and not hasattr(loader, "__getitem__"):
        advice = "give what it returns, as a list" if callable(loader) else "give a DataLoader"
        raise InputError(f"{given}, which yields no batches: {advice}; {WANTED}")


def read_batches(loader: Any) -> Iterator[Batch]:
    """The batches of a loader in one form; its first images are checked (see `check_range`).

    Images may be floats of any precision or bytes, which are divided by 255, in a tensor, an array
    or a list of images of one size. Labels may be numbers of any type, N or N x 1, or one-hot rows,
    or missing. A batch may be a mapping (see `IMAGE_KEYS`, `LABEL_KEYS`), or have further parts
    after images and labels.

    Args:
        loader: What a user gave as a loader.

    Raises:
        InputError: It is no loader, a batch has another form, or the images' values cannot be those
            of images in [0, 1].

    Example:
        >>> import torch
        >>> from deepcorrect.data import read_batches
        >>> images, labels = torch.rand(2, 3, 8, 8).double(), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> [batch] = read_batches([{"pixel_values": images, "labels": labels}])
        >>> batch.images.dtype, batch.labels
        (torch.float32, tensor([1, 0]))
    """
    check_loader(loader)
    checked = False
    for given in loader:
        images, labels = _parts(given)
        images = _images(images, given)
        if len(images) and not checked:
            check_range(images)
            checked = True
        yield Batch(_floats(images), _labels(labels, len(images)))


def _parts(given: Any) -> tuple[Any, Any]:
    """The images and the labels of a batch; None for labels that it lacks."""
    if isinstance(given, Tensor | np.ndarray):
        return given, None
    if isinstance(given, Mapping):
        return _named_part(given, IMAGE_KEYS, "images"), _named_part(given, LABEL_KEYS, "labels")
    if isinstance(given, Sequence) and not isinstance(given, str) and len(given):
        if len(given) > 2:
            note_once(
                f"the loader's batches have {len(given)} parts: the first is taken as the images, "
                "the second as the labels"
            )
        return given[0], given[1] if len(given) > 1 else None
    raise InputError(f"the loader yields {_described(given)}: {WANTED}")


def _named_part(given: Mapping[Any, Any], names: Sequence[str], what: str) -> Any:
    found = [name for name in names if name in given]
    if len(found) == 1:
        return given[found[0]]
    if not found and what == "labels":
        return None
    keys = ", ".join(map(repr, given))
    several = f"{len(found)} keys for {what} ({', '.join(found)})"
    problem = several if found else f"no key for {what}"
    raise InputError(
        f"the loader's batches have {problem} among {keys}: name them 'image' and 'label', or "
        "give (images, labels)"
    )


def _images(value: Any, batch: Any) -> Tensor:
    """The images of a batch as a tensor, N x C x H x W, of the type that they have."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, list | tuple) and _is_list_of_images(value):
        value = _stacked(value)
    if not isinstance(value, Tensor):
        raise InputError(f"the loader yields {_described(batch)}: {WANTED}")
    shape = " x ".join(map(str, value.shape)) or "a single number"
    if value.dim() != 4:
        advice = {
            3: "give batches (a DataLoader with a batch_size); of grey images images.unsqueeze(1)",
        }.get(value.dim(), WANTED)
        raise InputError(
            f"the loader's images are {shape}, where N x C x H x W is needed: {advice}"
        )
    if value.shape[1] > 4 and value.shape[3] in (1, 3, 4):
        raise InputError(
            f"the loader's images are {shape}, with the channels last: give N x C x H x W, as "
            "images.permute(0, 3, 1, 2)"
        )
    return value


def _is_list_of_images(values: Sequence[Any]) -> bool:
    arrays = [value for value in values if isinstance(value, Tensor | np.ndarray)]
    others = [value for value in values if not isinstance(value, Tensor | np.ndarray)]
    return all(array.ndim == 3 for array in arrays) and all(map(_is_picture, others))


def _is_picture(value: Any) -> bool:
    return hasattr(value, "size") and hasattr(value, "mode")  # Pillow's, which need not be imported


def _stacked(images: Sequence[Any]) -> Tensor:
    kinds = {type(image).__name__ for image in images}
    if not all(isinstance(image, Tensor | np.ndarray) for image in images):
        raise InputError(
            f"the loader's images are a list of {', '.join(sorted(kinds))}: give tensors, with "
            "torchvision.transforms.v2.ToImage and ToDtype(torch.float32, scale=True) or the like"
        )
    tensors = [torch.as_tensor(image) for image in images]
    shapes = sorted({tuple(image.shape) for image in tensors})
    if len(shapes) > 1:
        raise InputError(
            f"the images of a batch differ in size ({shapes[0]}, {shapes[-1]}): resize and crop "
            "them to the network's input size, as dc.loader does"
        )
    return torch.stack(tensors)


def _floats(images: Tensor) -> Tensor:
    """Plain floats without a gradient; bytes become floats in [0, 1]."""
    images = images.detach().as_subclass(Tensor)
    if images.dtype == torch.uint8:
        return images.float() / BYTE
    if images.dtype == torch.float64:
        images = images.float()
    return images.clone() if images.is_inference() else images


def _labels(value: Any, count: int) -> Tensor:
    """Labels as int64, (N,)."""
    if value is None:
        return torch.full((count,), UNLABELLED)
    if isinstance(value, list | tuple) and any(isinstance(each, str) for each in value):
        raise InputError(
            f"the loader's labels are names ({value[0]!r}, ...): give the numbers of the network's "
            "classes, from 0"
        )
    try:
        labels = torch.as_tensor(value).detach().as_subclass(Tensor)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"the loader's labels are {_described(value)}: give N numbers") from None
    if labels.dim() == 0 or (labels.dim() == 2 and labels.shape[1] == 1):
        labels = labels.reshape(-1)
    if labels.dim() == 2 and len(labels) == count:
        labels = _from_one_hot(labels)
    if labels.shape != (count,):
        raise InputError(
            f"the loader yields {count} images with labels of shape {tuple(labels.shape)}: give "
            "one label per image, (N,)"
        )
    if labels.is_floating_point():
        broken = labels[labels != labels.round()]
        if len(broken):
            raise InputError(
                f"the loader has label {float(broken[0]):.4g}: labels are the numbers of classes, "
                "0, 1, ..."
            )
    elif labels.is_complex():
        raise InputError("the loader's labels are complex numbers: give the numbers of classes")
    labels = labels.long()
    return labels.clone() if labels.is_inference() else labels


def _from_one_hot(labels: Tensor) -> Tensor:
    ones, zeros = labels == 1, labels == 0
    if not bool((ones | zeros).all()) or not bool((ones.sum(1) == 1).all()):
        raise InputError(
            f"the loader's labels are N x {labels.shape[1]} and not one-hot: give one class per "
            "image; mixed labels (mixup, label smoothing) and several labels per image have no "
            "single right answer"
        )
    return ones.long().argmax(1)


def _described(value: Any) -> str:
    """What a batch is, in a few words."""
    if isinstance(value, Tensor | np.ndarray):
        return f"a {type(value).__name__} of shape {tuple(value.shape)}"
    if isinstance(value, list | tuple):
        inside = ", ".join(_described(each) for each in value[:3])
        return f"a {type(value).__name__} of ({inside}{', ...' if len(value) > 3 else ''})"
    return f"a {type(value).__name__}"
