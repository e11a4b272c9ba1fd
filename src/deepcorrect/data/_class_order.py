"""The order of classes that are named by numbers: 1, 2, ..., 10, or as text 1, 10, 2, ..."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from deepcorrect.runtime import InputError

ClassOrder = Literal["number", "text"]
"""How class names that are numbers are ordered: by their value, or alphabetically as torchvision's
`ImageFolder` orders folders."""

NUMBER = re.compile(r"\s*(?:(?:label|class)[ _-]?)?(\d+)\s*", re.IGNORECASE)
NUMBERED = re.compile(r"(\D*)(\d+)(?:\D.*)?", re.DOTALL)
"""A name with a number, which all of them have behind the same text: `fish2`, `2_cod`."""
SHOWN = 4


def numbered_indices(
    classes: Sequence[str], count: int, source: str, order: ClassOrder | None, *, is_known: bool
) -> np.ndarray | None:
    """The network's class for each class of a set whose names are numbers.

    By value, the numbers are the network's classes if all of them are below `count`. If not, and
    there are as many as the network has, they are ranked. As text, classes are ranked by the
    alphabetical order of all `count` names.

    Args:
        classes: The names of the data set's classes, in the order of its labels.
        count: The network's number of classes.
        source: The name of the data set in errors.
        order: Which of the two orders to use; None requires that they agree.
        is_known: Whether the network's class names show that it orders numbers by value.

    Returns:
        One index per class; None if the names are not numbers, or do not say which classes of the
        network they are.

    Raises:
        InputError: The two orders differ, and nothing says which of them the network has.
    """
    found = [NUMBER.fullmatch(name) for name in classes]
    if not all(found):
        return _numbered_names(classes, count, source, order, is_known=is_known)
    numbers = np.array([int(match[1]) for match in found if match])
    is_whole = len(classes) == count
    if numbers.max() < count:
        by_number = numbers
    elif is_whole:
        by_number = numbers.argsort(kind="stable").argsort()
    else:
        return None
    as_text = _text_ranks(classes, numbers, count)
    if order is not None:
        return by_number if order == "number" else as_text
    own = np.arange(len(classes)) if is_whole else as_text
    if is_known or np.array_equal(by_number, own):
        return by_number
    raise _ambiguous(classes, by_number, as_text, source, is_whole)


def _numbered_names(
    classes: Sequence[str], count: int, source: str, order: ClassOrder | None, *, is_known: bool
) -> np.ndarray | None:
    """The same for names such as `fish2` or `2_cod`, if their numbers order them otherwise."""
    found = [match for match in map(NUMBERED.fullmatch, classes) if match]
    numbers = np.array([int(match[2]) for match in found])
    is_numbered = len(found) == len(classes) == count and len(set(numbers.tolist())) == count
    if is_known or not is_numbered or len({match[1] for match in found}) > 1:
        return None
    by_number = numbers.argsort(kind="stable").argsort()
    as_text = _text_ranks(classes, numbers, count)
    if order is not None:
        return by_number if order == "number" else as_text
    if np.array_equal(by_number, as_text):
        return None
    raise _ambiguous(classes, by_number, as_text, source, is_whole=True)


def _text_ranks(classes: Sequence[str], numbers: np.ndarray, count: int) -> np.ndarray:
    """Where each class stands among all classes of the network in alphabetical order.

    If some of the network's classes are missing, all names are taken to be 0 to count - 1 in the
    form that the present ones have.
    """
    if len(classes) == count:
        return np.array(sorted(range(count), key=classes.__getitem__)).argsort()
    is_padded = any(re.search(r"(?<!\d)0\d", name) for name in classes)
    if is_padded:
        return numbers
    places = {int(text): place for place, text in enumerate(sorted(map(str, range(count))))}
    return np.array([places[number] for number in numbers.tolist()])


def _ambiguous(
    classes: Sequence[str], by_number: np.ndarray, as_text: np.ndarray, source: str, is_whole: bool
) -> InputError:
    """The error that shows both orders, and what one class would be in each of them."""

    def listed(ranks: np.ndarray) -> str:
        names = [classes[int(index)] for index in ranks.argsort(kind="stable")]
        return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")

    moved = int((by_number != as_text).argmax())
    orders = f": {listed(by_number)} by number, and {listed(as_text)} as text" if is_whole else ""
    return InputError(
        f"{source} has classes whose names are or have numbers, and the network does not name its "
        f"classes, so it is not known in which order it was trained on them{orders}. "
        f"{classes[moved]!r} is the network's class {by_number[moved]} by number, and class "
        f"{as_text[moved]} as text, which is the order of torchvision's ImageFolder. Give "
        "--class-order number or --class-order text (in a recipe data.class_order, in Python "
        "matched(..., class_order=...))"
    )
