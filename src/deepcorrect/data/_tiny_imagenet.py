"""The validation images of Tiny-ImageNet: one folder of images, and their classes in a file."""

from __future__ import annotations

from pathlib import Path

from deepcorrect.data._columns import IntegerColumn, StringColumn
from deepcorrect.runtime import InputError

IMAGES, ANNOTATIONS = "images", "val_annotations.txt"
CLASSES = "wnids.txt"


def is_tiny_imagenet(folder: Path) -> bool:
    """Whether a folder is laid out like the validation images of Tiny-ImageNet."""
    return (folder / ANNOTATIONS).is_file() and (folder / IMAGES).is_dir()


def labels_of(folder: Path, names: StringColumn) -> tuple[IntegerColumn, tuple[str, ...]]:
    """The label of each validation image, and the classes, which are WordNet ids in sorted order.

    The classes are those of the annotations and of `wnids.txt` in the folder above, so that they
    are the class folders of the training images.

    Args:
        folder: The folder with `val_annotations.txt`.
        names: The images, relative to the folder.

    Raises:
        InputError: An image has no annotation, or a line of the annotations is not a file name and
            a class.
    """
    path = folder / ANNOTATIONS
    by_name: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split()
        if len(words) == 1:
            raise InputError(
                f"line {number} of {path} is {line!r}, and should be an image's file name, its "
                "class and its box"
            )
        if words:
            by_name[words[0]] = words[1]
    lost = [name for name in names if name.rpartition("/")[2] not in by_name]
    if lost:
        raise InputError(
            f"{len(lost)} images of {folder} have no line in {ANNOTATIONS}, such as {lost[0]}: "
            "complete it, or remove these images"
        )
    classes = set(by_name.values())
    listed = folder.parent / CLASSES
    if listed.is_file():
        classes |= set(listed.read_text(encoding="utf-8").split())
    ordered = tuple(sorted(classes))
    index = {name: label for label, name in enumerate(ordered)}
    return IntegerColumn(index[by_name[name.rpartition("/")[2]]] for name in names), ordered
