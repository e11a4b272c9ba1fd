"""A network with its adapters, as the page and the folder mode ask it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from deepcorrect.correction import AdaptedModel, load_adapter
from deepcorrect.models import output_classes
from deepcorrect.networks import Classifier, as_logits, convolutions, latencies
from deepcorrect.runtime import device_of, inference, to_device, unknown

BASELINE, CORRECTED = "baseline", "corrected"
TURNS = 5


@dataclass(frozen=True)
class Subject:
    """A network and the adapters on it. One question is answered at a time.

    Attributes:
        name: The network's name on the page.
        model: The untouched network.
        adapters: The corrected networks, by the name of the adapter.
        readers: The network and the corrected ones as they return logits; the network under "".
        classes: The number of classes.
    """

    name: str
    model: Classifier
    adapters: Mapping[str, AdaptedModel]
    readers: Mapping[str, nn.Module]
    classes: int
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    _times: dict[tuple[str, bool], dict[str, float]] = field(default_factory=dict, repr=False)

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Keeps other threads from the network while the block runs."""
        with self._lock:
            yield

    def adapted(self, adapter: str | None) -> AdaptedModel | None:
        """The corrected network of an adapter; None without an adapter.

        Raises:
            InputError: There is no such adapter.
        """
        if not adapter:
            return None
        if adapter not in self.adapters:
            raise unknown("adapter", adapter, self.adapters)
        return self.adapters[adapter]

    def probabilities(self, images: Tensor, adapter: str | None = None) -> Tensor:
        """The probability of each class, N x classes, on the CPU.

        Args:
            images: N x C x H x W in [0, 1].
            adapter: The adapter that corrects the network; None for the baseline.

        Raises:
            InputError: There is no such adapter, or the network does not accept the images.
        """
        self.adapted(adapter)
        reader = self.readers[adapter or ""]
        with self.asked(), torch.no_grad(), inference(reader):
            shown = to_device(images, device_of(reader))
            return reader(shown).float().softmax(1).cpu()

    def systems(self, adapter: str | None) -> dict[str, str | None]:
        """The systems to compare, `baseline` and, with an adapter, `corrected`."""
        self.adapted(adapter)
        return {BASELINE: None, CORRECTED: adapter} if adapter else {BASELINE: None}

    def milliseconds(self, image: Tensor, adapter: str | None, corrected: bool) -> dict[str, float]:
        """The time of each system for one image, gate included, measured in turns.

        It depends on the image only by what the gate says of it, so that it is measured once for
        each adapter and verdict.

        Args:
            image: 1 x C x H x W in [0, 1].
            adapter: The adapter of the corrected network; None times the baseline alone.
            corrected: Whether the gate sends the image to the corrected network.
        """
        systems, key = self.systems(adapter), (adapter or "", corrected)
        with self.asked():
            if key not in self._times:
                readers = [self.readers[its or ""] for its in systems.values()]
                found = latencies(readers, image, turns=TURNS)
                pairs = zip(systems, found, strict=True)
                self._times[key] = {system: 1e3 * each.seconds for system, each in pairs}
            return self._times[key]

    def sites(self, adapter: str | None) -> list[str]:
        """The sites whose maps can be shown: those of the adapter, or all convolutions."""
        adapted = self.adapted(adapter)
        return list(adapted.config.sites if adapted else convolutions(self.model))

    def label(self, index: int) -> str:
        """The name of a class: the first of its names if it has several, or its number."""
        labels = self.model.labels
        return labels[index].partition(",")[0] if labels else str(index)


def open_subject(name: str, model: Classifier, adapters: Mapping[str, str]) -> Subject:
    """A network with adapters.

    Args:
        name: The network's name on the page.
        model: The network.
        adapters: The source of each adapter by name, as `load_adapter` takes it.

    Raises:
        InputError: The network's output cannot be read as logits, or an adapter cannot be read or
            was made for another network.

    Example:
        >>> import torch, deepcorrect as dc
        >>> from deepcorrect.explorer import open_subject
        >>> subject = open_subject("digits", dc.load_model("digits_cnn"), {})
        >>> subject.probabilities(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    loaded = {each: load_adapter(model, source) for each, source in adapters.items()}
    size, channels = model.preprocessing.input_size, model.preprocessing.channels
    probe = torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))
    readers = {each: as_logits(system, probe) for each, system in {"": model, **loaded}.items()}
    classes = output_classes(model, model.preprocessing)
    return Subject(name, model, loaded, readers, classes)
