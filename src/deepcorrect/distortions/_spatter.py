"""Water and mud on the lens: ImageNet-C's spatter."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deepcorrect.distortions._filters import gaussian, plane_by_plane
from deepcorrect.distortions._random import Draws
from deepcorrect.distortions._registry import corruption
from deepcorrect.distortions._weather import grey_of

WATER, MUD = (175, 238, 238), (63, 42, 20)  # pale turquoise and brown, from 0 to 255
FARTHEST = 20  # the largest distance from a drop's edge, in pixels
EDGES = (50, 150)  # the gradients of an edge's weak and strong pixels
LIGHT = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)


@corruption(colours=True, clips=True)
def spatter(
    images: Tensor,
    draws: Draws,
    mean: float,
    deviation: float,
    size: float,
    threshold: float,
    strength: float,
    mud: bool,
) -> Tensor:
    """Drops on the lens, of shining water or of opaque mud.

    A drop is where blurred noise of the given mean and standard deviation exceeds a threshold.
    Each image has drops of its own, which are computed and not taken from a picture.
    """
    liquid = draws.normal(1, *images.shape[2:]).mul_(deviation).add_(mean)
    liquid = gaussian(liquid, size)
    drops = liquid > threshold
    colour = torch.tensor(MUD if mud else WATER, device=images.device).view(1, 3, 1, 1) / 255
    if images.shape[1] == 1:
        colour = grey_of(colour)
    if mud:
        cover = gaussian(drops.float(), strength)
        cover = torch.where(cover < 0.8, 0.0, cover)
        return torch.lerp(images, colour, cover)
    shine = _relief(liquid * drops)
    shine = shine / shine.amax((1, 2, 3), keepdim=True).clamp_min(1e-6) * strength
    return torch.addcmul(images, shine, colour)


def _relief(liquid: Tensor) -> Tensor:
    """The brightness of drops, from their depth and the gradient of the distance to their edges.

    Values are those of 8-bit images, and OpenCV computes them, as in the benchmark's code.
    """
    import cv2  # noqa: PLC0415  (slow to import)

    def shine(liquid: np.ndarray, made: np.ndarray) -> None:
        depth = np.multiply(liquid, 255, dtype=np.float32).clip(0, 255).astype(np.uint8)
        distance = cv2.bitwise_not(cv2.Canny(depth, *EDGES))
        distance = cv2.distanceTransform(distance, cv2.DIST_L2, cv2.DIST_MASK_5)
        distance = cv2.blur(np.minimum(distance, FARTHEST, out=distance), (3, 3)).astype(np.uint8)
        lit = cv2.filter2D(cv2.equalizeHist(distance), cv2.CV_8U, LIGHT)
        np.multiply(depth, cv2.blur(lit, (3, 3)), out=made, dtype=np.float32)

    return plane_by_plane(liquid.cpu(), shine).to(liquid.device)
