"""Restoring the image first: denoising and deblurring by scikit-image, told the true strength."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepcorrect.distortions import Distortion
from deepcorrect.networks import Wrapper
from deepcorrect.runtime import InputError, generator_for, optional_import

KINDS = ("awgn", "gaussian_blur")


class Restoration(Wrapper):
    """The untouched network behind a classical restoration. It is not blind: `begin` tells it
    which distortion is coming, and how strong.

    Noise: non-local means (Buades et al. 2005) with the true sigma. Blur: Wiener deconvolution
    with the true kernel and the blur's own black border: the blur is B_h X B_w^T, so in the
    singular vectors of both matrices each coefficient is divided by its own gain.

    Args:
        network: the baseline.
        smoothing: non-local means' h, in sigmas.
        patch: side of non-local means' patches, in pixels.
        balance: noise power over signal power that Wiener's filter assumes.
    """

    def __init__(
        self, network: nn.Module, smoothing: float = 0.8, patch: int = 5, balance: float = 1e-4
    ) -> None:
        super().__init__()
        self.network = network
        self.smoothing = smoothing
        self.patch = patch
        self.balance = balance
        self._restoration: Any = optional_import("skimage.restoration", "alternatives")
        self._kind, self._level = "", 0.0

    def start_level(self, distortion: Distortion | None, level: float) -> None:
        """Says what the next images went through; None for clean ones, which are left alone.

        Raises:
            InputError: there is no restoration of that distortion here.
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
        return self._deblurred(images.double()).to(images.dtype)

    def _denoised(self, images: Tensor) -> Tensor:
        sigma = self._level / 255
        mended = [
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
        # of a grey image it drops the channel
        return torch.from_numpy(np.stack(mended)).view(images.shape).to(images)

    def _deblurred(self, images: Tensor) -> Tensor:
        rows, columns = (_blur_matrix(self._level, side).to(images) for side in images.shape[-2:])
        u, s, vt = torch.linalg.svd(rows)
        p, q, wt = torch.linalg.svd(columns)
        gains = s[:, None] * q[None]
        return vt.T @ ((u.T @ images @ p) * gains / (gains.square() + self.balance)) @ wt


def _blur_matrix(sigma: float, side: int) -> Tensor:
    """The matrix, side x side, by which `gaussian_blur` blurs one axis."""
    point = torch.zeros(1, 1, 2 * side - 1, 2 * side - 1)
    point[0, 0, side - 1, side - 1] = 1
    taps = Distortion("gaussian_blur")(point, sigma, generator_for(0))[0, 0].sum(0)
    place = torch.arange(side)
    return taps[place[:, None] - place[None] + side - 1]


def restoration(
    model: nn.Module, smoothing: float = 0.8, patch: int = 5, balance: float = 1e-4
) -> Restoration:
    """The network behind a restoration of its images; see `Restoration`.

    Raises:
        MissingExtraError: scikit-image is not installed.
    """
    return Restoration(model, smoothing, patch, balance)
