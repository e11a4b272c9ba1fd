"""What the page offers: networks that are opened when they are first chosen, runs and folders."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from deepcorrect.explorer._pictures import Picture, shipped_pictures
from deepcorrect.explorer._subject import Subject, open_subject
from deepcorrect.networks import Classifier
from deepcorrect.ranking import Ranking
from deepcorrect.runtime import InputError, unknown

KEPT = 64
"""Tensors of pictures that are kept."""


@dataclass(frozen=True)
class Offer:
    """A network that can be chosen.

    Attributes:
        load: Loads the network.
        adapters: The source of each adapter by name, as `load_adapter` takes it.
        ranking: The priorities of its filters; None ranks on the picture that is shown.
    """

    load: Callable[[], Classifier]
    adapters: Mapping[str, str] = field(default_factory=dict)
    ranking: Ranking | None = None


class Exhibits:
    """Everything that the page shows. Nothing else of the machine can be reached through it.

    Args:
        offers: The networks by name; at least one.
        runs: The content of each run's `results.json`, by the run's name.
        folders: The folders of images, by name.
        read_results: Reads a `results.json` that somebody uploads, and raises a `DeepCorrectError`
            if it is none; None offers no upload of runs.

    Raises:
        InputError: There is no network.

    Example:
        >>> import deepcorrect as dc
        >>> from deepcorrect.explorer import Exhibits, Offer
        >>> exhibits = Exhibits({"digits_cnn": Offer(lambda: dc.load_model("digits_cnn"))})
        >>> exhibits.subject("digits_cnn").sites(None)[0], exhibits.pictures("digits_cnn")[0]
        ('features.0.0', 'digit 3')
    """

    def __init__(
        self,
        offers: Mapping[str, Offer],
        runs: Mapping[str, Mapping[str, Any]] | None = None,
        folders: Mapping[str, Path] | None = None,
        read_results: Callable[[Path], Mapping[str, Any]] | None = None,
    ) -> None:
        if not offers:
            raise InputError("there is no network to explore: name at least one")
        self.offers = dict(offers)
        self.runs = dict(runs or {})
        self.folders = dict(folders or {})
        self.read_results = read_results
        self._subjects: dict[str, Subject] = {}
        self._lock = threading.Lock()
        self.tensor = functools.lru_cache(KEPT)(self._tensor)

    def subject(self, name: str) -> Subject:
        """The network with its adapters, which are loaded on the first call.

        Raises:
            InputError: There is no such network, or it or one of its adapters cannot be loaded.
        """
        offer = self.offer(name)
        with self._lock:
            if name not in self._subjects:
                self._subjects[name] = open_subject(name, offer.load(), offer.adapters)
            return self._subjects[name]

    def offer(self, name: str) -> Offer:
        """What is offered under a name.

        Raises:
            InputError: There is no such network.
        """
        if name not in self.offers:
            raise unknown("network", name, self.offers)
        return self.offers[name]

    def pictures(self, name: str) -> list[str]:
        """The names of the shipped pictures; digits come first for a network of grey images."""
        grey = self.subject(name).model.preprocessing.channels == 1
        return sorted(shipped_pictures(), key=lambda each: each.startswith("digit") != grey)

    def folder(self, name: str) -> Path:
        """The folder of a name.

        Raises:
            InputError: There is no such folder.
        """
        if name not in self.folders:
            raise unknown("folder", name, self.folders)
        return self.folders[name]

    def _tensor(self, picture: Picture, network: str) -> Tensor:
        return picture.tensor(self.subject(network).model.preprocessing)
