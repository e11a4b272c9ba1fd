"""What counts as the right answer for images of which some or all have no label."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from deepcorrect.data._image_set import UNLABELLED
from deepcorrect.runtime import console

Target = Literal["labels", "prediction"]
"""What counts as right: an image's label, or the class that the untouched network assigns to the
clean image."""


def target_for(labels: Tensor) -> Target:
    """What answers are measured against where nothing is asked for: the one rule for all commands.

    Labels are the target where every image of the first batch has one. Where none has one, or only
    some have, the network's own prediction for the clean images is the target, for all images
    alike; if some had one, a note on stderr says so. Under labels as the target, an image without
    a label in a later batch is an error.

    Args:
        labels: those of the first batch, (N,); -1 for an image without one.

    Example:
        >>> import torch
        >>> from deepcorrect.data import target_for
        >>> target_for(torch.tensor([3, 0, 7])), target_for(torch.tensor([-1, -1, -1]))
        ('labels', 'prediction')
    """
    missing = int((labels == UNLABELLED).sum())
    if 0 < missing < len(labels):
        console().print(
            f"note: {missing} of the first {len(labels)} images have no label, so all images are "
            "measured against the network's own prediction for the clean image, not against labels"
        )
    return "prediction" if missing else "labels"
