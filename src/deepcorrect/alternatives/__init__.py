"""The methods that correction is compared with, one file per method.

A system that is trained is a module whose trainable parameters require gradients; it uses the same
training loop and the same evaluation as corrected networks. Stability training and AugMix are
`finetune` with objectives of their own (`deepcorrect.training.OBJECTIVES`). A system that adapts
at test time has a method `start_level`, which the evaluation calls before each distortion and
level.
"""

from deepcorrect.alternatives._added_maps import FrozenNetwork
from deepcorrect.alternatives._conv_adapter import ConvAdapter, Place, conv_adapter
from deepcorrect.alternatives._eata import Eata, eata
from deepcorrect.alternatives._feature_correction import MapCorrection, feature_correction
from deepcorrect.alternatives._finetune import Trains, finetune
from deepcorrect.alternatives._front_end import FrontEnd, WithFrontEnd, front_end, restored_images
from deepcorrect.alternatives._lora import lora, merge
from deepcorrect.alternatives._norm_adaptation import NormAdaptation, norm_adaptation
from deepcorrect.alternatives._restoration import Restoration, restoration
from deepcorrect.alternatives._tent import Tent, tent
from deepcorrect.alternatives._wise_ft import score_shares

__all__ = [
    "ConvAdapter",
    "Eata",
    "FrontEnd",
    "FrozenNetwork",
    "MapCorrection",
    "NormAdaptation",
    "Place",
    "Restoration",
    "Tent",
    "Trains",
    "WithFrontEnd",
    "conv_adapter",
    "eata",
    "feature_correction",
    "finetune",
    "front_end",
    "lora",
    "merge",
    "norm_adaptation",
    "restoration",
    "restored_images",
    "score_shares",
    "tent",
]
