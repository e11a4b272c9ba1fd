"""The request to a source of networks, and its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from deepcorrect.models._fit import Rename
from deepcorrect.networks import Classifier
from deepcorrect.runtime import InputError


@dataclass(frozen=True)
class Request:
    """The request for a network.

    Attributes:
        spec: The complete MODEL spec, for messages.
        name: The part of the spec after the source's prefix.
        pretrained: Whether the source's own weights are requested.
        classes: The number of logits; None stands for the source's usual number.
        input_size: The side of the input in pixels; None stands for the source's usual size.
    """

    spec: str
    name: str
    pretrained: bool
    classes: int | None = None
    input_size: int | None = None

    def check_classes(self, pretrained: int) -> int:
        """The number of classes to build the network for.

        Args:
            pretrained: The number of classes of the source's pretrained weights.

        Raises:
            InputError: Pretrained weights are requested for another number of classes.
        """
        if self.classes is None or self.classes == pretrained:
            return pretrained
        if self.classes < 1:
            raise InputError(
                f"classes={self.classes} is not accepted: give a number of classes above 0"
            )
        if self.pretrained:
            raise InputError(
                f"model {self.spec!r}: its pretrained weights are for {pretrained} classes, not "
                f"{self.classes}: give --weights FILE for such a network, or --weights random"
            )
        return self.classes


@dataclass(frozen=True)
class Built:
    """A network that a source has built.

    Attributes:
        model: The network; a `Classifier` if the source specifies the preprocessing.
        trained: Whether the network already has trained weights.
        file: The weights that are still to be loaded, unless the user gives others.
        rename: Converts the names in weights files whose names are not the network's.
    """

    model: Classifier | nn.Module
    trained: bool
    file: Path | None = None
    rename: Rename | None = None


Source = Callable[[Request], Built]
