"""The run's examples step: a few test images at every level, with every system's answers."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from deepcorrect.data import UNLABELLED
from deepcorrect.distortions import CLEAN, Cell, cells_of, distorted_batches
from deepcorrect.evaluation import TestTimeSystem
from deepcorrect.experiments._setup import Setup
from deepcorrect.networks import logits_of
from deepcorrect.runtime import autocast, inference, to_device

EXAMPLES = 3
EXAMPLE_PIXELS = 128


def examples(setup: Setup, systems: Mapping[str, nn.Module]) -> dict[str, Any]:
    """The content of `examples.json`: images as PNGs and the systems' answers to them."""
    cells = [CLEAN, *cells_of(setup.test_distortions)]
    images, labels = _images(setup, cells)
    answers = {
        name: [_answers(setup, model, cell, images[cell]) for cell in cells]
        for name, model in systems.items()
    }
    shown: dict[str, Any] = {}
    for kind in setup.test_distortions:
        places = [place for place, cell in enumerate(cells) if cell.distortion in (None, kind)]
        rows = [
            {
                "label": label,
                "cells": [
                    {
                        "png": _png(images[cells[place]][number]),
                        "answers": {name: each[place][number] for name, each in answers.items()},
                    }
                    for place in places
                ],
            }
            for number, label in enumerate(labels)
        ]
        shown[kind.name] = {"levels": [cells[place].level for place in places], "rows": rows}
    return {"systems": list(systems), "distortions": shown}


def _images(setup: Setup, cells: Sequence[Cell]) -> tuple[dict[Cell, Tensor], list[str]]:
    """A few random test images as they look in each cell, and the names of their classes."""
    recipe = setup.recipe
    chosen = setup.batches(setup.images.test.sample(EXAMPLES, recipe.seed + 2))
    parts: dict[Cell, list[Tensor]] = {cell: [] for cell in cells}
    names: list[str] = []
    for batch in distorted_batches(chosen, cells, seed=recipe.seed, purpose="to show"):
        parts[batch.cell].append(batch.images)
        if batch.row == 0:
            names += [
                "no label" if label == UNLABELLED else setup.class_name(label)
                for label in batch.labels.tolist()
            ]
    return {cell: torch.cat(images) for cell, images in parts.items()}, names


def _answers(setup: Setup, model: nn.Module, cell: Cell, images: Tensor) -> list[str]:
    """The names of the classes that a system assigns to images."""
    if isinstance(model, TestTimeSystem):
        model.start_level(*cell)
    with inference(model), torch.no_grad(), autocast(setup.device, setup.recipe.precision):
        best = logits_of(model, to_device(images, setup.device)).argmax(1).tolist()
    return [setup.class_name(index) for index in best]


def _png(image: Tensor) -> str:
    """A thumbnail of an image C x H x W in [0, 1], as a PNG in base 64."""
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    picture.thumbnail((EXAMPLE_PIXELS, EXAMPLE_PIXELS))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
