"""Optional libraries, imported where they are used; a missing one names the extra to install."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from deepcorrect.errors import MissingExtraError

_DECLARED = torch.library.Library("torchvision", "FRAGMENT")  # forgotten when it is collected


def optional(module: str, extra: str) -> Any:
    """Imports a library that `pip install deepcorrect-torch[EXTRA]` brings.

    Raises:
        MissingExtraError: it is not installed.
    """
    _declare_operators()  # timm, transformers and PEFT import torchvision, too
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        library = module.partition(".")[0]
        if error.name != library:
            raise
        raise MissingExtraError(library, extra) from None


def _declare_operators() -> None:
    """Lets torchvision be imported where torch has no CUDA.

    The torchvision of PyPI is linked against CUDA. Beside a torch without it, its import looks for
    two detection operators that were never registered, and fails. Declared without a body they
    satisfy it; nothing here runs them.
    """
    if torch.version.cuda is not None:
        return
    boxes = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            _DECLARED.define(operator + boxes)
