"""The one training loop: its settings, what it minimises, and how it augments images."""

from deepcorrect.training._augmentation import Augmentation
from deepcorrect.training._fit import fit
from deepcorrect.training._history import Epoch, History
from deepcorrect.training._muon import Muon
from deepcorrect.training._objectives import OBJECTIVES, needs_of
from deepcorrect.training._settings import CHECKPOINTING, PAPER, TrainingConfig, changed

__all__ = [
    "CHECKPOINTING",
    "OBJECTIVES",
    "PAPER",
    "Augmentation",
    "Epoch",
    "History",
    "Muon",
    "TrainingConfig",
    "changed",
    "fit",
    "needs_of",
]
