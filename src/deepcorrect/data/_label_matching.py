"""Matches the labels of a data set with the classes of a network by their names."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from deepcorrect.data._class_order import NUMBER, ClassOrder, numbered_indices
from deepcorrect.runtime import InputError, console

WORDNET = re.compile(r"(n\d{8})(?:[\s_.-]+(.*))?")
"""A WordNet id, ImageNet's name for a class: `n01440764`, alone or before a name in words."""

IMAGENET_CLASSES = 1000

WITH_NUMBER = re.compile(r"\d+[\s_.-]+(\D.*)")
"""A name with its number before it, as in CUB and Caltech: `001.ak47`."""


class ClassNames:
    """The classes of a network, which can be found by name.

    Case, spaces, `_` and `-` do not matter. Each part of a name such as `tench, Tinca tinca` is
    compared, and so are the names that belong to a WordNet id (from timm's lists, if timm is
    installed).

    Args:
        count: The network's number of classes.
        names: The names of its classes, in the order of its logits; None if they are not known.

    Example:
        >>> from deepcorrect.data._label_matching import ClassNames
        >>> classes = ClassNames(2, ("tench, Tinca tinca", "great white shark"))
        >>> classes.find("Great_White-Shark"), classes.find("tench"), classes.find("whale")
        (1, 0, None)
    """

    def __init__(self, count: int, names: Sequence[str] | None) -> None:
        self.count = count
        named = names if names is not None and len(names) == count else ()
        # the names LABEL_0, LABEL_1, ... say no more than the numbers
        numbers = [NUMBER.fullmatch(name) for name in named]
        says_nothing = all(m and int(m[1]) == index for index, m in enumerate(numbers))
        # names 0, 1, ... in place of LABEL_0, LABEL_1, ... come from the data and show its order
        self._is_by_number = bool(named) and (not says_nothing or all(map(str.isdecimal, named)))
        if says_nothing:
            named = ()
        self.names = tuple(named)
        self._whole, self._written, self._parts = (
            defaultdict[str, set[int]](set) for _ in range(3)
        )
        for index, name in enumerate(self.names):
            self._whole[name].add(index)
            for part in name.split(","):
                self._written[part.strip()].add(index)
            for part in _synonyms(name):
                self._parts[part].add(index)

    def find(self, name: str) -> int | None:
        """The index of the class with a name; None if there is no such class or more than one."""
        for exact in (self._whole, self._written):  # Cardigan is a dog, cardigan a garment
            if len(exact.get(name, ())) == 1:
                return next(iter(exact[name]))
        votes = Counter(index for part in _synonyms(name) for index in self._parts.get(part, ()))
        first = votes.most_common(2)
        if len(first) == 1 or (len(first) == 2 and first[0][1] > first[1][1]):
            return first[0][0]
        number = WORDNET.fullmatch(name)
        if number and self.count == IMAGENET_CLASSES:  # crane and maillot name two classes each
            return _imagenet_order().get(number[1])
        return None

    def index(self, name: str, source: str) -> int:
        """The index of the class with a name or number, for one label of a data set.

        Raises:
            InputError: The network has no such class.
        """
        found = self.find(name)
        if found is None and name.isdecimal() and int(name) < self.count:
            found = int(name)
        if found is None:
            raise self._refusal([name], source)
        return found

    def indices(
        self,
        classes: Sequence[str],
        source: str,
        used: Iterable[int],
        order: ClassOrder | None = None,
    ) -> np.ndarray:
        """The index of the network's class for each class of a data set.

        If the names of the network's classes are not known, names that are numbers are taken as
        indices, and other names in their order.

        Args:
            classes: The names of the data set's classes, in the order of its labels.
            source: The name of the data set in errors.
            used: The labels that occur; classes that do not occur need not be found.
            order: The order of names that are numbers; None requires that both orders agree if
                the network does not name its classes.

        Raises:
            InputError: The network has no class of that name, two names mean the same class, or
                the order of names that are numbers is not known.
        """
        found = [self.find(name) for name in classes]
        twice = {
            index for index, times in Counter(found).items() if index is not None and times > 1
        }
        known = [
            index if index not in twice or self.names[index] == name else None
            for name, index in zip(classes, found, strict=True)
        ]
        used = list(used)
        lost = [label for label in used if known[label] is None]
        if not lost:
            return np.array([-1 if index is None else index for index in known])
        numbers = numbered_indices(classes, self.count, source, order, is_known=self._is_by_number)
        if numbers is not None:
            return numbers
        own = np.arange(len(classes))
        if not self.names:
            self._check_count(classes, used, source)
        if not self.names or (len(classes) == self.count and self._in_order(classes, known)):
            self._warn(classes, source)
            return own
        double = [classes[label] for label in lost if found[label] in twice]
        if double:
            raise _double(double, self.names[found[classes.index(double[0])] or 0], source)
        raise self._refusal([classes[label] for label in lost], source)

    def _in_order(self, classes: Sequence[str], known: Sequence[int | None]) -> bool:
        """Whether enough names are in the network's order to assume that of the others.

        At least half of them must be known, and all of these at the network's indices.
        """
        if all(map(WORDNET.fullmatch, classes)) and self.count == IMAGENET_CLASSES:
            return list(classes) == sorted(classes)
        moved = any(index not in (None, own) for own, index in enumerate(known))
        return not moved and sum(index is not None for index in known) >= len(known) / 2

    def _check_count(self, classes: Sequence[str], used: Iterable[int], source: str) -> None:
        if len(classes) > self.count and max(used) >= self.count:
            shown = ", ".join(map(repr, classes[:3]))
            raise InputError(
                f"{source} has {len(classes)} classes ({shown}, ...), and the network has "
                f"{self.count}: leave out the folders that are none of its classes, or name the "
                f"folders by its classes' numbers, 0 to {self.count - 1}"
            )

    def _warn(self, classes: Sequence[str], source: str) -> None:
        digits = [name for name in classes if name.isdecimal()]
        if not self.names and 0 < len(digits) < len(classes):
            other = next(name for name in classes if not name.isdecimal())
            console().print(
                f"warning: {source} has classes with and without numbers for names, such as "
                f"{digits[0]!r} and {other!r}: all are taken in the order of their names",
                style="yellow",
            )
        elif not self.names and len(classes) < self.count:
            console().print(
                f"warning: {source} has {len(classes)} classes and the network has {self.count}, "
                "whose names are not known: the labels are taken in their order. To choose other "
                "classes, name the folders by their numbers, and give --class-order number",
                style="yellow",
            )

    def _refusal(self, lost: Sequence[str], source: str) -> InputError:
        shown = ", ".join(map(repr, lost[:3])) + (", ..." if len(lost) > 3 else "")
        if not self.names:
            return InputError(
                f"{source} has labels in words, such as {shown}, and the names of the network's "
                f"classes are not known: give labels as numbers from 0 to {self.count - 1}"
            )
        near = difflib.get_close_matches(lost[0], self.names, n=2, cutoff=0.6)
        theirs = ", ".join(map(repr, near or self.names[:3]))
        hint = ""
        if WORDNET.fullmatch(lost[0]) and not _lists():
            hint = "; timm knows WordNet's ids: pip install 'deepcorrect-torch[timm]'"
        return InputError(
            f"{source} has {len(lost)} class{'es' if len(lost) > 1 else ''} that the network does "
            f"not have by that name, such as {shown}; the network's are "
            f"{'for example ' if near else ''}{theirs}, ... Name the folders after its classes, or "
            f"by their numbers, 0 to {self.count - 1}{hint}"
        )


