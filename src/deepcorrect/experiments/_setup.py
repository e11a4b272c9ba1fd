"""What all steps of a run share: the recipe, the network, the distortions and the images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deepcorrect import networks
from deepcorrect.data import ImageSet, images_digest, loader
from deepcorrect.distortions import LevelledDistortion, parse_all
from deepcorrect.experiments._data import RunData, open_sets
from deepcorrect.experiments._recipe import Recipe
from deepcorrect.experiments._systems import CorrectionSystem
from deepcorrect.models import load_model
from deepcorrect.networks import Classifier
from deepcorrect.runtime import InputError, Inputs, device_for, from_main


@dataclass(frozen=True)
class Setup:
    """What all steps of a run share.

    Attributes:
        recipe: the experiment, resolved.
        folder: where the steps write their files.
        device: where everything is computed.
        model: the untouched network, on that device.
        distortions: what is ranked, trained and selected on, with their levels.
        test_distortions: what systems are measured on, with their levels.
        images: the sets of images.
    """

    recipe: Recipe
    folder: Path
    device: torch.device
    model: Classifier
    distortions: tuple[LevelledDistortion, ...]
    test_distortions: tuple[LevelledDistortion, ...]
    images: RunData

    def batches(self, images: ImageSet) -> Any:
        """A loader of some of the images, in their order, for everything but training."""
        return batches(self.recipe, images)

    def inputs(self) -> Inputs:
        """What the run's figures depend on beside its recipe: what the files hold that it names."""
        sets = self.images
        listed: dict[str, ImageSet] = {
            "set of training images": sets.train,
            "set of validation images": sets.ranking,
            "set of test images": sets.test,
        }
        digests = from_main(lambda: {name: images_digest(each) for name, each in listed.items()})
        return {"network": networks.fingerprint(self.model), **digests}

    def class_name(self, index: int) -> str:
        """The name of a class, or its number if the name is not known."""
        names = self.model.labels or self.images.test.classes or ()
        return names[index] if index < len(names) else str(index)


def batches(recipe: Recipe, images: ImageSet) -> Any:
    """A loader of images in their order, with the recipe's batch size and workers."""
    return loader(images, recipe.data.batch_size, workers=recipe.data.workers)


def open_setup(recipe: Recipe, folder: Path) -> Setup:
    """Opens a recipe's network, distortions and images. Nothing is written.

    Raises:
        InputError: the network, the data or the sites cannot be used.
    """
    device = device_for(recipe.device)
    model = load_model(**recipe.model.model_dump()).to(device)
    size = model.preprocessing.input_size
    setup = Setup(
        recipe,
        folder,
        device,
        model,
        parse_all(recipe.distortion_list, size),
        parse_all(recipe.test_list, size),
        open_sets(recipe, model),
    )
    _check_sites(recipe, model)
    return setup


def _check_sites(recipe: Recipe, model: Classifier) -> None:
    """Checks that every site to be corrected exists, is ranked, and gives maps."""
    sites = recipe.ranking.sites
    chosen = isinstance(sites, str)  # by the network's structure, when it is ranked
    ranked = {} if chosen else networks.find(model, sites)
    for system in recipe.systems.values():
        if not isinstance(system, CorrectionSystem):
            continue
        corrected = ranked
        if isinstance(system.beta, dict):
            corrected = networks.find(model, system.beta)
            if not chosen and not corrected.keys() <= ranked.keys():
                raise InputError("key 'beta' names a site that ranking.sites leaves out")
        networks.describe(model, corrected)
