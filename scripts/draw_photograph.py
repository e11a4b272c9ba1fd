"""Draws a photograph, clean and blurred, with what EfficientNet-Lite0 says of each.

    python scripts/draw_photograph.py [OUT]

The photograph is scikit-image's `coffee` by Rachel Michetti, who gave it away under CC0. The
corrected network has the adapter that the package ships for blur and noise.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from PIL import Image
from skimage import data
from torch import Tensor, nn

import deepcorrect as dc
from deepcorrect.data import to_tensor

PLACE = Path(__file__).parent.parent / "docs" / "images" / "photograph.jpg"
SIGMAS = (0, 2, 4, 6)
COLOURS = {True: "#1a7f37", False: "#b42318"}


Answer = tuple[str, float]
"""A class and its probability."""


def answer(network: nn.Module, labels: tuple[str, ...], image: Tensor) -> Answer:
    """The most probable class and its probability."""
    with torch.no_grad():
        share, index = network(image[None]).softmax(1)[0].max(0)
    return labels[int(index)].split(",")[0], float(share)


def draw(axis: Axes, picture: Tensor, answers: dict[str, Answer], true: str) -> None:
    """One picture, with an answer on each line below it; wrong ones are red."""
    axis.imshow(picture.permute(1, 2, 0).numpy())
    axis.set_axis_off()
    for row, (system, (label, share)) in enumerate(answers.items()):
        axis.text(
            *(0, 1 - 1.07 - 0.09 * row, f"{system}: {label}, {share:.0%}"),
            transform=axis.transAxes,
            color=COLOURS[label == true],
            fontsize=11,
            va="top",
        )


def main() -> None:
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else PLACE
    network = dc.load_model("efficientnet_lite0")
    systems = {
        "network": network,
        "corrected": dc.load_adapter(network, "efficientnet_lite0/blur-noise"),
    }
    assert network.labels is not None
    image = to_tensor(Image.fromarray(data.coffee()), network.preprocessing)
    true, _ = answer(network, network.labels, image)
    figure, axes = plt.subplots(1, len(SIGMAS), figsize=(12, 3.9))
    figure.subplots_adjust(left=0.01, right=0.99, top=0.92, bottom=0.16, wspace=0.05)
    for axis, sigma in zip(axes, SIGMAS, strict=True):
        blurred = dc.Distortion("gaussian_blur")(image[None], sigma)[0]
        answers = {
            system: answer(each, network.labels, blurred) for system, each in systems.items()
        }
        draw(axis, blurred, answers, true)
        axis.set_title(f"blur of {sigma} pixels" if sigma else "clean", fontsize=11)
    figure.savefig(place, dpi=100, pil_kwargs={"quality": 85})
    print(f"wrote {place}")


if __name__ == "__main__":
    main()
