"""The run's examples step: a few test images at every level, with every system's answers."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from deepcorrect.data import UNLABELLED
from deepcorrect.distortions import LevelledDistortion
from deepcorrect.experiments._setup import Setup
from deepcorrect.runtime import autocast, generator_for, inference, to_device

EXAMPLES = 3
EXAMPLE_PIXELS = 128


def examples(setup: Setup, systems: Mapping[str, nn.Module]) -> dict[str, Any]:
    """The content of `examples.json`: images as PNGs and the systems' answers to them."""
    chosen = setup.images.test.sample(EXAMPLES, setup.recipe.seed + 2)
    batches = list(setup.batches(chosen))
    images = torch.cat([batch for batch, _ in batches])
    labels = [
        "no label" if label == UNLABELLED else setup.class_name(label)
        for _, batch_labels in batches
        for label in batch_labels.tolist()
    ]
    shown = {
        distortion.name: _by_level(setup, systems, distortion, images, labels)
        for distortion in setup.test_distortions
    }
    return {"systems": list(systems), "distortions": shown}


def _by_level(
    setup: Setup,
    systems: Mapping[str, nn.Module],
    distortion: LevelledDistortion,
    images: Tensor,
    labels: list[str],
) -> dict[str, Any]:
    """One row per image, with one cell for the clean image and for each level."""
    levels = [0.0, *distortion.levels]
    rows: list[dict[str, Any]] = [{"label": label, "cells": []} for label in labels]
    for level in levels:
        generator = generator_for(setup.recipe.seed, "examples", distortion.name, level)
        batch = distortion(images, level, generator) if level else images
        answers = {name: _answers(setup, model, batch) for name, model in systems.items()}
        for number, row in enumerate(rows):
            own = {name: answer[number] for name, answer in answers.items()}
            row["cells"].append({"png": _png(batch[number]), "answers": own})
    return {"levels": levels, "rows": rows}


def _answers(setup: Setup, model: nn.Module, images: Tensor) -> list[str]:
    """The names of the classes that a system assigns to images."""
    with inference(model), torch.no_grad(), autocast(setup.device, setup.recipe.precision):
        best = model(to_device(images, setup.device)).argmax(1).tolist()
    return [setup.class_name(index) for index in best]


def _png(image: Tensor) -> str:
    """A thumbnail of an image C x H x W in [0, 1], as a PNG in base 64."""
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    picture.thumbnail((EXAMPLE_PIXELS, EXAMPLE_PIXELS))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
