"""Which of a network's classes a name means: labels by name, where two orders differ."""

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

from deepcorrect.runtime import InputError, console

WORDNET = re.compile(r"(n\d{8})(?:[\s_.-]+(.*))?")
"""ImageNet's names of classes: `n01440764`, alone or before a name in words."""

NO_NAME = re.compile(r"(?:label|class)?[ _-]?(\d+)", re.IGNORECASE)
IMAGENET_CLASSES = 1000


class ClassNames:
    """The classes of a network, found by name.

    Case, spaces, `_` and `-` do not matter; of a name such as `tench, Tinca tinca` each part
    counts, and so do the names of a WordNet number (from timm's lists, where timm is installed).

    Args:
        count: the network's number of classes.
        names: theirs, in the order of its logits; None where they are not known.
    """

    def __init__(self, count: int, names: Sequence[str] | None) -> None:
        self.count = count
        named = names if names is not None and len(names) == count else ()
        # LABEL_0, LABEL_1, ... say nothing that the numbers do not
        numbers = [NO_NAME.fullmatch(name) for name in named]
        if all(m and int(m[1]) == place for place, m in enumerate(numbers)):
            named = ()
        self.names = tuple(named)
        self._whole, self._written, self._parts = (
            defaultdict[str, set[int]](set) for _ in range(3)
        )
        for place, name in enumerate(self.names):
            self._whole[name].add(place)
            for part in name.split(","):
                self._written[part.strip()].add(place)
            for part in _synonyms(name):
                self._parts[part].add(place)

    def find(self, name: str) -> int | None:
        """The class of a name; None where there is none, or more than one."""
        for exact in (self._whole, self._written):  # Cardigan is a dog, and cardigan is none
            if len(exact.get(name, ())) == 1:
                return next(iter(exact[name]))
        votes = Counter(place for part in _synonyms(name) for place in self._parts.get(part, ()))
        first = votes.most_common(2)
        if len(first) == 1 or (len(first) == 2 and first[0][1] > first[1][1]):
            return first[0][0]
        number = WORDNET.fullmatch(name)
        if number and self.count == IMAGENET_CLASSES:  # crane and maillot stand for two each
            return _imagenet_order().get(number[1])
        return None

    def index(self, name: str, source: str) -> int:
        """The same, for one label of a set.

        Raises:
            InputError: the network has no such class.
        """
        found = self.find(name)
        if found is None and name.isdecimal() and int(name) < self.count:
            found = int(name)
        if found is None:
            raise self._refusal([name], source)
        return found

    def places(self, classes: Sequence[str], source: str, used: Iterable[int]) -> np.ndarray:
        """For each class of a set, the network's class.

        Where the network's classes have no names, classes that are numbers are taken as such, and
        others in their order.

        Args:
            classes: the set's, in the order of its labels.
            source: how errors call the set.
            used: the labels that occur; others need no class.

        Raises:
            InputError: some have none of that name, or two have the same.
        """
        found = [self.find(name) for name in classes]
        twice = {
            place for place, times in Counter(found).items() if place is not None and times > 1
        }
        known = [
            place if place not in twice or self.names[place] == name else None
            for name, place in zip(classes, found, strict=True)
        ]
        lost = [label for label in used if known[label] is None]
        if not lost:
            return np.array([-1 if place is None else place for place in known])
        numbers = self._by_number(classes)
        if numbers is not None:
            return numbers
        own = np.arange(len(classes))
        if not self.names or (len(classes) == self.count and self._in_order(classes, known)):
            self._warn(classes, source)
            return own
        raise self._refusal([classes[label] for label in lost], source)

    def _by_number(self, classes: Sequence[str]) -> np.ndarray | None:
        if not all(name.isdecimal() for name in classes):
            return None
        numbers = np.array([int(name) for name in classes])
        if numbers.max() < self.count:
            return numbers
        return numbers.argsort().argsort() if len(classes) == self.count else None

    def _in_order(self, classes: Sequence[str], known: Sequence[int | None]) -> bool:
        """Whether so many names stand in the network's order that the others do too."""
        if all(map(WORDNET.fullmatch, classes)) and self.count == IMAGENET_CLASSES:
            return list(classes) == sorted(classes)
        moved = any(place not in (None, own) for own, place in enumerate(known))
        return not moved and sum(place is not None for place in known) >= len(known) / 2

    def _warn(self, classes: Sequence[str], source: str) -> None:
        if not self.names and len(classes) < self.count:
            console().print(
                f"warning: {source} has {len(classes)} classes and the network {self.count}, whose "
                "names are not known: labels are taken in their order. Numbers as the names of "
                "folders would say which are meant",
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
            hint = "; timm knows WordNet's numbers: pip install 'deepcorrect-torch[timm]'"
        return InputError(
            f"{source} has {len(lost)} class{'es' if len(lost) > 1 else ''} that the network does "
            f"not have by that name, such as {shown}; the network's are "
            f"{'for instance ' if near else ''}{theirs}, ... Name the folders as its classes, or "
            f"by their numbers, 0 to {self.count - 1}{hint}"
        )


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold())


def _synonyms(name: str) -> set[str]:
    """What a class may be called, plainly written."""
    parts = [name, *name.split(",")]
    numbered = WORDNET.fullmatch(name.strip())
    if numbered:
        number, words = numbered[1], numbered[2] or _words().get(numbered[1], "")
        parts = [number, words, *words.split(",")]
    return {_plain(part) for part in parts} - {""}


def _lists() -> Path | None:
    """timm's lists of ImageNet's classes; found without importing timm, which takes seconds."""
    found = importlib.util.find_spec("timm")
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "data" / "_info"
    return folder if (folder / "imagenet_synsets.txt").is_file() else None


@functools.cache
def _words() -> dict[str, str]:
    """WordNet's number of a class -> its names between commas."""
    folder = _lists()
    path = folder / "imagenet_synset_to_lemma.txt" if folder else None
    if path is None or not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {number: words for number, _, words in (line.partition("\t") for line in lines)}


@functools.cache
def _imagenet_order() -> dict[str, int]:
    """WordNet's number of a class -> its place among ImageNet's 1,000."""
    folder = _lists()
    if folder is None:
        return {}
    numbers = (folder / "imagenet_synsets.txt").read_text(encoding="utf-8").split()
    return {number: place for place, number in enumerate(numbers)}
