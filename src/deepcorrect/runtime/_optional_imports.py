"""Optional libraries, imported where they are used; a missing one names the extra to install."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from deepcorrect.runtime._errors import MissingExtraError

WITH_TORCHVISION = ("torchvision", "timm", "transformers", "peft")
"""What imports torchvision."""

_DECLARED: list[torch.library.Library] = []  # its operators are forgotten when it is collected


def optional(module: str, extra: str) -> Any:
    """Imports a library that `pip install deepcorrect-torch[EXTRA]` brings.

    Raises:
        MissingExtraError: it is not installed.
    """
    if module.partition(".")[0] in WITH_TORCHVISION:
        try_torchvision()
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        library = module.partition(".")[0]
        if error.name != library:
            raise
        raise MissingExtraError(library, extra) from None


def try_torchvision() -> None:
    """Lets torchvision be imported, if it is installed, where torch has no CUDA.

    The torchvision of PyPI is linked against CUDA. Beside a torch without it, its own library does
    not load, and its import then fails at two detection operators that were never registered.
    Declared without a body they satisfy it; nothing here runs them. A torchvision whose library
    loads must not find them declared: it registers them itself.
    """
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return
    except RuntimeError as error:
        if _DECLARED or "operator torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _DECLARED.append(library)
