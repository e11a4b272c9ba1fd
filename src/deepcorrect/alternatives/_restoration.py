"""Restoring the image first: denoising and deblurring with the true strength of the distortion."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepcorrect.distortions import Distortion
from deepcorrect.networks import Wrapper
from deepcorrect.runtime import InputError, generator_for, optional_import, widest_float

KINDS = ("awgn", "gaussian_blur")


class Restoration(Wrapper):
    """The untouched network behind a classical restoration of the image.

    The restoration is not blind: it must be notified of the distortion and its level by
    `start_level`. Noise is removed by non-local means (Buades et al. 2005, from scikit-image) with
    the true sigma. Blur is removed by Wiener deconvolution with the true kernel and the black
    border of our blur. That blur is B_h X B_w^T, so each coefficient in the singular vectors of the
    two matrices is divided by its own gain.

    Args:
        network: the baseline.
        smoothing: the parameter h of non-local means, in sigmas.
        patch: the side of the patches of non-local means, in pixels.
        balance: the ratio of noise power to signal power that the Wiener filter assumes.
    """

    def __init__(
        self, network: nn.Module, smoothing: float = 0.8, patch: int = 5, balance: float = 1e-4
    ) -> None:
        super().__init__()
        self.network = network
        self.smoothing, self.patch, self.balance = smoothing, patch, balance
        self._restoration: Any = optional_import("skimage.restoration", "alternatives")
        self._kind, self._level = "", 0.0

    def start_level(self, distortion: Distortion | None, level: float) -> None:
        """Sets the distortion and level of the next images; None stands for clean images.

        Clean images are not changed.

        Raises:
            InputError: there is no restoration for that distortion.
        """
        self._kind, self._level = (distortion.name, level) if distortion else ("", 0.0)
        if distortion is not None and distortion.name not in KINDS:
            raise InputError(
                f"there is no restoration of {distortion.name!r}: {' and '.join(KINDS)} have one"
            )

    def forward(self, images: Tensor) -> Tensor:
        """Logits, N x classes, of the restored images, N x C x H x W."""
        return self.network(self.restored(images))

    def restored(self, images: Tensor) -> Tensor:
        """The images as the network sees them."""
        if not self._kind or not self._level:
            return images
        if self._kind == "awgn":
            return self._denoised(images)
        has_float64 = widest_float(images.device) == torch.float64
        wide = (images if has_float64 else images.cpu()).double()
        return self._deblurred(wide).to(images)

    def _denoised(self, images: Tensor) -> Tensor:
        sigma = self._level / 255
        restored = [
            self._restoration.denoise_nl_means(
                image,
                patch_size=self.patch,
                patch_distance=7,
                h=self.smoothing * sigma,
                sigma=sigma,
                fast_mode=True,
                channel_axis=0,
            )
            for image in images.float().cpu().numpy()
        ]
        # scikit-image drops the channel of a grey image
        return torch.from_numpy(np.stack(restored)).view(images.shape).to(images)

    def _deblurred(self, images: Tensor) -> Tensor:
        rows, columns = (_blur_matrix(self._level, side).to(images) for side in images.shape[-2:])
        u, s, vt = torch.linalg.svd(rows)
        p, q, wt = torch.linalg.svd(columns)
        gains = s[:, None] * q[None]
        return vt.T @ ((u.T @ images @ p) * gains / (gains.square() + self.balance)) @ wt


def _blur_matrix(sigma: float, side: int) -> Tensor:
    """The matrix, side x side, that blurs one axis as `gaussian_blur` does."""
    point = torch.zeros(1, 1, 2 * side - 1, 2 * side - 1)
    point[0, 0, side - 1, side - 1] = 1
    taps = Distortion("gaussian_blur")(point, sigma, generator_for(0))[0, 0].sum(0)
    place = torch.arange(side)
    return taps[place[:, None] - place[None] + side - 1]


def restoration(
    model: nn.Module, smoothing: float = 0.8, patch: int = 5, balance: float = 1e-4
) -> Restoration:
    """The network behind a restoration of its images; see `Restoration` for the arguments.

    Raises:
        MissingExtraError: scikit-image is not installed.

    Example:
        >>> import torch, deepcorrect as dc
        >>> from deepcorrect.alternatives import restoration
        >>> restored = restoration(torch.nn.Flatten())
        >>> restored.start_level(dc.Distortion("gaussian_blur"), 1.0)
        >>> restored(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 192])
    """
    return Restoration(model, smoothing, patch, balance)
