"""The one training loop, on accelerate: a system differs by its parameters and objective alone."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from deepcorrect.alternatives import restored_images
from deepcorrect.correction import AdaptedModel
from deepcorrect.data import Batches, check_labels, count_of, no_images
from deepcorrect.distortions import Distortion, LevelledDistortion, distort_some, parse_all
from deepcorrect.evaluation import evaluate
from deepcorrect.networks import Read, features, find, preprocessing_of, tap
from deepcorrect.runtime import (
    DeepCorrectError,
    InputError,
    autocast,
    console,
    device_of,
    files,
    generator_for,
    progress,
    to_device,
)
from deepcorrect.training._augmentation import augment, augmix
from deepcorrect.training._objectives import OBJECTIVES, Answers, needs_of
from deepcorrect.training._settings import TrainingConfig, changed, learning_rate, optimizer_for


@dataclass(frozen=True)
class Epoch:
    """One line of a training's history: losses are means over images, score is None where there
    is no validation, seconds are of training and validation."""

    number: int
    loss: float
    score: float | None
    seconds: float


@dataclass
class History:
    """What a training did.

    Attributes:
        epochs: one entry an epoch.
        best: number of the epoch whose model was kept.
        images_seen: training images, repeats counted.
    """

    epochs: list[Epoch] = field(default_factory=list)
    best: int = 0
    images_seen: int = 0

    @property
    def seconds(self) -> float:
        """Training and validation time in all."""
        return sum(epoch.seconds for epoch in self.epochs)


def fit(
    model: nn.Module,
    loader: Batches,
    distortions: Sequence[str | Distortion] | str,
    training: TrainingConfig | None = None,
    validation: Batches | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    task: str = "training",
    **changes: Any,
) -> History:
    """Trains whatever of `model` requires gradients, on clean and distorted images.

    Each batch keeps `clean_share` of its images clean; every other image gets a random distortion
    at a random level. With a validation loader the epoch with the best mean top-1 (over clean and
    all levels) is kept, otherwise the last; where validation images have no labels, the best mean
    agreement with what the untouched network says of the clean images. All randomness is a
    function of the seed and the step, so a training that was killed and resumed ends as one that
    was not.

    Args:
        model: an `AdaptedModel` (its units are trained) or any module taking images in [0, 1].
        loader: batches of (clean images, labels); it must have a length. Shuffle it.
        distortions: specs; without levels, the paper's grid for the input size.
        training: the settings; None takes the defaults.
        validation: batches in a fixed order.
        seed: of everything random.
        checkpoint: a file written after each epoch; where it exists, training goes on from it.
        task: what the progress line says.
        **changes: attributes of `Training` to change, such as `epochs=5`.

    Raises:
        InputError: a setting, a label or the checkpoint does not fit; nothing is trainable.
        DeepCorrectError: the loss is no longer finite.
    """
    training = changed(training or TrainingConfig(), changes)
    return _Fit(model, loader, distortions, training, validation, seed, checkpoint, task).run()


class _Fit:
    """The state of one training run."""

    def __init__(
        self,
        model: nn.Module,
        loader: Batches,
        distortions: Sequence[str | Distortion] | str,
        training: TrainingConfig,
        validation: Batches | None,
        seed: int,
        checkpoint: str | Path | None,
        task: str,
    ) -> None:
        self.model = model
        self.training = training
        self.validation = validation
        self.seed = seed
        self.task = task
        self.checkpoint = Path(checkpoint) if checkpoint else None
        self.accelerator = Accelerator(cpu=device_of(model).type == "cpu")
        several = self.accelerator.num_processes > 1
        self.device = self.accelerator.device if several else device_of(model)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise InputError("nothing of this model is trainable: no parameter requires gradients")
        self.needs = needs_of(training.objective)
        taught, validated = "teacher" in self.needs, validation is not None
        self.untouched = _teacher(model).to(self.device) if taught or validated else None
        self.teacher = self.untouched if taught else None
        self.score = "mean top-1"
        self.sites = _compared_sites(model) if "maps" in self.needs else ()
        optimizer = optimizer_for(self.parameters, training)
        placement = [several, several]
        self.runner, self.optimizer = self.accelerator.prepare(
            model, optimizer, device_placement=placement
        )
        self.loader: Any = self.accelerator.prepare(loader) if several else loader
        try:
            self.steps: int = len(self.loader)
        except InputError:  # which says more
            raise
        except TypeError:
            raise InputError(
                "the training loader must have a length (its number of batches)"
            ) from None
        known = preprocessing_of(model)
        self.pixels = known.input_size if known else None
        self.specs = distortions
        self.grid: tuple[LevelledDistortion, ...] = ()
        self.history = History()
        self.best_score = -math.inf
        self.best_state: dict[str, Tensor] = {}

    def run(self) -> History:
        first = self._resume()
        total = (self.training.epochs - first) * count_of(self.loader)
        with (
            torch.random.fork_rng(devices=[]),
            progress(self.task, total) as step,
        ):
            for epoch in range(first, self.training.epochs):
                torch.manual_seed(generator_for(self.seed, "epoch", epoch).initial_seed())
                started = time.monotonic()
                loss = self._epoch(epoch, step)
                self._share_statistics()
                score = self._validate()
                self._keep(epoch, loss, score, time.monotonic() - started)
        _load_state(self.model, self.best_state)
        self.model.eval()
        return self.history

    def _epoch(self, epoch: int, advance: Callable[[float], None]) -> float:
        self.model.train()
        total, images_seen, alone = 0.0, 0, False
        for step, (images, labels) in enumerate(self.loader):
            if len(images) < 2:  # batch norm needs more than one value
                alone = alone or len(images) == 1
                continue
            if not self.grid:
                self.pixels = self.pixels or min(images.shape[-2:])
                self.grid = parse_all(self.specs, self.pixels)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(
                    self.training,
                    epoch * self.steps + step,
                    self.training.epochs * self.steps,
                    epoch,
                )
            generator = generator_for(
                self.seed, "step", epoch, step, self.accelerator.process_index
            )
            loss = self._step(images, labels, generator)
            if not math.isfinite(loss):
                raise DeepCorrectError(
                    f"{self.task}: the loss is {loss} in epoch {epoch + 1}: "
                    "lower the learning rate or use float32"
                )
            total += loss * len(images)
            images_seen += len(images)
            advance(len(images) * self.accelerator.num_processes)
        if not images_seen:
            if alone:
                raise InputError("each batch has one image: training needs at least two in one")
            raise no_images(self.loader, "to train on")
        self.history.images_seen += images_seen * self.accelerator.num_processes
        return total / images_seen

    def _step(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> float:
        images = augment(images.cpu(), self.training.augmentation, generator).to(self.device)
        labels = labels.to(self.device)
        mixed = distort_some(images, self.grid, self.training.clean_share, generator)
        with autocast(self.device, self.training.precision):
            answers = self._answers(images, mixed, labels, generator)
        if "labels" in self.needs:
            check_labels(labels, answers.logits.shape[1])
        loss = torch.zeros((), device=self.device)
        for name, weight in self.training.objective.items():
            if weight > 0:
                loss = loss + weight * OBJECTIVES[name].loss(answers)
        measured = float(loss.detach())
        if self.training.l1 > 0:
            weights = [p.abs().sum() for p in self.parameters if p.dim() > 1]
            loss = loss + self.training.l1 * torch.stack(weights).sum()
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        self.optimizer.step()
        return measured

    def _answers(
        self, images: Tensor, mixed: Tensor, labels: Tensor, generator: torch.Generator
    ) -> Answers:
        """What the objectives need of a batch, and nothing else.

        The trained network runs once, on the batch and on other copies of it together, so that
        its batch norms see all of them.
        """
        teacher, teacher_maps, clean_features, found = None, {}, None, None
        if self.teacher is not None:
            with (
                torch.no_grad(),
                tap(self.teacher, self.sites) as teacher_maps,
                self._features(self.teacher) as read,
            ):
                teacher = self.teacher(self._placed(images)).float()
                clean_features = read() if read else None
        copies = [mixed]
        if "clean" in self.needs:
            copies.append(images)
        if "views" in self.needs:
            copies += [augmix(mixed, generator) for _ in range(2)]
        count = len(mixed)
        with (
            tap(self.model, self.sites) as maps,
            self._features(self.model) as read,
            self._mended() as mended,
        ):
            logits = self.runner(self._placed(torch.cat(copies))).float().split(count)
            found = read()[:count] if read else None
        return Answers(
            labels=labels,
            logits=logits[0],
            teacher=teacher,
            features=found,
            teacher_features=clean_features,
            maps={site: each[:count] for site, each in maps.items()},
            teacher_maps=teacher_maps,
            images=mended[0][:count] if mended else None,
            clean_images=images,
            clean=logits[1] if "clean" in self.needs else None,
            views=logits[-2:] if "views" in self.needs else (),
        )

    def _features(self, model: nn.Module) -> AbstractContextManager[Read | None]:
        return features(model) if "features" in self.needs else nullcontext()

    def _mended(self) -> AbstractContextManager[list[Tensor] | None]:
        return restored_images(self.model) if "images" in self.needs else nullcontext()

    def _placed(self, images: Tensor) -> Tensor:
        return to_device(images, self.device, channels_last=self.training.channels_last)

    def _share_statistics(self) -> None:
        """Gives every process the mean of all processes' batch-norm statistics.

        Each saw other images; without this, validation would choose another epoch in each.
        """
        if self.accelerator.num_processes == 1:
            return
        for module in self.model.modules():
            for buffer in module.buffers(recurse=False):
                if module.training and buffer.is_floating_point():
                    mean: Any = self.accelerator.reduce(buffer, "mean")
                    buffer.copy_(mean)

    def _validate(self) -> float | None:
        if self.validation is None:
            return None
        name = f"{self.task}, validation"
        grid = evaluate(
            self.model,
            self.validation,
            self.grid,
            self.seed,
            self.training.precision,
            name,
            reference=self.untouched,
        )
        self.score = "mean top-1" if grid.target == "labels" else "mean agreement"
        return grid.mean_top1

    def _keep(self, epoch: int, loss: float, score: float | None, seconds: float) -> None:
        if score is None or score > self.best_score:
            self.best_score = -math.inf if score is None else score
            self.best_state = {k: v.detach().cpu().clone() for k, v in _state(self.model).items()}
            self.history.best = epoch
        self.history.epochs.append(Epoch(epoch, loss, score, seconds))
        if self.accelerator.is_main_process:
            shown = "" if score is None else f", validation {self.score} {score:.4f}"
            console().print(
                f"{self.task}: epoch {epoch + 1} of {self.training.epochs}, loss {loss:.4f}{shown}"
            )
            self._save()

    def _signature(self) -> dict[str, Any]:
        gate = self.model.config.gate if isinstance(self.model, AdaptedModel) else None
        return {
            "training": self.training.model_dump(mode="json"),
            "seed": self.seed,
            "pixels": self.pixels,
            "distortions": [asdict(d) for d in self.grid],
            "steps": self.steps,
            "gate": gate.model_dump(mode="json") if gate else None,
        }

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        files.write_checkpoint(
            self.checkpoint,
            {
                "signature": self._signature(),
                "state": dict(_state(self.model)),
                "optimizer": self.optimizer.state_dict(),
                "best_state": self.best_state,
                "best_score": self.best_score,
                "best": self.history.best,
                "images_seen": self.history.images_seen,
                "epochs": [asdict(epoch) for epoch in self.history.epochs],
            },
        )

    def _resume(self) -> int:
        """Loads the checkpoint, if there is one, and gives the epoch to go on with."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return 0
        saved = files.read_checkpoint(self.checkpoint)
        signature = saved.get("signature") if isinstance(saved, Mapping) else None
        if not isinstance(signature, Mapping):
            raise InputError(
                f"{self.checkpoint} is not a checkpoint of a training: remove it, "
                "or choose another folder"
            )
        self.pixels = self.pixels or signature.get("pixels") or 0
        self.grid = parse_all(self.specs, self.pixels)
        if signature != self._signature():
            raise InputError(
                f"{self.checkpoint} is of a training with other settings: remove it, "
                "or choose another folder"
            )
        _load_state(self.model, saved["state"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.best_state, self.best_score = saved["best_state"], saved["best_score"]
        epochs = [Epoch(**entry) for entry in saved["epochs"]]
        self.history = History(epochs, saved["best"], saved["images_seen"])
        return len(epochs)


def _teacher(model: nn.Module) -> nn.Module:
    """The untouched network: the adapted model's own base, or a frozen copy of the model."""
    if isinstance(model, AdaptedModel):
        return model.network
    return copy.deepcopy(model).eval().requires_grad_(False)


def _compared_sites(model: nn.Module) -> tuple[str, ...]:
    """The sites whose maps are compared with the untouched network's: the corrected ones, or all
    convolutions."""
    return tuple(model.config.sites if isinstance(model, AdaptedModel) else find(model))


def _state(model: nn.Module) -> Mapping[str, Tensor]:
    return model.adapter_tensors() if isinstance(model, AdaptedModel) else model.state_dict()


def _load_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    if isinstance(model, AdaptedModel):
        model.load_adapter_tensors(state)
    else:
        model.load_state_dict(state)
