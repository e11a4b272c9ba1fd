"""What a source of networks is asked for, and what it hands back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from deepcorrect.models._weights import Rename
from deepcorrect.networks import Classifier
from deepcorrect.runtime import InputError


@dataclass(frozen=True)
class Request:
    """What is wanted of a source.

    Attributes:
        spec: the whole MODEL spec, for messages.
        name: what follows the source's prefix.
        pretrained: whether the source's own weights are wanted.
        classes: number of logits, where it is not the source's usual one.
        input_size: side of the input in pixels, likewise.
    """

    spec: str
    name: str
    pretrained: bool
    classes: int | None = None
    input_size: int | None = None

    def check_classes(self, pretrained: int) -> int:
        """The number of classes to build for, `pretrained` being the source's own.

        Raises:
            InputError: pretrained weights are for another number.
        """
        if self.classes is None or self.classes == pretrained:
            return pretrained
        if self.classes < 1:
            raise InputError(f"classes={self.classes} is not a number of classes above 0")
        if self.pretrained:
            raise InputError(
                f"model {self.spec!r}: its pretrained weights are for {pretrained} classes, not "
                f"{self.classes}: give --weights FILE of such a network, or --weights random"
            )
        return self.classes


@dataclass(frozen=True)
class Built:
    """A network from a source.

    Attributes:
        model: with its preprocessing where the source tells it.
        trained: whether it has weights already.
        file: weights still to be loaded, unless the user gives others.
        rename: for files whose names are not the network's.
    """

    model: Classifier | nn.Module
    trained: bool
    file: Path | None = None
    rename: Rename | None = None


Source = Callable[[Request], Built]