def check_level(
    source: str, classes: Sequence[str], inner: Sequence[str], known: ClassNames
) -> None:
    """Checks that the folders that are taken as classes are not one level above the classes.

    Args:
        source: The name of the data set in errors.
        classes: The names of the folders that are taken as classes.
        inner: The names of the folders below them, which hold all images.
        known: The network's classes.

    Raises:
        InputError: The network has another number of classes, and neither their names nor numbers
            say that the folders are some of them.
    """
    lost = [name for name in classes if known.find(name) is None]
    if not lost or len(classes) == known.count or all(map(NUMBER.fullmatch, classes)):
        return
    shown, below = (", ".join(names[:3]) + ", ..." * (len(names) > 3) for names in (classes, inner))
    raise InputError(
        f"{source} has {len(classes)} sub-folder{'s' if len(classes) > 1 else ''} ({shown}), in "
        f"which all images lie deeper, in {below}, and the network has {known.count} classes. If "
        f"the classes are the deeper ones, give a folder that has them, such as {classes[0]}; if "
        f"not, name the sub-folders after the network's classes, or by their numbers"
    )


def _double(classes: Sequence[str], name: str, source: str) -> InputError:
    shown = ", ".join(map(repr, classes[:3]))
    return InputError(
        f"{source} has {shown} beside other names for the network's class {name!r}: give each "
        "class one folder"
    )


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold())


def _synonyms(name: str) -> set[str]:
    """The names of a class, in lower case and without spaces or punctuation."""
    parts = [name, *name.split(",")]
    listed = WITH_NUMBER.fullmatch(name.strip())
    if listed:
        parts.append(listed[1])
    numbered = WORDNET.fullmatch(name.strip())
    if numbered:
        number, words = numbered[1], numbered[2] or _words().get(numbered[1], "")
        parts = [number, words, *words.split(",")]
    return {_plain(part) for part in parts} - {""}


def _lists() -> Path | None:
    """The folder of timm's lists of ImageNet's classes, found without the slow import of timm."""
    found = importlib.util.find_spec("timm")
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "data" / "_info"
    return folder if (folder / "imagenet_synsets.txt").is_file() else None


@functools.cache
def _words() -> dict[str, str]:
    """The names of each class, between commas, by its WordNet id."""
    folder = _lists()
    path = folder / "imagenet_synset_to_lemma.txt" if folder else None
    if path is None or not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {number: words for number, _, words in (line.partition("\t") for line in lines)}


@functools.cache
def _imagenet_order() -> dict[str, int]:
    """The index of each of ImageNet's 1,000 classes, by its WordNet id."""
    folder = _lists()
    if folder is None:
        return {}
    numbers = (folder / "imagenet_synsets.txt").read_text(encoding="utf-8").split()
    return {number: index for index, number in enumerate(numbers)}
