"""DeepCorrect: keep a trained classifier's accuracy on distorted images, its weights untouched.

Implements T. Borkar and L. Karam, "DeepCorrect: Correcting DNN Models against Image Distortions",
IEEE Transactions on Image Processing 28(12), 2019.
"""

from importlib.metadata import PackageNotFoundError, version

from deepcorrect.adapter import AdaptedModel, correct, load
from deepcorrect.adapter_config import AdapterConfig
from deepcorrect.adapter_sets import AdapterSet, load_all
from deepcorrect.alternatives import finetune
from deepcorrect.augmentation import Augmentation
from deepcorrect.classifier import Classifier, Preprocessing
from deepcorrect.cost import costs
from deepcorrect.data import loader, open_data
from deepcorrect.distortions import Distortion
from deepcorrect.errors import DeepCorrectError, InputError, MissingExtraError
from deepcorrect.evaluation import Grid, evaluate
from deepcorrect.exporting import export, load_exported
from deepcorrect.feature_transfer import Transfer, transfer
from deepcorrect.fusion import fuse
from deepcorrect.gate import GateConfig, fit_gate, looks_distorted
from deepcorrect.models import resolve as load_model
from deepcorrect.publishing import push
from deepcorrect.ranking import Ranking, ideal_correction, load_ranking, rank
from deepcorrect.training import fit
from deepcorrect.training_settings import PAPER, Training
from deepcorrect.units import CorrectionUnit, UnitConfig

try:
    __version__ = version("deepcorrect-torch")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0+unknown"

__all__ = [
    "PAPER",
    "AdaptedModel",
    "AdapterConfig",
    "AdapterSet",
    "Augmentation",
    "Classifier",
    "CorrectionUnit",
    "DeepCorrectError",
    "Distortion",
    "GateConfig",
    "Grid",
    "InputError",
    "MissingExtraError",
    "Preprocessing",
    "Ranking",
    "Training",
    "Transfer",
    "UnitConfig",
    "correct",
    "costs",
    "evaluate",
    "export",
    "finetune",
    "fit",
    "fit_gate",
    "fuse",
    "ideal_correction",
    "load",
    "load_all",
    "load_exported",
    "load_model",
    "load_ranking",
    "loader",
    "looks_distorted",
    "open_data",
    "push",
    "rank",
    "transfer",
]
