"""A training's checkpoint: written after and within epochs, and read to go on from there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from deepcorrect.runtime import (
    InputError,
    check_inputs,
    files,
    from_main,
    is_main_process,
    process_count,
)
from deepcorrect.training._history import Epoch, History
from deepcorrect.training._job import Job


@dataclass(frozen=True)
class Best:
    """The best epoch so far: its number, its score and its state, on the CPU."""

    epoch: int
    score: float
    state: Mapping[str, Tensor]


@dataclass(frozen=True)
class Begun:
    """What was done of an epoch that has not ended.

    Attributes:
        batches: how many of the loader's batches were trained on.
        loss: the sum of the loss over images.
        images: the number of images of all processes.
        seconds: the time that it took.
    """

    batches: int = 0
    loss: float = 0.0
    images: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Progress:
    """How far a training is: its finished epochs, the best of them, and what was begun of the next.

    It is the same in all processes.
    """

    history: History = field(default_factory=History)
    best: Best = field(default_factory=lambda: Best(0, -math.inf, {}))
    begun: Begun = field(default_factory=Begun)


def save(job: Job, progress: Progress) -> None:
    """Writes the checkpoint, if one is asked for; of several processes, rank zero does."""
    if job.checkpoint is None or not is_main_process():
        return
    history, best = progress.history, progress.best
    files.write_checkpoint(
        job.checkpoint,
        {
            "inputs": dict(job.inputs),
            "state": dict(job.model.state_dict()),
            "optimizer": job.optimizer.state_dict(),
            "best_state": dict(best.state),
            "best_score": best.score,
            "best": best.epoch,
            "images_seen": history.images_seen,
            "epochs": [asdict(epoch) for epoch in history.epochs],
            "begun": asdict(progress.begun),
        },
    )


def resume(job: Job) -> Progress:
    """Loads the checkpoint if there is one; without one, nothing was done.

    Rank zero reads it, and all processes go on with the same weights.
    """
    saved = from_main(lambda: _read(job))
    if saved is None:
        if process_count() > 1:
            job.model.load_state_dict(from_main(lambda: state_on_cpu(job.model)))
        return Progress()
    job.model.load_state_dict(saved["state"])
    job.optimizer.load_state_dict(saved["optimizer"])
    epochs = tuple(Epoch(**entry) for entry in saved["epochs"])
    return Progress(
        History(epochs, saved["best"], saved["images_seen"]),
        Best(saved["best"], saved["best_score"], saved["best_state"]),
        Begun(**saved["begun"]),
    )


def _read(job: Job) -> Mapping[str, Any] | None:
    """The content of the checkpoint; None if there is none.

    Raises:
        InputError: it is no checkpoint, or one of a training with other inputs.
    """
    if job.checkpoint is None or not job.checkpoint.exists():
        return None
    saved = files.read_checkpoint(job.checkpoint)
    advice = "remove it, or choose another folder"
    if not isinstance(saved, Mapping) or "inputs" not in saved or "begun" not in saved:
        raise InputError(f"{job.checkpoint} is not a checkpoint of a training: {advice}")
    check_inputs(f"the checkpoint {job.checkpoint}", saved["inputs"], job.inputs, advice)
    return saved


def state_on_cpu(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the trained state on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
