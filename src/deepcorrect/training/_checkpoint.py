"""A training's checkpoint: written after each epoch, and read to go on from there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from deepcorrect.correction import GatedModel
from deepcorrect.runtime import InputError, files
from deepcorrect.training._history import Epoch, History
from deepcorrect.training._job import Job


@dataclass(frozen=True)
class Best:
    """The best epoch so far: its number, its score and its state, on the CPU."""

    epoch: int
    score: float
    state: Mapping[str, Tensor]


def save(job: Job, history: History, best: Best) -> None:
    """Writes the checkpoint, if one is asked for."""
    if job.checkpoint is None:
        return
    files.write_checkpoint(
        job.checkpoint,
        {
            "signature": _signature(job),
            "state": dict(job.model.state_dict()),
            "optimizer": job.optimizer.state_dict(),
            "best_state": dict(best.state),
            "best_score": best.score,
            "best": best.epoch,
            "images_seen": history.images_seen,
            "epochs": [asdict(epoch) for epoch in history.epochs],
        },
    )


def resume(job: Job) -> tuple[History, Best]:
    """Loads the checkpoint if there is one; without one, the history is empty."""
    if job.checkpoint is None or not job.checkpoint.exists():
        return History(), Best(0, -math.inf, {})
    saved = files.read_checkpoint(job.checkpoint)
    signature = saved.get("signature") if isinstance(saved, Mapping) else None
    if not isinstance(signature, Mapping):
        raise InputError(
            f"{job.checkpoint} is not a checkpoint of a training: remove it, "
            "or choose another folder"
        )
    if signature != _signature(job):
        raise InputError(
            f"{job.checkpoint} is of a training with other settings: remove it, "
            "or choose another folder"
        )
    job.model.load_state_dict(saved["state"])
    job.optimizer.load_state_dict(saved["optimizer"])
    epochs = tuple(Epoch(**entry) for entry in saved["epochs"])
    history = History(epochs, saved["best"], saved["images_seen"])
    return history, Best(saved["best"], saved["best_score"], saved["best_state"])


def _signature(job: Job) -> dict[str, Any]:
    """What a checkpoint must agree on with the training that is resumed from it."""
    gate = job.model.gate if isinstance(job.model, GatedModel) else None
    return {
        "training": job.settings.model_dump(mode="json"),
        "seed": job.seed,
        "pixels": job.pixels,
        "distortions": [asdict(d) for d in job.grid],
        "steps": job.steps,
        "gate": gate.config.model_dump(mode="json") if gate else None,
    }


def state_on_cpu(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the trained state on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
