"""DeepCorrect keeps a trained classifier's accuracy on distorted images, its weights untouched.

Implements T. Borkar and L. Karam, "DeepCorrect: Correcting DNN Models against Image Distortions",
IEEE Transactions on Image Processing 28(12), 2019.

What is named below is the public face. Each name is imported from its room when it is first used,
so that `import deepcorrect` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepcorrect.alternatives import finetune
    from deepcorrect.correction import (
        AdaptedModel,
        AdapterConfig,
        AdapterSet,
        CorrectionUnit,
        GateConfig,
        UnitConfig,
        correct,
        fit_gate,
        load,
        load_all,
        looks_distorted,
        push,
    )
    from deepcorrect.data import Preprocessing, loader, open_data
    from deepcorrect.deployment import export, fuse, load_exported
    from deepcorrect.distortions import Distortion
    from deepcorrect.evaluation import Grid, Transfer, evaluate, transfer
    from deepcorrect.models import resolve as load_model
    from deepcorrect.networks import Classifier, costs
    from deepcorrect.ranking import Ranking, ideal_correction, load_ranking, rank
    from deepcorrect.runtime import DeepCorrectError, InputError, MissingExtraError
    from deepcorrect.training import PAPER, Augmentation, Training, fit

_ROOMS = {
    "alternatives": ("finetune",),
    "correction": (
        "AdaptedModel",
        "AdapterConfig",
        "AdapterSet",
        "CorrectionUnit",
        "GateConfig",
        "UnitConfig",
        "correct",
        "fit_gate",
        "load",
        "load_all",
        "looks_distorted",
        "push",
    ),
    "data": ("Preprocessing", "loader", "open_data"),
    "deployment": ("export", "fuse", "load_exported"),
    "distortions": ("Distortion",),
    "evaluation": ("Grid", "Transfer", "evaluate", "transfer"),
    "models": ("load_model",),
    "networks": ("Classifier", "costs"),
    "ranking": ("Ranking", "ideal_correction", "load_ranking", "rank"),
    "runtime": ("DeepCorrectError", "InputError", "MissingExtraError"),
    "training": ("PAPER", "Augmentation", "Training", "fit"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = sorted(_ROOM_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """A public name, from its room (PEP 562)."""
    if name == "__version__":
        value: Any = _version()
    elif name in _ROOM_OF:
        value = getattr(import_module(f"deepcorrect.{_ROOM_OF[name]}"), name)
    else:
        raise AttributeError(f"module 'deepcorrect' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__, "__version__"]


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    try:
        return version("deepcorrect-torch")
    except PackageNotFoundError:  # a source tree that was not installed
        return "0+unknown"
