"""Draws a photograph, clean and distorted, with what EfficientNet-Lite0 says of each.

    python scripts/draw_photograph.py [OUT]

The photographs are scikit-image's `chelsea` (Stéfan van der Walt) and `coffee` (Rachel Michetti),
which their photographers gave away under CC0. The corrected network has the adapter that the
package ships for blur and noise.
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
SHOWN = (("clean", "gaussian_blur", 0), ("blurred", "gaussian_blur", 4), ("noisy", "awgn", 80))
SEED = 0
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
    axis.imshow(picture.permute(1, 2, 0).clamp(0, 1).numpy())
    axis.set_axis_off()
    for row, (system, (label, share)) in enumerate(answers.items()):
        axis.text(
            *(0, 238 + 20 * row, f"{system}: {label}, {share:.0%}"),
            color=COLOURS[label == true],
            fontsize=10,
            va="top",
        )


def main() -> None:
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else PLACE
    network = dc.load_model("efficientnet_lite0")
    corrected = dc.load_adapter(network, "efficientnet_lite0/blur-noise")
    assert network.labels is not None
    photographs = [data.chelsea(), data.coffee()]
    figure, axes = plt.subplots(
        *(len(photographs), len(SHOWN)), figsize=(9.6, 7.4), layout="constrained"
    )
    for row, photograph in zip(axes, photographs, strict=True):
        image = to_tensor(Image.fromarray(photograph), network.preprocessing)
        true, _ = answer(network, network.labels, image)
        for axis, (name, kind, level) in zip(row, SHOWN, strict=True):
            seeds = torch.tensor([SEED])
            distorted = dc.Distortion(kind)(image[None], level, seeds)[0]
            systems = {"network": network, "corrected": corrected}
            answers = {
                system: answer(each, network.labels, distorted) for system, each in systems.items()
            }
            draw(axis, distorted, answers, true)
            axis.set_title(name, fontsize=11)
    figure.savefig(place, dpi=110, pil_kwargs={"quality": 88})
    print(f"wrote {place}")


if __name__ == "__main__":
    main()
