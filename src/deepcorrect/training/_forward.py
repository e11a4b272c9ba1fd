"""The forward pass of a training step: everything that the objectives need of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from deepcorrect.alternatives import restored_images
from deepcorrect.networks import features, logits_of, site_hooks
from deepcorrect.runtime import InputError, to_device
from deepcorrect.training._augmentation import augmix
from deepcorrect.training._objectives import Answers, Need, compared_maps
from deepcorrect.training._teacher import Lesson, Teacher


@dataclass(frozen=True)
class Compared:
    """The trained network, and the untouched network that it is compared with.

    Attributes:
        model: the trained network.
        runner: the same network, its output read as logits.
        teacher: the untouched network; None if no objective needs it.
        sites: the modules whose maps are compared.
        needs: what the objectives need of a batch.
        device: where both networks are.
        channels_last: whether images are laid out with their channels last.
        image_gradients: whether the images must require gradients, so that the trained parameters
            get theirs (see `needs_image_gradients`).
    """

    model: nn.Module
    runner: nn.Module
    teacher: Teacher | None
    sites: tuple[str, ...]
    needs: frozenset[Need]
    device: torch.device
    channels_last: bool
    image_gradients: bool = False


def answers_for(
    compared: Compared,
    images: Tensor,
    mixed: Tensor,
    labels: Tensor,
    generator: torch.Generator,
) -> Answers:
    """Runs both networks and returns what the objectives need of a batch, and nothing else.

    The trained network runs once, on the batch and on other copies of it together, so that its
    batch norms see all of them.

    Args:
        compared: the networks.
        images: the clean images, N x C x H x W in [0, 1].
        mixed: the same images, some of them distorted.
        labels: the true classes, of shape (N,).
        generator: the source of randomness for AugMix views.
    """
    needs, count = compared.needs, len(mixed)
    lesson = compared.teacher(_placed(compared, images)) if compared.teacher else Lesson()
    errors: dict[str, Tensor] = {}

    def compare(site: str, maps: Tensor) -> Tensor:
        # recomputation under activation checkpointing does not repeat this, and must not find that
        # a tensor was saved
        with (
            torch.autocast(maps.device.type, enabled=False),
            saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor),
        ):
            maps, errors[site] = compared_maps(maps, *lesson.maps[site])
        return maps

    copies = [mixed]
    if "clean" in needs:
        copies.append(images)
    if "views" in needs:
        copies += [augmix(mixed, generator) for _ in range(2)]
    with (
        site_hooks(compared.model, compared.sites, compare),
        features(compared.model) if "features" in needs else nullcontext() as read,
        _restored(compared.model, needs) as restored,
    ):
        shown = _placed(compared, torch.cat(copies)).requires_grad_(compared.image_gradients)
        logits = logits_of(compared.runner, shown).float().split(count)
        own_features = read()[:count] if read else None
    if compared.image_gradients and errors and not any(e.requires_grad for e in errors.values()):
        raise InputError(
            "the objective 'activations' reads maps inside a part of the network that is under "
            "reentrant activation checkpointing, where they have no gradients: checkpoint with "
            "use_reentrant=False, or use logits or features"
        )
    return Answers(
        labels=labels,
        logits=logits[0],
        teacher=lesson.logits,
        features=own_features,
        teacher_features=lesson.features,
        map_errors=errors,
        images=restored["front"][:count] if restored else None,
        clean_images=images,
        clean=logits[1] if "clean" in needs else None,
        views=logits[-2:] if "views" in needs else (),
    )


def _restored(
    model: nn.Module, needs: frozenset[Need]
) -> AbstractContextManager[Mapping[str, Tensor] | None]:
    return restored_images(model) if "images" in needs else nullcontext()


def _placed(compared: Compared, images: Tensor) -> Tensor:
    return to_device(images, compared.device, channels_last=compared.channels_last)
