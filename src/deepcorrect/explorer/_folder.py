"""The images of a folder on which the baseline and the corrected network differ."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from deepcorrect.data import images_in, named_batches
from deepcorrect.explorer._compare import Answer, answer_of
from deepcorrect.explorer._setting import Setting
from deepcorrect.explorer._subject import BASELINE, CORRECTED, Subject
from deepcorrect.runtime import InputError

BATCH = 16


@dataclass(frozen=True)
class Difference:
    """An image on which the two systems differ.

    Attributes:
        name: The path of the image inside its folder.
        distorted: What the systems were shown, C x H x W in [0, 1].
        before: The baseline's answer for the clean image.
        answers: By system, the answer for the distorted image.
    """

    name: str
    distorted: Tensor
    before: Answer
    answers: dict[str, Answer]


@dataclass(frozen=True)
class FolderComparison:
    """The baseline and a corrected network on the images of a folder.

    Attributes:
        images: The number of images that were read.
        unreadable: The names of files that could not be read.
        agreeing: By system, the number of images for which its answer to the distorted image is
            the baseline's answer to the clean one.
        differences: The images on which the two systems differ, in the order of their names.
    """

    images: int
    unreadable: tuple[str, ...]
    agreeing: dict[str, int]
    differences: tuple[Difference, ...]


def compare_folder(
    subject: Subject,
    adapter: str,
    folder: Path,
    setting: Setting,
    limit: int = 100,
    step: Callable[[int], None] = lambda _: None,
) -> FolderComparison:
    """Finds the images of a folder on which the baseline and the corrected network differ.

    Args:
        subject: The network and its adapters.
        adapter: The adapter.
        folder: A folder of images, with sub-folders or without.
        setting: The distortion of the images; each one has noise of its own.
        limit: The largest number of images to read, in the order of their names.
        step: Called with the number of images that are done.

    Raises:
        InputError: The folder has no image, or there is no such adapter.

    Example:
        >>> import deepcorrect as dc, torch
        >>> from PIL import Image
        >>> from pathlib import Path
        >>> from deepcorrect.explorer import Setting, compare_folder, open_subject
        >>> model = dc.load_model("digits_cnn")
        >>> adapter = dc.correct(model, {"features.0.0": [1, 5]}).save_pretrained("adapter")
        >>> Path("pictures").mkdir()
        >>> Image.new("L", (28, 28), 90).save("pictures/grey.png")
        >>> subject = open_subject("digits", model, {"new": str(adapter)})
        >>> found = compare_folder(subject, "new", Path("pictures"), Setting(("awgn",), 20))
        >>> found.images, found.differences  # the units are not trained yet
        (1, ())
    """
    paths = [str(path) for path in itertools.islice(images_in(folder), limit)]
    if not paths:
        raise InputError(f"{folder.name} has no images")
    subject.adapted(adapter)
    first, bad = 0, []
    agreeing: dict[str, int] = {BASELINE: 0, CORRECTED: 0}
    differences: list[Difference] = []
    for batch in named_batches(paths, subject.model.preprocessing, BATCH):
        bad += [_inside(folder, name) for name in batch.bad]
        if batch.indices:
            distorted = setting.show(batch.images, first=first)
            first += len(batch.images)
            clean = subject.probabilities(batch.images)
            found = {
                system: subject.probabilities(distorted, its)
                for system, its in subject.systems(adapter).items()
            }
            classes = {system: rows.argmax(1) for system, rows in found.items()}
            for system, own in classes.items():
                agreeing[system] += int((own == clean.argmax(1)).sum())
            for row in (classes[BASELINE] != classes[CORRECTED]).nonzero().flatten().tolist():
                answers = {name: answer_of(subject, rows[row]) for name, rows in found.items()}
                name = _inside(folder, batch.names[batch.indices[row]])
                before = answer_of(subject, clean[row])
                differences.append(Difference(name, distorted[row], before, answers))
        step(first + len(bad))
    return FolderComparison(first, tuple(bad), agreeing, tuple(differences))


def folder_names(folders: Sequence[Path]) -> dict[str, Path]:
    """A name for each folder that says nothing of where it is: the last part of its path.

    Folders of the same name are numbered.

    Raises:
        InputError: One is not a folder, or has no image.

    Example:
        >>> from pathlib import Path
        >>> from deepcorrect.explorer import folder_names
        >>> folder_names([Path("nowhere")])
        Traceback (most recent call last):
        deepcorrect.runtime._errors.InputError: there is no folder nowhere: give a folder of images
    """
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}: give a folder of images")
        if next(iter(images_in(folder)), None) is None:
            raise InputError(f"{folder} has no images")
        found[unused_name(folder.resolve().name or "images", found)] = folder
    return found


def unused_name(name: str, taken: Container[str]) -> str:
    """The name, with a number where it is taken."""
    numbers = itertools.count(2)
    free = name
    while free in taken:
        free = f"{name} ({next(numbers)})"
    return free


def _inside(folder: Path, name: str) -> str:
    return Path(name).relative_to(folder).as_posix()
