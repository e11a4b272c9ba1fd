"""The built-in networks: the demo's CNN, the paper's two networks, and a ResNet for CIFAR."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


class _Conv(NamedTuple):
    """A convolution, which batch norm and ReLU follow."""

    filters: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1


def _stacked(channels: int, *layers: _Conv) -> nn.Sequential:
    """Convolutions, each with batch norm and ReLU, for inputs of the given number of channels."""
    stages = nn.Sequential()
    for filters, kernel, stride, padding in layers:
        conv = nn.Conv2d(channels, filters, kernel, stride, padding)
        stages.append(nn.Sequential(conv, nn.BatchNorm2d(filters), nn.ReLU()))
        channels = filters
    return stages


class DigitsCNN(nn.Module):
    """The demo's network for 28 x 28 grey digits: four 3x3 convolutions, about 61,000 parameters.

    Args:
        classes: The number of logits.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = _stacked(1, _Conv(16), _Conv(32, stride=2), _Conv(64), _Conv(64, stride=2))
        self.head = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        """The logits, N x classes, of normalised images, N x 1 x H x W."""
        return self.head(self.features(images).mean((2, 3)))


class CifarAllCNN(nn.Module):
    """The paper's all-convolutional CIFAR-100 network: nine convolutions, 1.39 million parameters.

    96-96-96(stride 2)-192-192-192(stride 2)-192(no padding)-192(1x1)-classes(1x1) filters, each
    convolution with batch norm and ReLU. The logits are the global averages of the last maps.

    Args:
        classes: The number of logits.
    """

    def __init__(self, classes: int = 100) -> None:
        super().__init__()
        self.features = _stacked(
            3,
            *(_Conv(96), _Conv(96), _Conv(96, stride=2)),
            *(_Conv(192), _Conv(192), _Conv(192, stride=2)),
            *(_Conv(192, padding=0), _Conv(192, kernel=1, padding=0)),
            _Conv(classes, kernel=1, padding=0),
        )

    def forward(self, images: Tensor) -> Tensor:
        """The logits, N x classes, of normalised images, N x 3 x 32 x 32."""
        return self.features(images).mean((2, 3))


class _BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.extra = outputs - inputs

    def forward(self, maps: Tensor) -> Tensor:
        shortcut = maps[:, :, :: self.stride, :: self.stride]
        if self.extra:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(maps)))))
        return F.relu(residual + shortcut)


class CifarResNet20(nn.Module):
    """ResNet-20 for 32 x 32 images, with parameter-free shortcuts (He et al. 2015, section 4.2).

    Args:
        classes: The number of logits.
    """

    def __init__(self, classes: int = 100) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, 1)
        self.layer2 = self._stage(16, 32, 2)
        self.layer3 = self._stage(32, 64, 2)
        self.linear = nn.Linear(64, classes)

    @staticmethod
    def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            _BasicBlock(inputs, outputs, stride),
            _BasicBlock(outputs, outputs, 1),
            _BasicBlock(outputs, outputs, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """The logits, N x classes, of normalised images, N x 3 x 32 x 32."""
        maps = F.relu(self.bn1(self.conv1(images)))
        maps = self.layer3(self.layer2(self.layer1(maps)))
        return self.linear(maps.mean((2, 3)))


class AlexNet(nn.Module):
    """AlexNet as the paper used it (Krizhevsky et al. 2012).

    It has 96-256-384-384-256 filters. Convolutions 2, 4 and 5 have two groups, and local response
    normalisation follows the first two.

    Args:
        classes: The number of logits.
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 96, 11, stride=4)
        self.conv2 = nn.Conv2d(96, 256, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1, groups=2)
        self.normalize = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
        self.pool = nn.MaxPool2d(3, 2)
        self.fc6 = nn.Linear(256 * 6 * 6, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, classes)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        """The logits, N x classes, of normalised images, N x 3 x 227 x 227."""
        maps = self.pool(self.normalize(F.relu(self.conv1(images))))
        maps = self.pool(self.normalize(F.relu(self.conv2(maps))))
        maps = F.relu(self.conv4(F.relu(self.conv3(maps))))
        maps = self.pool(F.relu(self.conv5(maps)))
        hidden = self.dropout(F.relu(self.fc6(maps.flatten(1))))
        return self.fc8(self.dropout(F.relu(self.fc7(hidden))))
