"""The untouched network as the teacher: its answers to a batch's clean images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from deepcorrect.networks import features, logits_of, site_hooks
from deepcorrect.training._objectives import inverse_variance


@dataclass(frozen=True)
class Lesson:
    """What the teacher answers to N clean images, without gradients.

    Attributes:
        logits: N x classes; None if there is no teacher.
        maps: for each site, its output, N x C x H x W, and the `inverse_variance` of that.
        features: the input of its last linear layer, N x D; None if nothing needs it.
    """

    logits: Tensor | None = None
    maps: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    features: Tensor | None = None


class Teacher:
    """Runs the untouched network once per batch.

    Maps are not copied, except at sites whose maps a later layer changes in place. These sites are
    found as the network runs: torch counts the changes of a tensor.

    Args:
        network: takes images and returns logits, in inference mode.
        sites: the sites whose maps are read.
        with_features: whether to read the input of the last linear layer as well.

    Example:
        >>> import torch
        >>> from deepcorrect.training._teacher import Teacher
        >>> network = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(inplace=True),
        ...     torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2),
        ... ).eval()
        >>> lesson = Teacher(network, ["0"], with_features=True)(torch.rand(2, 3, 8, 8))
        >>> lesson.logits.shape, lesson.maps["0"][0].shape, lesson.features.shape
        (torch.Size([2, 2]), torch.Size([2, 4, 6, 6]), torch.Size([2, 4]))
    """

    def __init__(self, network: nn.Module, sites: Sequence[str], with_features: bool) -> None:
        self.network, self.sites, self.with_features = network, sites, with_features
        self.copied: set[str] = set()
        self.versions: dict[str, int] = {}

    def __call__(self, images: Tensor) -> Lesson:
        """Runs the network, a second time where a site is found whose maps must be copied.

        Args:
            images: N x C x H x W in [0, 1], on the network's device.
        """
        while True:
            lesson = self._run(images)
            changed = {
                site
                for site, (maps, _) in lesson.maps.items()
                if maps._version != self.versions[site]
            }
            if not changed:
                return lesson
            self.copied |= changed

    def _run(self, images: Tensor) -> Lesson:
        maps: dict[str, tuple[Tensor, Tensor]] = {}

        def keep(site: str, output: Tensor) -> None:
            kept = output.clone() if site in self.copied else output
            self.versions[site] = kept._version
            maps[site] = kept, inverse_variance(kept)  # while it is in the processor's cache

        with (
            torch.no_grad(),
            site_hooks(self.network, self.sites, keep),
            features(self.network) if self.with_features else nullcontext() as read,
        ):
            logits = logits_of(self.network, images).float()
            return Lesson(logits, maps, read() if read else None)
