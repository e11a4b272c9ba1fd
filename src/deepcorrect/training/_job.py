"""What a training works with: the networks, the optimizer, the images and the distortions."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.correction import AdaptedModel, GatedCopy, GatedModel
from deepcorrect.data import Batches, check_repeatable, images_digest
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
    tensors_digest,
    trainable_parameters,
)
from deepcorrect.runtime import (
    InputError,
    Inputs,
    device_of,
    digest_of,
    forked_random,
    from_main,
)
from deepcorrect.training._forward import Compared
from deepcorrect.training._level_shares import level_shares
from deepcorrect.training._objectives import needs_of
from deepcorrect.training._recomputation import needs_image_gradients
from deepcorrect.training._settings import CHECKPOINTING, TrainingConfig, optimizer_for
from deepcorrect.training._teacher import Teacher


@dataclass(frozen=True)
class Job:
    """What a training works with. Only the weights and the optimizer change while it runs.

    Attributes:
        compared: the trained network and the untouched one.
        parameters: the trained parameters.
        optimizer: of the settings.
        loader: the training images.
        batches: how many batches it has.
        settings: how to train.
        pixels: the side of the input images.
        grid: the distortions, with their levels.
        level_shares: how often each level is shown, see `TrainingConfig`; None for all alike.
        validation: the validation images.
        reference: the untouched network, for validation images without labels.
        inputs: what the training depends on, for its checkpoint.
        seed, checkpoint, task: as `fit` got them.
    """

    compared: Compared
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    loader: Batches
    batches: int
    settings: TrainingConfig
    pixels: int
    grid: tuple[LevelledDistortion, ...]
    level_shares: Tensor | None
    validation: Batches | None
    reference: nn.Module | None
    seed: int
    checkpoint: Path | None
    task: str
    inputs: Inputs

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
    device = device_of(model)
    parameters = trainable_parameters(model)
    if not parameters:
        raise InputError("nothing of this model is trainable: no parameter requires gradients")
    needs = needs_of(settings.objective)
    taught = "teacher" in needs
    compared = taught or settings.levels == "costly" or validation is not None
    untouched = _teacher(model).to(device) if compared else None
    sites = _compared_sites(model) if "maps" in needs else ()
    batches = _length(loader)
    images = _example_images(model, loader).to(device)
    reading = read_outputs(model, images)
    pixels = min(images.shape[-2:])
    grid = parse_all(distortions, pixels)
    return Job(
        compared=Compared(
            model,
            reading.of(model),
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
        optimizer=optimizer_for(parameters, settings),
        loader=loader,
        batches=batches,
        settings=settings,
        pixels=pixels,
        grid=grid,
        level_shares=level_shares(
            untouched and reading.of(untouched), loader, grid, settings, seed, device
        ),
        validation=validation,
        reference=untouched,
        seed=seed,
        checkpoint=checkpoint,
        task=task,
        inputs=_inputs(model, loader, validation, grid, settings, seed, batches)
        if checkpoint
        else {},
    )


def _inputs(
    model: nn.Module,
    loader: Batches,
    validation: Batches | None,
    grid: Sequence[LevelledDistortion],
    settings: TrainingConfig,
    seed: int,
    batches: int,
) -> Inputs:
    """Everything that the trained weights depend on, by name, as a checkpoint keeps it."""
    gate = model.gate if isinstance(model, GatedModel) else None
    config = model.config if isinstance(model, AdaptedModel) else None
    known = {"notes", "gate", "fingerprint", "base", "weights_sha256", "config_sha256"}
    return {
        "network": config.fingerprint if config else _untrained_digest(model),
        "correction": config and digest_of(config.model_dump(mode="json", exclude=known)),
        "gate": gate and digest_of(gate.config.model_dump(mode="json")),
        "training setting": settings.model_dump(mode="json", exclude=CHECKPOINTING),
        "distortion": digest_of([asdict(each) for each in grid]),
        "set of training images": from_main(lambda: images_digest(loader)),
        "number of batches": batches,
        "set of validation images": validation and from_main(lambda: images_digest(validation)),
        "seed": seed,
    }


def _untrained_digest(model: nn.Module) -> str:
    """A digest of what is not trained, or of the whole network where everything is."""
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    state: dict[str, Tensor] = model.state_dict(keep_vars=True)
    frozen = {name: each for name, each in state.items() if name not in trained}
    has_weights = any(isinstance(each, nn.Parameter) for each in frozen.values())
    return tensors_digest(frozen if has_weights else state)


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
    with forked_random():
        images = next(numbered_batches(loader, "to train on")).images
    return images.repeat(2, 1, 1, 1) if len(images) == 1 else images


def _teacher(model: nn.Module) -> nn.Module:
    """The untouched network: that of a corrected network, or a frozen copy of the model."""
    if isinstance(model, GatedModel):
        return shared_copy(model.network)[0]  # in inference mode, whatever the network's own is
    return copy.deepcopy(model).eval().requires_grad_(False)


def _compared_sites(model: nn.Module) -> tuple[str, ...]:
    """The sites whose maps are compared with the untouched network's: the corrected ones, those
    that a system names, or all convolutions."""
    if isinstance(model, AdaptedModel):
        return tuple(model.config.sites)
    changed = model.tuned if isinstance(model, GatedCopy) else model
    return tuple(getattr(changed, "compared_sites", None) or find(model))
