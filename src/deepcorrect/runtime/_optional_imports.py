"""Optional libraries, which are imported where they are used.

If a library is missing, the error names the extra to install.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from deepcorrect.runtime._errors import MissingExtraError

WITH_TORCHVISION = ("torchvision", "timm", "transformers", "peft")
"""The libraries that import torchvision."""

_DECLARED: list[torch.library.Library] = []  # torch drops its operators when it is collected


def optional_import(module: str, extra: str) -> Any:
    """Imports a library that `pip install deepcorrect-torch[EXTRA]` installs.

    Args:
        module: The dotted name of the module.
        extra: The extra that installs the library.

    Raises:
        MissingExtraError: The library is not installed.

    Example:
        >>> from deepcorrect.runtime import optional_import
        >>> optional_import("json", extra="demo").dumps([1, 2])
        '[1, 2]'
    """
    library = module.partition(".")[0]
    if library in WITH_TORCHVISION:
        try_torchvision()
    try:
        importlib.import_module(library)  # the error of a module inside may name another one
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        raise MissingExtraError(library, extra) from None
    return importlib.import_module(module)


def try_torchvision() -> None:
    """Makes torchvision importable, if it is installed, beside a PyTorch without CUDA.

    PyPI's torchvision is linked against CUDA. Beside a PyTorch without CUDA, its compiled library
    does not load, and its import then fails because two detection operators were never registered.
    Declaring them without an implementation is enough, as nothing here runs them. They must not be
    declared beforehand: a torchvision whose library loads registers them itself.
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
