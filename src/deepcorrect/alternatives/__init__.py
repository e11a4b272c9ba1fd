"""What correction is compared with: systems with the same face, one method a file.

A trained system is a module whose trainable parameters require gradients; the training loop and
the evaluation are everybody's. Stability training and AugMix are `finetune` with objectives of
their own (`objectives.py`). A system that does something at test time has a `begin`, which the
evaluation calls before each distortion and level.
"""

from deepcorrect.alternatives._finetune import Trains, finetune
from deepcorrect.alternatives._front_end import FrontEnd, WithFrontEnd, front_end, restored_images
from deepcorrect.alternatives._lora import lora, merge
from deepcorrect.alternatives._norm_adaptation import NormAdaptation, norm_adaptation
from deepcorrect.alternatives._restoration import Restoration, restoration
from deepcorrect.alternatives._tent import Tent, tent

__all__ = [
    "FrontEnd",
    "NormAdaptation",
    "Restoration",
    "Tent",
    "Trains",
    "WithFrontEnd",
    "finetune",
    "front_end",
    "lora",
    "merge",
    "norm_adaptation",
    "restoration",
    "restored_images",
    "tent",
]
