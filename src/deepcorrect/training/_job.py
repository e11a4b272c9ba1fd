"""What a training works with: the networks, the optimizer, the images and the distortions."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from deepcorrect.correction import AdaptedModel, GatedModel
from deepcorrect.data import Batches, check_repeatable
from deepcorrect.distortions import (
    Distortion,
    LevelledDistortion,
    numbered_batches,
    parse_all,
)
from deepcorrect.networks import (
    find,
    preprocessing_of,
    read_outputs,
    refuse_torchscript,
    shared_copy,
    trainable_parameters,
)
from deepcorrect.runtime import InputError, device_of
from deepcorrect.training._forward import Compared
from deepcorrect.training._objectives import needs_of
from deepcorrect.training._recomputation import needs_image_gradients
from deepcorrect.training._settings import TrainingConfig, optimizer_for
from deepcorrect.training._teacher import Teacher


@dataclass(frozen=True)
class Job:
    """What a training works with. Only the weights and the optimizer change while it runs.

    Attributes:
        compared: the trained network and the untouched one.
        parameters: the trained parameters.
        optimizer: as accelerate prepared it.
        loader: as accelerate prepared it.
        steps: batches per epoch.
        settings: how to train.
        pixels: the side of the input images.
        grid: the distortions, with their levels.
        validation: the validation images.
        reference: the untouched network, for validation images without labels.
        seed, checkpoint, task: as `fit` got them.
        accelerator: the processes.
    """

    compared: Compared
    parameters: list[nn.Parameter]
    optimizer: Any
    loader: Any
    steps: int
    settings: TrainingConfig
    pixels: int
    grid: tuple[LevelledDistortion, ...]
    validation: Batches | None
    reference: nn.Module | None
    seed: int
    checkpoint: Path | None
    task: str
    accelerator: Accelerator

    @property
    def model(self) -> nn.Module:
        """The trained network."""
        return self.compared.model


def open_job(
    model: nn.Module,
    loader: Batches,
    distortions: Sequence[str | Distortion] | str,
    settings: TrainingConfig,
    validation: Batches | None,
    seed: int,
    checkpoint: Path | None,
    task: str,
) -> Job:
    for batches in (loader, validation):
        if batches is not None:
            check_repeatable(batches)
    refuse_torchscript(model, "trained")
    accelerator = Accelerator(cpu=device_of(model).type == "cpu")
    several = accelerator.num_processes > 1
    device = accelerator.device if several else device_of(model)
    parameters = trainable_parameters(model)
    if not parameters:
        raise InputError("nothing of this model is trainable: no parameter requires gradients")
    needs = needs_of(settings.objective)
    taught = "teacher" in needs
    untouched = _teacher(model).to(device) if taught or validation is not None else None
    sites = _compared_sites(model) if "maps" in needs else ()
    runner, optimizer = accelerator.prepare(
        model, optimizer_for(parameters, settings), device_placement=[several, several]
    )
    prepared: Any = accelerator.prepare(loader) if several else loader
    steps = _length(prepared)
    images = _example_images(model, prepared).to(device)
    reading = read_outputs(model, images)
    pixels = min(images.shape[-2:])
    return Job(
        compared=Compared(
            model,
            reading.of(runner),
            Teacher(reading.of(untouched), sites, "features" in needs)
            if taught and untouched is not None
            else None,
            sites,
            needs,
            device,
            settings.channels_last,
            needs_image_gradients(model, reading.of(model), images, parameters),
        ),
        parameters=parameters,
        optimizer=optimizer,
        loader=prepared,
        steps=steps,
        settings=settings,
        pixels=pixels,
        grid=parse_all(distortions, pixels),
        validation=validation,
        reference=untouched,
        seed=seed,
        checkpoint=checkpoint,
        task=task,
        accelerator=accelerator,
    )


def _length(loader: Any) -> int:
    try:
        return len(loader)
    except InputError:  # its message says more than ours
        raise
    except TypeError:
        raise InputError("the training loader must have a length (its number of batches)") from None


def _example_images(model: nn.Module, loader: Batches) -> Tensor:
    """Two images of the size and channels that the model takes; for a bare network, the loader's
    first, at least two."""
    known = preprocessing_of(model)
    if known is not None:
        side = known.input_size
        generator = torch.Generator().manual_seed(0)
        return torch.rand(2, known.channels, side, side, generator=generator)
    with torch.random.fork_rng(devices=[]):
        images = next(numbered_batches(loader, "to train on")).images
    return images.repeat(2, 1, 1, 1) if len(images) == 1 else images


def _teacher(model: nn.Module) -> nn.Module:
    """The untouched network: that of a corrected network, or a frozen copy of the model."""
    if isinstance(model, GatedModel):
        return shared_copy(model.network)[0]  # in inference mode, whatever the network's own is
    return copy.deepcopy(model).eval().requires_grad_(False)


def _compared_sites(model: nn.Module) -> tuple[str, ...]:
    """The sites whose maps are compared with the untouched network's: the corrected ones, or all
    convolutions."""
    return tuple(model.config.sites if isinstance(model, AdaptedModel) else find(model))
